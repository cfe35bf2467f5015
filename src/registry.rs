//! Live plans by name, and the only locks around them.
//!
//! Three locks, each for one thing. The map's own lock is held for a look-up, never across an `.await`. A plan's *turn*
//! is held by whoever decides for it, from the decision until the journal has given it its place. A plan's state lock is
//! held to read, or to apply what the journal has acknowledged; never across an `.await`, so that readers do not wait for
//! a journal, and see nothing that it could still lose.

mod parts;
mod turn;
mod usage;
mod watchers;

pub use parts::{Part, Parts};
pub use turn::{Deciding, TurnHeld};
pub use usage::Usage;
pub use watchers::WatcherPlace;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use crate::engine::{Entry, Spec, State, Timestamp};
use crate::journal::History;
use turn::Turn;
use usage::{Share, Usages};
use watchers::Watchers;

/// The live plans.
pub struct Registry {
    plans: RwLock<HashMap<Arc<str>, Arc<LivePlan>>>,
    plans_max: usize,
    usages: Usages,
}

/// Why a plan cannot be registered.
pub enum Refusal {
    /// The name is taken by this plan.
    Taken(Arc<LivePlan>),
    /// As many plans as there may be are live.
    Full,
}

impl Registry {
    /// An empty registry for at most `plans_max` plans.
    #[must_use]
    pub fn new(plans_max: usize) -> Self {
        Self {
            plans: RwLock::default(),
            plans_max,
            usages: Usages::default(),
        }
    }

    /// What all plans hold.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        self.usages.all()
    }

    /// What the plans of a tenant hold.
    #[must_use]
    pub fn usage_of(&self, tenant: &str) -> Arc<Usage> {
        self.usages.of(tenant)
    }

    /// How many plans of a tenant are live, and how many tasks they have together.
    #[must_use]
    pub fn count_of(&self, is_of_tenant: impl Fn(&str) -> bool) -> (u64, u64) {
        let plans = self.read();
        let of_tenant = plans.values().filter(|plan| is_of_tenant(plan.plan_id()));
        of_tenant.fold((0, 0), |(plans, tasks), plan| {
            (plans + 1, tasks + plan.spec().tasks.len() as u64)
        })
    }

    /// The plan of this name.
    #[must_use]
    pub fn get(&self, plan_id: &str) -> Option<Arc<LivePlan>> {
        self.read().get(plan_id).cloned()
    }

    /// All plans, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LivePlan>> {
        self.read().values().cloned().collect()
    }

    /// Whether a plan of this name could be registered now.
    ///
    /// # Errors
    /// The name is taken, or the registry is full.
    pub fn room_for(&self, plan_id: &str) -> Result<(), Refusal> {
        let plans = self.read();
        match plans.get(plan_id) {
            Some(plan) => Err(Refusal::Taken(Arc::clone(plan))),
            None if plans.len() >= self.plans_max => Err(Refusal::Full),
            None => Ok(()),
        }
    }

    /// Registers a plan of a tenant. The caller serialises registrations, so that [`Registry::room_for`] still holds.
    pub fn insert(&self, plan: Arc<LivePlan>, tenant: &str) {
        let share = plan.share.get_or_init(|| self.usages.share(tenant));
        if let Ok(live) = plan.read() {
            share.hold(live.state.bytes());
        }
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        plans.insert(Arc::clone(plan.plan_id()), plan);
    }

    /// Takes this very plan out, if it is in here. Its watchers see that it is gone.
    pub fn remove_this(&self, plan: &LivePlan) -> bool {
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        let there = plans.get(plan.plan_id());
        // Looked at and taken out in one step, so that another of its name stays.
        if !there.is_some_and(|there| std::ptr::eq(&**there, plan)) {
            return false;
        }
        plans.remove(plan.plan_id());
        drop(plans);
        plan.removed.store(true, Ordering::Release);
        plan.head.send_modify(|head| head.removed = true);
        true
    }

    /// Whether this very plan is in here, and not another of its name.
    #[must_use]
    pub fn has_this(&self, plan: &LivePlan) -> bool {
        let there = self.get(plan.plan_id());
        there.is_some_and(|there| std::ptr::eq(&*there, plan))
    }

    /// Whether as many plans are live as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.read().len() >= self.plans_max
    }

    /// Takes plans out that nobody has: of those that may be, all, or the one whose last use was the longest ago.
    pub fn unload_idlest(&self, which: Unloading) -> Vec<Arc<LivePlan>> {
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        // Nobody can get hold of one while this lock is held.
        let is_idle = |plan: &Arc<LivePlan>| Arc::strong_count(plan) == 1;
        match which {
            Unloading::Before(time) => {
                let long_idle =
                    |_: &Arc<str>, plan: &mut Arc<LivePlan>| is_idle(plan) && plan.used_at() < time;
                plans.extract_if(long_idle).map(|(_, plan)| plan).collect()
            }
            Unloading::Any => {
                let idle = plans.values().filter(|plan| is_idle(plan));
                let idlest = idle.min_by_key(|plan| plan.used_at());
                let plan_id = idlest.map(|plan| Arc::clone(plan.plan_id()));
                let idlest = plan_id.and_then(|plan_id| plans.remove(&plan_id));
                idlest.into_iter().collect()
            }
        }
    }

    /// How many plans there may be.
    #[must_use]
    pub fn plans_max(&self) -> usize {
        self.plans_max
    }

    /// Insertions and removals are single steps, so a lock that a panic left behind guards a sound map.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, Arc<LivePlan>>> {
        self.plans.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which plans to let go that are in the journal all the same.
#[derive(Clone, Copy, Debug)]
pub enum Unloading {
    /// All that were used before.
    Before(Timestamp),
    /// One.
    Any,
}

/// Where a plan's history ends now: what watchers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last event.
    pub sequence: u64,
    /// Whether the plan has ended.
    pub ended: bool,
    /// Whether the plan was deleted or has expired.
    pub removed: bool,
    /// How often the journal has not taken what was appended.
    pub lost: u64,
}

/// One live plan: its state, and its history for watchers.
pub struct LivePlan {
    spec: Arc<Spec>,
    /// Where its events are kept.
    journal: Arc<dyn History>,
    turn: Arc<Turn>,
    /// What was appended and is not acknowledged yet, in order.
    appended: Mutex<VecDeque<Vec<Arc<Entry>>>>,
    live: RwLock<Live>,
    poisoned: AtomicBool,
    /// As its [head](Head::removed) says, for who changes it.
    removed: AtomicBool,
    head: watch::Sender<Head>,
    watchers: Watchers,
    parts: Parts,
    /// When somebody last asked for it: milliseconds since 1970-01-01T00:00:00Z.
    used_at: AtomicU64,
    /// What it holds, once it is registered.
    share: OnceLock<Share>,
}

/// What the state lock guards.
#[derive(Debug)]
pub struct Live {
    /// The fold of the history.
    pub state: State,
    /// The whole history; the entry of sequence `n` stands at `n - 1`.
    pub history: Vec<Arc<Entry>>,
}

/// A panic while a plan was being changed left it in an unknown state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

impl LivePlan {
    /// A plan that was just created.
    #[must_use]
    pub fn new(spec: Arc<Spec>, journal: Arc<dyn History>, created: Arc<Entry>) -> Self {
        // Every task has its record, as nearly always, and the plan its end: no larger memory is needed on the way.
        let mut history = Vec::with_capacity(spec.tasks.len() + 2);
        history.push(created);
        Self::again(State::created(spec), history, journal)
    }

    /// A plan as its history left it.
    #[must_use]
    pub fn again(state: State, history: Vec<Arc<Entry>>, journal: Arc<dyn History>) -> Self {
        let head = Head {
            sequence: state.sequence(),
            ended: state.end().is_some(),
            removed: false,
            lost: 0,
        };
        Self {
            spec: Arc::clone(state.spec()),
            journal,
            turn: Arc::default(),
            appended: Mutex::default(),
            live: RwLock::new(Live { state, history }),
            poisoned: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            head: watch::Sender::new(head),
            watchers: Watchers::default(),
            parts: Parts::default(),
            used_at: AtomicU64::new(0),
            share: OnceLock::new(),
        }
    }

    /// Bytes that the plans of its tenant hold.
    #[must_use]
    pub fn bytes_of_tenant(&self) -> u64 {
        self.share.get().map_or(0, Share::of_tenant)
    }

    /// When to look at it again: at its deadline, or when it can be forgotten.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let live = self.read().ok()?;
        let forgotten = live.state.end().map(|end| end.at.plus(self.spec.retention));
        forgotten.or(self.spec.deadline)
    }

    /// Somebody needs it now.
    pub fn use_at(&self, now: Timestamp) {
        self.used_at.store(now.0, Ordering::Relaxed);
    }

    /// When somebody last [needed](Self::use_at) it.
    #[must_use]
    pub fn used_at(&self) -> Timestamp {
        Timestamp(self.used_at.load(Ordering::Relaxed))
    }

    /// Number of the last event that was applied.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.head.borrow().sequence
    }

    /// Whether somebody waits for what comes next.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.head.receiver_count() > 0
    }

    /// Its name.
    #[must_use]
    pub fn plan_id(&self) -> &Arc<str> {
        &self.spec.plan_id
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Where its events are kept.
    #[must_use]
    pub fn journal(&self) -> &Arc<dyn History> {
        &self.journal
    }

    /// Waits for the right to decide for this plan. It can be handed to whoever finishes what was begun.
    pub async fn turn(&self) -> TurnHeld {
        Turn::take(Arc::clone(&self.turn)).await
    }

    /// The plan as it is now.
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, Live>, Poisoned> {
        let live = self.live.read().map_err(|_| Poisoned)?;
        if self.is_poisoned() {
            return Err(Poisoned);
        }
        Ok(live)
    }

    /// Whether a change panicked.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// Whether the plan was deleted or has expired. Who forgets a plan has its [turn](Self::turn).
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// To be held from before a change is journaled until it is applied.
    #[must_use]
    pub fn changing(self: &Arc<Self>) -> Changing {
        Changing(Arc::clone(self))
    }

    /// Applies what the journal has acknowledged, wakes the watchers, and answers what `read` reads of the new state. The
    /// caller holds the change's [guard](Self::changing), and the [turn](Self::turn) or the lock of what was appended.
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn apply<T>(
        &self,
        entries: Vec<Arc<Entry>>,
        read: impl FnOnce(&State) -> T,
    ) -> Result<T, Poisoned> {
        let mut live = self.live.write().map_err(|_| Poisoned)?;
        for entry in &entries {
            live.state.apply(entry);
        }
        live.history.extend(entries);
        let answer = read(&live.state);
        if let Some(share) = self.share.get() {
            share.hold(live.state.bytes());
        }
        let (sequence, ended) = (live.state.sequence(), live.state.end().is_some());
        drop(live);
        self.head.send_if_modified(|head| {
            (head.sequence, head.ended) = (sequence, ended);
            // Waking takes a while, also nobody. Whoever begins to follow now, reads the new head first.
            self.head.receiver_count() > 0
        });
        Ok(answer)
    }

    /// Notes what was appended and is not acknowledged yet, and answers what `read` reads of the state with it. The
    /// caller holds the [turn](Self::turn).
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn appended<T>(
        &self,
        entries: Vec<Arc<Entry>>,
        deciding: &mut Deciding,
        read: impl FnOnce(&State) -> T,
    ) -> Result<T, Poisoned> {
        let ahead = match &mut deciding.ahead {
            Some(ahead) => ahead,
            None => deciding.ahead.insert(self.read()?.state.clone()),
        };
        entries.iter().for_each(|entry| ahead.apply(entry));
        self.lock_appended().push_back(entries);
        Ok(read(ahead))
    }

    /// Applies what was appended, up to this sequence: the journal has acknowledged it.
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn acknowledged(&self, sequence: u64) -> Result<(), Poisoned> {
        // Held until all is applied: acknowledgements may be told in another order than they came in.
        let mut appended = self.lock_appended();
        let is_next = |entries: &mut Vec<Arc<Entry>>| {
            let last = entries.last();
            last.is_none_or(|last| last.sequence <= sequence)
        };
        while let Some(entries) = appended.pop_front_if(is_next) {
            self.apply(entries, |_| ())?;
        }
        Ok(())
    }

    /// Forgets what was appended from this entry on, unless somebody has: the journal has not taken it. The caller holds
    /// the [turn](Self::turn).
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn lost(&self, first: &Arc<Entry>, deciding: &mut Deciding) -> Result<(), Poisoned> {
        let mut appended = self.lock_appended();
        let begins = |entries: &Vec<Arc<Entry>>| {
            let begin = entries.first();
            begin.is_some_and(|begin| Arc::ptr_eq(begin, first))
        };
        let Some(place) = appended.iter().position(begins) else {
            return Ok(());
        };
        appended.truncate(place);
        let mut ahead = self.read()?.state.clone();
        let still = appended.iter().flatten();
        still.for_each(|entry| ahead.apply(entry));
        deciding.ahead = Some(ahead);
        self.head.send_modify(|head| head.lost += 1);
        Ok(())
    }

    /// Whether something was appended that is not acknowledged yet.
    #[must_use]
    pub fn has_appended(&self) -> bool {
        !self.lock_appended().is_empty()
    }

    /// Waits until all that was appended is acknowledged or lost.
    pub async fn settled(&self) {
        let mut head = self.follow();
        while self.has_appended() && !self.is_poisoned() && head.changed().await.is_ok() {}
    }

    /// How often the journal has not taken what was appended.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.head.borrow().lost
    }

    /// Waits until the journal has acknowledged all up to this sequence. Answers whether it has, and not lost it.
    pub async fn wait_for(&self, sequence: u64, losses: u64) -> bool {
        let mut head = self.follow();
        let known = head.wait_for(|head| {
            head.sequence >= sequence || head.lost != losses || head.removed || self.is_poisoned()
        });
        // What was lost and what came in its place have the same sequences.
        known
            .await
            .is_ok_and(|head| head.sequence >= sequence && head.lost == losses)
    }

    /// Entries are added and taken in single steps.
    fn lock_appended(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<Arc<Entry>>>> {
        let appended = self.appended.lock();
        appended.unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows where the history ends.
    pub fn follow(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// What its watchers are shown.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Those that watch it.
    #[must_use]
    pub fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// How many appends are not acknowledged yet.
    #[must_use]
    pub fn appends_waiting(&self) -> usize {
        self.lock_appended().len()
    }
}

/// A change of a plan under way. If it panics, nobody knows how much of it happened: the plan is poisoned, and whoever
/// waits for it is woken to learn that.
pub struct Changing(Arc<LivePlan>);

impl Drop for Changing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Relaxed);
            self.0.head.send_modify(|_| {});
        }
    }
}
