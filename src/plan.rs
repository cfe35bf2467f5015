//! Planning: a config and items in, groups and one task request for each group out. Pure.
//!
//! The rules are those of the plan document `homeboy/fanout-reconcile-plan/v1`; `tests/vectors` holds input and
//! expected output for each of them. Cost is linear in the input.

mod config;
mod document;
mod expression;
mod findings;
mod grouping;
mod identity;
mod outline;
mod request;
mod template;

pub use config::{Config, first_present};
pub(crate) use config::{path, reconciliation_schema};
pub use document::{Identities, Plan, Reconciliation};
pub use findings::{
    FindingsInput, Materialized, materialize_config, normalize_items, reconcile_input,
};
pub use grouping::Group;
pub use identity::{Keys, canonical_id, record_object};
pub use outline::Outline;

use std::fmt;

use crate::json::{Object, Value};

/// What a plan may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items in all groups.
    pub items: usize,
    /// Groups, and so task requests.
    pub tasks: usize,
    /// Bytes of text that templates may produce by embedding values in strings.
    pub template_text_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            items: 1_000_000,
            tasks: 1_000_000,
            template_text_bytes: 512 << 20,
        }
    }
}

/// Why something cannot be planned or reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The field, as a path into the input: `config.group_key_path`, `plan.task_requests[3]`.
    pub field: String,
    /// What is wrong with it and what was expected.
    pub problem: String,
    /// The limit that was passed, if that is what is wrong.
    pub limit: Option<usize>,
}

impl Error {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            limit: None,
        }
    }

    pub(crate) fn over(field: &str, what: &str, limit: usize) -> Self {
        let problem = format!("more than {limit} {what}");
        Self {
            field: field.into(),
            problem,
            limit: Some(limit),
        }
    }
}

impl From<Box<Error>> for Error {
    fn from(error: Box<Self>) -> Self {
        *error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Error {}

/// What is to be planned.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The config; anything but an object counts as `{}`.
    pub config: Object,
    /// Items given beside the config. A value that is not [present](Value::is_present) leaves the config's.
    pub items: Option<Value>,
    /// Explicit groups given beside the config, likewise.
    pub groups: Option<Value>,
}

impl Input {
    /// Reads `{config, items, groups}`; without a `config` the document itself is the config.
    #[must_use]
    pub fn from_document(document: &Value) -> Self {
        let empty = Object::default();
        let input = document.as_object().unwrap_or(&empty);
        let config = match input.get("config").filter(|config| config.is_present()) {
            Some(config) => config.as_object().cloned().unwrap_or_default(),
            None => input.clone(),
        };
        Self {
            config,
            items: input.get("items").cloned(),
            groups: input.get("groups").cloned(),
        }
    }
}

/// Plans: groups the items (or takes the explicit groups) and renders a task request for each group.
///
/// Identities are not checked here, so that a plan with colliding ids can still be looked at:
/// [`Plan::identities`] does.
///
/// # Errors
/// A config field has the wrong type, the template does not render to an object, or a limit is passed.
pub fn plan(input: Input, limits: &Limits) -> Result<Plan, Error> {
    grouped(input, limits)?.plan()
}

/// [`plan`], but for the task requests: they are made when they are asked for. That they can be made is sure.
///
/// # Errors
/// As [`plan`].
pub fn outline(input: Input, limits: &Limits) -> Result<Outline, Error> {
    grouped(input, limits)?.check()
}

fn grouped(input: Input, limits: &Limits) -> Result<Outline, Error> {
    let Input {
        config,
        items,
        groups,
    } = input;
    let config = Config::read(config)?;
    let groups = grouping::group(&config, items, groups, limits)?;
    Outline::new(config, groups, limits)
}

/// Plans finding packets: normalises their findings to items, groups them, and renders the materialised config.
///
/// # Errors
/// As [`plan`], or the finding policy has a field of the wrong type.
pub fn plan_findings(input: &FindingsInput, limits: &Limits) -> Result<Plan, Error> {
    grouped_findings(input, limits)?.plan()
}

/// [`plan_findings`], but for the task requests, as [`outline`].
///
/// # Errors
/// As [`plan_findings`].
pub fn outline_findings(input: &FindingsInput, limits: &Limits) -> Result<Outline, Error> {
    grouped_findings(input, limits)?.check()
}

fn grouped_findings(input: &FindingsInput, limits: &Limits) -> Result<Outline, Error> {
    let materialized = materialize_config(input, limits)?;
    let config = Config::read(materialized.config)?;
    let groups = grouping::reindex(materialized.groups);
    Outline::new(config, groups, limits)
}
