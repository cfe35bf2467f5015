//! The result of a registered plan, whole or page by page.

use std::ops::Range;
use std::sync::Arc;

use super::{Coordinator, Error, PlanView};
use crate::engine::{Held, State, TaskSpec};
use crate::json::{self, Value};
use crate::plan::Reconciliation;
use crate::reconcile::{self, Reconciled};
use crate::registry::{LivePlan, Poisoned};

/// Which tasks' records are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Page {
    /// No document at all.
    None,
    /// All.
    Whole,
    /// So many, from this task on.
    From(usize, usize),
}

/// A result, or a page of it.
#[derive(Debug)]
pub struct ResultPage {
    /// The plan as it stood.
    pub view: PlanView,
    /// The result document as compact JSON; its records, outcomes and failed ids are those of the page.
    pub document: Option<String>,
    /// Where the next page begins.
    pub next: Option<usize>,
}

/// What a page is made of, taken under the lock; made into a document after it.
struct Taken {
    view: PlanView,
    range: Range<usize>,
    held: Vec<Option<Arc<Held>>>,
    unsuccessful: u64,
    /// Outcomes of all tasks without a record, if the outcome path can find any there.
    outcomes_of_missing: u64,
}

impl Coordinator {
    /// The result as it is now.
    ///
    /// # Errors
    /// The plan is unusable.
    pub async fn result(&self, plan: Arc<LivePlan>, page: Page) -> Result<ResultPage, Error> {
        let made = tokio::task::spawn_blocking(move || {
            let taken = take(&plan, page).map_err(|Poisoned| super::poisoned(&plan))?;
            let next = (taken.range.end < taken.view.spec.tasks.len()).then_some(taken.range.end);
            if matches!(page, Page::None) {
                return Ok(ResultPage {
                    view: taken.view,
                    document: None,
                    next: None,
                });
            }
            let document = json::compact(&write(&taken));
            Ok(ResultPage {
                view: taken.view,
                document: Some(document),
                next,
            })
        });
        made.await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn take(plan: &LivePlan, page: Page) -> Result<Taken, Poisoned> {
    let live = plan.read()?;
    let tasks = plan.spec().tasks.len();
    let range = match page {
        Page::None => 0..0,
        Page::Whole => 0..tasks,
        Page::From(start, size) => start.min(tasks)..start.saturating_add(size).min(tasks),
    };
    Ok(Taken {
        view: PlanView::of(&live.state),
        held: range
            .clone()
            .map(|task| live.state.held(task).cloned())
            .collect(),
        range,
        unsuccessful: live.state.unsuccessful(),
        outcomes_of_missing: outcomes_of_missing(&live.state),
    })
}

fn outcomes_of_missing(state: &State) -> u64 {
    let spec = state.spec();
    if !spec.settings.missing_records_may_have_outcomes() {
        return 0;
    }
    let missing = spec
        .tasks
        .iter()
        .enumerate()
        .filter(|(at, _)| state.held(*at).is_none());
    let record = |task: &TaskSpec| reconcile::missing_record(&task.id, task.group_key.clone());
    missing
        .filter(|(_, task)| spec.settings.outcome(&record(task)).is_some())
        .count() as u64
}

fn write(taken: &Taken) -> Value {
    let spec = &taken.view.spec;
    let counts = &taken.view.standing.counts;
    let settings = &spec.settings;
    let limits = json::Limits {
        depth: 1024,
        ..json::Limits::default()
    };
    let mut page = reconcile::Page::with_capacity(taken.held.len());
    for (task, held) in spec.tasks[taken.range.clone()].iter().zip(&taken.held) {
        let reconciled = match held {
            Some(held) => {
                // Read once when it was accepted; a document that cannot be read again would be a defect.
                let record = json::parse(&held.document, limits).unwrap_or(Value::Null);
                Reconciled::new(settings, record, held.verdict.successful)
            }
            None => Reconciled::missing(settings, &task.id, task.group_key.clone()),
        };
        page.push(&task.id, reconciled);
    }
    let tasks = spec.tasks.len();
    let reconciliation = Reconciliation {
        group_count: spec.group_count,
        task_count: tasks,
        record_count: tasks,
        success_count: tasks - usize::try_from(taken.unsuccessful).unwrap_or(tasks),
        failure_count: usize::try_from(taken.unsuccessful).unwrap_or(tasks),
        outcome_count: usize::try_from(counts.outcomes + taken.outcomes_of_missing)
            .unwrap_or(usize::MAX),
        failed_task_ids: page.failed_task_ids().to_vec(),
    };
    let standing = &taken.view.standing;
    let mut document = reconcile::document(
        settings,
        &spec.result_head,
        page,
        &reconciliation,
        standing.status.name(),
    );
    // Said only where `completed` may mean less than everything; other documents stay as they always were.
    if let Some(end) = standing
        .end
        .as_ref()
        .filter(|_| !spec.completion.is_everything())
    {
        document.set("completion_reason", end.reason.name());
    }
    document.into()
}
