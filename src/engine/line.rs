//! An entry as a line of JSON that people can read, and back. Documents stand in it as they are.

/// Names the words of a type, in both directions.
macro_rules! words {
    ($write:ident, $read:ident, $type:ident, [$($word:ident = $name:literal),* $(,)?]) => {
        fn $write(word: $type) -> &'static str {
            match word {
                $($type::$word => $name,)*
            }
        }

        fn $read(name: &str) -> Result<$type> {
            match name {
                $($name => Ok($type::$word),)*
                other => Err(wrong(stringify!($type), &format!("{other:?} is unknown"))),
            }
        }
    };
}

mod members;
mod plan;
mod producer;

use std::sync::Arc;

use super::event::{
    Entry, Event, Held, QuarantineReason, Quarantined, Resolution, Resolved, SignOfLife,
};
use super::{EndReason, MatchedBy, RecordKind, SealRule, Status, Timestamp, Verdict};
use members::{Line, Members};

/// Why a line is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LineError(String);

type Result<T> = std::result::Result<T, LineError>;

impl Entry {
    /// Appends the entry to `out`, without a line break; there is none in it either.
    pub fn write_line(&self, out: &mut String) {
        let mut line = Line::begin(out);
        line.number("sequence", self.sequence);
        line.number("at", self.at.0);
        line.text("event", event_name(&self.event));
        match &self.event {
            Event::PlanCreated(spec) => plan::write(&mut line, spec),
            Event::RecordAccepted(held) => {
                line.number("task", held.task);
                line.number("revision", held.revision);
                write_verdict(&mut line, held.verdict, held.has_outcome);
                line.text("matched_by", write_matched_by(held.matched_by));
                line.document("document", &held.document);
            }
            Event::TaskProgressed(sign) => {
                line.number("task", sign.task);
                line.text("kind", write_kind(sign.kind));
                line.text("session", &sign.session);
                line.document("document", &sign.document);
            }
            Event::SessionLearnt { session, task } => {
                line.text("session", session);
                line.number("task", *task);
            }
            Event::RecordQuarantined(quarantined) => {
                line.number("id", quarantined.id);
                line.text("reason", write_quarantine_reason(quarantined.reason));
                line.raw("candidates", &format!("{:?}", quarantined.candidates));
                line.text("kind", write_kind(quarantined.kind));
                write_verdict(&mut line, quarantined.verdict, quarantined.has_outcome);
                line.document("document", &quarantined.document);
            }
            Event::QuarantineResolved { id, resolved } => {
                line.number("id", *id);
                match resolved.resolution {
                    Resolution::Rematched(task) => line.number("rematched_to", task),
                    Resolution::Discarded => {}
                }
                line.text("note", &resolved.note);
            }
            Event::ProducerAdvanced(advance) => producer::write(&mut line, advance),
            Event::PlanEnded { reason, note } => {
                line.text("reason", write_end_reason(*reason));
                line.text("note", note);
            }
        }
        line.end();
    }

    /// Appends the line that stands before those of a plan's entries: what form they have, the plan, how many there are.
    pub fn write_heading(form: &str, plan_id: &str, entries: u64, out: &mut String) {
        let mut line = Line::begin(out);
        line.text("form", form);
        line.text("plan_id", plan_id);
        line.number("entries", entries);
        line.end();
    }

    /// Reads what [`Entry::write_heading`] has written: the plan, and how many entries there are.
    ///
    /// # Errors
    /// It is something else, or says that the lines have another form.
    pub fn read_heading(form: &str, line: &[u8]) -> Result<(String, u64)> {
        let mut members = Members::read(line)?;
        let found = members.text("form")?;
        if found != form {
            return Err(wrong(
                "form",
                &format!("expected {form:?}, found {found:?}"),
            ));
        }
        let heading = (members.text("plan_id")?, members.number("entries")?);
        members.end()?;
        Ok(heading)
    }

    /// Reads what [`Entry::write_line`] has written.
    ///
    /// # Errors
    /// It is something else: what is wrong, and with which member.
    pub fn read_line(line: &[u8]) -> Result<Self> {
        let mut members = Members::read(line)?;
        let sequence = members.number("sequence")?;
        let at = Timestamp(members.number("at")?);
        let event = match &*members.text("event")? {
            "plan_created" => Event::PlanCreated(Arc::new(plan::read(&mut members)?)),
            "record_accepted" => Event::RecordAccepted(Arc::new(Held {
                task: members.number("task")?,
                revision: members.number("revision")?,
                sequence,
                at,
                verdict: read_verdict(&mut members)?,
                has_outcome: members.flag("has_outcome")?,
                matched_by: read_matched_by(&members.text("matched_by")?)?,
                document: members.document("document")?,
            })),
            "task_progressed" => Event::TaskProgressed(Arc::new(SignOfLife {
                task: members.number("task")?,
                sequence,
                at,
                kind: read_kind(&members.text("kind")?)?,
                session: members.text("session")?.into(),
                document: members.document("document")?,
            })),
            "session_learnt" => Event::SessionLearnt {
                session: members.text("session")?.into(),
                task: members.number("task")?,
            },
            "record_quarantined" => Event::RecordQuarantined(Arc::new(Quarantined {
                id: members.number("id")?,
                sequence,
                at,
                reason: read_quarantine_reason(&members.text("reason")?)?,
                candidates: members.numbers("candidates")?,
                kind: read_kind(&members.text("kind")?)?,
                verdict: read_verdict(&mut members)?,
                has_outcome: members.flag("has_outcome")?,
                document: members.document("document")?,
            })),
            "quarantine_resolved" => Event::QuarantineResolved {
                id: members.number("id")?,
                resolved: Arc::new(Resolved {
                    resolution: members
                        .number_if_given("rematched_to")?
                        .map_or(Resolution::Discarded, Resolution::Rematched),
                    note: members.text("note")?.into(),
                }),
            },
            "producer_advanced" => Event::ProducerAdvanced(Arc::new(producer::read(&mut members)?)),
            "plan_ended" => Event::PlanEnded {
                reason: read_end_reason(&members.text("reason")?)?,
                note: members.text("note")?.into(),
            },
            other => return Err(wrong("event", &format!("{other:?} is unknown"))),
        };
        members.end()?;
        Ok(Self {
            sequence,
            at,
            event,
        })
    }
}

fn wrong(member: &str, problem: &str) -> LineError {
    LineError(format!("{member}: {problem}"))
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::PlanCreated(_) => "plan_created",
        Event::RecordAccepted(_) => "record_accepted",
        Event::TaskProgressed(_) => "task_progressed",
        Event::SessionLearnt { .. } => "session_learnt",
        Event::RecordQuarantined(_) => "record_quarantined",
        Event::QuarantineResolved { .. } => "quarantine_resolved",
        Event::ProducerAdvanced(_) => "producer_advanced",
        Event::PlanEnded { .. } => "plan_ended",
    }
}

words!(
    write_seal_rule,
    read_seal_rule,
    SealRule,
    [WhenAllRecorded = "when_all_recorded", Explicit = "explicit"]
);
words!(
    write_status,
    read_status,
    Status,
    [
        Completed = "completed",
        Failed = "failed",
        MissingRecord = "missing_record",
    ]
);
words!(
    write_matched_by,
    read_matched_by,
    MatchedBy,
    [
        TaskId = "task_id",
        Id = "id",
        SandboxSessionId = "sandbox_session_id",
        GroupKey = "group_key",
        Operator = "operator",
    ]
);
words!(
    write_kind,
    read_kind,
    RecordKind,
    [
        Result = "result",
        Started = "started",
        Progress = "progress",
    ]
);
words!(
    write_quarantine_reason,
    read_quarantine_reason,
    QuarantineReason,
    [
        Unmatched = "unmatched",
        Ambiguous = "ambiguous",
        Late = "late",
        KeysDisagree = "keys_disagree",
        NotFirst = "not_first",
    ]
);
words!(
    write_end_reason,
    read_end_reason,
    EndReason,
    [
        AllRecorded = "all_recorded",
        Sealed = "sealed",
        Deadline = "deadline",
        Cancelled = "cancelled",
        ToleranceExceeded = "tolerance_exceeded",
        MinimumReached = "minimum_reached",
    ]
);

fn write_verdict(line: &mut Line<'_>, verdict: Verdict, has_outcome: bool) {
    line.text("status", write_status(verdict.status));
    line.flag("successful", verdict.successful);
    line.flag("has_outcome", has_outcome);
}

fn read_verdict(members: &mut Members<'_>) -> Result<Verdict> {
    Ok(Verdict {
        status: read_status(&members.text("status")?)?,
        successful: members.flag("successful")?,
    })
}
