//! What a record's own words come to: the host's status, and whether it counts as successful.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use crate::json::{Object, Value};

/// The host's status of a task's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The work was done.
    Completed,
    /// It was not.
    Failed,
    /// There is no record.
    MissingRecord,
}

impl Status {
    /// In the order of their declaration.
    const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::MissingRecord];

    /// The word that documents hold.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::MissingRecord => "missing_record",
        }
    }

    /// The word as a value, shared by all documents.
    pub(super) fn value(self) -> Value {
        static WORDS: LazyLock<[Value; 3]> =
            LazyLock::new(|| Status::ALL.map(|status| status.name().into()));
        WORDS[self as usize].clone()
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A status with its consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The host's status.
    pub status: Status,
    /// Whether the record counts as successful. `success: true` beside `status: failed` does, and stays failed.
    pub successful: bool,
}

/// The words of a record that decide about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts<T = Arc<str>> {
    /// Text of `status`, else of `state`.
    pub status: T,
    /// Whether `success` is exactly true.
    pub success: bool,
    /// Text of the first given of `outcome.status`, `outcome_status`, `provider_status`.
    pub outcome_status: T,
}

impl<'r> Facts<Cow<'r, str>> {
    /// Reads a record.
    #[must_use]
    pub fn of(record: &'r Object) -> Self {
        let text = |field| record.get(field).map(Value::text).unwrap_or_default();
        let status = text("status");
        let outcome_status = record
            .get("outcome")
            .and_then(|outcome| outcome.get("status"));
        let outcome_status = [
            outcome_status,
            record.get("outcome_status"),
            record.get("provider_status"),
        ]
        .into_iter()
        .flatten()
        .find(|value| value.is_present());
        Self {
            status: if status.is_empty() {
                text("state")
            } else {
                status
            },
            success: record.get("success") == Some(&Value::Bool(true)),
            outcome_status: outcome_status.map(Value::text).unwrap_or_default(),
        }
    }
}

/// Provider words that mean the work was done.
const DONE_WORDS: [&str; 5] = ["succeeded", "no_op", "success", "passed", "accepted"];

/// Whether the status alone decides, without a list of success statuses.
#[must_use]
pub(crate) fn decides_alone(status: &str) -> bool {
    Status::from_name(status).is_some() || DONE_WORDS.contains(&status)
}

/// Gives a record its status.
///
/// With a list of success statuses, a record is successful if its own word or its status is in it; a word in the list
/// that is not a host status becomes `completed`.
#[must_use]
pub fn classify<T: AsRef<str>>(facts: &Facts<T>, success_statuses: Option<&[Arc<str>]>) -> Verdict {
    let own = facts.status.as_ref();
    let outcome = facts.outcome_status.as_ref();
    let done = |word: &str| DONE_WORDS.contains(&word);
    let mut status = match Status::from_name(own) {
        Some(status) => status,
        None if facts.success || done(own) => Status::Completed,
        None if done(outcome) || outcome == Status::Completed.name() => Status::Completed,
        None => Status::Failed,
    };
    let Some(list) = success_statuses else {
        return Verdict {
            status,
            successful: facts.success || status == Status::Completed,
        };
    };
    let listed = |word: &str| list.iter().any(|status| **status == *word);
    let word = if own.is_empty() { outcome } else { own };
    if listed(word) && Status::from_name(word).is_none() {
        status = Status::Completed;
    }
    Verdict {
        status,
        successful: facts.success || listed(status.name()) || listed(word),
    }
}
