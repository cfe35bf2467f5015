//! Where a task stands, and why it has no record.

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{Held, Quarantined, SignOfLife};
use super::state::State;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Nothing was heard of it.
    Pending,
    /// It gave a sign of life, and no result yet.
    Running,
    /// It has a record.
    Recorded,
    /// The plan ended without a record of it.
    Missing,
}

/// Why a task has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingCause {
    /// Nothing was heard of it.
    NeverStarted,
    /// It gave a sign of life, and no result.
    StartedNoResult,
    /// A record that may be its own is in quarantine.
    RecordQuarantined,
}

/// A task as it stands.
#[derive(Clone, Debug)]
pub struct TaskStanding {
    /// Position of the task in the plan.
    pub task: u32,
    /// Where it stands.
    pub state: TaskState,
    /// Its record.
    pub held: Option<Arc<Held>>,
    /// Its last sign of life, if it has no record.
    pub sign_of_life: Option<Arc<SignOfLife>>,
    /// Records in quarantine that may be its own, oldest first.
    pub quarantined: Vec<Arc<Quarantined>>,
}

/// Unresolved records in quarantine, by the tasks they may be for.
#[derive(Clone, Debug, Default)]
pub struct QuarantineByTask(HashMap<u32, Vec<Arc<Quarantined>>>);

impl QuarantineByTask {
    /// Reads a plan's quarantine, for all tasks or for one.
    #[must_use]
    pub fn of(state: &State, only: Option<u32>) -> Self {
        let mut by_task: HashMap<u32, Vec<Arc<Quarantined>>> = HashMap::new();
        let unresolved = |id| state.resolved(id).is_none();
        for record in state
            .quarantine()
            .iter()
            .filter(|record| unresolved(record.id))
        {
            let wanted = |task: &&u32| only.is_none_or(|only| only == **task);
            for task in record.candidates.iter().filter(wanted) {
                by_task.entry(*task).or_default().push(Arc::clone(record));
            }
        }
        Self(by_task)
    }
}

impl TaskState {
    /// Where a task of a plan stands.
    #[must_use]
    pub fn of(state: &State, task: usize) -> Self {
        if state.held(task).is_some() {
            Self::Recorded
        } else if state.end().is_some() {
            Self::Missing
        } else if state.sign_of_life(task).is_some() {
            Self::Running
        } else {
            Self::Pending
        }
    }
}

impl TaskStanding {
    /// How a task of a plan stands.
    #[must_use]
    pub fn of(state: &State, task: u32, quarantine: &QuarantineByTask) -> Self {
        let position = task as usize;
        Self {
            task,
            state: TaskState::of(state, position),
            held: state.held(position).cloned(),
            sign_of_life: state.sign_of_life(position).cloned(),
            quarantined: quarantine.0.get(&task).cloned().unwrap_or_default(),
        }
    }

    /// Why it has no record; nothing if it has one. A record in quarantine says more than silence.
    #[must_use]
    pub fn missing_cause(&self) -> Option<MissingCause> {
        if self.held.is_some() {
            None
        } else if !self.quarantined.is_empty() {
            Some(MissingCause::RecordQuarantined)
        } else if self.sign_of_life.is_some() {
            Some(MissingCause::StartedNoResult)
        } else {
            Some(MissingCause::NeverStarted)
        }
    }
}
