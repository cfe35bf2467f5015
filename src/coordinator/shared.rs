//! Plans that other processes change, too: they are read from the shared journal on first use, follow what others append,
//! and are let go when nobody here needs them.
//!
//! A decision over what is old does no harm: the journal does not take it, and it is made again over what is new. Only what
//! is answered without an append has to ask how far the history is.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::name::tenant_of;
use super::recover::read;
use super::{Coordinator, Error, PlanView, Standing, not_found, poisoned, view};
use crate::engine::{Command, Event, Timestamp};
use crate::journal::{self, History, Others};
use crate::registry::{LivePlan, Poisoned, Unloading};

/// Entries of others that are applied at a time.
const ENTRIES_AT_A_TIME: usize = 4_096;
/// Plans that are read at the same time do not wait for each other, unless chance has it.
const LOADING_PLACES: usize = 64;
/// Plans whose entries of others are read at the same time.
const READ_ON_AT_A_TIME: usize = 64;
/// How often plans that are followed here are looked at, in case it was missed that others have appended.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked for plans that nobody here knows, and for those that nobody here needs.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A plan that nobody here has used for so long is let go.
const IDLE_LIFE: Duration = Duration::from_secs(600);
/// So many plans that are not live here are counted.
const LET_GO_COUNTED_MAX: usize = 10_000;
/// Plans that are read at the same time to be listed.
const LISTED_AT_A_TIME: usize = 8;

/// What is needed where other processes have the journal, too.
pub(super) struct Shared {
    others: Arc<Others>,
    /// Held while a plan is read or registered, by a hash of its name: no plan is live twice.
    loading: [tokio::sync::Mutex<()>; LOADING_PLACES],
    /// Plans that were looked at, and have no time at which to be looked at again.
    without_time: Mutex<HashSet<Arc<str>>>,
    /// Plans that were let go here, or only looked at, to which nobody has appended since, so that they can be counted.
    let_go: Mutex<HashMap<Arc<str>, LetGo>>,
}

/// A plan that is not live here.
struct LetGo {
    /// Where it stood when it was, or when it was looked at.
    standing: Standing,
    /// Who has this is told when others append.
    history: Arc<dyn History>,
}

impl Shared {
    pub(super) fn new(others: Arc<Others>) -> Self {
        Self {
            others,
            loading: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            without_time: Mutex::default(),
            let_go: Mutex::default(),
        }
    }

    /// Each step is whole.
    fn without_time(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        let without_time = self.without_time.lock();
        without_time.unwrap_or_else(PoisonError::into_inner)
    }

    /// Each step is whole.
    fn let_go(&self) -> MutexGuard<'_, HashMap<Arc<str>, LetGo>> {
        self.let_go.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to wait while somebody reads or registers this plan.
    pub(super) fn loading(&self, plan_id: &str) -> &tokio::sync::Mutex<()> {
        let place = blake3::hash(plan_id.as_bytes()).as_bytes()[0];
        &self.loading[usize::from(place) % LOADING_PLACES]
    }
}

impl Coordinator {
    /// A plan that is live here. Notes that somebody needs it.
    pub(super) fn live(&self, plan_id: &str) -> Option<Arc<LivePlan>> {
        let plan = self.registry.get(plan_id)?;
        if self.shared.is_some() {
            plan.use_at(self.clock.now());
        }
        Some(plan)
    }

    /// Makes a plan live that is in the journal.
    pub(super) async fn load(
        &self,
        shared: &Shared,
        plan_id: &str,
    ) -> Result<Arc<LivePlan>, Error> {
        let _loading = shared.loading(plan_id).lock().await;
        self.load_held(plan_id).await
    }

    /// The same, for who holds the [place](Shared::loading).
    pub(super) async fn load_held(&self, plan_id: &str) -> Result<Arc<LivePlan>, Error> {
        if let Some(plan) = self.live(plan_id) {
            return Ok(plan);
        }
        let (_, read) = read(Arc::clone(&self.journal), plan_id.into()).await;
        let plan = match read {
            Ok((plan, _)) => plan,
            Err(journal::Error::NotFound) => return Err(not_found(plan_id)),
            Err(error) => return Err(error.into()),
        };
        self.make_room()?;
        plan.use_at(self.clock.now());
        let plan = self.serve_again(plan);
        if let Some(shared) = &self.shared {
            shared.let_go().remove(plan_id);
        }
        Ok(plan)
    }

    /// Lets plans go that nobody needs, if as many are live as may be.
    pub(super) fn make_room(&self) -> Result<(), Error> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        if !self.registry.is_full() || self.let_go(shared, Unloading::Any) > 0 {
            return Ok(());
        }
        Err(self.plans_are_full())
    }

    /// Lets plans go that nobody needs, and answers how many.
    fn let_go(&self, shared: &Shared, which: Unloading) -> usize {
        // Held, so that who loads one of them again comes after this.
        let mut let_go = shared.let_go();
        let plans = self.registry.unload_idlest(which);
        for plan in &plans {
            self.count_on(&mut let_go, plan);
        }
        drop(let_go);
        plans.len()
    }

    /// Counts a plan that is not live here.
    fn count_on(&self, let_go: &mut HashMap<Arc<str>, LetGo>, plan: &LivePlan) {
        let plan_id = plan.plan_id();
        if let_go.len() >= LET_GO_COUNTED_MAX || self.registry.get(plan_id).is_some() {
            return;
        }
        if let Ok(view) = view(plan) {
            let of_it = LetGo {
                standing: view.standing,
                history: Arc::clone(plan.journal()),
            };
            let_go.insert(Arc::clone(plan_id), of_it);
        }
    }

    /// Where plans stand that are not live here, and that nobody has changed since they were.
    pub(super) fn let_go_standings(&self) -> Vec<Standing> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let let_go = shared.let_go();
        let not_live = let_go
            .iter()
            .filter(|(plan_id, _)| self.registry.get(plan_id).is_none());
        not_live.map(|(_, of_it)| of_it.standing.clone()).collect()
    }

    /// Waits until the plan has all that anybody was told is done before this is called.
    ///
    /// # Errors
    /// The plan is gone or unusable, or the journal cannot say.
    pub async fn catch_up(&self, plan: &Arc<LivePlan>) -> Result<(), Error> {
        if self.shared.is_none() {
            return Ok(());
        }
        match plan.journal().latest().wait().await {
            Ok(latest) if latest <= plan.sequence() => Ok(()),
            Ok(_) => self.read_on(plan).await,
            Err(error) => Err(self.lost(plan, error)),
        }
    }

    /// Applies what others have appended.
    pub(super) async fn read_on(&self, plan: &Arc<LivePlan>) -> Result<(), Error> {
        loop {
            let turn = plan.turn().await;
            if plan.has_appended() {
                // What becomes of it says what others have appended.
                drop(turn);
                plan.settled().await;
                continue;
            }
            let after = view(plan)?.standing.sequence;
            let history = plan.journal();
            let entries = match history.replay(after, ENTRIES_AT_A_TIME).wait().await {
                Ok(entries) => entries,
                Err(error) => return Err(self.lost(plan, error)),
            };
            if entries.is_empty() {
                return Ok(());
            }
            let _changing = plan.changing();
            let end = entries.iter().find_map(|entry| match entry.event {
                Event::PlanEnded { .. } => Some(entry.at),
                _ => None,
            });
            let mut deciding = turn.deciding();
            if let Some(ahead) = &mut deciding.ahead {
                entries.iter().for_each(|entry| ahead.apply(entry));
            }
            let applied = plan.apply(entries, Standing::of);
            applied.map_err(|Poisoned| poisoned(plan))?;
            if let Some(end) = end {
                let expires = end.plus(plan.spec().retention);
                self.timers.add(expires, plan.plan_id());
            }
        }
    }

    /// What the journal says of a plan that is live here. One that it does not have any more is live no more.
    pub(super) fn lost(&self, plan: &LivePlan, error: journal::Error) -> Error {
        if error != journal::Error::NotFound {
            return error.into();
        }
        let plan_id = plan.plan_id();
        if self.registry.remove_this(plan) {
            tracing::info!(plan.id = &**plan_id, "plan was forgotten elsewhere");
        }
        not_found(plan_id)
    }

    /// Follows what others append, looks for plans that nobody here knows, and lets those go that nobody here needs; for
    /// ever. Not needed where nobody else has the journal.
    pub async fn run_shared(&self) {
        let Some(shared) = &self.shared else {
            return std::future::pending().await;
        };
        let ticks = |every| {
            let mut ticks = interval_at(Instant::now(), every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut looking, mut sweeping) = (ticks(LOOK_EVERY), ticks(SWEEP_EVERY));
        let mut under_way = FuturesUnordered::new();
        loop {
            let has_room = under_way.len() < READ_ON_AT_A_TIME;
            // In this order, so that what happened in a test happens again; the rarer ones come before what is always there.
            let work = tokio::select! {
                biased;
                Some(()) = under_way.next() => continue,
                _ = looking.tick(), if has_room => self.look().boxed(),
                _ = sweeping.tick(), if has_room => self.sweep(shared).boxed(),
                plan_id = shared.others.next(), if has_room => self.follow(shared, plan_id).boxed(),
            };
            // One plan's panic is not to stop the others.
            under_way.push(AssertUnwindSafe(work).catch_unwind().map(|done| {
                if done.is_err() {
                    tracing::error!("following what others append panicked");
                }
            }));
        }
    }

    async fn follow(&self, shared: &Shared, plan_id: Arc<str>) {
        let Some(plan) = self.registry.get(&plan_id) else {
            return self.look_at_let_go(shared, &plan_id).await;
        };
        if let Err(error) = self.read_on(&plan).await {
            tracing::debug!(plan.id = &*plan_id, %error, "cannot read on");
        }
    }

    /// Looks whether others have appended to a plan that was let go here. Then it stands elsewhere, and they count it.
    async fn look_at_let_go(&self, shared: &Shared, plan_id: &str) {
        let known = shared
            .let_go()
            .get(plan_id)
            .map(|of_it| (of_it.standing.sequence, Arc::clone(&of_it.history)));
        let Some((sequence, history)) = known else {
            return;
        };
        if !history
            .latest()
            .wait()
            .await
            .is_ok_and(|latest| latest == sequence)
        {
            shared.let_go().remove(plan_id);
        }
    }

    /// Looks at plans that somebody here follows.
    async fn look(&self) {
        let mut plans = self.registry.all();
        plans.retain(|plan| plan.is_followed());
        plans.sort_by(|a, b| a.plan_id().cmp(b.plan_id()));
        for plan in plans {
            if let Err(error) = self.catch_up(&plan).await {
                tracing::debug!(plan.id = &**plan.plan_id(), %error, "cannot catch up");
            }
        }
    }

    /// Looks when to look again at plans that are not live here, and lets go of those that nobody needs.
    async fn sweep(&self, shared: &Shared) {
        let life = u64::try_from(IDLE_LIFE.as_millis()).unwrap_or(u64::MAX);
        let long_ago = Timestamp(self.clock.now().0.saturating_sub(life));
        self.let_go(shared, Unloading::Before(long_ago));
        let Ok(plan_ids) = self.journal.plans().wait().await else {
            return;
        };
        {
            let there: HashSet<&Arc<str>> = plan_ids.iter().collect();
            shared
                .without_time()
                .retain(|plan_id| there.contains(plan_id));
            shared.let_go().retain(|plan_id, _| there.contains(plan_id));
        }
        let timed = self.timers.plans();
        for plan_id in plan_ids {
            let is_known = timed.contains(&plan_id)
                || self.registry.get(&plan_id).is_some()
                || shared.without_time().contains(&plan_id);
            if is_known {
                continue;
            }
            let (_, read) = read(Arc::clone(&self.journal), Arc::clone(&plan_id)).await;
            let Ok((plan, _)) = read else { continue };
            self.count_on(&mut shared.let_go(), &plan);
            // It may have changed before anybody could tell that it is counted.
            self.look_at_let_go(shared, &plan_id).await;
            match plan.due() {
                Some(due) => self.timers.add(due, &plan_id),
                None => _ = shared.without_time().insert(plan_id),
            }
        }
    }

    /// Adds plans that are in the journal and not live here.
    pub(super) async fn add_views_of_others(
        &self,
        tenant: &str,
        views: &mut Vec<PlanView>,
    ) -> Result<(), Error> {
        let plan_ids = self.journal.plans().wait().await?;
        let known: HashSet<Arc<str>> = views
            .iter()
            .map(|view| Arc::clone(&view.spec.plan_id))
            .collect();
        let unknown = plan_ids
            .into_iter()
            .filter(|plan_id| tenant_of(plan_id) == tenant && !known.contains(plan_id));
        let reading = unknown.map(|plan_id| read(Arc::clone(&self.journal), plan_id));
        let mut reading = futures_util::stream::iter(reading).buffer_unordered(LISTED_AT_A_TIME);
        while let Some((plan_id, read)) = reading.next().await {
            match read {
                Ok((plan, _)) => views.push(view(&plan)?),
                Err(journal::Error::NotFound) => {}
                Err(journal::Error::Away(why)) => return Err(journal::Error::Away(why).into()),
                Err(error) => {
                    tracing::error!(plan.id = &*plan_id, %error, "a plan cannot be read from the journal; it is not listed");
                }
            }
        }
        Ok(())
    }

    /// Lets a plan's time pass, if that is due.
    pub(super) async fn let_time_pass(&self, plan: &Arc<LivePlan>) -> Result<(), Error> {
        self.change(plan, &Command::Tick).await.map(drop)
    }
}
