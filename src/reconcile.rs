//! Reconciling: records in, each planned task's record, outcomes and the reconciliation out. Pure.
//!
//! [`reconcile`] answers for whole documents. A live plan uses the same pieces one record at a time: [`record::read`]
//! takes a record apart, [`Index`] finds its task, [`classify`] gives its status, and [`document`] writes the result.

mod document;
mod index;
mod matching;
mod names;
mod page_text;
pub mod record;
mod status;
mod table;

pub use document::{Page, Reconciled, ResultHead, document, missing_record};
pub use index::{Index, IndexBuilder};
pub use matching::{Candidates, DocumentMatching, MatchedBy, Named, Sessions};
pub use page_text::{Brought, PageText};
pub use status::{Facts, Status, Verdict, classify};

use std::sync::Arc;

use crate::json::{Object, Value};
pub use crate::plan::Error;
use crate::plan::{self, Identities, first_present};

const RESULT_SCHEMA: &str = "homeboy/generic-fanout-reconcile-result/v1";

/// The config's fields that reconciling reads. The default is none at all: for what reconciles nothing.
#[derive(Debug, Default)]
pub struct Settings {
    /// Whether a record whose keys name different tasks is for none of them (`matching: strict`).
    pub strict_matching: bool,
    /// Whether a task keeps its first record instead of its last (`duplicate_policy: first`).
    pub keeps_first: bool,
    result_schema: Value,
    reconciliation_schema: Value,
    /// Statuses that count as successful, instead of the built-in ones.
    success_statuses: Option<Vec<Arc<str>>>,
    /// Where a record's outcome stands; a list of several paths finds nothing.
    outcome_path: Option<String>,
    /// The first part of that path.
    outcome_root: Option<Arc<str>>,
    /// The member of a record that this is.
    outcome_field: Option<usize>,
    /// Whether the path has no other part.
    outcome_is_root: bool,
    base_run: Object,
    include_summary: bool,
}

impl Settings {
    /// Reads a config.
    ///
    /// # Errors
    /// `matching` or `duplicate_policy` is something that there is not.
    pub fn read(config: &Object) -> Result<Self, Error> {
        let chosen = |field: &str, default: &str, other: &str| {
            let Some(value) = first_present(config, &[field]) else {
                return Ok(false);
            };
            match value.as_str() {
                Some(text) if text == default => Ok(false),
                Some(text) if text == other => Ok(true),
                _ => {
                    let found = crate::json::compact(value);
                    let problem = format!("expected {default:?} or {other:?}, found {found}");
                    Err(Error::new(format!("config.{field}"), problem))
                }
            }
        };
        let strict_matching = chosen("matching", "first_key", "strict")?;
        let keeps_first = chosen("duplicate_policy", "last", "first")?;
        let outcome_path = first_present(config, &["outcome_path", "outcomePath"]);
        let outcome_path = outcome_path.map_or_else(|| Some("outcome".to_owned()), plan::path);
        // An empty path finds nothing, the member without a name neither.
        let outcome_path = outcome_path.filter(|path| !path.is_empty());
        let outcome_root = outcome_path
            .as_deref()
            .and_then(|path| path.split('.').next());
        let statuses = config.get("success_statuses").and_then(Value::as_array);
        let texts = |values: &[Value]| {
            let text = |value: &Value| value.as_str().map(Into::into);
            values.iter().filter_map(text).collect()
        };
        Ok(Self {
            strict_matching,
            keeps_first,
            result_schema: first_present(config, &["result_schema", "resultSchema"])
                .cloned()
                .unwrap_or_else(|| RESULT_SCHEMA.into()),
            reconciliation_schema: plan::reconciliation_schema(config),
            success_statuses: statuses.map(texts),
            outcome_root: outcome_root.map(Arc::from),
            outcome_field: outcome_root.map(record::outcome_field),
            outcome_is_root: outcome_path.as_deref() == outcome_root,
            outcome_path,
            base_run: config
                .get("base_run")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            include_summary: config.get("include_summary") != Some(&Value::Bool(false)),
        })
    }

    /// The outcome of a reconciled record: the value at the outcome path, if it counts as given.
    #[must_use]
    pub fn outcome(&self, record: &Value) -> Option<Value> {
        let value = record.lookup(self.outcome_path.as_deref()?)?;
        value.is_present().then(|| value.into_owned())
    }
}

/// Reconciles documents: every task of the plan gets its record, or `missing_record`.
///
/// # Errors
/// The plan has no list of task requests, one of them has no identity, or two have the same.
pub fn reconcile(config: &Object, plan: &Value, records: Vec<Value>) -> Result<Value, Error> {
    reconcile_counting(config, plan, records).map(|(result, _)| result)
}

/// As [`reconcile`]; answers, too, how many tasks have no record.
///
/// # Errors
/// As [`reconcile`].
pub fn reconcile_counting(
    config: &Object,
    plan: &Value,
    records: Vec<Value>,
) -> Result<(Value, u64), Error> {
    let settings = Settings::read(config)?;
    let Some(task_requests) = plan.get("task_requests").and_then(Value::as_array) else {
        let found = plan.get("task_requests").map_or("nothing", Value::kind);
        let problem = format!("expected a list of task requests, found {found}");
        return Err(Error::new("plan.task_requests", problem));
    };
    if u32::try_from(records.len()).is_err() {
        return Err(Error::over("records", "records", u32::MAX as usize));
    }
    let identities = Identities::of(task_requests)?;
    let mut matching = DocumentMatching::new(&identities, task_requests, &settings);
    // Each record is read once, while it is at hand; which task it is for is known when all have been seen.
    let mut reconciled: Vec<Option<Reconciled>> = records
        .into_iter()
        .enumerate()
        .map(|(position, record)| {
            let mut record = plan::record_object(record, position);
            matching.add(&record);
            let verdict = classify(&Facts::of(&record), settings.success_statuses());
            record.set("status", verdict.status.value());
            Some(Reconciled::new(
                &settings,
                record.into(),
                verdict.successful,
            ))
        })
        .collect();

    let mut page = Page::with_capacity(task_requests.len());
    let mut missing = 0;
    let matches = matching.finish();
    for ((matched, task_id), request) in matches
        .into_iter()
        .zip(identities.in_order())
        .zip(task_requests)
    {
        // Each record is matched at most once.
        let own = matched.and_then(|at| reconciled[at as usize].take());
        let own = own.unwrap_or_else(|| {
            missing += 1;
            let group_key = request
                .get("group_key")
                .filter(|group_key| group_key.is_present());
            let group_key = group_key.cloned().unwrap_or_else(|| "".into());
            Reconciled::missing(&settings, task_id, group_key)
        });
        page.push(task_id, own);
    }
    let group_count = plan
        .get("groups")
        .and_then(Value::as_array)
        .map_or(0, <[Value]>::len);
    let counts = page.reconciliation(group_count);
    let status = if counts.failure_count == 0 {
        Status::Completed
    } else {
        Status::Failed
    };
    let head = ResultHead::of_plan(plan);
    let result = document(&settings, &head, page, &counts, status.name());
    Ok((result.into(), missing))
}

impl Settings {
    pub(crate) fn success_statuses(&self) -> Option<&[Arc<str>]> {
        self.success_statuses.as_deref()
    }

    /// Whether the outcome path can find something in the record of a task that has none.
    #[must_use]
    pub fn missing_records_may_have_outcomes(&self) -> bool {
        matches!(
            self.outcome_path.as_deref(),
            Some("id" | "group_key" | "status")
        ) || self
            .outcome_path
            .as_deref()
            .is_some_and(|path| path.starts_with("group_key."))
    }

    /// Whether a task without a record counts as successful: only if the config's list says so.
    #[must_use]
    pub fn counts_missing_as_successful(&self) -> bool {
        let name = Status::MissingRecord.name();
        self.success_statuses()
            .is_some_and(|list| list.iter().any(|status| **status == *name))
    }
}
