//! What a plan answers: what became of each record, and why something is refused.

use std::sync::Arc;

use super::event::{Event, Held, Resolution};
use crate::reconcile::{MatchedBy, Status};

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Matched and applied.
    Accepted,
    /// Nothing changed: the same again, or a sign of life of a task that has its result.
    Duplicate,
    /// Applied in place of an earlier record.
    SupersededPrevious,
    /// Quarantined: no key names a task.
    Unmatched,
    /// Quarantined: a key names several tasks.
    Ambiguous,
    /// Quarantined: the plan has ended, or the task keeps its first record.
    Late,
    /// Quarantined: its keys name different tasks, and matching is strict.
    KeysDisagree,
    /// Not a record.
    Invalid,
    /// Over a limit.
    TooLarge,
}

/// Something about an accepted record that its sender should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A later key names another task.
    KeysDisagree,
    /// A typed field and the body's differ.
    FieldInBodyIgnored,
    /// The plan knows as many sessions as it may.
    SessionNotLearnt,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Field of the record: `body`, `task_id`.
    pub field: &'static str,
    /// What is wrong and what was expected.
    pub description: String,
    /// UPPER_SNAKE.
    pub reason: &'static str,
    /// The limit that was passed, 0 if none.
    pub limit: u64,
    /// Whether a quota of the plan was passed, not a limit of the record itself.
    pub quota: bool,
}

impl Violation {
    /// Every field and every reason that a violation may name: one that was kept is read back as one of these.
    pub const WORDS: [&'static str; 15] = [
        "body",
        "group_key",
        "id",
        "kind",
        "sandbox_session_id",
        "status",
        "task_id",
        "BODY_TOO_LARGE",
        "INVALID_JSON",
        "INVALID_TEXT",
        "JSON_LIMIT_EXCEEDED",
        "KEY_TOO_LONG",
        "NOT_PERMITTED",
        "PLAN_QUOTA_EXCEEDED",
        "UNKNOWN_ENUM_VALUE",
    ];

    /// The word of a violation that reads so.
    #[must_use]
    pub fn word(text: &str) -> Option<&'static str> {
        Self::WORDS.into_iter().find(|word| *word == text)
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it.
    pub disposition: Disposition,
    /// Its task.
    pub task: Option<u32>,
    /// The key that matched.
    pub matched_by: Option<MatchedBy>,
    /// The record that the task has now.
    pub held: Option<Arc<Held>>,
    /// The event that applied it, or its original; 0 if none did.
    pub sequence: u64,
    /// What to look at.
    pub warnings: Vec<Warning>,
    /// The first tasks an ambiguous key names.
    pub candidates: Vec<u32>,
    /// What is wrong with it.
    pub violation: Option<Box<Violation>>,
    /// Its number in quarantine, 0 if it is not there.
    pub quarantine_id: u64,
    /// Whether this is the receipt that the record got when it was sent before. What the plan's history has of it
    /// ([`held`](Self::held), candidates, the number in quarantine) is not here; see [`Receipt::recall`].
    pub is_remembered: bool,
    /// The event that accepted what is to be [`held`](Self::held) then, 0 if it is nothing.
    pub remembered_held: u64,
}

/// Why something is not done about a record in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of this number.
    NotFound,
    /// Something else was done about it already.
    Resolved(Resolution),
    /// The plan has ended.
    PlanEnded,
    /// It is no result.
    NotAResult,
}

/// Why none of a producer's records is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerRefusal {
    /// Records before this offset of the producer have not come.
    OffsetAhead {
        /// How many of the producer's records the plan has.
        committed: u64,
    },
    /// The plan has as many producers as it may have.
    TooManyProducers {
        /// So many.
        limit: u64,
    },
    /// As many are for this producer's task only as may be.
    TooManyProducersOfTask {
        /// So many.
        limit: u64,
    },
    /// The plan would remember more records of producers than it may.
    TooManyNumbered {
        /// So many.
        limit: u64,
    },
}

impl Receipt {
    pub(super) fn of(disposition: Disposition) -> Self {
        Self {
            disposition,
            task: None,
            matched_by: None,
            held: None,
            sequence: 0,
            warnings: Vec::new(),
            candidates: Vec::new(),
            violation: None,
            quarantine_id: 0,
            is_remembered: false,
            remembered_held: 0,
        }
    }

    /// Completes a receipt that is remembered, from the plan's history: the event of a sequence, if it is there.
    pub fn recall<'h>(&mut self, event: impl Fn(u64) -> Option<&'h Event>) {
        if let Some(Event::RecordAccepted(held)) = event(self.remembered_held) {
            self.held = Some(Arc::clone(held));
        }
        if let Some(Event::RecordQuarantined(quarantined)) = event(self.sequence) {
            self.quarantine_id = quarantined.id;
            if matches!(
                self.disposition,
                Disposition::Ambiguous | Disposition::KeysDisagree
            ) {
                self.candidates.clone_from(&quarantined.candidates);
            }
        }
    }

    /// Status of the task now, if it has a record.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.held.as_ref().map(|held| held.verdict.status)
    }
}

pub(super) fn refused(violation: Violation) -> Receipt {
    let over = violation.limit > 0;
    let disposition = if over {
        Disposition::TooLarge
    } else {
        Disposition::Invalid
    };
    Receipt {
        violation: Some(Box::new(violation)),
        ..Receipt::of(disposition)
    }
}

pub(super) fn over_quota(field: &'static str, what: &str, limit: u64) -> Receipt {
    refused(Violation {
        field,
        description: format!("the plan already has {limit} {what}"),
        reason: "PLAN_QUOTA_EXCEEDED",
        limit,
        quota: true,
    })
}
