//! The tasks of a plan, one or page by page.

use super::{Coordinator, Error, PlanView, poisoned};
use crate::engine::{QuarantineByTask, TaskStanding, TaskState};
use crate::reconcile::Status;
use crate::registry::{LivePlan, Poisoned};

/// A page of tasks.
#[derive(Debug)]
pub struct TaskPage {
    /// The plan as it stood.
    pub view: PlanView,
    /// Tasks in plan order.
    pub tasks: Vec<TaskStanding>,
    /// Where the next page begins.
    pub next: Option<usize>,
}

impl Coordinator {
    /// One task, with its plan.
    ///
    /// # Errors
    /// There is no such plan or no such task.
    pub async fn task(
        &self,
        plan_id: &str,
        task_id: &str,
    ) -> Result<(PlanView, TaskStanding), Error> {
        let plan = self.current(plan_id).await?;
        let task = task_of(&plan, task_id)?;
        let live = plan.read().map_err(|Poisoned| poisoned(&plan))?;
        let quarantine = QuarantineByTask::of(&live.state, Some(task));
        let standing = TaskStanding::of(&live.state, task, &quarantine);
        Ok((PlanView::of(&live.state), standing))
    }

    /// At most `size` tasks that `wanted` admits by their state and their record's status, from position `start` on.
    /// Looks at so many tasks at most that nobody else waits for it; then `next` says where to look on.
    ///
    /// # Errors
    /// There is no such plan.
    pub async fn tasks(
        &self,
        plan_id: &str,
        start: usize,
        size: usize,
        wanted: impl Fn(TaskState, Option<Status>) -> bool,
    ) -> Result<TaskPage, Error> {
        let plan = self.current(plan_id).await?;
        let live = plan.read().map_err(|Poisoned| poisoned(&plan))?;
        let state = &live.state;
        let end = state.spec().tasks.len();
        let last = start.saturating_add(LOOKED_AT).min(end);
        let is_wanted = |task: &usize| {
            let status = state.held(*task).map(|held| held.verdict.status);
            wanted(TaskState::of(state, *task), status)
        };
        let mut found = (start..last).filter(is_wanted);
        let page: Vec<usize> = found.by_ref().take(size).collect();
        let next = found.next().or_else(|| (last < end).then_some(last));
        let quarantine = QuarantineByTask::of(state, None);
        let standing = |task: usize| {
            let task = u32::try_from(task).unwrap_or(u32::MAX);
            TaskStanding::of(state, task, &quarantine)
        };
        Ok(TaskPage {
            view: PlanView::of(state),
            tasks: page.into_iter().map(standing).collect(),
            next,
        })
    }
}

/// Tasks looked at for one page.
const LOOKED_AT: usize = 50_000;

/// Position of a plan's task.
pub(super) fn task_of(plan: &LivePlan, task_id: &str) -> Result<u32, Error> {
    let task = plan.spec().index.task(task_id);
    task.ok_or_else(|| Error::TaskNotFound {
        plan_id: plan.plan_id().to_string(),
        task_id: task_id.to_owned(),
    })
}
