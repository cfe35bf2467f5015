//! Decisions: what a command does to a plan. Reads the state, changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Timestamp;
use super::command::{Command, Limits, RecordKind, Submission};
use super::documents::Documents;
use super::event::{Entry, Event, Held, QuarantineReason, Quarantined, Resolution, SignOfLife};
use super::receipt::{Disposition, Receipt, Refusal, Warning, over_quota, refused};
use super::state::{self, End, EndReason, Resolved, State, Store, Task, Totals};
use crate::json;
use crate::reconcile::record::ReadRecord;
use crate::reconcile::{Candidates, MatchedBy, Named, Sessions, Verdict};

/// How many tasks an ambiguous record's receipt lists.
const CANDIDATES_LISTED: usize = 16;

/// A session that works on more tasks than this names none of them; learning more would change nothing.
const TASKS_PER_SESSION: usize = 64;

/// What follows from a command.
#[derive(Debug, Default)]
pub struct Decision {
    /// What happened, in order; empty if nothing did. Mostly one thing, which needs no memory of its own.
    pub entries: SmallVec<[Entry; 1]>,
    /// One receipt for each submitted record, in order; of a rematch, the record's.
    pub receipts: Vec<Receipt>,
    /// Why nothing happened, if that is an error.
    pub refusal: Option<Refusal>,
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
    match command {
        Command::Submit(submissions) => {
            receipts.reserve(submissions.len());
            draft.tasks.expect(submissions.len());
            draft.end_if_due();
            // All at first: looking for a task is waiting for memory, and several can be waited for at a time.
            let identify = |submission: &Submission<'_>| {
                let record = submission.record.as_ref().ok()?;
                state.spec.index.identify(&record.keys)
            };
            let identified: SmallVec<[_; 1]> = submissions.iter().map(identify).collect();
            for (submission, identified) in submissions.iter().zip(identified) {
                receipts.push(draft.submit(submission, identified));
                draft.end_if_complete();
            }
        }
        Command::Rematch { id, task, note } => match draft.rematch(*id, *task, note) {
            Ok(receipt) => {
                receipts.push(receipt);
                draft.end_if_complete();
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
    }
}

/// A state as it will be: the real one, and over it what the records of this command have changed so far.
struct Draft<'s> {
    state: &'s State,
    now: Timestamp,
    limits: &'s Limits,
    documents: &'s mut Documents,
    sequence: u64,
    tasks: Changed,
    sessions: HashMap<Arc<str>, Candidates>,
    totals: Totals,
    end: Option<End>,
    entries: SmallVec<[Entry; 1]>,
}

/// Tasks that a command has changed so far. Most commands change one, which needs no map.
#[derive(Default)]
struct Changed {
    few: SmallVec<[(u32, Task); 1]>,
    many: HashMap<u32, Task>,
}

/// How many tasks are looked through one by one.
const FEW: usize = 8;

impl Changed {
    /// Makes room for so many tasks.
    fn expect(&mut self, tasks: usize) {
        if tasks > FEW {
            self.few.reserve(FEW);
            self.many.reserve(tasks - FEW);
        }
    }

    fn get(&self, task: u32) -> Option<&Task> {
        let few = self.few.iter().find(|(few, _)| *few == task);
        few.map(|(_, changed)| changed)
            .or_else(|| self.many.get(&task).filter(|_| self.few.len() == FEW))
    }

    fn of(&mut self, task: u32, unchanged: impl FnOnce() -> Task) -> &mut Task {
        match self.few.iter().position(|(few, _)| *few == task) {
            Some(position) => &mut self.few[position].1,
            None if self.few.len() < FEW => {
                self.few.push((task, unchanged()));
                let last = self.few.len() - 1;
                &mut self.few[last].1
            }
            None => self.many.entry(task).or_insert_with(unchanged),
        }
    }
}

impl<'s> Draft<'s> {
    fn over(
        state: &'s State,
        now: Timestamp,
        limits: &'s Limits,
        documents: &'s mut Documents,
    ) -> Self {
        Self {
            state,
            now,
            limits,
            documents,
            sequence: state.sequence,
            tasks: Changed::default(),
            sessions: HashMap::new(),
            totals: state.totals,
            end: state.end.clone(),
            entries: SmallVec::new(),
        }
    }

    fn happen(&mut self, event: Event) {
        let entry = Entry {
            sequence: self.sequence + 1,
            at: self.now,
            event,
        };
        state::apply(self, &entry);
        self.entries.push(entry);
    }

    fn now_held(&self, task: u32) -> &Task {
        self.tasks
            .get(task)
            .unwrap_or(&self.state.tasks[task as usize])
    }

    fn end_if_complete(&mut self) {
        if self.end.is_some() {
            return;
        }
        let Totals {
            recorded,
            successful,
            ..
        } = self.totals;
        let tasks = self.state.tasks.len() as u64;
        if let Some(reason) = self.state.spec.completion.ends(tasks, recorded, successful) {
            let note = "".into();
            self.happen(Event::PlanEnded { reason, note });
        }
    }

    fn end_if_due(&mut self) {
        let due = self
            .state
            .spec
            .deadline
            .is_some_and(|deadline| deadline <= self.now);
        if due && self.end.is_none() {
            self.happen(Event::PlanEnded {
                reason: EndReason::Deadline,
                note: "".into(),
            });
        }
    }

    fn submit(
        &mut self,
        submission: &Submission<'_>,
        identified: Option<(u32, MatchedBy)>,
    ) -> Receipt {
        let record = match &submission.record {
            Ok(record) => record,
            Err(violation) => return refused(violation.clone()),
        };
        let document_bytes = self.totals.document_bytes + record.document.len() as u64;
        if document_bytes > self.limits.document_bytes {
            return over_quota(
                "body",
                "bytes of records in one plan",
                self.limits.document_bytes,
            );
        }
        let index = &self.state.spec.index;
        match index.resolve(identified, &record.keys, self) {
            Named::Unmatched => {
                self.quarantine(submission.kind, record, QuarantineReason::Unmatched, &[])
            }
            Named::Ambiguous(tasks) => {
                self.quarantine(submission.kind, record, QuarantineReason::Ambiguous, &tasks)
            }
            Named::Matched { task, others, .. }
                if !others.is_empty() && self.state.spec.settings.strict_matching =>
            {
                let mut tasks = others;
                tasks.push(task);
                tasks.sort_unstable();
                tasks.dedup();
                let reason = QuarantineReason::KeysDisagree;
                self.quarantine(submission.kind, record, reason, &tasks)
            }
            Named::Matched { task, by, others } => {
                let mut receipt = match submission.kind {
                    RecordKind::Result => self.result(record, task, by),
                    RecordKind::Started | RecordKind::Progress => {
                        self.sign_of_life(submission.kind, record, task)
                    }
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

    fn result(&mut self, record: &ReadRecord<'_>, task: u32, by: MatchedBy) -> Receipt {
        let previous = self.now_held(task).held.clone();
        if let Some(previous) = &previous
            // Equal documents come to the same, which is quicker to see.
            && previous.verdict == record.verdict
            && same_content(&previous.document, &record.document)
        {
            let warnings = self.learn_session(record, task, by);
            return Receipt {
                sequence: previous.sequence,
                held: Some(Arc::clone(previous)),
                warnings,
                ..Receipt::of(Disposition::Duplicate)
            };
        }
        if self.end.is_some() {
            return self.quarantine(RecordKind::Result, record, QuarantineReason::Late, &[task]);
        }
        if previous.is_some() && self.state.spec.settings.keeps_first {
            let reason = QuarantineReason::NotFirst;
            return self.quarantine(RecordKind::Result, record, reason, &[task]);
        }
        let document = self.documents.keep(&record.document);
        let receipt = self.accept(task, by, record.verdict, record.has_outcome, document);
        let warnings = self.learn_session(record, task, by);
        Receipt {
            warnings,
            ..receipt
        }
    }

    /// Gives a task its record, or another one.
    fn accept(
        &mut self,
        task: u32,
        matched_by: MatchedBy,
        verdict: Verdict,
        has_outcome: bool,
        document: Bytes,
    ) -> Receipt {
        let previous = self.now_held(task).held.as_ref();
        let revision = previous.map_or(0, |previous| previous.revision);
        let disposition = match previous {
            None => Disposition::Accepted,
            Some(_) => Disposition::SupersededPrevious,
        };
        let held = Arc::new(Held {
            task,
            revision: revision.saturating_add(1),
            sequence: self.sequence + 1,
            at: self.now,
            verdict,
            has_outcome,
            matched_by,
            document,
        });
        self.happen(Event::RecordAccepted(Arc::clone(&held)));
        Receipt {
            task: Some(task),
            matched_by: Some(matched_by),
            sequence: held.sequence,
            held: Some(held),
            ..Receipt::of(disposition)
        }
    }

    fn rematch(&mut self, id: u64, task: u32, note: &Arc<str>) -> Result<Receipt, Refusal> {
        let state = self.state;
        let record = state.quarantined(id).ok_or(Refusal::NotFound)?;
        match state.resolved(id).map(|resolved| resolved.resolution) {
            // Said again.
            Some(Resolution::Rematched(before)) if before == task => {
                let held = self.now_held(task).held.clone();
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
        let by = MatchedBy::Operator;
        let document = record.document.clone();
        let receipt = self.accept(task, by, record.verdict, record.has_outcome, document);
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
        self.happen(Event::QuarantineResolved {
            id,
            resolution,
            note,
        });
    }

    fn sign_of_life(&mut self, kind: RecordKind, record: &ReadRecord<'_>, task: u32) -> Receipt {
        let slot = self.now_held(task);
        let known = slot.alive.as_ref().is_some_and(|alive| match kind {
            RecordKind::Started => true,
            _ => alive.kind == kind && alive.document == *record.document,
        });
        if !known && slot.held.is_none() && self.end.is_some() {
            return self.quarantine(kind, record, QuarantineReason::Late, &[task]);
        }
        if known || slot.held.is_some() {
            let sequence = slot.alive.as_ref().map_or(0, |alive| alive.sequence);
            let held = slot.held.clone();
            let warnings = self.learn_session(record, task, MatchedBy::TaskId);
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
        let sign = SignOfLife {
            task,
            sequence: self.sequence + 1,
            at: self.now,
            kind,
            session: record.keys.sandbox_session_id.as_ref().into(),
            document: self.documents.keep(&record.document),
        };
        let sequence = sign.sequence;
        self.happen(Event::TaskProgressed(Arc::new(sign)));
        let warnings = self.learn_session(record, task, MatchedBy::TaskId);
        Receipt {
            sequence,
            warnings,
            ..Receipt::of(Disposition::Accepted)
        }
    }

    /// Learns the session of a record that was matched by another key. An ended plan learns nothing.
    fn learn_session(&mut self, record: &ReadRecord<'_>, task: u32, by: MatchedBy) -> Vec<Warning> {
        let session = &*record.keys.sandbox_session_id;
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
        kind: RecordKind,
        record: &ReadRecord<'_>,
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
        let id = self.totals.set_aside + 1;
        let candidates: Vec<u32> = tasks.iter().copied().take(CANDIDATES_LISTED).collect();
        let document = self.documents.keep(&record.document);
        self.happen(Event::RecordQuarantined(Arc::new(Quarantined {
            id,
            sequence: self.sequence + 1,
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
            QuarantineReason::Late | QuarantineReason::NotFirst => {
                self.now_held(tasks[0]).held.clone()
            }
            _ => None,
        };
        let sequence = self.sequence;
        Receipt {
            held,
            sequence,
            candidates,
            quarantine_id: id,
            ..Receipt::of(disposition)
        }
    }
}

impl Store for Draft<'_> {
    fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    fn task(&mut self, task: u32) -> &mut Task {
        let state = self.state;
        self.tasks.of(task, || state.tasks[task as usize].clone())
    }

    fn learn(&mut self, session: &Arc<str>, task: u32) {
        let known = self.state.sessions.get(session);
        self.sessions
            .entry(Arc::clone(session))
            .or_insert_with(|| known.cloned().unwrap_or(Candidates::One(task)))
            .add(task);
    }

    /// No command looks at what it has set aside itself, or resolves two records.
    fn set_aside(&mut self, _: &Arc<Quarantined>) {}

    fn resolve(&mut self, _: u64, _: Resolved) {}

    fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    fn advance(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

impl Sessions for Draft<'_> {
    fn tasks_of(&self, session: &str) -> Option<&Candidates> {
        self.sessions
            .get(session)
            .or_else(|| self.state.sessions.get(session))
    }
}

/// Whether two documents say the same; layout, the order of members and the spelling of numbers do not matter.
fn same_content(one: &[u8], other: &[u8]) -> bool {
    let limits = json::Limits {
        depth: usize::MAX,
        ..json::Limits::default()
    };
    let read = |document| json::parse(document, limits).ok();
    one == other
        || read(one).is_some_and(|one| read(other).is_some_and(|other| one.is_same(&other)))
}
