//! What a plan is, from its creation to its end: tasks, names, rules. Never changes.

mod kept;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Timestamp;
use super::state::EndReason;
use crate::json::{self, Object, Value};
use crate::plan::{self, Keys, Plan};
use crate::reconcile::{Index, IndexBuilder, ResultHead, Settings};
use kept::Kept;

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
    /// What its tasks follow from, as W3C Trace Context has it; empty if nobody said. Not looked at here.
    pub traceparent: String,
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
    /// Its tasks.
    pub tasks: Tasks,
    /// Their names.
    pub index: Index,
}

/// What a plan keeps of its tasks beside their names.
#[derive(Debug, Default)]
pub struct Tasks {
    /// All task requests: compact JSON, one after the other, of which each task has its piece.
    requests: Bytes,
    /// Where each ends. Together they are shorter than 4 GiB.
    ends: Vec<u32>,
    /// Group keys that are more than their usable text, by task. Hardly ever any.
    other_group_keys: Vec<(u32, Value)>,
}

impl Tasks {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The tasks at these positions, as far as there are any.
    #[must_use]
    pub fn numbers(&self, positions: Range<usize>) -> Range<u32> {
        // Their number was counted with 32 bits.
        let number = |position: usize| u32::try_from(position.min(self.len())).unwrap_or(u32::MAX);
        number(positions.start)..number(positions.end)
    }

    /// Where a task's request stands.
    fn place(&self, task: u32) -> Range<usize> {
        let task = task as usize;
        let begin = task.checked_sub(1).map_or(0, |before| self.ends[before]);
        begin as usize..self.ends[task] as usize
    }

    /// The group key of a task, if it is more than its usable text.
    fn other_group_key(&self, task: u32) -> Option<&Value> {
        let keys = &self.other_group_keys;
        let place = keys.binary_search_by_key(&task, |(task, _)| *task).ok()?;
        Some(&keys[place].1)
    }
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

/// What a task takes beside its request, about: its names, its place, its slot.
const BYTES_OF_TASK: usize = 96;

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
        let mut names = IndexBuilder::with_capacity(plan.task_requests().len());
        let mut tasks = TasksBuilder::with_capacity(plan.task_requests().len(), request_bytes);
        for request in plan.task_requests() {
            tasks.add(request, &mut names)?;
        }
        let index = names.finish();
        if !index.tells_all_tasks_apart() {
            // Says which.
            plan.identities()?;
        }
        let head = Value::from(plan.head());
        Ok(Self {
            plan_id: terms.plan_id,
            digest: terms.digest,
            labels: terms.labels,
            completion: terms.completion,
            deadline: terms.deadline,
            retention: terms.retention,
            created_at: terms.created_at,
            traceparent: String::new(),
            settings: Settings::read(config)?,
            config: json::compact(&without_input(config).into()).into(),
            head: json::compact(&head).into(),
            result_head: ResultHead::of_plan(&head),
            item_count: plan.item_count(),
            group_count: plan.group_count(),
            index,
            tasks: tasks.finish(),
        })
    }

    /// Makes the spec again of what was kept of it, without planning. The task requests are in plan order.
    ///
    /// # Errors
    /// The config, the head or a task request is not what [`Spec::new`] had made.
    pub fn restore(
        terms: Terms,
        config: Bytes,
        head: Bytes,
        (item_count, group_count): (usize, usize),
        requests: &[Bytes],
    ) -> Result<Self, plan::Error> {
        let settings = match parsed("config", &config)?.as_object() {
            Some(config) => Settings::read(config)?,
            None => return Err(plan::Error::new("config", "expected an object")),
        };
        let mut names = IndexBuilder::with_capacity(requests.len());
        let mut tasks = TasksBuilder::with_capacity(requests.len(), usize::MAX);
        tasks.text.reserve(requests.iter().map(Bytes::len).sum());
        for request in requests {
            tasks.add_kept(request, &mut names)?;
        }
        let index = names.finish();
        if !index.tells_all_tasks_apart() {
            let problem = "two tasks have the same identity, or one has none";
            return Err(plan::Error::new("task_requests", problem));
        }
        Ok(Self {
            plan_id: terms.plan_id,
            digest: terms.digest,
            labels: terms.labels,
            completion: terms.completion,
            deadline: terms.deadline,
            retention: terms.retention,
            created_at: terms.created_at,
            traceparent: String::new(),
            settings,
            config,
            result_head: ResultHead::of_plan(&parsed("head", &head)?),
            head,
            item_count,
            group_count,
            index,
            tasks: tasks.finish(),
        })
    }

    /// The identity of a task.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn task_id(&self, task: u32) -> &str {
        self.index.identity(task)
    }

    /// The group key of a task as its request has it; the empty string if that does not count as given.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn group_key(&self, task: u32) -> Value {
        let other = self.tasks.other_group_key(task).cloned();
        other.unwrap_or_else(|| self.index.group_key(task).into())
    }

    /// The usable text of [`Spec::group_key`].
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn group_key_text(&self, task: u32) -> Cow<'_, str> {
        match self.tasks.other_group_key(task) {
            Some(other) => other.text(),
            None => self.index.group_key(task).into(),
        }
    }

    /// The request of a task: compact JSON.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn request(&self, task: u32) -> Bytes {
        self.tasks.requests.slice(self.tasks.place(task))
    }

    /// How many bytes the request of a task has.
    ///
    /// # Panics
    /// There is no such task.
    #[must_use]
    pub fn request_bytes(&self, task: u32) -> usize {
        self.tasks.place(task).len()
    }

    /// How many bytes of memory it takes, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let text = self.config.len() + self.head.len() + self.tasks.requests.len();
        (text + self.tasks.len() * BYTES_OF_TASK) as u64
    }

    /// The same plan without what makes it large: tasks, their index, documents, settings. For an answer that is kept, of which
    /// only the labels are of any length.
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
            traceparent: self.traceparent.clone(),
            settings: Settings::default(),
            config: Bytes::new(),
            head: Bytes::new(),
            result_head: ResultHead::default(),
            item_count: self.item_count,
            group_count: self.group_count,
            tasks: Tasks::default(),
            index: Index::default(),
        }
    }
}

/// Takes one task request after the other.
struct TasksBuilder {
    text: String,
    text_bytes_max: usize,
    ends: Vec<u32>,
    other_group_keys: Vec<(u32, Value)>,
}

impl TasksBuilder {
    fn with_capacity(tasks: usize, text_bytes_max: usize) -> Self {
        Self {
            text: String::new(),
            text_bytes_max: text_bytes_max.min(u32::MAX as usize),
            ends: Vec::with_capacity(tasks),
            other_group_keys: Vec::new(),
        }
    }

    /// Prints the next task request, and hands on its names.
    fn add(&mut self, request: &Value, names: &mut IndexBuilder) -> Result<(), plan::Error> {
        let most = self.text_bytes_max;
        let whole = json::write_compact_within(&mut self.text, request, most);
        let (true, Ok(end), Ok(task)) = (
            whole,
            u32::try_from(self.text.len()),
            u32::try_from(self.ends.len()),
        ) else {
            return Err(plan::Error {
                field: "plan.task_requests".into(),
                problem: format!("rendered task requests are longer than {most} bytes"),
                limit: Some(most),
            });
        };
        self.ends.push(end);
        let keys = request.as_object().map(Keys::borrowed).unwrap_or_default();
        names.add(&keys);
        self.add_group_key(task, request, &keys.group_key);
        Ok(())
    }

    /// [`TasksBuilder::add`] of a request that was printed before: only what names it is taken out of its text.
    fn add_kept(&mut self, request: &[u8], names: &mut IndexBuilder) -> Result<(), plan::Error> {
        let kept = Kept::read(request)?;
        let (Ok(end), Ok(task)) = (
            u32::try_from(self.text.len() + kept.text.len()),
            u32::try_from(self.ends.len()),
        ) else {
            let most = u32::MAX as usize;
            return Err(plan::Error::over("task_requests", "bytes", most));
        };
        self.text.push_str(kept.text);
        self.ends.push(end);
        if let Some(keys) = kept.plain_keys() {
            names.add(&keys);
            return Ok(());
        }
        let naming = kept.naming()?;
        let keys = Keys::borrowed(&naming);
        names.add(&keys);
        let group_key = keys.group_key.into_owned();
        self.add_group_key(task, &naming.into(), &group_key);
        Ok(())
    }

    /// Keeps the group key of a request if it is more than its usable text.
    fn add_group_key(&mut self, task: u32, request: &Value, text: &str) {
        let group_key = request.get("group_key");
        let group_key = group_key.filter(|group_key| group_key.is_present());
        if group_key.map_or(Some(""), Value::as_str) != Some(text) {
            let group_key = group_key.cloned().unwrap_or_else(|| "".into());
            self.other_group_keys.push((task, group_key));
        }
    }

    fn finish(mut self) -> Tasks {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.other_group_keys.shrink_to_fit();
        Tasks {
            requests: self.text.into(),
            ends: self.ends,
            other_group_keys: self.other_group_keys,
        }
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

#[cfg(test)]
mod tests {
    use super::{Spec, Terms, json, plan};

    #[test]
    fn what_an_answer_keeps_of_a_plan_is_small_however_large_its_config() {
        let long = "x".repeat(1 << 20);
        let config = format!(
            r#"{{"group_key_path":"k","items":[{{"k":"a"}}],"task_request_template":{{"id":"t"}},
            "success_statuses":["{long}"],"base_run":{{"b":"{long}"}},"result_schema":"{long}"}}"#
        );
        let config = json::parse(config.as_bytes(), json::Limits::default()).expect("a document");
        let config = config.as_object().expect("an object");
        let input = plan::Input {
            config: config.clone(),
            items: None,
            groups: None,
        };
        let planned = plan::plan(input, &plan::Limits::default()).expect("a plan");
        let spec = Spec::new(Terms::default(), config, &planned, 1_000).expect("a spec");
        assert!(format!("{spec:?}").len() > 3 << 20);
        assert!(format!("{:?}", spec.without_tasks()).len() < 2_000);
    }
}
