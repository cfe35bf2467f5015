//! What can happen to a plan.

use std::sync::Arc;

use bytes::Bytes;

use super::Timestamp;
use super::command::RecordKind;
use super::producer::Advance;
use super::spec::Spec;
use super::state::EndReason;
use crate::reconcile::{MatchedBy, Verdict};

/// An event with its place in the plan's history.
#[derive(Clone, Debug)]
pub struct Entry {
    /// 1 for the plan's creation, one more for every event after it.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What happened. A plan keeps one for every record, so large parts are behind pointers.
#[derive(Clone, Debug)]
pub enum Event {
    /// The plan was registered.
    PlanCreated(Arc<Spec>),
    /// A task has a record, or another one.
    RecordAccepted(Arc<Held>),
    /// A task reported that it began or how far it is.
    TaskProgressed(Arc<SignOfLife>),
    /// A session was seen working on a task.
    SessionLearnt {
        /// The session.
        session: Arc<str>,
        /// Position of the task in the plan.
        task: u32,
    },
    /// A record could not be applied and was set aside.
    RecordQuarantined(Arc<Quarantined>),
    /// An operator did something about a record that was set aside.
    QuarantineResolved {
        /// Its number in quarantine.
        id: u64,
        /// What was done.
        resolved: Arc<Resolved>,
    },
    /// Records of a producer were taken, all that became of which is in the events before this.
    ProducerAdvanced(Arc<Advance>),
    /// The plan takes no more records.
    PlanEnded {
        /// Why.
        reason: EndReason,
        /// Somebody's words for it, or empty.
        note: Arc<str>,
    },
}

impl Event {
    /// The highest position of a task that it names, if it names any.
    #[must_use]
    pub fn last_task(&self) -> Option<u32> {
        match self {
            Self::RecordAccepted(held) => Some(held.task),
            Self::TaskProgressed(sign) => Some(sign.task),
            Self::SessionLearnt { task, .. } => Some(*task),
            Self::RecordQuarantined(set_aside) => set_aside.candidates.iter().copied().max(),
            Self::QuarantineResolved { resolved, .. } => match resolved.resolution {
                Resolution::Rematched(task) => Some(task),
                Resolution::Discarded => None,
            },
            Self::ProducerAdvanced(advance) => {
                let outcomes = advance.outcomes.iter();
                outcomes.filter_map(|outcome| outcome.task).max()
            }
            Self::PlanCreated(_) | Self::PlanEnded { .. } => None,
        }
    }
}

/// The record that a task has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Position of the task in the plan.
    pub task: u32,
    /// How many different records the task has had, this one included.
    pub revision: u32,
    /// The event that accepted it.
    pub sequence: u64,
    /// When it was accepted.
    pub at: Timestamp,
    /// What it comes to.
    pub verdict: Verdict,
    /// Whether it has an outcome.
    pub has_outcome: bool,
    /// The key that matched it.
    pub matched_by: MatchedBy,
    /// The reconciled record: a JSON object.
    pub document: Bytes,
}

/// A STARTED or PROGRESS record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    /// Position of the task in the plan.
    pub task: u32,
    /// The event that accepted it.
    pub sequence: u64,
    /// When it was accepted.
    pub at: Timestamp,
    /// STARTED or PROGRESS.
    pub kind: RecordKind,
    /// The session it named, or empty.
    pub session: Box<str>,
    /// Its document: a JSON object.
    pub document: Bytes,
}

/// A record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number in the plan's quarantine, from 1.
    pub id: u64,
    /// The event that set it aside.
    pub sequence: u64,
    /// When it was set aside.
    pub at: Timestamp,
    /// Why.
    pub reason: QuarantineReason,
    /// The tasks it may be for.
    pub candidates: Vec<u32>,
    /// What kind of record it was.
    pub kind: RecordKind,
    /// What it comes to.
    pub verdict: Verdict,
    /// Whether it has an outcome.
    pub has_outcome: bool,
    /// The reconciled record: a JSON object.
    pub document: Bytes,
}

/// Why a record was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineReason {
    /// No key names a task.
    Unmatched,
    /// A key names several.
    Ambiguous,
    /// The plan had ended, and the record differs from what the task has.
    Late,
    /// Its keys name different tasks, and matching is strict.
    KeysDisagree,
    /// The task has a record, and keeps its first.
    NotFirst,
}

/// What was done about a record that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It was applied to this task.
    Rematched(u32),
    /// It was set aside for good.
    Discarded,
}

/// What was done, and the operator's words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What was done.
    pub resolution: Resolution,
    /// The operator's words for it, or empty.
    pub note: Arc<str>,
}
