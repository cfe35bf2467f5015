//! After a start: the plans that the journal has are made live again.
//!
//! Until all are, a plan that is not there may still come, so nobody is told that it does not exist, and none is
//! registered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::name::tenant_of;
use super::{Coordinator, Error};
use crate::engine::{Entry, State};
use crate::journal::{self, Journal};
use crate::registry::LivePlan;
use crate::telemetry;

/// Entries that are read at a time: a plan's tasks are made beside its first ones. Others have their turn after each.
const ENTRIES_AT_A_TIME: usize = 1 << 20;

/// How often it is said how far this is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What was made live again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Plans.
    pub plans: u64,
    /// Their events.
    pub events: u64,
    /// Plans that could not be read, and are not served.
    pub unreadable: u64,
}

impl Coordinator {
    /// Makes the journal's plans live again. Until this is done, answers about plans that are not live yet are
    /// [`Error::Recovering`].
    ///
    /// # Errors
    /// The journal cannot say which plans it has. A plan that it cannot read is left out, and said to be.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        if self.shared.is_some() {
            // Each is read when it is needed.
            self.recovering.store(false, Ordering::Release);
            return Ok(Recovered::default());
        }
        let names = self.journal.plans().wait().await?;
        let total = names.len();
        let begin = Instant::now();
        let mut said = begin;
        let mut recovered = Recovered::default();
        let mut names = names.into_iter();
        let mut reading = JoinSet::new();
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        loop {
            while reading.len() < at_a_time
                && let Some(name) = names.next()
            {
                reading.spawn(read(Arc::clone(&self.journal), name));
            }
            let Some(read) = reading.join_next().await else {
                break;
            };
            match read {
                Ok((_, Ok((plan, events)))) => {
                    recovered.plans += 1;
                    recovered.events += events;
                    self.serve_again(plan);
                }
                Ok((name, Err(error))) => {
                    recovered.unreadable += 1;
                    tracing::error!(plan.id = &*name, %error, "a plan cannot be read from the journal; it is not served");
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                let Recovered { plans, events, .. } = recovered;
                tracing::info!(plans, of = total, events, "replaying the journal");
            }
        }
        self.recovering.store(false, Ordering::Release);
        if total > 0 {
            let Recovered {
                plans,
                events,
                unreadable,
            } = recovered;
            let milliseconds = begin.elapsed().as_millis();
            tracing::info!(plans, events, unreadable, milliseconds, "journal replayed");
        }
        Ok(recovered)
    }

    pub(super) fn serve_again(&self, plan: LivePlan) -> Arc<LivePlan> {
        let plan = Arc::new(plan);
        let tenant = tenant_of(plan.plan_id());
        self.registry.insert(Arc::clone(&plan), tenant);
        if let Some(due) = plan.due() {
            self.timers.add(due, plan.plan_id());
        }
        plan
    }
}

type Read = Result<(LivePlan, u64), journal::Error>;

/// Reads a plan's history.
pub(super) async fn read(journal: Arc<dyn Journal>, plan_id: Arc<str>) -> (Arc<str>, Read) {
    let read = async {
        let history = journal.open(&plan_id).wait().await?;
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        loop {
            let after = entries.last().map_or(0, |last| last.sequence);
            let part = history.replay(after, ENTRIES_AT_A_TIME).wait().await?;
            tokio::task::yield_now().await;
            if part.is_empty() {
                break;
            }
            entries.extend(part);
        }
        telemetry::metrics::history_replayed();
        let events = entries.len() as u64;
        if entries.is_empty() {
            // It was begun, and nothing more.
            return Err(journal::Error::NotFound);
        }
        // A history that no version of ours has written is to harm its own plan only.
        let fold = AssertUnwindSafe(|| State::fold(entries.iter().map(|entry| &**entry)));
        let state = catch_unwind(fold).map_err(|_| {
            journal::Error::Damaged("its events do not go with each other".to_owned())
        })?;
        let state = state.ok_or_else(|| {
            journal::Error::Damaged("it does not begin with the plan's creation".to_owned())
        })?;
        Ok((LivePlan::again(state, entries, history), events))
    };
    let read = read.await;
    (plan_id, read)
}
