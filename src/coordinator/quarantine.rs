//! Records that were set aside: listed, applied to a task after all, or discarded.

use std::sync::Arc;

use super::tasks::task_of;
use super::{Coordinator, Error, PlanView, poisoned};
use crate::engine::{Command, Quarantined, Receipt, Refusal, Resolved, State};
use crate::registry::{LivePlan, Poisoned};

/// A record that was set aside, and what was done about it.
#[derive(Clone, Debug)]
pub struct QuarantineEntry {
    /// The record.
    pub record: Arc<Quarantined>,
    /// What was done about it, if anything was.
    pub resolved: Option<Resolved>,
}

impl QuarantineEntry {
    fn of(state: &State, record: &Arc<Quarantined>) -> Self {
        Self {
            record: Arc::clone(record),
            resolved: state.resolved(record.id).cloned(),
        }
    }
}

/// A page of a plan's quarantine.
#[derive(Debug)]
pub struct QuarantinePage {
    /// The plan as it stood.
    pub view: PlanView,
    /// Records, oldest first.
    pub records: Vec<QuarantineEntry>,
    /// Whether there are more.
    pub more: bool,
}

impl Coordinator {
    /// At most `size` records after number `after`; those that were resolved only if asked for.
    ///
    /// # Errors
    /// There is no such plan.
    pub async fn quarantine(
        &self,
        plan_id: &str,
        after: u64,
        size: usize,
        include_resolved: bool,
    ) -> Result<QuarantinePage, Error> {
        let plan = self.current(plan_id).await?;
        let live = plan.read().map_err(|Poisoned| poisoned(&plan))?;
        let skipped = usize::try_from(after).unwrap_or(usize::MAX);
        let records = live.state.quarantine().iter().skip(skipped);
        let mut entries = records
            .map(|record| QuarantineEntry::of(&live.state, record))
            .filter(|entry| include_resolved || entry.resolved.is_none());
        Ok(QuarantinePage {
            view: PlanView::of(&live.state),
            records: entries.by_ref().take(size).collect(),
            more: entries.next().is_some(),
        })
    }

    /// Applies a record in quarantine to a task.
    ///
    /// # Errors
    /// There is no such plan, task or record; the plan has ended, or the record was resolved otherwise or is no result.
    pub async fn rematch(
        &self,
        plan_id: &str,
        id: u64,
        task_id: &str,
        note: &str,
    ) -> Result<(PlanView, Receipt, QuarantineEntry), Error> {
        let plan = self.plan(plan_id).await?;
        let task = task_of(&plan, task_id)?;
        let note = note.into();
        let rematch = Command::Rematch { id, task, note };
        let mut receipts = self.change(&plan, &rematch).await?.receipts;
        let (view, entry) = entry(&plan, id)?;
        let receipt = receipts.pop().ok_or(Error::QuarantineRefused {
            id,
            refusal: Refusal::NotFound,
        })?;
        Ok((view, receipt, entry))
    }

    /// Sets a record in quarantine aside for good.
    ///
    /// # Errors
    /// There is no such plan or record, or it was rematched.
    pub async fn discard(
        &self,
        plan_id: &str,
        id: u64,
        note: &str,
    ) -> Result<(PlanView, QuarantineEntry), Error> {
        let plan = self.plan(plan_id).await?;
        let note = note.into();
        self.change(&plan, &Command::Discard { id, note }).await?;
        entry(&plan, id)
    }
}

fn entry(plan: &LivePlan, id: u64) -> Result<(PlanView, QuarantineEntry), Error> {
    let live = plan.read().map_err(|Poisoned| poisoned(plan))?;
    let record = live.state.quarantined(id).ok_or(Error::QuarantineRefused {
        id,
        refusal: Refusal::NotFound,
    })?;
    let entry = QuarantineEntry::of(&live.state, record);
    Ok((PlanView::of(&live.state), entry))
}
