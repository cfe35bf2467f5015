//! Explores what replicas do over a stream whose network fails in every way that it may, from seeds.
//!
//! Each run draws everything from its seed: what is asked where and when, and what goes wrong. `FANOUT_SEEDS` says which
//! seeds are run instead of the usual ones: `FROM..TO`, or a single one; it then says of each how it went. A seed mostly
//! goes the same way again. Where it does not (registrations plan on another thread), run it a few times.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fanout::coordinator::{Clock, Coordinator, Page};
use fanout::engine::{Event, State};
use fanout::registry::LivePlan;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep};

use super::callers::Run;
use super::network::{Network, ON_ITS_WAY};
use super::replica_set::{Replica, Replicas, SKEW, Seen};
use super::simulated::{Fault, Simulated};
use super::truth::life_of;

const NAMES: [&str; 3] = ["ended", "deleted", "expired"];
/// So long something is done, and things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// After this, without trouble, everything is as it has to be.
const SETTLED: Duration = Duration::from_secs(100);

impl Run {
    /// In the end all replicas say the same, which is what the stream has.
    async fn check(&self) {
        let fresh = self.replicas.fresh();
        let mut histories = BTreeMap::new();
        for name in NAMES {
            let mut documents = BTreeMap::new();
            let all = [self.replicas.all(), vec![Arc::clone(&fresh)]].concat();
            for replica in all {
                let who = "in the end";
                let said = match settled(&self.replicas, &replica, name).await {
                    Some(Seen::Nothing) => "nothing".to_owned(),
                    Some(Seen::Plan(life, plan)) => {
                        if Arc::ptr_eq(&replica, &fresh) {
                            let live = plan.read().unwrap();
                            histories.insert(life, live.history.clone());
                        }
                        self.answer(&replica.coordinator, &plan).await
                    }
                    None => {
                        self.replicas
                            .truth
                            .violated(format!("{who}: {name} is not answered"));
                        continue;
                    }
                };
                documents.insert(said, ());
            }
            if documents.len() > 1 {
                let what = format!("in the end: {name} differs: {documents:?}");
                self.replicas.truth.violated(what);
            }
        }
        self.replicas.truth.check(&histories);
        for (life, history) in &histories {
            let has_ended = history
                .iter()
                .any(|entry| matches!(entry.event, Event::PlanEnded { .. }));
            let Event::PlanCreated(spec) = &history[0].event else {
                self.replicas
                    .truth
                    .violated(format!("{life} begins otherwise"));
                continue;
            };
            if !has_ended && spec.deadline.is_some() {
                self.replicas
                    .truth
                    .violated(format!("{life} is past its deadline and goes on"));
            }
        }
    }

    /// All that a replica says of a plan.
    async fn answer(&self, coordinator: &Arc<Coordinator>, plan: &Arc<LivePlan>) -> String {
        let result = coordinator
            .result(Arc::clone(plan), Page::Whole)
            .await
            .unwrap();
        let live = plan.read().unwrap();
        let folded = State::fold(live.history.iter().map(|entry| &**entry));
        if folded.as_ref() != Some(&live.state) {
            let what = format!("{} is not the fold of its history", life_of(plan.spec()));
            self.replicas.truth.violated(what);
        }
        format!("{:?} {}", result.view.standing, result.document.unwrap())
    }
}

/// Asks until somebody answers.
async fn settled(replicas: &Replicas, replica: &Arc<Replica>, name: &str) -> Option<Seen> {
    for _ in 0..10 {
        let seen = replicas.look(replica, name, "in the end").await;
        if seen.is_some() {
            return seen;
        }
        sleep(Duration::from_secs(1)).await;
    }
    None
}

/// How a run went.
struct Explored {
    /// What was not as it has to be.
    violations: Vec<String>,
    /// The longest that somebody waited for an answer.
    longest: Duration,
    /// Another number, if it went another way.
    trace: u64,
}

async fn explore(seed: u64, fault: Fault) -> Explored {
    let network = Network::new(seed, Simulated::with(fault));
    let clocks = clocks(&network).await;
    let run = Run {
        replicas: Replicas::start(network, clocks),
        until: Instant::now() + TROUBLE,
    };
    let settled = run.until + SETTLED;
    let names: Vec<[String; 6]> = NAMES
        .iter()
        .map(|name| {
            let kinds = ["one", "two", "twice", "watcher", "reader", "owner"];
            kinds.map(|kind| format!("{kind} of {name}"))
        })
        .collect();
    let mut doing: Vec<BoxFuture<'_, ()>> = vec![run.replicas.trouble(run.until).boxed()];
    for (name, who) in NAMES.iter().zip(&names) {
        doing.push(run.live(name, &who[5]).boxed());
        doing.push(run.produce(name, &who[0]).boxed());
        doing.push(run.produce(name, &who[1]).boxed());
        doing.push(run.send_twice(name, &who[2]).boxed());
        doing.push(run.watch(name, &who[3], settled).boxed());
        doing.push(run.read_now_and_then(name, &who[4]).boxed());
    }
    let calming = async {
        tokio::time::sleep_until(run.until).await;
        run.replicas.network.calm();
    };
    tokio::join!(calming, join_all(doing));
    assert!(SETTLED > Duration::from_millis(ON_ITS_WAY));
    run.check().await;
    let longest = *run.replicas.longest.lock().unwrap();
    Explored {
        violations: run.replicas.truth.violations(),
        longest,
        trace: run.replicas.network.trace(),
    }
}

/// The clocks of two or three replicas, of which one may be late.
async fn clocks(network: &Network) -> Vec<Clock> {
    let count = 2 + network.chance.below(2, "replicas") as usize;
    let late = network.chance.below(SKEW.as_millis() as u64, "clock");
    loop {
        let mut clocks = vec![Clock::system(); count];
        tokio::time::advance(Duration::from_millis(late)).await;
        clocks[1] = Clock::system();
        // Real time passes, too, but rarely a millisecond.
        if clocks[0].now() == clocks[1].now().plus(Duration::from_millis(late)) {
            return clocks;
        }
    }
}

/// Runs a seed.
fn run(seed: u64, fault: Fault) -> Explored {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(explore(seed, fault))
}

/// Runs these seeds; answers those that saw something that may not be, with what.
fn violations(seeds: Range<u64>, fault: Fault) -> Vec<(u64, Vec<String>)> {
    let mut found = Vec::new();
    for seed in seeds {
        let Explored {
            violations,
            longest,
            trace,
        } = run(seed, fault);
        if std::env::var("FANOUT_SEEDS").is_ok() {
            println!("seed {seed}: went {trace:016x}, longest wait {longest:?}");
        }
        if !violations.is_empty() {
            println!("seed {seed}: {violations:#?}");
            found.push((seed, violations));
        }
    }
    found
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(said) = std::env::var("FANOUT_SEEDS") else {
        return usual;
    };
    match said.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => {
            let seed = said.parse().unwrap();
            seed..seed + 1
        }
    }
}

#[test]
fn replicas_say_the_same_and_lose_nothing_whatever_the_network_does() {
    let found = violations(seeds(0..60), Fault::None);
    assert!(found.is_empty(), "{} seeds found something", found.len());
}

#[test]
fn over_a_stream_that_compares_nothing_they_would_not() {
    assert!(!violations(0..4, Fault::ComparesNothing).is_empty());
}

#[test]
fn over_a_stream_that_forgets_what_it_acknowledged_they_would_not() {
    assert!(!violations(0..4, Fault::Forgets).is_empty());
}
