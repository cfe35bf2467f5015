//! The stored form of a history: entries as the messages of `proto/fanout/journal/v1`, and back.
//!
//! This is the only place that knows both. [`write`] makes the payloads of an append's frames, [`Reading`] entries of them.

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("fanout.journal.v1");
}

/// For each word of ours the number that is stored, in both directions.
macro_rules! words {
    ($store:ident, $read:ident, $type:ident, [$($word:ident),* $(,)?]) => {
        fn $store(word: $type) -> i32 {
            match word {
                $($type::$word => generated::$type::$word as i32,)*
            }
        }

        fn $read(number: i32) -> Result<$type, Unreadable> {
            match generated::$type::try_from(number) {
                $(Ok(generated::$type::$word) => Ok($type::$word),)*
                _ => Err(Unreadable::Later(format!("{} {number} is unknown", stringify!($type)))),
            }
        }
    };
}

mod creation;
mod producer;
mod writing;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::engine::{
    EndReason, Entry, Event, Held, MatchedBy, QuarantineReason, Quarantined, RecordKind,
    Resolution, Resolved, SealRule, SignOfLife, Status, Timestamp, Verdict,
};
use generated::entry::Event as StoredEvent;
use generated::{
    Frame, Header, PlanCreated, PlanEnded, QuarantineResolved, RecordAccepted, RecordQuarantined,
    SessionLearnt, TaskProgressed,
};
pub(super) use writing::{Pieces, write};

/// Why bytes that are what was written are not what can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is something in it that this version does not know.
    #[error("{0}: written by a later version of this program")]
    Later(String),
    /// No version writes this.
    #[error("{0}")]
    Malformed(String),
}

fn malformed(problem: impl std::fmt::Display) -> Unreadable {
    Unreadable::Malformed(problem.to_string())
}

/// The payload of a file's first frame.
pub(super) fn header(plan_id: &str) -> Vec<u8> {
    let header = Header {
        plan_id: plan_id.to_owned(),
    };
    Frame {
        header: Some(header),
        ..Frame::default()
    }
    .encode_to_vec()
}

/// Whose file it is, from the payload of its first frame.
pub(super) fn read_header(payload: Bytes) -> Result<String, Unreadable> {
    let header = frame(payload)?.header;
    let header = header.ok_or_else(|| malformed("the first frame does not name a plan"))?;
    Ok(header.plan_id)
}

/// Checks that a payload can be read, without making entries of it.
pub(super) fn check(payload: Bytes) -> Result<(), Unreadable> {
    for entry in frame(payload)?.entries {
        if !matches!(entry.event, Some(StoredEvent::PlanCreated(_))) {
            read(entry)?;
        }
    }
    Ok(())
}

/// Makes entries of payloads, in their order.
#[derive(Debug, Default)]
pub(super) struct Reading {
    creation: Option<Creation>,
}

/// A plan's creation, and as many of its tasks as have come.
#[derive(Debug)]
pub(super) struct Creation {
    sequence: u64,
    at: u64,
    plan: PlanCreated,
    requests: Vec<Bytes>,
}

impl Creation {
    fn is_whole(&self) -> bool {
        self.requests.len() as u64 >= self.plan.task_count
    }

    /// Makes the entry, which takes a while if the plan has many tasks.
    pub(super) fn entry(self) -> Result<Entry, Unreadable> {
        creation::read(self)
    }
}

impl Reading {
    /// Whether a plan's tasks have not all come.
    pub(super) fn is_under_way(&self) -> bool {
        self.creation.is_some()
    }

    /// Appends the entries that the next payload completes.
    pub(super) fn read(
        &mut self,
        payload: Bytes,
        to: &mut Vec<Arc<Entry>>,
    ) -> Result<(), Unreadable> {
        if let Some(creation) = self.read_beside(payload, to)? {
            to.push(Arc::new(creation.entry()?));
        }
        Ok(())
    }

    /// [`Reading::read`], but for a plan's creation, which belongs behind what is there then.
    pub(super) fn read_beside(
        &mut self,
        payload: Bytes,
        to: &mut Vec<Arc<Entry>>,
    ) -> Result<Option<Creation>, Unreadable> {
        let frame = frame(payload)?;
        for entry in frame.entries {
            if self.creation.is_some() {
                return Err(malformed("a plan's tasks are missing"));
            }
            match entry.event {
                Some(StoredEvent::PlanCreated(plan)) => {
                    self.creation = Some(Creation {
                        sequence: entry.sequence,
                        at: entry.at,
                        plan,
                        requests: Vec::new(),
                    });
                }
                _ => to.push(Arc::new(read(entry)?)),
            }
        }
        if !frame.task_requests.is_empty() {
            let Some(creation) = &mut self.creation else {
                return Err(malformed("there are tasks without a plan"));
            };
            creation.requests.extend(frame.task_requests);
        }
        Ok(self.creation.take_if(|creation| creation.is_whole()))
    }
}

/// Decodes a message, and makes sure that nothing in it was passed over: what is written has one form, and what is not
/// known takes room in it.
fn frame(payload: Bytes) -> Result<Frame, Unreadable> {
    let length = payload.len();
    let frame = Frame::decode(payload).map_err(malformed)?;
    if frame.encoded_len() == length {
        Ok(frame)
    } else {
        Err(Unreadable::Later("there is an unknown field".into()))
    }
}

words!(
    store_seal_rule,
    read_seal_rule,
    SealRule,
    [WhenAllRecorded, Explicit]
);
words!(
    store_status,
    read_status,
    Status,
    [Completed, Failed, MissingRecord]
);
words!(
    store_matched_by,
    read_matched_by,
    MatchedBy,
    [TaskId, Id, SandboxSessionId, GroupKey, Operator]
);
words!(
    store_kind,
    read_kind,
    RecordKind,
    [Result, Started, Progress]
);
words!(
    store_quarantine_reason,
    read_quarantine_reason,
    QuarantineReason,
    [Unmatched, Ambiguous, Late, KeysDisagree, NotFirst]
);
words!(
    store_end_reason,
    read_end_reason,
    EndReason,
    [
        AllRecorded,
        Sealed,
        Deadline,
        Cancelled,
        ToleranceExceeded,
        MinimumReached
    ]
);

fn store(entry: &Entry) -> generated::Entry {
    let event = match &entry.event {
        Event::PlanCreated(spec) => StoredEvent::PlanCreated(creation::store(spec)),
        Event::RecordAccepted(held) => StoredEvent::RecordAccepted(RecordAccepted {
            task: held.task,
            revision: held.revision,
            status: store_status(held.verdict.status),
            successful: held.verdict.successful,
            has_outcome: held.has_outcome,
            matched_by: store_matched_by(held.matched_by),
            document: held.document.clone(),
        }),
        Event::TaskProgressed(sign) => StoredEvent::TaskProgressed(TaskProgressed {
            task: sign.task,
            kind: store_kind(sign.kind),
            session: sign.session.to_string(),
            document: sign.document.clone(),
        }),
        Event::SessionLearnt { session, task } => StoredEvent::SessionLearnt(SessionLearnt {
            session: session.to_string(),
            task: *task,
        }),
        Event::RecordQuarantined(quarantined) => {
            StoredEvent::RecordQuarantined(RecordQuarantined {
                id: quarantined.id,
                reason: store_quarantine_reason(quarantined.reason),
                candidates: quarantined.candidates.clone(),
                kind: store_kind(quarantined.kind),
                status: store_status(quarantined.verdict.status),
                successful: quarantined.verdict.successful,
                has_outcome: quarantined.has_outcome,
                document: quarantined.document.clone(),
            })
        }
        Event::QuarantineResolved { id, resolved } => {
            StoredEvent::QuarantineResolved(QuarantineResolved {
                id: *id,
                rematched_to: match resolved.resolution {
                    Resolution::Rematched(task) => Some(task),
                    Resolution::Discarded => None,
                },
                note: resolved.note.to_string(),
            })
        }
        Event::ProducerAdvanced(advance) => StoredEvent::ProducerAdvanced(producer::store(advance)),
        Event::PlanEnded { reason, note } => StoredEvent::PlanEnded(PlanEnded {
            reason: store_end_reason(*reason),
            note: note.to_string(),
        }),
    };
    generated::Entry {
        sequence: entry.sequence,
        at: entry.at.0,
        event: Some(event),
    }
}

/// Any event but a plan's creation.
fn read(entry: generated::Entry) -> Result<Entry, Unreadable> {
    let (sequence, at) = (entry.sequence, Timestamp(entry.at));
    let unknown = || Unreadable::Later(format!("the event of sequence {sequence} is unknown"));
    let verdict =
        |status, successful| read_status(status).map(|status| Verdict { status, successful });
    let event = match entry.event.ok_or_else(unknown)? {
        StoredEvent::PlanCreated(_) => return Err(malformed("a plan is created twice")),
        StoredEvent::RecordAccepted(stored) => Event::RecordAccepted(Arc::new(Held {
            task: stored.task,
            revision: stored.revision,
            sequence,
            at,
            verdict: verdict(stored.status, stored.successful)?,
            has_outcome: stored.has_outcome,
            matched_by: read_matched_by(stored.matched_by)?,
            document: stored.document,
        })),
        StoredEvent::TaskProgressed(stored) => Event::TaskProgressed(Arc::new(SignOfLife {
            task: stored.task,
            sequence,
            at,
            kind: read_kind(stored.kind)?,
            session: stored.session.into(),
            document: stored.document,
        })),
        StoredEvent::SessionLearnt(stored) => Event::SessionLearnt {
            session: stored.session.into(),
            task: stored.task,
        },
        StoredEvent::RecordQuarantined(stored) => Event::RecordQuarantined(Arc::new(Quarantined {
            id: stored.id,
            sequence,
            at,
            reason: read_quarantine_reason(stored.reason)?,
            candidates: stored.candidates,
            kind: read_kind(stored.kind)?,
            verdict: verdict(stored.status, stored.successful)?,
            has_outcome: stored.has_outcome,
            document: stored.document,
        })),
        StoredEvent::QuarantineResolved(stored) => Event::QuarantineResolved {
            id: stored.id,
            resolved: Arc::new(Resolved {
                resolution: stored
                    .rematched_to
                    .map_or(Resolution::Discarded, Resolution::Rematched),
                note: stored.note.into(),
            }),
        },
        StoredEvent::ProducerAdvanced(stored) => {
            Event::ProducerAdvanced(Arc::new(producer::read(stored)?))
        }
        StoredEvent::PlanEnded(stored) => Event::PlanEnded {
            reason: read_end_reason(stored.reason)?,
            note: stored.note.into(),
        },
    };
    Ok(Entry {
        sequence,
        at,
        event,
    })
}
