//! Decisions: what a command does to a plan. Reads the state, changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Timestamp;
use super::command::{Command, Limits, RecordKind, Submission};
use super::documents::Documents;
use super::draft::Draft;
use super::event::{
    Entry, Event, Held, QuarantineReason, Quarantined, Resolution, Resolved, SignOfLife,
};
use super::producer::{Advance, Producer, producer_task};
use super::receipt::{
    Disposition, ProducerRefusal, Receipt, Refusal, Warning, over_quota, refused,
};
use super::state::State;
use crate::json::{self, Value};
use crate::plan::Keys;
use crate::reconcile::record::{self, ReadRecord};
use crate::reconcile::{MatchedBy, Named, Sessions, Verdict};

/// How many tasks the receipt of a record lists that may be for several.
pub const CANDIDATES_LISTED: usize = 16;

/// A session that works on more tasks than this names none of them; learning more would change nothing.
const TASKS_PER_SESSION: usize = 64;

/// What follows from a command.
#[derive(Debug, Default)]
pub struct Decision {
    /// What happened, in order; empty if nothing did.
    pub entries: SmallVec<[Entry; 1]>,
    /// One receipt for each submitted record, in order; of a rematch, the record's.
    pub receipts: Vec<Receipt>,
    /// Why nothing happened, if that is an error.
    pub refusal: Option<Refusal>,
    /// Why none of a producer's records is taken.
    pub producer_refusal: Option<ProducerRefusal>,
    /// How many records of the command's producer the plan has then.
    pub committed: Option<u64>,
}

/// Decides.
#[must_use]
pub fn decide(state: &State, command: &Command<'_>, now: Timestamp, limits: &Limits) -> Decision {
    decide_keeping(state, command, now, limits, &mut Documents::default())
}

/// Decides, and keeps the documents of what happened with those of earlier decisions.
#[must_use]
pub fn decide_keeping(
    state: &State,
    command: &Command<'_>,
    now: Timestamp,
    limits: &Limits,
    documents: &mut Documents,
) -> Decision {
    let mut draft = Draft::over(state, now, limits, documents);
    let mut receipts = Vec::new();
    let mut refusal = None;
    let (mut committed, mut producer_refusal) = (None, None);
    match command {
        Command::Submit(submissions) => receipts = draft.submit_all(submissions),
        Command::SubmitNumbered {
            producer,
            first_offset,
            submissions,
        } => match draft.submit_numbered(producer, *first_offset, submissions) {
            Ok((answers, end)) => (receipts, committed) = (answers, Some(end)),
            Err(refused) => producer_refusal = Some(refused),
        },
        Command::Rematch { id, task, note } => match draft.rematch(*id, *task, note) {
            Ok(receipt) => {
                receipts.push(receipt);
                draft.end_if_complete();
                draft.hand_out_held(&mut receipts);
            }
            Err(refused) => refusal = Some(refused),
        },
        Command::Discard { id, note } => refusal = draft.discard(*id, note).err(),
        Command::End { reason, note } if draft.end.is_none() => {
            draft.happen(Event::PlanEnded {
                reason: *reason,
                note: Arc::clone(note),
            });
        }
        Command::End { .. } => {}
        Command::Tick => {
            draft.end_if_complete();
            draft.end_if_due();
        }
    }
    Decision {
        entries: draft.entries,
        receipts,
        refusal,
        producer_refusal,
        committed,
    }
}

impl Draft<'_> {
    fn submit_all<'s>(&mut self, submissions: &'s [Submission<'_>]) -> Vec<Receipt> {
        self.end_if_due();
        // All at first: looking for a task is waiting for memory, and several can be waited for at a time.
        let keys = |submission: &'s Submission<'_>| {
            let record = submission.record.as_ref().ok()?;
            Some(&record.keys)
        };
        let index = &self.state.spec.index;
        let identified = index.identify_all(submissions.iter().map(keys));
        let identified: SmallVec<[_; 1]> = identified.collect();
        let kept = self.keep_if_all_new(submissions, &identified);
        self.are_all_new = !kept.is_empty();
        self.expect(submissions.len());
        let mut kept = kept.into_iter();
        let mut receipts = Vec::with_capacity(submissions.len());
        for (submission, identified) in submissions.iter().zip(identified) {
            receipts.push(match &submission.record {
                Ok(record) => {
                    let arrival = Arrival {
                        kind: submission.kind,
                        record,
                        kept: kept.next(),
                    };
                    self.submit(arrival, identified)
                }
                Err(violation) => refused(violation.clone()),
            });
            self.end_if_complete();
        }
        self.hand_out_held(&mut receipts);
        receipts
    }

    /// Takes those records of a producer that the plan does not have, and answers for all; and how many it has then.
    fn submit_numbered(
        &mut self,
        producer: &str,
        first_offset: Option<u64>,
        submissions: &[Submission<'_>],
    ) -> Result<(Vec<Receipt>, u64), ProducerRefusal> {
        let known = self.state.producers.get(producer);
        let committed = known.map_or(0, Producer::committed);
        let Some(first_offset) = first_offset else {
            return Ok((Vec::new(), committed));
        };
        if first_offset > committed {
            return Err(ProducerRefusal::OffsetAhead { committed });
        }
        let end = first_offset.saturating_add(submissions.len() as u64);
        let remembered =
            (first_offset..end.min(committed)).filter_map(|offset| known?.receipt(offset));
        let mut receipts: Vec<Receipt> = remembered.collect();
        let new = &submissions[receipts.len()..];
        if !new.is_empty() {
            if known.is_none() {
                self.check_new_producer(producer)?;
            }
            self.check_numbered(new.len() as u64)?;
            let mut answers = self.submit_all(new);
            let advance = Advance::of(producer, committed, &answers);
            self.happen(Event::ProducerAdvanced(Arc::new(advance)));
            receipts.append(&mut answers);
        }
        Ok((receipts, end.max(committed)))
    }

    fn check_new_producer(&self, producer: &str) -> Result<(), ProducerRefusal> {
        let producers = &self.state.producers;
        if let Some(task) = producer_task(producer) {
            let limit = self.limits.producers_per_task;
            let of_task = producers
                .keys()
                .filter(|known| producer_task(known) == Some(task));
            if of_task.count() as u64 >= limit {
                return Err(ProducerRefusal::TooManyProducersOfTask { limit });
            }
        }
        let limit = self.limits.producers;
        if producers.len() as u64 >= limit {
            return Err(ProducerRefusal::TooManyProducers { limit });
        }
        Ok(())
    }

    fn check_numbered(&self, records: u64) -> Result<(), ProducerRefusal> {
        let limit = self.limits.numbered_records;
        if self.totals.numbered + records > limit {
            return Err(ProducerRefusal::TooManyNumbered { limit });
        }
        Ok(())
    }

    /// If each of several records is the first that its task gets, as nearly always, all of their documents will be kept,
    /// and are.
    fn keep_if_all_new(
        &mut self,
        submissions: &[Submission<'_>],
        identified: &[Option<(u32, MatchedBy)>],
    ) -> Vec<Bytes> {
        if submissions.len() == 1 || self.end.is_some() {
            return Vec::new();
        }
        let mut tasks: SmallVec<[u32; 64]> = SmallVec::with_capacity(submissions.len());
        let mut documents: SmallVec<[&[u8]; 64]> = SmallVec::with_capacity(submissions.len());
        let mut bytes = self.totals.document_bytes;
        for (submission, identified) in submissions.iter().zip(identified) {
            let Ok(record) = &submission.record else {
                continue;
            };
            match (submission.kind, identified) {
                (RecordKind::Result, Some((task, _))) if self.held(*task).is_none() => {
                    tasks.push(*task);
                }
                _ => return Vec::new(),
            }
            bytes += record.document.len() as u64;
            documents.push(&record.document);
        }
        tasks.sort_unstable();
        if bytes > self.limits.document_bytes || !tasks.is_sorted_by(|one, next| one < next) {
            return Vec::new();
        }
        self.documents.keep_all(&documents)
    }

    fn submit(&mut self, arrival: Arrival<'_>, identified: Option<(u32, MatchedBy)>) -> Receipt {
        let Arrival { kind, record, .. } = arrival;
        let index = &self.state.spec.index;
        match index.resolve(identified, &record.keys, self) {
            Named::Unmatched => self.quarantine(arrival, QuarantineReason::Unmatched, &[]),
            Named::Ambiguous(tasks) => {
                self.quarantine(arrival, QuarantineReason::Ambiguous, &tasks)
            }
            Named::Matched { task, others, .. }
                if !others.is_empty() && self.state.spec.settings.strict_matching =>
            {
                let mut tasks = others;
                tasks.push(task);
                tasks.sort_unstable();
                tasks.dedup();
                let reason = QuarantineReason::KeysDisagree;
                self.quarantine(arrival, reason, &tasks)
            }
            Named::Matched { task, by, others } => {
                let mut receipt = match kind {
                    RecordKind::Result => self.result(arrival, task, by),
                    RecordKind::Started | RecordKind::Progress => self.sign_of_life(arrival, task),
                };
                receipt.task = Some(task);
                receipt.matched_by = Some(by);
                if !others.is_empty() {
                    receipt.warnings.push(Warning::KeysDisagree);
                }
                if record.body_field_ignored {
                    receipt.warnings.push(Warning::FieldInBodyIgnored);
                }
                receipt
            }
        }
    }

    /// The receipt of a record whose document would be kept, if the plan has no room for it.
    fn over_document_bytes(&self, record: &ReadRecord<'_>) -> Option<Receipt> {
        let most = self.limits.document_bytes;
        let bytes = self.totals.document_bytes + record.document.len() as u64;
        (bytes > most).then(|| over_quota("body", "bytes of records in one plan", most))
    }

    fn result(&mut self, mut arrival: Arrival<'_>, task: u32, by: MatchedBy) -> Receipt {
        let record = arrival.record;
        let session = &*record.keys.sandbox_session_id;
        if let Some(mut receipt) = self.duplicate(task, record.verdict, &record.document) {
            receipt.warnings = self.learn_session(session, task, by);
            return receipt;
        }
        let is_first = self.held(task).is_none();
        if self.end.is_some() {
            return self.quarantine(arrival, QuarantineReason::Late, &[task]);
        }
        if !is_first && self.state.spec.settings.keeps_first {
            let reason = QuarantineReason::NotFirst;
            return self.quarantine(arrival, reason, &[task]);
        }
        if let Some(over) = self.over_document_bytes(record) {
            return Receipt {
                held: self.held(task).cloned(),
                ..over
            };
        }
        let document = arrival.document(self.documents);
        let mut receipt = self.accept(task, by, record.verdict, record.has_outcome, document);
        receipt.warnings = self.learn_session(session, task, by);
        receipt
    }

    /// The receipt of a record that says what its task's record says.
    fn duplicate(&self, task: u32, verdict: Verdict, document: &[u8]) -> Option<Receipt> {
        let previous = self.held(task)?;
        // Equal documents come to the same, which is quicker to see.
        let is_same = previous.verdict == verdict && same_content(&previous.document, document);
        is_same.then(|| Receipt {
            sequence: previous.sequence,
            held: Some(Arc::clone(previous)),
            ..Receipt::of(Disposition::Duplicate)
        })
    }

    /// Gives a task its record, or another one. The receipt gets it at the end.
    fn accept(
        &mut self,
        task: u32,
        matched_by: MatchedBy,
        verdict: Verdict,
        has_outcome: bool,
        document: Bytes,
    ) -> Receipt {
        let (disposition, revisions) = match self.held(task) {
            None => (Disposition::Accepted, 0),
            Some(previous) => (Disposition::SupersededPrevious, previous.revision),
        };
        let sequence = self.next_sequence();
        self.happen(Event::RecordAccepted(Arc::new(Held {
            task,
            revision: revisions.saturating_add(1),
            sequence,
            at: self.now,
            verdict,
            has_outcome,
            matched_by,
            document,
        })));
        Receipt {
            task: Some(task),
            matched_by: Some(matched_by),
            sequence,
            ..Receipt::of(disposition)
        }
    }

    fn rematch(&mut self, id: u64, task: u32, note: &Arc<str>) -> Result<Receipt, Refusal> {
        let state = self.state;
        let record = state.quarantined(id).ok_or(Refusal::NotFound)?;
        match state.resolved(id).map(|resolved| resolved.resolution) {
            // Said again.
            Some(Resolution::Rematched(before)) if before == task => {
                let held = self.held(task).cloned();
                return Ok(Receipt {
                    task: Some(task),
                    matched_by: Some(MatchedBy::Operator),
                    sequence: held.as_ref().map_or(0, |held| held.sequence),
                    held,
                    ..Receipt::of(Disposition::Duplicate)
                });
            }
            Some(resolution) => return Err(Refusal::Resolved(resolution)),
            None => {}
        }
        if record.kind != RecordKind::Result {
            return Err(Refusal::NotAResult);
        }
        self.end_if_due();
        if self.end.is_some() {
            return Err(Refusal::PlanEnded);
        }
        let (by, document) = (MatchedBy::Operator, record.document.clone());
        let mut receipt = match self.duplicate(task, record.verdict, &document) {
            Some(duplicate) => Receipt {
                task: Some(task),
                matched_by: Some(by),
                ..duplicate
            },
            None => self.accept(task, by, record.verdict, record.has_outcome, document),
        };
        let session = session_of(&record.document);
        receipt.warnings = self.learn_session(&session, task, by);
        self.resolve(id, Resolution::Rematched(task), note);
        Ok(receipt)
    }

    fn discard(&mut self, id: u64, note: &Arc<str>) -> Result<(), Refusal> {
        self.state.quarantined(id).ok_or(Refusal::NotFound)?;
        match self.state.resolved(id).map(|resolved| resolved.resolution) {
            None => self.resolve(id, Resolution::Discarded, note),
            Some(Resolution::Discarded) => {}
            Some(resolution) => return Err(Refusal::Resolved(resolution)),
        }
        Ok(())
    }

    fn resolve(&mut self, id: u64, resolution: Resolution, note: &Arc<str>) {
        let note = Arc::clone(note);
        let resolved = Arc::new(Resolved { resolution, note });
        self.happen(Event::QuarantineResolved { id, resolved });
    }

    fn sign_of_life(&mut self, mut arrival: Arrival<'_>, task: u32) -> Receipt {
        let Arrival { kind, record, .. } = arrival;
        let session = &*record.keys.sandbox_session_id;
        let (held, alive) = (self.held(task), self.alive(task));
        let known = alive.is_some_and(|alive| match kind {
            RecordKind::Started => true,
            _ => alive.kind == kind && alive.document == *record.document,
        });
        if !known && held.is_none() && self.end.is_some() {
            return self.quarantine(arrival, QuarantineReason::Late, &[task]);
        }
        if known || held.is_some() {
            let sequence = alive.map_or(0, |alive| alive.sequence);
            let held = held.cloned();
            let warnings = self.learn_session(session, task, MatchedBy::TaskId);
            return Receipt {
                held,
                sequence,
                warnings,
                ..Receipt::of(Disposition::Duplicate)
            };
        }
        let most = self
            .limits
            .signs_of_life_per_task
            .saturating_mul(self.state.tasks.len() as u64);
        if self.totals.signs_of_life >= most {
            return over_quota("kind", "STARTED and PROGRESS records in one plan", most);
        }
        if let Some(over) = self.over_document_bytes(record) {
            return over;
        }
        let sign = SignOfLife {
            task,
            sequence: self.next_sequence(),
            at: self.now,
            kind,
            session: session.into(),
            document: arrival.document(self.documents),
        };
        let sequence = sign.sequence;
        self.happen(Event::TaskProgressed(Arc::new(sign)));
        let warnings = self.learn_session(session, task, MatchedBy::TaskId);
        Receipt {
            sequence,
            warnings,
            ..Receipt::of(Disposition::Accepted)
        }
    }

    /// Learns the session of a record that was matched by another key. An ended plan learns nothing.
    fn learn_session(&mut self, session: &str, task: u32, by: MatchedBy) -> Vec<Warning> {
        if session.is_empty() || by == MatchedBy::SandboxSessionId || self.end.is_some() {
            return Vec::new();
        }
        let known = self.tasks_of(session);
        if known.is_some_and(|tasks| {
            tasks.contains(task) || tasks.as_slice().len() >= TASKS_PER_SESSION
        }) {
            return Vec::new();
        }
        let most = self
            .limits
            .sessions_per_task
            .saturating_mul(self.state.tasks.len() as u64);
        if self.totals.sessions >= most {
            return vec![Warning::SessionNotLearnt];
        }
        self.happen(Event::SessionLearnt {
            session: session.into(),
            task,
        });
        Vec::new()
    }

    fn quarantine(
        &mut self,
        mut arrival: Arrival<'_>,
        reason: QuarantineReason,
        tasks: &[u32],
    ) -> Receipt {
        if self.totals.quarantined >= self.limits.quarantined_records {
            return over_quota(
                "body",
                "records in quarantine",
                self.limits.quarantined_records,
            );
        }
        if let Some(over) = self.over_document_bytes(arrival.record) {
            return over;
        }
        let id = self.totals.set_aside + 1;
        let candidates: Vec<u32> = tasks.iter().copied().take(CANDIDATES_LISTED).collect();
        let sequence = self.next_sequence();
        let document = arrival.document_without_task(self.documents);
        let Arrival { kind, record, .. } = arrival;
        self.happen(Event::RecordQuarantined(Arc::new(Quarantined {
            id,
            sequence,
            at: self.now,
            reason,
            candidates: candidates.clone(),
            kind,
            verdict: record.verdict,
            has_outcome: record.has_outcome,
            document,
        })));
        let (disposition, candidates) = match reason {
            QuarantineReason::Unmatched => (Disposition::Unmatched, Vec::new()),
            QuarantineReason::Ambiguous => (Disposition::Ambiguous, candidates),
            QuarantineReason::KeysDisagree => (Disposition::KeysDisagree, candidates),
            QuarantineReason::Late | QuarantineReason::NotFirst => (Disposition::Late, Vec::new()),
        };
        let held = match reason {
            QuarantineReason::Late | QuarantineReason::NotFirst => self.held(tasks[0]).cloned(),
            _ => None,
        };
        Receipt {
            held,
            sequence,
            candidates,
            quarantine_id: id,
            ..Receipt::of(disposition)
        }
    }
}

/// A record that is being decided about.
struct Arrival<'s> {
    kind: RecordKind,
    record: &'s ReadRecord<'s>,
    /// Its document, if it is kept already.
    kept: Option<Bytes>,
}

impl Arrival<'_> {
    fn document(&mut self, documents: &mut Documents) -> Bytes {
        let kept = self.kept.take();
        kept.unwrap_or_else(|| documents.keep(&self.record.document))
    }

    /// The document of a record that is set aside. That of a sign of life is as it was sent, and with the task that it is
    /// not for its keys would be lost.
    fn document_without_task(&mut self, documents: &mut Documents) -> Bytes {
        let record = self.record;
        if self.kind != RecordKind::Result
            && let Some(Value::Object(own)) = parse(&record.document)
        {
            return documents.keep(record::with_keys(&own, &record.keys).as_bytes());
        }
        self.document(documents)
    }
}

/// The session that a kept document names, or nothing.
fn session_of(document: &[u8]) -> Arc<str> {
    let document = parse(document);
    let object = document.as_ref().and_then(Value::as_object);
    object.map(Keys::of).unwrap_or_default().sandbox_session_id
}

/// Whether two documents say the same; layout, the order of members and the spelling of numbers do not matter.
fn same_content(one: &[u8], other: &[u8]) -> bool {
    one == other
        || parse(one).is_some_and(|one| parse(other).is_some_and(|other| one.is_same(&other)))
}

/// A document that was kept, and so was within the limits of its time.
fn parse(document: &[u8]) -> Option<Value> {
    let limits = json::Limits {
        depth: usize::MAX,
        ..json::Limits::default()
    };
    json::parse(document, limits).ok()
}
