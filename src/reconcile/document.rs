//! The result document, whole or a page of it.

use std::sync::Arc;

use super::Settings;
use super::status::Status;
use crate::json::{Object, Value};
use crate::plan::Reconciliation;

/// What the result repeats from its plan.
#[derive(Clone, Debug, Default)]
pub struct ResultHead {
    schema: Option<Value>,
    orchestrator: Option<Value>,
    summary: Option<Value>,
}

impl ResultHead {
    /// Reads a plan document, or its [head](crate::plan::Plan::head). Members it lacks are left out of the result.
    #[must_use]
    pub fn of_plan(plan: &Value) -> Self {
        Self {
            schema: plan.get("schema").cloned(),
            orchestrator: plan.get("orchestrator").cloned(),
            summary: plan.get("summary").cloned(),
        }
    }
}

/// A record with its status, and what it says.
#[derive(Clone, Debug)]
pub struct Reconciled {
    record: Value,
    outcome: Option<Value>,
    successful: bool,
}

impl Reconciled {
    /// A record that has its status.
    #[must_use]
    pub fn new(settings: &Settings, record: Value, successful: bool) -> Self {
        Self {
            outcome: settings.outcome(&record),
            record,
            successful,
        }
    }

    /// What stands for the record of a task that has none.
    #[must_use]
    pub fn missing(settings: &Settings, task_id: &Arc<str>, group_key: Value) -> Self {
        Self::new(
            settings,
            missing_record(task_id, group_key),
            settings.counts_missing_as_successful(),
        )
    }
}

/// Reconciled records in plan order, with what they add up to.
#[derive(Clone, Debug, Default)]
pub struct Page {
    records: Vec<Value>,
    outcomes: Vec<Value>,
    failed_task_ids: Vec<Arc<str>>,
}

impl Page {
    /// An empty page with room for `records`.
    #[must_use]
    pub fn with_capacity(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            outcomes: Vec::with_capacity(records),
            failed_task_ids: Vec::new(),
        }
    }

    /// Adds the record of the next task.
    pub fn push(&mut self, task_id: &Arc<str>, reconciled: Reconciled) {
        self.outcomes.extend(reconciled.outcome);
        self.records.push(reconciled.record);
        if !reconciled.successful {
            self.failed_task_ids.push(Arc::clone(task_id));
        }
    }

    /// The counts, if this page is the whole plan.
    #[must_use]
    pub fn reconciliation(&self, group_count: usize) -> Reconciliation {
        let failure_count = self.failed_task_ids.len();
        Reconciliation {
            group_count,
            task_count: self.records.len(),
            record_count: self.records.len(),
            success_count: self.records.len() - failure_count,
            failure_count,
            outcome_count: self.outcomes.len(),
            failed_task_ids: self.failed_task_ids.clone(),
        }
    }

    /// Identities of the page's failed tasks.
    #[must_use]
    pub fn failed_task_ids(&self) -> &[Arc<str>] {
        &self.failed_task_ids
    }
}

/// The record of a task that has none.
#[must_use]
pub fn missing_record(task_id: &Arc<str>, group_key: Value) -> Value {
    let mut record = Object::with_capacity(3);
    record.set("id", Arc::clone(task_id));
    record.set("group_key", group_key);
    record.set("status", Status::MissingRecord.value());
    record.into()
}

/// Writes the result document: the head, the config's `base_run`, then records, outcomes, reconciliation and status.
#[must_use]
pub fn document(
    settings: &Settings,
    head: &ResultHead,
    page: Page,
    counts: &Reconciliation,
    status: &str,
) -> Object {
    let mut document = Object::with_capacity(8);
    document.set("schema", settings.result_schema.clone());
    let summary = head.summary.as_ref().filter(|_| settings.include_summary);
    let head = [
        ("plan_schema", head.schema.as_ref()),
        ("orchestrator", head.orchestrator.as_ref()),
        ("summary", summary),
    ];
    for (key, value) in head {
        if let Some(value) = value {
            document.set(key, value.clone());
        }
    }
    document.extend(&settings.base_run);
    document.set("records", Value::array(page.records));
    document.set("outcomes", Value::array(page.outcomes));
    document.set(
        "reconciliation",
        counts.document(settings.reconciliation_schema.clone()),
    );
    document.set("status", status);
    document
}
