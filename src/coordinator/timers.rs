//! What happens by itself: plans reach their deadline, ended plans are forgotten.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::{Coordinator, expires_at};
use crate::engine::{Command, Timestamp};

/// When to look at which plan again. At most two entries for each plan; one too many does no harm.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: Mutex<BTreeSet<(Timestamp, Arc<str>)>>,
    changed: Notify,
}

impl Timers {
    pub(super) fn add(&self, at: Timestamp, plan_id: &Arc<str>) {
        self.due().insert((at, Arc::clone(plan_id)));
        self.changed.notify_one();
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, Arc<str>)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coordinator {
    /// Looks after deadlines and retention, for ever.
    pub async fn run_timers(&self) {
        loop {
            let next = self.timers.due().first().cloned();
            match next {
                Some((at, plan_id)) if at <= self.clock.now() => {
                    self.timers.due().remove(&(at, Arc::clone(&plan_id)));
                    // One plan's panic is not to stop the others' time.
                    let come = AssertUnwindSafe(self.time_has_come(&plan_id)).catch_unwind();
                    if come.await.is_err() {
                        tracing::error!(plan.id = &*plan_id, "a plan's time panicked");
                    }
                }
                Some((at, _)) => {
                    let until = self.clock.until(at);
                    tokio::select! {
                        () = tokio::time::sleep(until) => {}
                        () = self.timers.changed.notified() => {}
                    }
                }
                None => self.timers.changed.notified().await,
            }
        }
    }

    async fn time_has_come(&self, plan_id: &str) {
        let Some(plan) = self.registry.get(plan_id) else {
            return;
        };
        if let Err(error) = self.execute(&plan, &Command::Tick).await {
            tracing::error!(plan.id = plan_id, %error, "failed to let a plan's time pass");
            return;
        }
        let expired = plan.read().is_ok_and(|live| {
            expires_at(plan.spec(), live.state.end()).is_some_and(|at| at <= self.clock.now())
        });
        if expired {
            let _turn = plan.turn().await;
            match self.journal.delete(plan_id).wait().await {
                Ok(()) => {
                    self.registry.remove(plan_id);
                    tracing::info!(plan.id = plan_id, "plan expired");
                }
                Err(error) => tracing::error!(plan.id = plan_id, %error, "failed to forget a plan"),
            }
        }
    }
}
