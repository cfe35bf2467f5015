//! A plan's state as it will be after what a command has done so far: the real state, and over it the command's events.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Timestamp;
use super::command::Limits;
use super::documents::Documents;
use super::event::{Entry, Event, Held, SignOfLife};
use super::receipt::Receipt;
use super::state::{End, EndReason, State, Totals};
use crate::reconcile::{Candidates, Sessions};

/// See the module.
pub(super) struct Draft<'s> {
    pub(super) state: &'s State,
    pub(super) now: Timestamp,
    pub(super) limits: &'s Limits,
    /// Where documents are kept.
    pub(super) documents: &'s mut Documents,
    pub(super) totals: Totals,
    pub(super) end: Option<End>,
    /// What has happened. Mostly one thing, which needs no memory of its own.
    pub(super) entries: SmallVec<[Entry; 1]>,
    /// Whether each event will bring another task its first record, so that the last about a task need not be known.
    pub(super) are_all_new: bool,
    last_events: LastEvents,
    sessions: HashMap<Arc<str>, Candidates>,
}

impl<'s> Draft<'s> {
    pub(super) fn over(
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
            totals: state.totals,
            end: state.end.clone(),
            entries: SmallVec::new(),
            are_all_new: false,
            last_events: LastEvents::default(),
            sessions: HashMap::new(),
        }
    }

    /// Makes room for so many events about tasks.
    pub(super) fn expect(&mut self, events: usize) {
        self.entries.reserve(events);
        if !self.are_all_new {
            self.last_events.expect(events);
        }
    }

    /// The sequence of the next event.
    pub(super) fn next_sequence(&self) -> u64 {
        self.state.sequence + self.entries.len() as u64 + 1
    }

    pub(super) fn happen(&mut self, event: Event) {
        let entry = Entry {
            sequence: self.next_sequence(),
            at: self.now,
            event,
        };
        let position = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let task = match &entry.event {
            Event::RecordAccepted(held) => Some(held.task),
            Event::TaskProgressed(sign) => Some(sign.task),
            Event::SessionLearnt { session, task } => {
                let known = self.state.sessions.get(session);
                self.sessions
                    .entry(Arc::clone(session))
                    .or_insert_with(|| known.cloned().unwrap_or(Candidates::One(*task)))
                    .add(*task);
                None
            }
            Event::PlanEnded { .. } => {
                self.end = End::of(&entry);
                None
            }
            // No command looks at what it has set aside itself, resolves two records, or has two producers.
            Event::PlanCreated(_)
            | Event::ProducerAdvanced(_)
            | Event::RecordQuarantined(_)
            | Event::QuarantineResolved { .. } => None,
        };
        let Self {
            state,
            totals,
            entries,
            last_events,
            ..
        } = self;
        match task {
            None => totals.count(&entry.event, None, false),
            Some(task) => {
                let (held, alive) = last_events.standing(task, entries, state);
                totals.count(&entry.event, held.map(|held| &**held), alive.is_some());
                if !self.are_all_new {
                    last_events.set(task, position);
                }
            }
        }
        self.entries.push(entry);
    }

    /// The record that a task has now.
    pub(super) fn held(&self, task: u32) -> Option<&Arc<Held>> {
        if self.are_all_new {
            return None;
        }
        self.standing(task).0
    }

    /// The last sign of life of a task that has no record now.
    pub(super) fn alive(&self, task: u32) -> Option<&Arc<SignOfLife>> {
        self.standing(task).1
    }

    fn standing(&self, task: u32) -> Standing<'_> {
        self.last_events.standing(task, &self.entries, self.state)
    }

    pub(super) fn end_if_complete(&mut self) {
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

    pub(super) fn end_if_due(&mut self) {
        let deadline = self.state.spec.deadline;
        let due = deadline.is_some_and(|deadline| deadline <= self.now);
        if due && self.end.is_none() {
            self.happen(Event::PlanEnded {
                reason: EndReason::Deadline,
                note: "".into(),
            });
        }
    }

    /// Gives receipts of accepted records what their tasks have now. All at the end: to share what was just written is to
    /// wait until it has reached memory.
    pub(super) fn hand_out_held(&self, receipts: &mut [Receipt]) {
        let first = self.state.sequence + 1;
        for receipt in receipts.iter_mut().filter(|receipt| receipt.held.is_none()) {
            let position = receipt.sequence.checked_sub(first).map(usize::try_from);
            let entry = position.and_then(|position| self.entries.get(position.ok()?));
            if let Some(Event::RecordAccepted(held)) = entry.map(|entry| &entry.event) {
                receipt.held = Some(Arc::clone(held));
            }
        }
    }
}

impl Sessions for Draft<'_> {
    fn tasks_of(&self, session: &str) -> Option<&Candidates> {
        self.sessions
            .get(session)
            .or_else(|| self.state.sessions.get(session))
    }
}

/// Which of a command's events was the last about a task.
#[derive(Default)]
struct LastEvents {
    /// Tasks and positions of events, as they came.
    few: SmallVec<[(u32, u32); 1]>,
    /// A bit for each remainder of those tasks: most are not there.
    few_bits: u64,
    /// All of a command that may have more.
    many: HashMap<u32, u32>,
}

/// How many are looked through one by one.
const FEW: usize = 64;

/// The record of a task, or the last sign of life of one that has none.
type Standing<'d> = (Option<&'d Arc<Held>>, Option<&'d Arc<SignOfLife>>);

impl LastEvents {
    /// Where a task stands after these entries over the state.
    fn standing<'d>(&self, task: u32, entries: &'d [Entry], state: &'d State) -> Standing<'d> {
        let last = self.get(task);
        match last.map(|position| &entries[position as usize].event) {
            None => {
                let slot = &state.tasks[task as usize];
                (slot.held.as_ref(), slot.alive.as_ref())
            }
            Some(Event::RecordAccepted(held)) => (Some(held), None),
            // A task that has a record gives no sign of life.
            Some(Event::TaskProgressed(sign)) => (None, Some(sign)),
            Some(_) => (None, None),
        }
    }

    fn expect(&mut self, events: usize) {
        if events > FEW {
            self.many.reserve(events);
        } else {
            self.few.reserve(events);
        }
    }

    fn are_many(&self) -> bool {
        self.many.capacity() > 0
    }

    fn set(&mut self, task: u32, position: u32) {
        if self.are_many() {
            self.many.insert(task, position);
        } else {
            self.few.push((task, position));
            self.few_bits |= Self::bit(task);
        }
    }

    fn get(&self, task: u32) -> Option<u32> {
        if self.are_many() {
            return self.many.get(&task).copied();
        }
        if self.few_bits & Self::bit(task) == 0 {
            return None;
        }
        let last = self.few.iter().rfind(|(other, _)| *other == task)?;
        Some(last.1)
    }

    fn bit(task: u32) -> u64 {
        1 << (task % u64::BITS)
    }
}
