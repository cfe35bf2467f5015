//! What a plan is, from its creation to its end: tasks, names, rules. Never changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Timestamp;
use super::state::EndReason;
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

/// When a plan ends by itself, and what counts as completed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Completion {
    /// What seals the plan.
    pub seal_rule: SealRule,
    /// So many successful tasks are enough.
    pub min_successful: Option<u64>,
    /// So many tasks may fail.
    pub tolerated_failure_count: Option<u64>,
    /// So many of a hundred tasks may fail.
    pub tolerated_failure_percentage: Option<f64>,
}

impl Completion {
    /// Whether every task has to be successful.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.min_successful.is_none() && !self.has_tolerance()
    }

    fn has_tolerance(&self) -> bool {
        self.tolerated_failure_count.is_some() || self.tolerated_failure_percentage.is_some()
    }

    /// Whether so many failures of so many tasks are tolerated; without a tolerance, none are.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "plans have far fewer than 2^52 tasks"
    )]
    pub fn tolerates(&self, failures: u64, tasks: u64) -> bool {
        if !self.has_tolerance() {
            return failures == 0;
        }
        let count = self
            .tolerated_failure_count
            .is_none_or(|most| failures <= most);
        let share = self
            .tolerated_failure_percentage
            .is_none_or(|most| failures as f64 * 100.0 <= most * tasks as f64);
        count && share
    }

    /// What ends an open plan by itself, with so many of its tasks recorded and so many of those successful.
    #[must_use]
    pub(super) fn ends(&self, tasks: u64, recorded: u64, successful: u64) -> Option<EndReason> {
        if self.seal_rule == SealRule::Explicit {
            None
        } else if self.has_tolerance() && !self.tolerates(recorded - successful, tasks) {
            Some(EndReason::ToleranceExceeded)
        } else if recorded == tasks {
            Some(EndReason::AllRecorded)
        } else if self.min_successful.is_some_and(|least| successful >= least) {
            Some(EndReason::MinimumReached)
        } else {
            None
        }
    }
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
    /// When it ends by itself, and what counts as completed.
    pub completion: Completion,
    /// When it is sealed whatever is missing.
    pub deadline: Option<Timestamp>,
    /// How long it can be read after its end.
    pub retention: Duration,
    /// When it was registered.
    pub created_at: Timestamp,
    /// How records are judged and the result is written.
    pub settings: Settings,
    /// The config that says so, without what was planned from it: compact JSON.
    pub config: Bytes,
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
    /// See [`Spec::completion`].
    pub completion: Completion,
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
        // One text for all, of which each task has its piece.
        let mut text = String::new();
        let mut ends = Vec::with_capacity(requests.len());
        for request in requests {
            if !json::write_compact_within(&mut text, request, request_bytes) {
                return Err(plan::Error {
                    field: "plan.task_requests".into(),
                    problem: format!(
                        "rendered task requests are longer than {request_bytes} bytes"
                    ),
                    limit: Some(request_bytes),
                });
            }
            ends.push(text.len());
        }
        text.shrink_to_fit();
        let text = Bytes::from(text);
        let begins = std::iter::once(0).chain(ends.iter().copied());
        let places = begins.zip(ends.iter().copied());
        let task = |((request, id), (begin, end)): ((&Value, &Arc<str>), (usize, usize))| {
            let group_key = request
                .get("group_key")
                .filter(|group_key| group_key.is_present());
            TaskSpec {
                id: Arc::clone(id),
                group_key: group_key.cloned().unwrap_or_else(|| "".into()),
                request: text.slice(begin..end),
            }
        };
        let tasks = requests.iter().zip(identities.in_order()).zip(places);
        let tasks = tasks.map(task).collect();
        let head = Value::from(plan.head());
        Ok(Self {
            plan_id: terms.plan_id,
            digest: terms.digest,
            labels: terms.labels,
            completion: terms.completion,
            deadline: terms.deadline,
            retention: terms.retention,
            created_at: terms.created_at,
            settings: Settings::read(config)?,
            config: json::compact(&without_input(config).into()).into(),
            head: json::compact(&head).into(),
            result_head: ResultHead::of_plan(&head),
            item_count: plan.item_count(),
            group_count: plan.group_count(),
            index: Index::new(identities.in_order(), &keys),
            tasks,
        })
    }

    /// Makes the spec again of what was kept of it, without planning. The tasks are in plan order.
    ///
    /// # Errors
    /// The config, the head or a task request is not what [`Spec::new`] had made.
    pub fn restore(
        terms: Terms,
        config: Bytes,
        head: Bytes,
        (item_count, group_count): (usize, usize),
        tasks: Vec<TaskSpec>,
    ) -> Result<Self, plan::Error> {
        let settings = match parsed("config", &config)?.as_object() {
            Some(config) => Settings::read(config)?,
            None => return Err(plan::Error::new("config", "expected an object")),
        };
        let ids: Vec<_> = tasks.iter().map(|task| Arc::clone(&task.id)).collect();
        let keys = tasks.iter().map(|task| keys_in(&task.request));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            plan_id: terms.plan_id,
            digest: terms.digest,
            labels: terms.labels,
            completion: terms.completion,
            deadline: terms.deadline,
            retention: terms.retention,
            created_at: terms.created_at,
            settings,
            config,
            result_head: ResultHead::of_plan(&parsed("head", &head)?),
            head,
            item_count,
            group_count,
            index: Index::new(&ids, &keys),
            tasks,
        })
    }

    /// The same plan without what makes it large: tasks, their index, documents. For an answer that is kept.
    #[must_use]
    pub fn without_tasks(&self) -> Self {
        Self {
            plan_id: Arc::clone(&self.plan_id),
            digest: self.digest.clone(),
            labels: self.labels.clone(),
            completion: self.completion,
            deadline: self.deadline,
            retention: self.retention,
            created_at: self.created_at,
            settings: self.settings.clone(),
            config: Bytes::new(),
            head: Bytes::new(),
            result_head: ResultHead::default(),
            item_count: self.item_count,
            group_count: self.group_count,
            tasks: Vec::new(),
            index: Index::default(),
        }
    }
}

impl TaskSpec {
    /// The group key as compact JSON.
    #[must_use]
    pub fn group_key_text(&self) -> String {
        json::compact(&self.group_key)
    }

    /// Makes a task again of what was kept of it: its id, its group key and its request, the last two as JSON.
    ///
    /// # Errors
    /// The group key is not JSON.
    pub fn restore(id: Arc<str>, group_key: &str, request: Bytes) -> Result<Self, plan::Error> {
        Ok(Self {
            id,
            group_key: parsed("group_key", group_key.as_bytes())?,
            request,
        })
    }
}

/// The config without what groups are made of, which is large and not asked for again.
fn without_input(config: &Object) -> Object {
    let mut config = config.clone();
    for input in ["items", "groups", "packets", "finding_packets"] {
        config.remove(input);
    }
    config
}

/// A task request has a config's template around a caller's items, each of which may be as deep as a document.
pub(super) fn kept_limits() -> json::Limits {
    json::Limits {
        depth: 2 * json::Limits::default().depth,
        number_bytes: usize::MAX,
    }
}

fn parsed(field: &str, text: &[u8]) -> Result<Value, plan::Error> {
    json::parse(text, kept_limits()).map_err(|error| plan::Error::new(field, error.to_string()))
}

/// The keys of a task request, read from its text.
fn keys_in(request: &[u8]) -> Result<Keys, plan::Error> {
    let mut keys = Keys::default();
    let mut wrong = None;
    let scanned = json::scan::members(request, kept_limits(), |member| {
        let key = match &*member.key {
            "task_id" => &mut keys.task_id,
            "id" => &mut keys.id,
            "sandbox_session_id" => &mut keys.sandbox_session_id,
            "group_key" => &mut keys.group_key,
            _ => return,
        };
        match parsed("task_requests", member.value.as_bytes()) {
            Ok(value) => *key = value.shared_text(),
            Err(error) => wrong = Some(error),
        }
    });
    let scanned = scanned.map_err(|error| plan::Error::new("task_requests", error.to_string()));
    match (scanned, wrong) {
        (Err(error), _) | (_, Some(error)) => Err(error),
        (Ok(_), None) => Ok(keys),
    }
}
