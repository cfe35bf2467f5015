//! Live plans by name, and the only locks around them.
//!
//! Three locks, each for one thing. The map's own lock is held for a look-up, never across an `.await`. A plan's *turn*
//! is held by whoever decides for it, from decision to apply, also while a journal takes its time. A plan's state lock is
//! held to read, or to apply what was decided; never across an `.await`, so that readers do not wait for a journal.

mod parts;

pub use parts::{Part, Parts};

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Notify, watch};

use crate::engine::{Documents, Entry, Spec, State};
use crate::journal::History;

/// The live plans.
pub struct Registry {
    plans: RwLock<HashMap<Arc<str>, Arc<LivePlan>>>,
    plans_max: usize,
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
        }
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

    /// Registers a plan. The caller serialises registrations, so that [`Registry::room_for`] still holds.
    pub fn insert(&self, plan: Arc<LivePlan>) {
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        plans.insert(Arc::clone(plan.plan_id()), plan);
    }

    /// Takes a plan out. Its watchers see that it is gone.
    pub fn remove(&self, plan_id: &str) -> Option<Arc<LivePlan>> {
        let removed = self
            .plans
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(plan_id);
        if let Some(plan) = &removed {
            plan.head.send_modify(|head| head.removed = true);
        }
        removed
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

/// Where a plan's history ends now: what watchers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last event.
    pub sequence: u64,
    /// Whether the plan has ended.
    pub ended: bool,
    /// Whether the plan was deleted or has expired.
    pub removed: bool,
}

/// One live plan: its state, and its history for watchers.
pub struct LivePlan {
    spec: Arc<Spec>,
    /// Where its events are kept.
    journal: Arc<dyn History>,
    turn: Arc<Turn>,
    live: RwLock<Live>,
    poisoned: AtomicBool,
    head: watch::Sender<Head>,
    watchers: AtomicUsize,
    parts: Parts,
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
        let state = State::created(Arc::clone(&spec));
        let head = Head {
            sequence: state.sequence(),
            ended: false,
            removed: false,
        };
        Self {
            spec,
            journal,
            turn: Arc::default(),
            live: RwLock::new(Live {
                state,
                history: vec![created],
            }),
            poisoned: AtomicBool::new(false),
            head: watch::Sender::new(head),
            watchers: AtomicUsize::new(0),
            parts: Parts::default(),
        }
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
    pub fn journal(&self) -> &dyn History {
        &*self.journal
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

    /// To be held from before a change is journaled until it is applied.
    #[must_use]
    pub fn changing(self: &Arc<Self>) -> Changing {
        Changing(Arc::clone(self))
    }

    /// Applies what was decided and journaled, wakes the watchers, and answers what `read` reads of the new state. The
    /// caller holds the [turn](Self::turn), and the change's [guard](Self::changing).
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
        let (sequence, ended) = (live.state.sequence(), live.state.end().is_some());
        drop(live);
        self.head.send_if_modified(|head| {
            (head.sequence, head.ended) = (sequence, ended);
            // Waking takes a while, also nobody. Whoever begins to follow now, reads the new head first.
            self.head.receiver_count() > 0
        });
        Ok(answer)
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

    /// Takes one of `most` places for watchers; given back when the answer is dropped.
    #[must_use]
    pub fn take_watcher_place(self: &Arc<Self>, most: usize) -> Option<WatcherPlace> {
        let taken = self
            .watchers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < most).then_some(taken + 1)
            });
        taken.is_ok().then(|| WatcherPlace(Arc::clone(self)))
    }
}

/// The right to decide for a plan; asynchronous, because a journal's append happens under it.
///
/// Whoever comes first when it is free gets it, waiting or not: a lock that is handed to the longest waiter stays taken
/// until that one is scheduled, and with many streams at one plan that is most of the time.
#[derive(Debug, Default)]
struct Turn {
    taken: AtomicBool,
    given_back: Notify,
    /// Nobody waits for it who has the turn.
    documents: Mutex<Documents>,
}

/// How often to look again before going to sleep: with a journal in memory, a turn is over in about a microsecond.
const TURN_SPINS: usize = 100;

impl Turn {
    async fn take(self: Arc<Self>) -> TurnHeld {
        for _ in 0..TURN_SPINS {
            if self.try_take() {
                return TurnHeld(self);
            }
            std::hint::spin_loop();
        }
        loop {
            let mut given_back = pin!(self.given_back.notified());
            // From here on, no giving back is missed.
            given_back.as_mut().enable();
            if self.try_take() {
                break;
            }
            given_back.await;
        }
        TurnHeld(self)
    }

    fn try_take(&self) -> bool {
        !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire)
    }
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub struct TurnHeld(Arc<Turn>);

impl TurnHeld {
    /// Where the plan keeps its documents.
    pub fn documents(&self) -> MutexGuard<'_, Documents> {
        // What was not kept because of a panic is not referred to either.
        let documents = self.0.documents.lock();
        documents.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TurnHeld {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
        self.0.given_back.notify_one();
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

/// A watcher's place at a plan.
pub struct WatcherPlace(Arc<LivePlan>);

impl Drop for WatcherPlace {
    fn drop(&mut self) {
        if self.0.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.parts.clear();
        }
    }
}
