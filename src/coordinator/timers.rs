//! What happens by itself: plans reach their deadline, ended plans are forgotten.

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::{Coordinator, Error, PlanView, view};
use crate::engine::Timestamp;

/// How long to wait before what could not be done is tried again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

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

    /// Forgets when to look at a plan that is gone; else who makes and deletes plans could fill memory with it.
    pub(super) fn forget(&self, plan: &PlanView) {
        let plan_id = &plan.spec.plan_id;
        let mut due = self.due();
        for at in [plan.spec.deadline, plan.expires_at()]
            .into_iter()
            .flatten()
        {
            due.remove(&(at, Arc::clone(plan_id)));
        }
    }

    /// The plans that are looked at again.
    pub(super) fn plans(&self) -> HashSet<Arc<str>> {
        let due = self.due();
        due.iter().map(|(_, plan_id)| Arc::clone(plan_id)).collect()
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

    async fn time_has_come(&self, plan_id: &Arc<str>) {
        let plan = match (self.registry.get(plan_id), &self.shared) {
            (Some(plan), _) => plan,
            (None, None) => return,
            (None, Some(shared)) => match self.load(shared, plan_id).await {
                Ok(plan) => plan,
                Err(Error::PlanNotFound { .. }) => return,
                Err(error) => return self.look_again(plan_id, &error),
            },
        };
        if let Err(error) = self.let_time_pass(&plan).await {
            return self.look_again(plan_id, &error);
        }
        let now = self.clock.now();
        let expired = view(&plan)
            .ok()
            .filter(|view| view.expires_at().is_some_and(|at| at <= now));
        if let Some(expired) = expired {
            let _turn = plan.turn().await;
            match self.forget(&plan).await {
                Ok(()) => {
                    self.timers.forget(&expired);
                    tracing::info!(plan.id = &**plan_id, "plan expired");
                }
                Err(error) => self.look_again(plan_id, &error.into()),
            }
        }
    }

    /// What is due was not done. It is tried again, unless it cannot be done any more.
    fn look_again(&self, plan_id: &Arc<str>, error: &Error) {
        match error {
            Error::PlanNotFound { .. } => {}
            Error::PlanPoisoned { .. } => {
                tracing::error!(plan.id = &**plan_id, %error, "failed to let a plan's time pass");
            }
            _ => {
                tracing::warn!(plan.id = &**plan_id, %error, "failed to let a plan's time pass; trying again");
                let again = self.clock.now().plus(LOOK_AGAIN_AFTER);
                self.timers.add(again, plan_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::coordinator::{Clock, Coordinator, Deadline, Limits, PlanCommand, Source};
    use crate::engine::{self, Completion, EndReason};
    use crate::json::{Object, Value};
    use crate::{journal, plan};

    fn coordinator() -> Coordinator {
        let limits = Limits {
            plan: plan::Limits::default(),
            engine: engine::Limits::default(),
            task_request_bytes: 1 << 20,
            one_task_request_bytes: 1 << 20,
            id_bytes: 1_024,
            plans: 10,
            tenant_plans: u64::MAX,
            tenant_tasks: u64::MAX,
            tenant_bytes: u64::MAX,
            memory_bytes: u64::MAX,
            watchers_per_plan: 10,
            request_ids: 10,
            tenant_request_ids: usize::MAX,
            request_id_life: Duration::from_secs(1),
            deadline: Duration::MAX,
            retention: Duration::from_secs(3_600),
        };
        let journal = Arc::new(journal::Memory::default());
        Coordinator::new(journal, Clock::system(), limits)
    }

    fn command() -> PlanCommand {
        PlanCommand {
            tenant: Arc::default(),
            request_id: String::new(),
            plan_id: "p".into(),
            config: Object::default(),
            source: Source::Items(Value::array(vec![1.into()])),
            completion: Completion::default(),
            deadline: Some(Deadline::After(Duration::from_secs(7_200))),
            retention: None,
            labels: std::collections::BTreeMap::new(),
            validate_only: false,
            document_bytes_max: 0,
        }
    }

    #[tokio::test]
    async fn a_deleted_plan_leaves_no_time_to_look_at_it() {
        let coordinator = coordinator();
        for seal in [false, true] {
            let registered = coordinator.register(command()).await;
            assert!(registered.is_ok_and(|registered| registered.created));
            if seal {
                let ended = coordinator.end("p", "", EndReason::Sealed, "").await;
                assert!(ended.is_ok());
            }
            assert_eq!(coordinator.timers.due().len(), 1 + usize::from(seal));
            assert!(coordinator.delete("p", "").await.is_ok());
            assert_eq!(coordinator.timers.due().len(), 0);
        }
    }
}
