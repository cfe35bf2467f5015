//! The result of a registered plan, whole or page by page.

use std::ops::Range;
use std::sync::Arc;

use super::{Coordinator, Error, PlanView};
use crate::engine::{Held, State};
use crate::json::Object;
use crate::plan::Reconciliation;
use crate::reconcile::{self, Brought, PageText};
use crate::registry::{LivePlan, Poisoned};

/// Which tasks' records are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Page {
    /// No document at all.
    None,
    /// All.
    Whole,
    /// So many, from this task on; fewer where they would not fit.
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

/// The least that a record takes in a document: its status, and a comma.
const RECORD_BYTES_MIN: usize = r#"{"status":"failed"},"#.len();

impl Coordinator {
    /// The result as it is now, however long.
    ///
    /// # Errors
    /// The plan is unusable.
    pub async fn result(&self, plan: Arc<LivePlan>, page: Page) -> Result<ResultPage, Error> {
        self.result_within(plan, page, usize::MAX).await
    }

    /// The result as it is now, in a document of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The plan is unusable, or the document would be longer: all of it, or a page of one record.
    pub async fn result_within(
        &self,
        plan: Arc<LivePlan>,
        page: Page,
        bytes_max: usize,
    ) -> Result<ResultPage, Error> {
        let made = tokio::task::spawn_blocking(move || {
            let tasks = plan.spec().tasks.len();
            // Said before so many records are looked at.
            if matches!(page, Page::Whole) && tasks.saturating_mul(RECORD_BYTES_MIN) > bytes_max {
                return Err(too_large(bytes_max));
            }
            let taken = take(&plan, page).map_err(|Poisoned| super::poisoned(&plan))?;
            let (document, end) = match page {
                Page::None => (None, tasks),
                Page::Whole => match write(&taken, bytes_max)? {
                    (document, end) if end == tasks => (Some(document), end),
                    _ => return Err(too_large(bytes_max)),
                },
                Page::From(..) => {
                    let (document, end) = write(&taken, bytes_max)?;
                    (Some(document), end)
                }
            };
            Ok(ResultPage {
                view: taken.view,
                document,
                next: (end < tasks).then_some(end),
            })
        });
        made.await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn too_large(bytes_max: usize) -> Error {
    Error::Invalid {
        field: "page_size".into(),
        problem: format!("the document is larger than {bytes_max} bytes; ask for pages"),
        reason: "DOCUMENT_TOO_LARGE",
        limit: Some(bytes_max as u64),
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
    let outcomes_of_missing = match page {
        Page::None => 0,
        Page::Whole | Page::From(..) => outcomes_of_missing(&live.state),
    };
    Ok(Taken {
        view: PlanView::of(&live.state),
        held: range
            .clone()
            .map(|task| live.state.held(task).cloned())
            .collect(),
        range,
        unsuccessful: live.state.unsuccessful(),
        outcomes_of_missing,
    })
}

/// Looks at every task, but only if the outcome path leads into the group keys of tasks without a record.
fn outcomes_of_missing(state: &State) -> u64 {
    let (spec, missing) = (state.spec(), state.counts().missing);
    if missing == 0 || !spec.settings.missing_records_may_have_outcomes() {
        return 0;
    }
    if spec.settings.all_missing_records_have_outcomes() {
        return missing;
    }
    let tasks = spec.tasks.numbers(0..spec.tasks.len());
    let missing = tasks.filter(|task| state.held(*task as usize).is_none());
    let outcomes = missing.filter(|task| {
        let (task_id, group_key) = (spec.task_id(*task), spec.group_key(*task));
        let outcome = spec.settings.outcome_of_missing(task_id, &group_key);
        outcome.is_some()
    });
    outcomes.count() as u64
}

/// Writes as many tasks as fit, and answers where the next page begins.
fn write(taken: &Taken, bytes_max: usize) -> Result<(String, usize), Error> {
    let head = head(taken);
    let beside = PageText::default().into_document(&head).len();
    let for_tasks = bytes_max.checked_sub(beside);
    let for_tasks = for_tasks.ok_or_else(|| too_large(bytes_max))?;
    let spec = &taken.view.spec;
    let held = taken.held.iter().flatten();
    let record_bytes: usize = held.map(|held| held.document.len() + 1).sum();
    let mut page = PageText::with_capacity(record_bytes.min(for_tasks));
    for (task, held) in spec.tasks.numbers(taken.range.clone()).zip(&taken.held) {
        let group_key;
        let brought = match held {
            Some(held) => Brought::Record(&held.document, held.verdict.successful),
            None => {
                group_key = spec.group_key(task);
                Brought::Nothing(&group_key)
            }
        };
        if !page.push(&spec.settings, spec.task_id(task), brought, for_tasks) {
            break;
        }
    }
    if page.tasks() == 0 && !taken.range.is_empty() {
        return Err(too_large(bytes_max));
    }
    let end = taken.range.start + page.tasks();
    Ok((page.into_document(&head), end))
}

/// The document without what is of single tasks.
fn head(taken: &Taken) -> Object {
    let (spec, standing) = (&taken.view.spec, &taken.view.standing);
    let tasks = spec.tasks.len();
    let failures = usize::try_from(taken.unsuccessful).unwrap_or(tasks);
    let outcomes = standing.counts.outcomes + taken.outcomes_of_missing;
    let reconciliation = Reconciliation {
        group_count: spec.group_count,
        task_count: tasks,
        record_count: tasks,
        success_count: tasks - failures,
        failure_count: failures,
        outcome_count: usize::try_from(outcomes).unwrap_or(usize::MAX),
        failed_task_ids: Vec::new(),
    };
    let mut document = reconcile::document(
        &spec.settings,
        &spec.result_head,
        reconcile::Page::default(),
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
    document
}
