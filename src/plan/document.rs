//! The plan document and the reconciliation that both documents carry.

use std::collections::HashMap;
use std::sync::Arc;

use super::Error;
use super::config::Config;
use super::grouping::Group;
use super::identity::canonical_id;
use crate::json::{Object, Value};

/// A plan: what the plan document says.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    schema: Value,
    orchestrator: Value,
    summary: Value,
    groups: Arc<Vec<Value>>,
    task_requests: Arc<Vec<Value>>,
    reconciliation: Value,
    item_count: usize,
}

impl Plan {
    pub(super) fn new(config: &Config, groups: &[Group], task_requests: Vec<Value>) -> Self {
        let item_count = groups.iter().map(|group| group.items.len()).sum();
        let mut summary = Object::default();
        summary.set("item_count", item_count);
        summary.set("group_count", groups.len());
        summary.set("task_count", task_requests.len());
        summary.set("config_schema", config.schema.clone());
        if let Some(more) = &config.summary {
            summary.extend(more);
        }
        let reconciliation = Reconciliation {
            group_count: groups.len(),
            task_count: task_requests.len(),
            ..Reconciliation::default()
        };
        let names: [Arc<str>; 3] = ["key".into(), "index".into(), "item_count".into()];
        let group_entry = |(index, group): (usize, &Group)| {
            let mut entry = Object::with_capacity(3);
            entry.set(Arc::clone(&names[0]), Arc::clone(&group.key));
            entry.set(Arc::clone(&names[1]), index);
            entry.set(Arc::clone(&names[2]), group.items.len());
            Value::from(entry)
        };
        Self {
            schema: config.plan_schema.clone(),
            orchestrator: config.orchestrator.clone(),
            summary: summary.into(),
            groups: Arc::new(groups.iter().enumerate().map(group_entry).collect()),
            task_requests: Arc::new(task_requests),
            reconciliation: reconciliation.document(config.reconciliation_schema.clone()),
            item_count,
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
        let mut head = Object::with_capacity(6);
        head.set("schema", self.schema.clone());
        head.set("orchestrator", self.orchestrator.clone());
        head.set("summary", self.summary.clone());
        head
    }

    /// The identities of the task requests, in plan order.
    ///
    /// # Errors
    /// One is empty, or two are equal.
    pub fn identities(&self) -> Result<Vec<Arc<str>>, Error> {
        identities(&self.task_requests)
    }
}

/// The identities of task requests: canonical ids, none empty and no two equal.
pub(crate) fn identities(task_requests: &[Value]) -> Result<Vec<Arc<str>>, Error> {
    let mut first_with: HashMap<Arc<str>, usize> = HashMap::with_capacity(task_requests.len());
    let mut identities = Vec::with_capacity(task_requests.len());
    for (position, request) in task_requests.iter().enumerate() {
        let field = || format!("plan.task_requests[{position}]");
        if request.as_object().is_none() {
            return Err(Error::new(
                field(),
                format!("expected an object, found {}", request.kind()),
            ));
        }
        let id = canonical_id(request);
        if id.is_empty() {
            let problem = "has no identity: task_id, id and group_key are all empty";
            return Err(Error::new(field(), problem));
        }
        if let Some(first) = first_with.insert(Arc::clone(&id), position) {
            let problem = format!("has the same identity as task_requests[{first}]: {id:?}");
            return Err(Error::new(field(), problem));
        }
        identities.push(id);
    }
    Ok(identities)
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
            .map(|id| Value::String(Arc::clone(id)));
        document.set("failed_task_ids", Value::array(failed.collect()));
        document.into()
    }
}
