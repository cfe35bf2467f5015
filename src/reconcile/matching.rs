//! Which task a record is for.
//!
//! Two rules, one for each way records come. A document's records are matched in stages (SEMANTICS of the existing
//! documents): canonical ids first, then whatever still fits, so that no record takes a task from one that names it
//! better. A live record is matched by itself, at once: its canonical id, else the first of `task_id`, `id`,
//! `sandbox_session_id`, `group_key` that names one task.

use std::collections::HashMap;

use super::Settings;
use super::index::Index;
use crate::json::{Object, Value};
use crate::plan::{Identities, Keys, canonical_id};

/// The field by which a record was matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchedBy {
    /// `task_id`.
    TaskId,
    /// `id`.
    Id,
    /// `sandbox_session_id`.
    SandboxSessionId,
    /// `group_key`.
    GroupKey,
    /// No field: an operator said so.
    Operator,
}

impl MatchedBy {
    /// The order in which a live record's keys are tried.
    pub const ORDER: [Self; 4] = [
        Self::TaskId,
        Self::Id,
        Self::SandboxSessionId,
        Self::GroupKey,
    ];
}

/// The tasks that one text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// Just one.
    One(u32),
    /// Several, in plan order.
    Several(Vec<u32>),
}

impl Candidates {
    /// Adds a task, if it is not there already. Cheap for tasks that come in plan order.
    pub fn add(&mut self, task: u32) {
        match self {
            Self::One(only) if *only == task => {}
            Self::One(only) => *self = Self::Several(vec![task.min(*only), task.max(*only)]),
            Self::Several(tasks) => match tasks.last() {
                Some(last) if *last < task => tasks.push(task),
                _ => {
                    if let Err(place) = tasks.binary_search(&task) {
                        tasks.insert(place, task);
                    }
                }
            },
        }
    }

    /// The tasks.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(task) => std::slice::from_ref(task),
            Self::Several(tasks) => tasks,
        }
    }

    /// Whether this task is among them.
    #[must_use]
    pub fn contains(&self, task: u32) -> bool {
        self.as_slice().binary_search(&task).is_ok()
    }
}

/// What a plan has learnt about sandbox sessions.
pub trait Sessions {
    /// The tasks that a session is known to work on.
    fn tasks_of(&self, session: &str) -> Option<&Candidates>;
}

/// What a record's keys name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// It is for this task.
    Matched {
        /// Position of the task in the plan.
        task: u32,
        /// The field that decided.
        by: MatchedBy,
        /// Other tasks that others of its keys name.
        others: Vec<u32>,
    },
    /// No key names a task.
    Unmatched,
    /// A key names several tasks, and no key names one.
    Ambiguous(Vec<u32>),
}

/// Matches a whole document's records: for each task, in plan order, the position of its record.
///
/// First, every record whose canonical id is a task's identity; of several the last one, or the first if the settings
/// keep that. Then, for tasks still without one and over the records that named no task so, in the same order and each
/// used once: a record with the text of the task's `id`, `task_id` or `sandbox_session_id` in one of those fields; or, if
/// no other task has its group key, one with that. With strict matching, a record whose keys name different tasks is not
/// there.
pub struct DocumentMatching<'d> {
    identities: &'d Identities,
    task_requests: &'d [Value],
    keeps_first: bool,
    /// Every name of a task, if matching is strict.
    names: Option<Index>,
    matches: Vec<Option<u32>>,
    unnamed: Vec<(u32, Keys)>,
    record_count: u32,
}

impl<'d> DocumentMatching<'d> {
    /// Begins with the plan's task requests.
    #[must_use]
    pub fn new(
        identities: &'d Identities,
        task_requests: &'d [Value],
        settings: &Settings,
    ) -> Self {
        let names = || Index::of(task_requests);
        Self {
            identities,
            task_requests,
            keeps_first: settings.keeps_first,
            names: settings.strict_matching.then(names),
            matches: vec![None; task_requests.len()],
            unnamed: Vec::new(),
            record_count: 0,
        }
    }

    /// Takes the next record.
    pub fn add(&mut self, record: &Object) {
        let position = self.record_count;
        self.record_count += 1;
        if let Some(names) = &self.names {
            let keys = Keys::of(record);
            let resolution = names.resolve(names.identify(&keys), &keys, &NoSessions);
            if matches!(resolution, Named::Matched { others, .. } if !others.is_empty()) {
                return;
            }
        }
        let id = canonical_id(record).map(Value::text);
        match id.and_then(|id| self.identities.position(&id)) {
            Some(task) if self.keeps_first => _ = self.matches[task].get_or_insert(position),
            Some(task) => self.matches[task] = Some(position),
            None => self.unnamed.push((position, Keys::of(record))),
        }
    }

    /// Answers the position of each task's record.
    #[must_use]
    pub fn finish(mut self) -> Vec<Option<u32>> {
        if !self.unnamed.is_empty() && self.matches.iter().any(Option::is_none) {
            // Names are taken from the end.
            if self.keeps_first {
                self.unnamed.reverse();
            }
            match_by_name(
                &mut self.matches,
                &keys_of(self.task_requests),
                &self.unnamed,
                self.record_count,
            );
        }
        self.matches
    }
}

/// A document knows no sessions but those of its task requests.
struct NoSessions;

impl Sessions for NoSessions {
    fn tasks_of(&self, _: &str) -> Option<&Candidates> {
        None
    }
}

fn keys_of(task_requests: &[Value]) -> Vec<Keys> {
    let requests = task_requests.iter().filter_map(Value::as_object);
    requests.map(Keys::of).collect()
}

fn match_by_name(
    matches: &mut [Option<u32>],
    tasks: &[Keys],
    unnamed: &[(u32, Keys)],
    record_count: u32,
) {
    let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
    let mut by_group_key: HashMap<&str, Vec<u32>> = HashMap::new();
    for (position, keys) in unnamed {
        let position = *position;
        let names = [&keys.id, &keys.task_id, &keys.sandbox_session_id];
        for (nth, name) in names.iter().enumerate() {
            if !name.is_empty() && !names[..nth].contains(name) {
                by_name.entry(name).or_default().push(position);
            }
        }
        if !keys.group_key.is_empty() {
            by_group_key
                .entry(&keys.group_key)
                .or_default()
                .push(position);
        }
    }
    let mut group_sizes: HashMap<&str, usize> = HashMap::new();
    for keys in tasks {
        *group_sizes.entry(&keys.group_key).or_default() += 1;
    }
    let mut used = vec![false; record_count as usize];
    let mut take = |records: Option<&mut Vec<u32>>| {
        let records = records?;
        while let Some(position) = records.pop() {
            if !std::mem::replace(&mut used[position as usize], true) {
                return Some(position);
            }
        }
        None
    };
    for (slot, keys) in matches
        .iter_mut()
        .zip(tasks)
        .filter(|(slot, _)| slot.is_none())
    {
        *slot = [&keys.id, &keys.task_id, &keys.sandbox_session_id]
            .into_iter()
            .filter(|name| !name.is_empty())
            .find_map(|name| take(by_name.get_mut(&**name)));
        if slot.is_none() && !keys.group_key.is_empty() && group_sizes[&*keys.group_key] == 1 {
            *slot = take(by_group_key.get_mut(&*keys.group_key));
        }
    }
}
