//! Live plans by name, and the only locks around them.
//!
//! Three locks, each for one thing. The map's own lock is held for a look-up, never across an `.await`. A plan's *turn*
//! is held by whoever decides for it, from decision to apply, also while a journal takes its time. A plan's state lock is
//! held to read, or to apply what was decided; never across an `.await`, so that readers do not wait for a journal.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Mutex, MutexGuard, watch};

use crate::engine::{Entry, Spec, State};

/// The live plans.
#[derive(Debug)]
pub struct Registry {
    plans: RwLock<HashMap<Arc<str>, Arc<LivePlan>>>,
    plans_max: usize,
}

/// Why a plan cannot be registered.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct LivePlan {
    spec: Arc<Spec>,
    /// Whoever holds it decides. Asynchronous, because a journal's append happens under it.
    turn: Mutex<()>,
    live: RwLock<Live>,
    head: watch::Sender<Head>,
    watchers: AtomicUsize,
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
    pub fn new(spec: Arc<Spec>, created: Arc<Entry>) -> Self {
        let state = State::created(Arc::clone(&spec));
        let head = Head {
            sequence: state.sequence(),
            ended: false,
            removed: false,
        };
        Self {
            spec,
            turn: Mutex::new(()),
            live: RwLock::new(Live {
                state,
                history: vec![created],
            }),
            head: watch::Sender::new(head),
            watchers: AtomicUsize::new(0),
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

    /// Waits for the right to decide for this plan.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The plan as it is now.
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, Live>, Poisoned> {
        self.live.read().map_err(|_| Poisoned)
    }

    /// Applies what was decided and journaled, and wakes the watchers. The caller holds the [turn](Self::turn).
    ///
    /// # Errors
    /// An earlier change panicked.
    pub fn apply(&self, entries: Vec<Arc<Entry>>) -> Result<(), Poisoned> {
        let head = {
            let mut live = self.live.write().map_err(|_| Poisoned)?;
            for entry in &entries {
                live.state.apply(entry);
            }
            live.history.extend(entries);
            (live.state.sequence(), live.state.end().is_some())
        };
        self.head
            .send_modify(|now| (now.sequence, now.ended) = head);
        Ok(())
    }

    /// Follows where the history ends.
    pub fn follow(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
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

/// A watcher's place at a plan.
#[derive(Debug)]
pub struct WatcherPlace(Arc<LivePlan>);

impl Drop for WatcherPlace {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
