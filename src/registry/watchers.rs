//! The watchers of a plan: how many there are, and how far each is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::LivePlan;

/// The watchers of a plan.
#[derive(Default)]
pub struct Watchers(Mutex<Vec<Arc<AtomicU64>>>);

impl Watchers {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Sequence of the last event that the one which is furthest behind has taken; nothing if there is none.
    #[must_use]
    pub fn furthest_behind(&self) -> Option<u64> {
        let watchers = self.lock();
        let taken = watchers.iter().map(|taken| taken.load(Ordering::Relaxed));
        taken.min()
    }

    /// Watchers come and go in single steps.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LivePlan {
    /// Takes one of `most` places for watchers; given back when the answer is dropped.
    #[must_use]
    pub fn take_watcher_place(self: &Arc<Self>, most: usize) -> Option<WatcherPlace> {
        let mut watchers = self.watchers.lock();
        if watchers.len() >= most {
            return None;
        }
        let taken = Arc::new(AtomicU64::new(self.sequence()));
        watchers.push(Arc::clone(&taken));
        let plan = Arc::clone(self);
        Some(WatcherPlace { plan, taken })
    }
}

/// A watcher's place at a plan.
pub struct WatcherPlace {
    plan: Arc<LivePlan>,
    /// Sequence of the last event that was taken.
    taken: Arc<AtomicU64>,
}

impl WatcherPlace {
    /// The watcher has taken all events up to this sequence.
    pub fn taken(&self, sequence: u64) {
        self.taken.store(sequence, Ordering::Relaxed);
    }
}

impl Drop for WatcherPlace {
    fn drop(&mut self) {
        let mut watchers = self.plan.watchers.lock();
        watchers.retain(|taken| !Arc::ptr_eq(taken, &self.taken));
        if watchers.is_empty() {
            self.plan.parts.clear();
        }
    }
}
