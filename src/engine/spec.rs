//! What a plan is, from its creation to its end: tasks, names, rules. Never changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Timestamp;
use crate::json::{self, Object, Value};
use crate::plan::{self, Keys, Plan};
use crate::reconcile::{Index, ResultHead, Settings};

/// What seals a plan, beside its deadline and its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealRule {
    /// Every task has a record.
    #[default]
    WhenAllRecorded,
    /// Nothing: somebody must.
    Explicit,
}

/// The immutable part of a plan.
#[derive(Debug)]
pub struct Spec {
    /// Its name.
    pub plan_id: Arc<str>,
    /// Hash of what was planned, 64 hex digits.
    pub digest: String,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// What seals it.
    pub seal_rule: SealRule,
    /// When it is sealed whatever is missing.
    pub deadline: Option<Timestamp>,
    /// How long it can be read after its end.
    pub retention: Duration,
    /// When it was registered.
    pub created_at: Timestamp,
    /// How records are judged and the result is written.
    pub settings: Settings,
    /// The plan document without groups, task requests and reconciliation: JSON.
    pub head: Bytes,
    /// What the result document repeats of it.
    pub result_head: ResultHead,
    /// Items in all groups.
    pub item_count: usize,
    /// Groups.
    pub group_count: usize,
    /// Tasks in plan order.
    pub tasks: Vec<TaskSpec>,
    /// Their names.
    pub index: Index,
}

/// One planned task.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    /// Its identity.
    pub id: Arc<str>,
    /// Its group key as the task request has it; the empty string if it has none.
    pub group_key: Value,
    /// The task request: compact JSON.
    pub request: Bytes,
}

/// What a plan is given beside what it plans.
#[derive(Debug, Default)]
pub struct Terms {
    /// See [`Spec::plan_id`].
    pub plan_id: Arc<str>,
    /// See [`Spec::digest`].
    pub digest: String,
    /// See [`Spec::labels`].
    pub labels: BTreeMap<String, String>,
    /// See [`Spec::seal_rule`].
    pub seal_rule: SealRule,
    /// See [`Spec::deadline`].
    pub deadline: Option<Timestamp>,
    /// See [`Spec::retention`].
    pub retention: Duration,
    /// See [`Spec::created_at`].
    pub created_at: Timestamp,
}

impl Spec {
    /// Makes the spec of a plan.
    ///
    /// # Errors
    /// The plan's identities are not usable, a reconcile setting is wrong, or the printed task requests are longer than
    /// `request_bytes` together.
    pub fn new(
        terms: Terms,
        config: &Object,
        plan: &Plan,
        request_bytes: usize,
    ) -> Result<Self, plan::Error> {
        let identities = plan.identities()?;
        let requests = plan.task_requests();
        let keys: Vec<Keys> = requests
            .iter()
            .filter_map(Value::as_object)
            .map(Keys::of)
            .collect();
        let mut left = request_bytes;
        let mut tasks = Vec::with_capacity(requests.len());
        for (request, id) in requests.iter().zip(identities.in_order()) {
            let mut text = String::new();
            if !json::write_compact_within(&mut text, request, left) {
                return Err(plan::Error {
                    field: "plan.task_requests".into(),
                    problem: format!(
                        "rendered task requests are longer than {request_bytes} bytes"
                    ),
                    limit: Some(request_bytes),
                });
            }
            left -= text.len();
            let group_key = request
                .get("group_key")
                .filter(|group_key| group_key.is_present());
            tasks.push(TaskSpec {
                id: Arc::clone(id),
                group_key: group_key.cloned().unwrap_or_else(|| "".into()),
                request: text.into(),
            });
        }
        let head = Value::from(plan.head());
        Ok(Self {
            plan_id: terms.plan_id,
            digest: terms.digest,
            labels: terms.labels,
            seal_rule: terms.seal_rule,
            deadline: terms.deadline,
            retention: terms.retention,
            created_at: terms.created_at,
            settings: Settings::read(config)?,
            head: json::compact(&head).into(),
            result_head: ResultHead::of_plan(&head),
            item_count: plan.item_count(),
            group_count: plan.group_count(),
            index: Index::new(identities.in_order(), &keys),
            tasks,
        })
    }
}
