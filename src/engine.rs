//! The plan's state machine: what a command does to a plan, as events; what an event does to its state. Pure.
//!
//! [`decide`] reads the state and answers with events and receipts; [`State::apply`] folds an event into the state.
//! Neither reads a clock: `now` comes in with the command and goes into the event. Folding the events of a plan from the
//! first one gives its state, whatever wrote them down in between.

mod command;
mod decide;
mod documents;
mod draft;
mod event;
mod line;
mod producer;
mod receipt;
mod spec;
mod state;
mod task;

pub use command::{Command, Limits, RecordKind, Submission};
pub use decide::{CANDIDATES_LISTED, Decision, decide, decide_keeping};
pub use documents::Documents;
pub use event::{
    Entry, Event, Held, QuarantineReason, Quarantined, Resolution, Resolved, SignOfLife,
};
pub use line::LineError;
pub use producer::{Advance, Remembered, Warnings, producer_of_task};
pub use receipt::{Disposition, ProducerRefusal, Receipt, Refusal, Violation, Warning};
pub use spec::{Completion, SealRule, Spec, Tasks, Terms};
pub use state::{Counts, End, EndReason, PlanStatus, State};
pub use task::{MissingCause, QuarantineByTask, TaskStanding, TaskState};

/// Words that events say.
pub use crate::reconcile::{MatchedBy, Status, Verdict};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time this much later.
    #[must_use]
    pub fn plus(self, later: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}
