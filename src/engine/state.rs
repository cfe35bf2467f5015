//! Where a plan stands: a slot for each task, what it has learnt, and counters. Every change is O(1).

use std::collections::HashMap;
use std::sync::Arc;

use super::Timestamp;
use super::event::{Entry, Event, Held, Quarantined, Resolved, SignOfLife};
use super::producer::Producer;
use super::spec::Spec;
use crate::reconcile::{Candidates, Sessions};

/// Why a plan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Every task has a record.
    AllRecorded,
    /// Somebody sealed it.
    Sealed,
    /// Its deadline passed.
    Deadline,
    /// Somebody cancelled it.
    Cancelled,
    /// More tasks failed than the completion policy tolerates.
    ToleranceExceeded,
    /// As many tasks succeeded as the completion policy asks for.
    MinimumReached,
}

impl EndReason {
    /// The word that documents hold.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AllRecorded => "all_recorded",
            Self::Sealed => "sealed",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::ToleranceExceeded => "tolerance_exceeded",
            Self::MinimumReached => "minimum_reached",
        }
    }
}

/// The end of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Somebody's words for it, or empty.
    pub note: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// The event.
    pub sequence: u64,
}

/// Status of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanStatus {
    /// Open.
    Incomplete,
    /// Ended, and every task is successful, or as many as the completion policy asks for.
    Completed,
    /// Ended otherwise.
    Failed,
}

impl PlanStatus {
    /// The word that documents hold.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// One task's slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Task {
    /// Its record.
    pub(super) held: Option<Arc<Held>>,
    /// The last sign of life of a task without a record.
    pub(super) alive: Option<Arc<SignOfLife>>,
}

/// Running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) recorded: u64,
    pub(super) successful: u64,
    pub(super) outcomes: u64,
    pub(super) running: u64,
    /// Records ever set aside.
    pub(super) set_aside: u64,
    /// Those of them that nothing was done about.
    pub(super) quarantined: u64,
    pub(super) signs_of_life: u64,
    pub(super) sessions: u64,
    /// Records of producers.
    pub(super) numbered: u64,
    /// Bytes of documents in the plan's history.
    pub(super) document_bytes: u64,
    /// Bytes of sessions there, and of what is remembered of producers' records that were refused.
    pub(super) text_bytes: u64,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items in all groups.
    pub items: u64,
    /// Groups.
    pub groups: u64,
    /// Tasks.
    pub tasks: u64,
    /// Tasks that have a record.
    pub recorded: u64,
    /// Tasks whose record is successful.
    pub successful: u64,
    /// Tasks whose record is not.
    pub failed: u64,
    /// Tasks without a record.
    pub missing: u64,
    /// Tasks that gave a sign of life and have no record.
    pub running: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// Records set aside that nothing was done about.
    pub quarantined: u64,
}

/// The state of a plan: the fold of its events.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) spec: Arc<Spec>,
    pub(super) sequence: u64,
    pub(super) tasks: Vec<Task>,
    pub(super) sessions: HashMap<Arc<str>, Candidates>,
    pub(super) quarantine: Vec<Arc<Quarantined>>,
    pub(super) resolved: HashMap<u64, Arc<Resolved>>,
    pub(super) producers: HashMap<Arc<str>, Producer>,
    pub(super) totals: Totals,
    pub(super) end: Option<End>,
}

/// States are equal if they are of the same plan, and everything that happened to it has left the same.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            spec,
            sequence,
            tasks,
            sessions,
            quarantine,
            resolved,
            producers,
            totals,
            end,
        } = self;
        Arc::ptr_eq(spec, &other.spec)
            && *sequence == other.sequence
            && *tasks == other.tasks
            && *sessions == other.sessions
            && *quarantine == other.quarantine
            && *resolved == other.resolved
            && *producers == other.producers
            && *totals == other.totals
            && *end == other.end
    }
}

impl Totals {
    /// Counts an event, before which its task had this record and gave a sign of life or not. The only place where totals
    /// change.
    pub(super) fn count(&mut self, event: &Event, held_before: Option<&Held>, was_alive: bool) {
        match event {
            Event::RecordAccepted(held) => {
                self.document_bytes += held.document.len() as u64;
                self.running -= u64::from(was_alive);
                match held_before {
                    None => self.recorded += 1,
                    Some(before) => {
                        self.successful -= u64::from(before.verdict.successful);
                        self.outcomes -= u64::from(before.has_outcome);
                    }
                }
                self.successful += u64::from(held.verdict.successful);
                self.outcomes += u64::from(held.has_outcome);
            }
            Event::TaskProgressed(sign) => {
                self.document_bytes += sign.document.len() as u64;
                self.text_bytes += sign.session.len() as u64;
                self.signs_of_life += 1;
                self.running += u64::from(!was_alive);
            }
            Event::SessionLearnt { session, .. } => {
                self.sessions += 1;
                self.text_bytes += session.len() as u64;
            }
            Event::RecordQuarantined(quarantined) => {
                self.set_aside += 1;
                self.quarantined += 1;
                self.document_bytes += quarantined.document.len() as u64;
            }
            Event::QuarantineResolved { .. } => self.quarantined -= 1,
            Event::ProducerAdvanced(advance) => {
                self.numbered += advance.outcomes.len() as u64;
                let violations = advance.violations.iter();
                let bytes = violations.map(|(_, violation)| violation.description.len() as u64);
                self.text_bytes += bytes.map(|text| BYTES_OF_VIOLATION + text).sum::<u64>();
            }
            Event::PlanCreated(_) | Event::PlanEnded { .. } => {}
        }
    }
}

impl End {
    /// The end that an event is, if it is one.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        match &entry.event {
            Event::PlanEnded { reason, note } => Some(Self {
                reason: *reason,
                note: Arc::clone(note),
                at: entry.at,
                sequence: entry.sequence,
            }),
            _ => None,
        }
    }
}

/// What an event takes beside its texts, a numbered record, and what is wrong with one beside its text, about.
const BYTES_OF_EVENT: u64 = 128;
const BYTES_OF_NUMBERED: u64 = 24;
const BYTES_OF_VIOLATION: u64 = 96;

impl State {
    /// How many bytes of memory the plan takes with all that has happened to it, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.spec.bytes()
            + self.totals.document_bytes
            + self.totals.text_bytes
            + self.sequence * BYTES_OF_EVENT
            + self.totals.numbered * BYTES_OF_NUMBERED
    }

    /// The state right after the plan was created.
    #[must_use]
    pub fn created(spec: Arc<Spec>) -> Self {
        Self {
            sequence: 1,
            tasks: vec![Task::default(); spec.tasks.len()],
            sessions: HashMap::new(),
            quarantine: Vec::new(),
            resolved: HashMap::new(),
            producers: HashMap::new(),
            totals: Totals::default(),
            end: None,
            spec,
        }
    }

    /// Folds a plan's history; nothing if it does not begin with the plan's creation.
    pub fn fold<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Option<Self> {
        let mut entries = entries.into_iter();
        let Some(Entry {
            event: Event::PlanCreated(spec),
            ..
        }) = entries.next()
        else {
            return None;
        };
        let mut state = Self::created(Arc::clone(spec));
        entries.for_each(|entry| state.apply(entry));
        Some(state)
    }

    /// Applies the next event.
    pub fn apply(&mut self, entry: &Entry) {
        self.sequence = entry.sequence;
        match &entry.event {
            Event::RecordAccepted(held) => {
                let task = &mut self.tasks[held.task as usize];
                let was_alive = task.alive.take().is_some();
                let before = task.held.replace(Arc::clone(held));
                self.totals
                    .count(&entry.event, before.as_deref(), was_alive);
            }
            Event::TaskProgressed(sign) => {
                let alive = &mut self.tasks[sign.task as usize].alive;
                let was_alive = alive.replace(Arc::clone(sign)).is_some();
                self.totals.count(&entry.event, None, was_alive);
            }
            other => {
                self.totals.count(other, None, false);
                self.apply_beside_tasks(entry);
            }
        }
    }

    fn apply_beside_tasks(&mut self, entry: &Entry) {
        match &entry.event {
            Event::SessionLearnt { session, task } => {
                self.sessions
                    .entry(Arc::clone(session))
                    .and_modify(|tasks| tasks.add(*task))
                    .or_insert(Candidates::One(*task));
            }
            Event::RecordQuarantined(quarantined) => self.quarantine.push(Arc::clone(quarantined)),
            Event::QuarantineResolved { id, resolved } => {
                self.resolved.insert(*id, Arc::clone(resolved));
            }
            Event::ProducerAdvanced(advance) => {
                let producer = Arc::clone(&advance.producer);
                self.producers.entry(producer).or_default().advance(advance);
            }
            Event::PlanEnded { .. } => self.end = End::of(entry),
            Event::PlanCreated(_) | Event::RecordAccepted(_) | Event::TaskProgressed(_) => {}
        }
    }

    /// What the plan is.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    /// Number of the last event.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The end, if the plan has ended.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The record that a task has.
    #[must_use]
    pub fn held(&self, task: usize) -> Option<&Arc<Held>> {
        self.tasks.get(task)?.held.as_ref()
    }

    /// The last sign of life of a task that has no record.
    #[must_use]
    pub fn sign_of_life(&self, task: usize) -> Option<&Arc<SignOfLife>> {
        self.tasks.get(task)?.alive.as_ref()
    }

    /// The records that were ever set aside; number `n` stands at `n - 1`.
    #[must_use]
    pub fn quarantine(&self) -> &[Arc<Quarantined>] {
        &self.quarantine
    }

    /// The record of this number that was set aside.
    #[must_use]
    pub fn quarantined(&self, id: u64) -> Option<&Arc<Quarantined>> {
        let position = usize::try_from(id.checked_sub(1)?).ok()?;
        self.quarantine.get(position)
    }

    /// What was done about a record that was set aside, if anything was.
    #[must_use]
    pub fn resolved(&self, id: u64) -> Option<&Resolved> {
        self.resolved.get(&id).map(|resolved| &**resolved)
    }

    /// How many of a producer's records the plan has.
    #[must_use]
    pub fn committed(&self, producer: &str) -> u64 {
        self.producers.get(producer).map_or(0, Producer::committed)
    }

    /// Where the plan stands.
    #[must_use]
    pub fn status(&self) -> PlanStatus {
        match &self.end {
            None => PlanStatus::Incomplete,
            Some(End {
                reason: EndReason::Cancelled | EndReason::ToleranceExceeded,
                ..
            }) => PlanStatus::Failed,
            Some(_) if self.is_good_enough() => PlanStatus::Completed,
            Some(_) => PlanStatus::Failed,
        }
    }

    /// Whether the plan would be completed if it ended now.
    fn is_good_enough(&self) -> bool {
        let policy = &self.spec.completion;
        let tasks = self.spec.tasks.len() as u64;
        policy.tolerates(self.unsuccessful(), tasks)
            || policy
                .min_successful
                .is_some_and(|least| self.totals.successful >= least)
    }

    /// Tasks that do not count as successful, those without a record among them.
    #[must_use]
    pub fn unsuccessful(&self) -> u64 {
        let missing_counts = self.spec.settings.counts_missing_as_successful();
        let missing = if missing_counts {
            0
        } else {
            self.spec.tasks.len() as u64 - self.totals.recorded
        };
        self.totals.recorded - self.totals.successful + missing
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let tasks = self.spec.tasks.len() as u64;
        let totals = &self.totals;
        Counts {
            items: self.spec.item_count as u64,
            groups: self.spec.group_count as u64,
            tasks,
            recorded: totals.recorded,
            successful: totals.successful,
            failed: totals.recorded - totals.successful,
            missing: tasks - totals.recorded,
            running: totals.running,
            outcomes: totals.outcomes,
            quarantined: totals.quarantined,
        }
    }

    /// Checks what must always hold; used by tests.
    ///
    /// # Errors
    /// Names the first thing that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let held = || self.tasks.iter().filter_map(|task| task.held.as_deref());
        let count =
            |wanted: &dyn Fn(&Held) -> bool| held().filter(|held| wanted(held)).count() as u64;
        let expected = [
            ("recorded", self.totals.recorded, count(&|_| true)),
            (
                "successful",
                self.totals.successful,
                count(&|held| held.verdict.successful),
            ),
            (
                "outcomes",
                self.totals.outcomes,
                count(&|held| held.has_outcome),
            ),
            (
                "running",
                self.totals.running,
                self.tasks.iter().filter(|t| t.alive.is_some()).count() as u64,
            ),
            (
                "quarantined",
                self.totals.quarantined,
                (self.quarantine.len() - self.resolved.len()) as u64,
            ),
        ];
        for (name, total, counted) in expected {
            if total != counted {
                return Err(format!("{name} is {total}, but {counted} are there"));
            }
        }
        let both = self
            .tasks
            .iter()
            .position(|task| task.held.is_some() && task.alive.is_some());
        if let Some(task) = both {
            return Err(format!("task {task} has a record and still runs"));
        }
        if self.status() == PlanStatus::Completed
            && held().any(|held| !held.verdict.successful)
            && self.spec.completion.is_everything()
        {
            return Err("a completed plan has an unsuccessful record".into());
        }
        Ok(())
    }
}

impl Sessions for State {
    fn tasks_of(&self, session: &str) -> Option<&Candidates> {
        self.sessions.get(session)
    }
}
