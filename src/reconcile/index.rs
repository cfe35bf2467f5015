//! The names of a plan's tasks, and which of them a record's keys are.

use super::matching::{Candidates, MatchedBy, Named, Sessions};
use super::names::{Names, Tasks, Texts};
use crate::json::{Value, trim};
use crate::plan::Keys;

/// The names of a plan's tasks.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Canonical ids, by task.
    identities: Names,
    /// Tasks whose canonical id is their group key, because they have no other; in plan order, and hardly ever any.
    identified_by_group_key: Vec<u32>,
    /// Other texts of `id`, `task_id` and `sandbox_session_id`.
    aliases: Names,
    /// Group keys, by task.
    group_keys: Names,
    /// Bytes of the longest canonical id.
    longest_identity: usize,
}

/// Takes the names of one task after the other.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    identities: Texts,
    identified_by_group_key: Vec<u32>,
    aliases: Texts,
    tasks_of_aliases: Vec<u32>,
    group_keys: Texts,
    longest_identity: usize,
}

impl IndexBuilder {
    /// Begins, with room for so many tasks.
    #[must_use]
    pub fn with_capacity(tasks: usize) -> Self {
        Self {
            identities: Texts::with_capacity(tasks),
            group_keys: Texts::with_capacity(tasks),
            ..Self::default()
        }
    }

    /// Takes the keys of the next task. There are at most `u32::MAX` tasks.
    pub fn add<T: AsRef<str>>(&mut self, keys: &Keys<T>) {
        let task = self.identities.next();
        let [task_id, id, session, group_key] = [
            &keys.task_id,
            &keys.id,
            &keys.sandbox_session_id,
            &keys.group_key,
        ]
        .map(AsRef::as_ref);
        let identity = keys.canonical_id();
        let from_group_key = task_id.is_empty() && id.is_empty();
        if from_group_key {
            self.identified_by_group_key.push(task);
        }
        for alias in [task_id, id, session] {
            if !alias.is_empty() && (alias != identity || from_group_key) {
                self.aliases.push(alias);
                self.tasks_of_aliases.push(task);
            }
        }
        self.longest_identity = self.longest_identity.max(identity.len());
        self.identities.push(identity);
        self.group_keys.push(group_key);
    }

    /// The index of all tasks.
    #[must_use]
    pub fn finish(self) -> Index {
        Index {
            identities: Names::of_tasks(self.identities),
            identified_by_group_key: self.identified_by_group_key,
            aliases: Names::new(self.aliases, self.tasks_of_aliases),
            group_keys: Names::of_tasks(self.group_keys),
            longest_identity: self.longest_identity,
        }
    }
}

impl Index {
    /// Indexes task requests.
    pub(super) fn of(task_requests: &[Value]) -> Self {
        let mut names = IndexBuilder::with_capacity(task_requests.len());
        for request in task_requests.iter().filter_map(Value::as_object) {
            names.add(&Keys::borrowed(request));
        }
        names.finish()
    }

    /// Whether every task has an identity, and none has another's.
    #[must_use]
    pub fn tells_all_tasks_apart(&self) -> bool {
        self.identities.tell_all_apart()
    }

    /// The identity of a task.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn identity(&self, task: u32) -> &str {
        self.identities.text(task)
    }

    /// How many bytes the longest identity has; 0 if there are no tasks.
    #[must_use]
    pub fn longest_identity(&self) -> usize {
        self.longest_identity
    }

    /// The usable text of a task's group key; empty if it has none.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn group_key(&self, task: u32) -> &str {
        self.group_keys.text(task)
    }

    /// Finds the task of one record. `identified` is what [`Index::identify`] says of it.
    #[must_use]
    pub fn resolve<T: AsRef<str>>(
        &self,
        identified: Option<(u32, MatchedBy)>,
        keys: &Keys<T>,
        sessions: &impl Sessions,
    ) -> Named {
        let mut matched = identified;
        let mut several: &[u32] = &[];
        if matched.is_none() {
            for by in MatchedBy::ORDER {
                match self.named_by(by, keys, sessions) {
                    Tasks::None => {}
                    Tasks::One(task) => {
                        matched = Some((task, by));
                        break;
                    }
                    Tasks::Several(tasks) if several.is_empty() => several = tasks,
                    Tasks::Several(_) => {}
                }
            }
        }
        match matched {
            Some((task, by)) => {
                let others = MatchedBy::ORDER.into_iter().filter(|other| *other != by);
                let others = others.filter_map(|other| {
                    // A key that names several tasks is no evidence against any of them.
                    match self.named_by(other, keys, sessions) {
                        Tasks::One(named) if named != task => Some(named),
                        _ => None,
                    }
                });
                Named::Matched {
                    task,
                    by,
                    others: others.collect(),
                }
            }
            None if several.is_empty() => Named::Unmatched,
            None => Named::Ambiguous(several.to_vec()),
        }
    }

    /// The task of this identity.
    #[must_use]
    pub fn task(&self, identity: &str) -> Option<u32> {
        self.identities.first_task(identity)
    }

    /// The task whose identity is the record's canonical id, and the field that has it.
    #[must_use]
    pub fn identify<T: AsRef<str>>(&self, keys: &Keys<T>) -> Option<(u32, MatchedBy)> {
        let (identity, by) = canonical_id(keys)?;
        Some((self.task(identity)?, by))
    }

    /// [`identify`](Self::identify) for records that came together: whoever sends many mostly sends them in the plan's
    /// order, and to see that a task is the next one takes less than to look for it.
    pub fn identify_all<'k, T: AsRef<str> + 'k>(
        &self,
        records: impl Iterator<Item = Option<&'k Keys<T>>>,
    ) -> impl Iterator<Item = Option<(u32, MatchedBy)>> {
        let mut next = None;
        let mut in_order = true;
        records.map(move |keys| {
            let (identity, by) = canonical_id(keys?)?;
            let is_next =
                next.filter(|next| in_order && self.identities.name_alone(*next, identity));
            in_order = next.is_none() || is_next.is_some();
            let task = is_next.or_else(|| self.task(identity))?;
            next = task.checked_add(1);
            Some((task, by))
        })
    }

    /// The tasks that one key of a record names.
    fn named_by<'s, T: AsRef<str>>(
        &'s self,
        by: MatchedBy,
        keys: &Keys<T>,
        sessions: &'s impl Sessions,
    ) -> Tasks<'s> {
        let key = match by {
            MatchedBy::TaskId => &keys.task_id,
            MatchedBy::Id => &keys.id,
            MatchedBy::SandboxSessionId => &keys.sandbox_session_id,
            MatchedBy::GroupKey => &keys.group_key,
            MatchedBy::Operator => return Tasks::None,
        };
        let key = trim(key.as_ref());
        if key.is_empty() {
            return Tasks::None;
        }
        if by == MatchedBy::GroupKey {
            return self.group_keys.tasks(key);
        }
        let by_group_key = |task| self.identified_by_group_key.binary_search(&task).is_ok();
        if let Some(task) = self.task(key).filter(|task| !by_group_key(*task)) {
            return Tasks::One(task);
        }
        match self.aliases.tasks(key) {
            Tasks::None if by == MatchedBy::SandboxSessionId => {
                let tasks = sessions.tasks_of(key).map(Candidates::as_slice);
                tasks.unwrap_or_default().into()
            }
            tasks => tasks,
        }
    }
}

/// The canonical id of a record, and the field that has it.
fn canonical_id<T: AsRef<str>>(keys: &Keys<T>) -> Option<(&str, MatchedBy)> {
    let by = [
        (&keys.task_id, MatchedBy::TaskId),
        (&keys.id, MatchedBy::Id),
        (&keys.group_key, MatchedBy::GroupKey),
    ];
    let mut by = by.into_iter().map(|(key, by)| (trim(key.as_ref()), by));
    by.find(|(key, _)| !key.is_empty())
}
