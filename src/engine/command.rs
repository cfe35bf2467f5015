//! What can be asked of a plan, and what it may not exceed.

use std::sync::Arc;

use super::receipt::Violation;
use super::state::EndReason;
use crate::reconcile::record::ReadRecord;

/// What a plan may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records in quarantine.
    pub quarantined_records: u64,
    /// STARTED and PROGRESS records, together, for each task on average.
    pub signs_of_life_per_task: u64,
    /// Sessions learnt, for each task on average.
    pub sessions_per_task: u64,
    /// Bytes of record documents in the plan's history, superseded ones included.
    pub document_bytes: u64,
    /// Producers.
    pub producers: u64,
    /// Producers of those who may send for one task only.
    pub producers_per_task: u64,
    /// Records of producers.
    pub numbered_records: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            quarantined_records: 100_000,
            signs_of_life_per_task: 64,
            sessions_per_task: 4,
            document_bytes: 8 << 30,
            producers: 10_000,
            producers_per_task: 100,
            numbered_records: 10_000_000,
        }
    }
}

/// What a record reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The task's result.
    Result,
    /// The task has begun.
    Started,
    /// The task is under way.
    Progress,
}

/// A record on its way in.
#[derive(Debug)]
pub struct Submission<'r> {
    /// What it reports.
    pub kind: RecordKind,
    /// The record as read, or why it is none.
    pub record: Result<ReadRecord<'r>, Violation>,
}

/// What is asked of a plan.
#[derive(Debug)]
pub enum Command<'c> {
    /// Take these records.
    Submit(&'c [Submission<'c>]),
    /// Take these records of a producer, unless they were taken before.
    SubmitNumbered {
        /// The producer.
        producer: &'c str,
        /// Offset of the first of them. None, if there are none: then this asks how many the plan has.
        first_offset: Option<u64>,
        /// The records.
        submissions: &'c [Submission<'c>],
    },
    /// Take no more records.
    End {
        /// Why.
        reason: EndReason,
        /// Somebody's words for it, or empty.
        note: Arc<str>,
    },
    /// Apply a record in quarantine to a task.
    Rematch {
        /// Its number in quarantine.
        id: u64,
        /// Position of the task in the plan.
        task: u32,
        /// The operator's words for it, or empty.
        note: Arc<str>,
    },
    /// Set a record in quarantine aside for good.
    Discard {
        /// Its number in quarantine.
        id: u64,
        /// The operator's words for it, or empty.
        note: Arc<str>,
    },
    /// See whether the time has come for something.
    Tick,
}
