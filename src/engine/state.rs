//! Where a plan stands: a slot for each task, what it has learnt, and counters. Every change is O(1).

use std::collections::HashMap;
use std::sync::Arc;

use super::Timestamp;
use super::event::{Entry, Event, Held, Quarantined, Resolution, SignOfLife};
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
    /// Bytes of documents in the plan's history.
    pub(super) document_bytes: u64,
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

/// What was done about a record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What was done.
    pub resolution: Resolution,
    /// The operator's words for it, or empty.
    pub note: Arc<str>,
}

/// The state of a plan: the fold of its events.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) spec: Arc<Spec>,
    pub(super) sequence: u64,
    pub(super) tasks: Vec<Task>,
    pub(super) sessions: HashMap<Arc<str>, Candidates>,
    pub(super) quarantine: Vec<Arc<Quarantined>>,
    pub(super) resolved: HashMap<u64, Resolved>,
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
            totals,
            end,
        } = self;
        Arc::ptr_eq(spec, &other.spec)
            && *sequence == other.sequence
            && *tasks == other.tasks
            && *sessions == other.sessions
            && *quarantine == other.quarantine
            && *resolved == other.resolved
            && *totals == other.totals
            && *end == other.end
    }
}

/// What applying an event needs: a whole state, or a draft over one.
pub(super) trait Store {
    fn totals(&mut self) -> &mut Totals;
    fn task(&mut self, task: u32) -> &mut Task;
    fn learn(&mut self, session: &Arc<str>, task: u32);
    fn set_aside(&mut self, quarantined: &Arc<Quarantined>);
    fn resolve(&mut self, id: u64, resolved: Resolved);
    fn end(&mut self, end: End);
    fn advance(&mut self, sequence: u64);
}

/// Applies one event. The only place where anything about a plan changes.
pub(super) fn apply(store: &mut impl Store, entry: &Entry) {
    store.advance(entry.sequence);
    match &entry.event {
        Event::PlanCreated(_) => {}
        Event::RecordAccepted(held) => {
            let previous = store.task(held.task).held.replace(Arc::clone(held));
            let was_alive = store.task(held.task).alive.take().is_some();
            let totals = store.totals();
            totals.document_bytes += held.document.len() as u64;
            totals.running -= u64::from(was_alive);
            match previous {
                None => totals.recorded += 1,
                Some(previous) => {
                    totals.successful -= u64::from(previous.verdict.successful);
                    totals.outcomes -= u64::from(previous.has_outcome);
                }
            }
            totals.successful += u64::from(held.verdict.successful);
            totals.outcomes += u64::from(held.has_outcome);
        }
        Event::TaskProgressed(sign) => {
            let first = store
                .task(sign.task)
                .alive
                .replace(Arc::clone(sign))
                .is_none();
            let totals = store.totals();
            totals.document_bytes += sign.document.len() as u64;
            totals.signs_of_life += 1;
            totals.running += u64::from(first);
        }
        Event::SessionLearnt { session, task } => {
            store.learn(session, *task);
            store.totals().sessions += 1;
        }
        Event::RecordQuarantined(quarantined) => {
            store.set_aside(quarantined);
            let totals = store.totals();
            totals.set_aside += 1;
            totals.quarantined += 1;
            totals.document_bytes += quarantined.document.len() as u64;
        }
        Event::QuarantineResolved {
            id,
            resolution,
            note,
        } => {
            let note = Arc::clone(note);
            let resolution = *resolution;
            store.resolve(*id, Resolved { resolution, note });
            store.totals().quarantined -= 1;
        }
        Event::PlanEnded { reason, note } => store.end(End {
            reason: *reason,
            note: Arc::clone(note),
            at: entry.at,
            sequence: entry.sequence,
        }),
    }
}

impl State {
    /// The state right after the plan was created.
    #[must_use]
    pub fn created(spec: Arc<Spec>) -> Self {
        Self {
            sequence: 1,
            tasks: vec![Task::default(); spec.tasks.len()],
            sessions: HashMap::new(),
            quarantine: Vec::new(),
            resolved: HashMap::new(),
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
        apply(self, entry);
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
        self.resolved.get(&id)
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

impl Store for State {
    fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    fn task(&mut self, task: u32) -> &mut Task {
        &mut self.tasks[task as usize]
    }

    fn learn(&mut self, session: &Arc<str>, task: u32) {
        self.sessions
            .entry(Arc::clone(session))
            .and_modify(|tasks| tasks.add(task))
            .or_insert(Candidates::One(task));
    }

    fn set_aside(&mut self, quarantined: &Arc<Quarantined>) {
        self.quarantine.push(Arc::clone(quarantined));
    }

    fn resolve(&mut self, id: u64, resolved: Resolved) {
        self.resolved.insert(id, resolved);
    }

    fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    fn advance(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

impl Sessions for State {
    fn tasks_of(&self, session: &str) -> Option<&Candidates> {
        self.sessions.get(session)
    }
}
