//! Plans that others have appended to, for whoever is to read on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Plans whose histories may go on. Each is in here once, however often others append to it, so there are never more than
/// there are plans in use.
#[derive(Debug, Default)]
pub struct Others {
    plans: Mutex<BTreeSet<Arc<str>>>,
    added: Notify,
}

impl Others {
    /// Others may have appended to this plan.
    pub fn add(&self, plan_id: Arc<str>) {
        self.plans().insert(plan_id);
        self.added.notify_one();
    }

    /// Waits for a plan that others may have appended to, and takes it out. Dropping this loses nothing.
    pub async fn next(&self) -> Arc<str> {
        loop {
            if let Some(plan_id) = self.plans().pop_first() {
                return plan_id;
            }
            self.added.notified().await;
        }
    }

    /// Each step is whole.
    fn plans(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
