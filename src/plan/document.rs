//! The plan document and the reconciliation that both documents carry.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::hash_table::{Entry, HashTable};

use super::Error;
use super::identity::canonical_id;
use super::outline::Outline;
use crate::json::{Object, Value};

/// A plan: what the plan document says.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    head: Object,
    groups: Arc<[Value]>,
    task_requests: Arc<[Value]>,
    reconciliation: Value,
    item_count: usize,
}

impl Plan {
    pub(super) fn new(outline: &Outline, task_requests: Arc<[Value]>) -> Self {
        let groups = outline.group_entries(0..outline.group_count());
        Self {
            head: outline.head(),
            groups: groups.collect(),
            task_requests,
            reconciliation: outline.reconciliation(),
            item_count: outline.item_count(),
        }
    }

    /// Items in all groups.
    #[must_use]
    pub fn item_count(&self) -> usize {
        self.item_count
    }

    /// How many groups there are; as many as task requests.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The task requests in plan order.
    #[must_use]
    pub fn task_requests(&self) -> &[Value] {
        &self.task_requests
    }

    /// The plan document.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = self.head();
        document.set("groups", Value::Array(Arc::clone(&self.groups)));
        document.set(
            "task_requests",
            Value::Array(Arc::clone(&self.task_requests)),
        );
        document.set("reconciliation", self.reconciliation.clone());
        document.into()
    }

    /// The plan document without groups, task requests and reconciliation.
    #[must_use]
    pub fn head(&self) -> Object {
        self.head.clone()
    }

    /// The identities of the task requests, in plan order.
    ///
    /// # Errors
    /// One is empty, or two are equal.
    pub fn identities(&self) -> Result<Identities, Error> {
        Identities::of(&self.task_requests)
    }
}

/// The identities of task requests: canonical ids, none empty and no two equal.
#[derive(Clone, Debug)]
pub struct Identities {
    in_order: Vec<Arc<str>>,
    /// Positions by the hash of the identity: four bytes each, so that the table of a large plan stays in the cache.
    positions: HashTable<u32>,
    hasher: RandomState,
}

impl Identities {
    /// Reads the identities of task requests.
    ///
    /// # Errors
    /// One is not an object, has no identity, or has another's.
    pub fn of(task_requests: &[Value]) -> Result<Self, Error> {
        const MOST: usize = u32::MAX as usize;
        if task_requests.len() > MOST {
            return Err(Error::over("plan.task_requests", "task requests", MOST));
        }
        let mut identities = Self {
            in_order: Vec::with_capacity(task_requests.len()),
            positions: HashTable::with_capacity(task_requests.len()),
            hasher: RandomState::new(),
        };
        for (position, request) in task_requests.iter().enumerate() {
            let error = |problem| Error::new(format!("plan.task_requests[{position}]"), problem);
            let Some(request) = request.as_object() else {
                return Err(error(format!(
                    "expected an object, found {}",
                    request.kind()
                )));
            };
            let Some(id) = canonical_id(request).map(Value::shared_text) else {
                let problem = "has no identity: task_id, id and group_key are all empty";
                return Err(error(problem.into()));
            };
            if let Some(first) = identities.push(id) {
                let id = &identities.in_order[first as usize];
                let problem = format!("has the same identity as task_requests[{first}]: {id:?}");
                return Err(error(problem));
            }
        }
        Ok(identities)
    }

    /// Adds an identity; answers the position of an equal one instead, if there is one.
    fn push(&mut self, id: Arc<str>) -> Option<u32> {
        let Self {
            in_order,
            positions,
            hasher,
        } = self;
        let entry = positions.entry(
            hasher.hash_one(&*id),
            |position| in_order[*position as usize] == id,
            |position| hasher.hash_one(&*in_order[*position as usize]),
        );
        match entry {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(place) => {
                // There are at most u32::MAX, or `of` would not have begun.
                #[expect(clippy::cast_possible_truncation, reason = "checked by `of`")]
                place.insert(in_order.len() as u32);
                in_order.push(id);
                None
            }
        }
    }

    /// Position of the task request with this identity.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(id);
        let is_it = |position: &u32| *self.in_order[*position as usize] == *id;
        self.positions
            .find(hash, is_it)
            .map(|position| *position as usize)
    }

    /// The identities in plan order.
    #[must_use]
    pub fn in_order(&self) -> &[Arc<str>] {
        &self.in_order
    }
}

/// The counts of a reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Groups of the plan.
    pub group_count: usize,
    /// Tasks of the plan.
    pub task_count: usize,
    /// Records, those of missing tasks included.
    pub record_count: usize,
    /// Successful records.
    pub success_count: usize,
    /// Records that are not.
    pub failure_count: usize,
    /// Outcomes.
    pub outcome_count: usize,
    /// Identities of the failed tasks, in plan order.
    pub failed_task_ids: Vec<Arc<str>>,
}

impl Reconciliation {
    /// The `reconciliation` object of both documents.
    #[must_use]
    pub fn document(&self, schema: Value) -> Value {
        let mut document = Object::with_capacity(8);
        document.set("schema", schema);
        document.set("group_count", self.group_count);
        document.set("task_count", self.task_count);
        document.set("record_count", self.record_count);
        document.set("success_count", self.success_count);
        document.set("failure_count", self.failure_count);
        document.set("outcome_count", self.outcome_count);
        let failed = self
            .failed_task_ids
            .iter()
            .map(|id| Value::from(Arc::clone(id)));
        document.set("failed_task_ids", Value::array(failed.collect()));
        document.into()
    }
}
