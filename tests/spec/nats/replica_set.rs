//! Replicas of one exploration: they are asked, cut off, killed and started again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanout::coordinator::{Clock, Coordinator, Error, Limits};
use fanout::journal::Nats;
use fanout::registry::LivePlan;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::network::{Link, Network};
use super::truth::{Life, Truth, digest, life_of};
use crate::harness::coordinator_limits;

/// Clocks differ by less than this.
pub const SKEW: Duration = Duration::from_millis(1_500);
/// Whatever is asked is answered within this, in the run's time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// A process.
pub struct Replica {
    pub coordinator: Arc<Coordinator>,
    name: String,
    link: Arc<Link>,
    has_died: CancellationToken,
    /// How far the histories that it shows were looked at.
    looked_at: Mutex<HashMap<Life, usize>>,
    _running: Vec<AbortOnDropHandle<()>>,
}

impl Replica {
    fn start(network: &Arc<Network>, name: String, clock: Clock) -> Arc<Self> {
        let (link, journal): (_, Arc<Nats>) = network.link(name.clone());
        let limits = Limits {
            plans: 100,
            watchers_per_plan: 100,
            request_ids: 10_000,
            request_id_life: Duration::from_secs(3_600),
            retention: Duration::from_secs(3_600),
            ..coordinator_limits()
        };
        let coordinator = Arc::new(Coordinator::new(journal, clock, limits));
        let (follower, timed) = (Arc::clone(&coordinator), Arc::clone(&coordinator));
        let running = [
            tokio::spawn(async move { follower.run_shared().await }),
            tokio::spawn(async move { timed.run_timers().await }),
        ];
        Arc::new(Self {
            coordinator,
            name,
            link,
            has_died: CancellationToken::new(),
            looked_at: Mutex::default(),
            _running: running.map(AbortOnDropHandle::new).into(),
        })
    }
}

/// The replicas, and all that is known of what they said.
pub struct Replicas {
    pub network: Arc<Network>,
    pub truth: Truth,
    clocks: Vec<Clock>,
    now: Mutex<Vec<Arc<Replica>>>,
    started: Mutex<u64>,
    /// The longest that somebody waited for an answer.
    pub longest: Mutex<Duration>,
}

impl Replicas {
    pub fn start(network: Arc<Network>, clocks: Vec<Clock>) -> Self {
        let replicas = Self {
            network,
            truth: Truth::new(clocks[0], SKEW),
            now: Mutex::default(),
            started: Mutex::default(),
            longest: Mutex::default(),
            clocks,
        };
        for at in 0..replicas.clocks.len() {
            let replica = replicas.another(at);
            replicas.now.lock().unwrap().push(replica);
        }
        replicas
    }

    fn another(&self, at: usize) -> Arc<Replica> {
        let mut started = self.started.lock().unwrap();
        *started += 1;
        Replica::start(
            &self.network,
            format!("replica {at}, {started}"),
            self.clocks[at],
        )
    }

    /// One that has just started, beside the others.
    pub fn fresh(&self) -> Arc<Replica> {
        self.another(0)
    }

    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.now.lock().unwrap().clone()
    }

    /// Any of them.
    pub fn any(&self, who: &str) -> Arc<Replica> {
        let now = self.now.lock().unwrap();
        let at = self
            .network
            .chance
            .below(now.len() as u64, &format!("{who} asks"));
        Arc::clone(&now[at as usize])
    }

    /// Cuts off, kills and starts again for so long.
    pub async fn trouble(&self, until: Instant) {
        let chance = &self.network.chance;
        while Instant::now() < until {
            sleep(Duration::from_millis(300 + chance.below(4_000, "trouble"))).await;
            let at = chance.below(self.clocks.len() as u64, "trouble at") as usize;
            let replica = Arc::clone(&self.now.lock().unwrap()[at]);
            if chance.is(500, "cut") {
                let longest = [1_000, 6_000, 20_000][chance.below(3, "cut for") as usize];
                replica
                    .link
                    .cut(Duration::from_millis(chance.below(longest, "cut for")));
            } else {
                replica.link.die();
                replica.has_died.cancel();
                let another = self.another(at);
                self.now.lock().unwrap()[at] = another;
            }
        }
    }

    /// Asks a replica; nothing, if it dies or the caller goes away meanwhile.
    pub async fn ask<T>(
        &self,
        replica: &Arc<Replica>,
        who: &str,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        let chance = &self.network.chance;
        let began = Instant::now();
        let goes_away = match chance.is(50, &format!("{who} goes")) {
            true => Duration::from_millis(chance.below(3_000, &format!("{who} goes"))),
            false => ANSWERED_WITHIN,
        };
        let answer = tokio::select! {
            biased;
            () = replica.has_died.cancelled() => return None,
            answer = timeout(goes_away, asked) => answer,
        };
        let took = began.elapsed();
        let mut longest = self.longest.lock().unwrap();
        *longest = took.max(*longest);
        match answer {
            Ok(Err(error @ Error::PlanPoisoned { .. })) => {
                self.truth.violated(format!("{who}: {error}"));
                Some(Err(error))
            }
            Ok(Err(Error::Journal(fanout::journal::Error::Damaged(what)))) => {
                self.truth
                    .violated(format!("{who} at {}: damaged: {what}", replica.name));
                None
            }
            Ok(answer) => Some(answer),
            Err(_) if goes_away == ANSWERED_WITHIN => {
                self.truth
                    .violated(format!("{who} at {} waits for ever", replica.name));
                None
            }
            Err(_) => None,
        }
    }

    /// Asks a replica for a plan as it stands, and looks at all of its history.
    pub async fn look(&self, replica: &Arc<Replica>, name: &str, who: &str) -> Option<Seen> {
        let before = self.truth.before();
        let asked = self
            .ask(replica, who, replica.coordinator.current(name))
            .await?;
        let plan = match asked {
            Ok(plan) => plan,
            Err(Error::PlanNotFound { .. }) => {
                self.truth.sees(name, None, &before, who);
                return Some(Seen::Nothing);
            }
            Err(_) => return None,
        };
        let life = life_of(plan.spec());
        let at = self.show(replica, &plan, who);
        let who = format!("{who} at {}", replica.name);
        self.truth.is_at(&life, at as u64, &before, &who);
        self.truth.sees(name, Some(&life), &before, &who);
        Some(Seen::Plan(life, plan))
    }

    /// Looks at what a replica shows of a plan, and was not looked at yet. Answers how far that is.
    pub fn show(&self, replica: &Replica, plan: &LivePlan, who: &str) -> usize {
        let life = life_of(plan.spec());
        let Ok(live) = plan.read() else {
            self.truth.violated(format!("{who}: {life} is poisoned"));
            return usize::MAX;
        };
        let mut looked_at = replica.looked_at.lock().unwrap();
        let looked_at = looked_at.entry(life.clone()).or_default();
        // It may have been unloaded and read again, not so far.
        for entry in live.history.iter().skip(*looked_at) {
            let who = format!("{who} at {}", replica.name);
            self.truth.show(&life, entry.sequence, digest(entry), &who);
        }
        *looked_at = live.history.len();
        live.history.len()
    }
}

/// What is there of a name.
pub enum Seen {
    Nothing,
    Plan(Life, Arc<LivePlan>),
}
