//! Registering plans: name, digest, idempotence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::name::{plan_name, tenant_of};
use super::request_ids::{RequestIds, fingerprint};
use super::{Coordinator, Error, PlanView, view};
use crate::engine::{Command, Completion, Entry, Event, SealRule, Spec, State, Terms, Timestamp};
use crate::journal::{self, History};
use crate::json::{self, Object, Value};
use crate::plan::{self, FindingsInput, Input, Plan};
use crate::registry::{LivePlan, Refusal};
use crate::telemetry;

/// What is to be planned.
#[derive(Clone, Debug)]
pub struct PlanCommand {
    /// Whose plan it is; empty is a tenant, too.
    pub tenant: Arc<str>,
    /// Makes the request idempotent; empty if not wanted.
    pub request_id: String,
    /// Name of the plan; empty: made from the config, else a UUIDv8 of the request id, else a UUIDv7.
    pub plan_id: String,
    /// The config.
    pub config: Object,
    /// What is cut into groups.
    pub source: Source,
    /// When the plan ends by itself, and what counts as completed.
    pub completion: Completion,
    /// When it is sealed whatever is missing.
    pub deadline: Option<Deadline>,
    /// How long it can be read after its end; `None`: the default.
    pub retention: Option<Duration>,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// Check only.
    pub validate_only: bool,
    /// Longest plan document that is wanted back.
    pub document_bytes_max: usize,
}

/// What is cut into groups.
#[derive(Clone, Debug)]
pub enum Source {
    /// Whatever the config has: groups, items or packets.
    Config,
    /// These items.
    Items(Value),
    /// These groups.
    Groups(Value),
    /// The findings of these packets.
    Packets {
        /// List of packets.
        packets: Value,
        /// How they are named and grouped.
        policy: Option<Value>,
    },
}

/// A deadline.
#[derive(Clone, Copy, Debug)]
pub enum Deadline {
    /// At this time.
    At(Timestamp),
    /// So long from now.
    After(Duration),
}

/// A plan that is registered, or would be.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The plan as it stands.
    pub view: PlanView,
    /// The plan document as compact JSON, if it is not longer than was asked for.
    pub document: Option<Bytes>,
    /// Whether this request made it.
    pub created: bool,
}

impl Coordinator {
    /// Plans and registers. Not to be dropped half-way: run it on a task of its own.
    ///
    /// # Errors
    /// The documents cannot be planned, the name or request id is taken by something else, or there are too many plans.
    pub async fn register(&self, command: PlanCommand) -> Result<Registered, Error> {
        let request_id = command.request_id.clone();
        let validate_only = command.validate_only;
        let requested_id = command.plan_id.clone();
        let (now, limits) = (self.clock.now(), self.limits);
        let traceparent = telemetry::traces::traceparent();
        // Planning a million items takes a while, and no other call may wait for it.
        let planned =
            tokio::task::spawn_blocking(move || prepare(command, now, traceparent, &limits)).await;
        let (spec, document) =
            planned.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let fingerprint = fingerprint("plan", &format!("{requested_id}\0{}", spec.digest));
        if validate_only {
            let mut request_ids = self.request_ids.lock().await;
            let known = request_ids.known(&request_id, fingerprint, now)?;
            drop(request_ids);
            match self.current(&spec.plan_id).await {
                Ok(plan) => drop(registered_before(&plan, &spec, None)?),
                Err(Error::PlanNotFound { .. }) if known.is_none() => {}
                Err(error) => return Err(error),
            }
            let view = PlanView::of(&State::created(spec));
            return Ok(Registered {
                view,
                document,
                created: false,
            });
        }

        self.check_recovered()?;
        if self.shared.is_some() {
            // Reading a large plan takes a while; other registrations wait from here on.
            drop(self.plan(&spec.plan_id).await);
        }
        let mut request_ids = self.request_ids.lock().await;
        if let Some(known) = request_ids.known(&request_id, fingerprint, now)? {
            let plan = self.current(&known.plan_id).await?;
            return registered_before(&plan, &spec, document);
        }
        // No process makes the plan live twice: not by reading what was just begun here.
        let loading = match &self.shared {
            Some(shared) => Some(shared.loading(&spec.plan_id).lock().await),
            None => None,
        };
        let claim = |request_ids: &mut RequestIds, spec: &Spec| match &*request_id {
            "" => Ok(()),
            id => request_ids.claim(id, fingerprint, spec, None, now),
        };
        if let Some(plan) = self.taken(&spec.plan_id).await? {
            let registered = registered_before(&plan, &spec, document)?;
            claim(&mut request_ids, plan.spec())?;
            return Ok(registered);
        }
        self.check_quota(&spec)?;
        claim(&mut request_ids, &spec)?;
        let created = Entry {
            sequence: 1,
            at: spec.created_at,
            event: Event::PlanCreated(Arc::clone(&spec)),
        };
        let created = Arc::new(created);
        let history = match self.begin_history(&created, &spec.plan_id).await {
            Ok(history) => history,
            Err(error) => {
                request_ids.give_back(&request_id);
                let was_first = matches!(
                    error,
                    journal::Error::Exists | journal::Error::Conflict { .. }
                );
                return match &self.shared {
                    Some(_) if was_first => match self.load_held(&spec.plan_id).await {
                        Ok(plan) => {
                            let registered = registered_before(&plan, &spec, document)?;
                            claim(&mut request_ids, plan.spec())?;
                            Ok(registered)
                        }
                        Err(Error::PlanNotFound { .. }) => Err(begun_elsewhere()),
                        Err(error) => Err(error),
                    },
                    _ => Err(error.into()),
                };
            }
        };
        let plan = Arc::new(LivePlan::new(Arc::clone(&spec), history, created));
        plan.use_at(now);
        let tenant = tenant_of(&spec.plan_id);
        self.registry.insert(Arc::clone(&plan), tenant);
        drop(loading);
        drop(request_ids);

        telemetry::metrics::plan_registered();
        tracing::info!(
            plan.id = &*spec.plan_id,
            plan.tasks = spec.tasks.len(),
            "plan registered"
        );
        if let Some(deadline) = spec.deadline {
            self.timers.add(deadline, &spec.plan_id);
        }
        // A plan without tasks is complete at once.
        self.change(&plan, &Command::Tick).await?;
        Ok(Registered {
            view: view(&plan)?,
            document,
            created: true,
        })
    }
}

/// The answer for a plan whose name is taken.
fn registered_before(
    plan: &LivePlan,
    spec: &Spec,
    document: Option<Bytes>,
) -> Result<Registered, Error> {
    if plan.spec().digest == spec.digest {
        return Ok(Registered {
            view: view(plan)?,
            document,
            created: false,
        });
    }
    Err(Error::PlanExists {
        plan_id: spec.plan_id.to_string(),
        existing: plan.spec().digest.clone(),
        requested: spec.digest.clone(),
    })
}

/// Another process is registering a plan of this name, or has just died of it.
fn begun_elsewhere() -> Error {
    let problem = "another process is registering a plan of this name";
    Error::Journal(journal::Error::Away(problem.into()))
}

fn prepare(
    command: PlanCommand,
    now: Timestamp,
    traceparent: String,
    limits: &super::Limits,
) -> Result<(Arc<Spec>, Option<Bytes>), Error> {
    let deadline = match command.deadline {
        Some(Deadline::At(at)) if at <= now => {
            return Err(Error::Invalid {
                field: "deadline".into(),
                problem: "is not in the future".into(),
                reason: "DEADLINE_PASSED",
                limit: None,
            });
        }
        Some(Deadline::At(at)) if at > now.plus(limits.deadline) => {
            let most = limits.deadline.as_secs();
            return Err(Error::Invalid {
                field: "deadline".into(),
                problem: format!("is more than {most}s from now"),
                reason: "LIMIT_EXCEEDED",
                limit: Some(most),
            });
        }
        Some(Deadline::At(at)) => Some(at),
        Some(Deadline::After(after)) => Some(now.plus(after)),
        None => None,
    };
    let digest = digest(&command);
    let plan = make(&command.config, command.source, &limits.plan)?;
    let tasks = plan.task_requests().len();
    let least = command.completion.min_successful.unwrap_or_default();
    if least > tasks as u64 {
        return Err(Error::Invalid {
            field: "completion_policy.min_successful".into(),
            problem: format!("is {least}, but there are {tasks} tasks"),
            reason: "INVALID_COMPLETION_POLICY",
            limit: None,
        });
    }
    let id = plan_id(
        command.plan_id,
        &command.request_id,
        &command.config,
        limits.id_bytes,
    )?;
    let name = plan_name(&command.tenant, &id);
    let terms = Terms {
        plan_id: name.into(),
        digest,
        labels: command.labels,
        completion: command.completion,
        deadline,
        retention: command.retention.unwrap_or(limits.retention),
        created_at: now,
    };
    let mut spec = Spec::new(terms, &command.config, &plan, limits.task_request_bytes)?;
    spec.traceparent = traceparent;
    check_tasks(&spec, limits)?;
    let mut document = String::new();
    let whole =
        json::write_compact_within(&mut document, &plan.document(), command.document_bytes_max);
    Ok((Arc::new(spec), whole.then(|| document.into())))
}

impl Coordinator {
    /// The plan that has this name, if one has.
    async fn taken(&self, plan_id: &str) -> Result<Option<Arc<LivePlan>>, Error> {
        if self.shared.is_some() {
            match self.load_held(plan_id).await {
                Ok(plan) => {
                    self.catch_up(&plan).await?;
                    return Ok(Some(plan));
                }
                Err(Error::PlanNotFound { .. }) => self.make_room()?,
                Err(error) => return Err(error),
            }
        }
        match self.registry.room_for(plan_id) {
            Ok(()) => Ok(None),
            Err(Refusal::Taken(plan)) => Ok(Some(plan)),
            Err(Refusal::Full) => Err(self.plans_are_full()),
        }
    }

    /// A history with its first entry. If that is not taken, there is none.
    async fn begin_history(
        &self,
        created: &Arc<Entry>,
        plan_id: &str,
    ) -> Result<Arc<dyn History>, journal::Error> {
        let history = self.journal.create(plan_id).wait().await?;
        // Writing down a million tasks takes a while, and no other call may wait for it.
        let (appending, first) = (Arc::clone(&history), Arc::clone(created));
        let append = move || appending.append(0, std::slice::from_ref(&first));
        let appended = tokio::task::spawn_blocking(append).await;
        let appended =
            appended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if let Err(error) = appended.wait().await {
            let may_be_there = self.shared.is_some()
                && matches!(
                    error,
                    journal::Error::Conflict { .. }
                        | journal::Error::Away(_)
                        | journal::Error::NotFound
                );
            if may_be_there {
                return Err(error);
            }
            if let Err(left) = self.journal.delete(plan_id).wait().await {
                tracing::warn!(plan.id = plan_id, error = %left, "failed to forget a plan that was not registered");
            }
            return Err(error);
        }
        Ok(history)
    }
}

/// A task whose id no record could name, or whose request no answer could carry, would never be done.
fn check_tasks(spec: &Spec, limits: &super::Limits) -> Result<(), Error> {
    let refused = |task: u32, problem: String, reason, limit: Option<usize>| Error::Invalid {
        field: format!("config.task_request_template (task {task})"),
        problem,
        reason,
        limit: limit.map(|limit| limit as u64),
    };
    for task in spec.tasks.numbers(0..spec.tasks.len()) {
        let id = spec.task_id(task);
        for (what, length, most) in [
            ("id", id.len(), limits.id_bytes),
            (
                "request",
                spec.request_bytes(task),
                limits.one_task_request_bytes,
            ),
        ] {
            if length > most {
                let problem =
                    format!("its {what} is {length} bytes long, at most {most} are allowed");
                return Err(refused(task, problem, "LIMIT_EXCEEDED", Some(most)));
            }
        }
        if id.contains('\0') {
            let problem = "its id contains a NUL character".into();
            return Err(refused(task, problem, "INVALID_TEXT", None));
        }
    }
    Ok(())
}

fn make(config: &Object, source: Source, limits: &plan::Limits) -> Result<Plan, plan::Error> {
    let config = config.clone();
    match source {
        Source::Items(items) => plan::plan(
            Input {
                config,
                items: Some(items),
                groups: None,
            },
            limits,
        ),
        Source::Groups(groups) => plan::plan(
            Input {
                config,
                items: None,
                groups: Some(groups),
            },
            limits,
        ),
        Source::Packets { packets, policy } => {
            plan::plan_findings(&FindingsInput::new(Some(packets), policy, config), limits)
        }
        Source::Config => {
            if let Some(packets) = FindingsInput::of_config(&config) {
                return plan::plan_findings(&packets, limits);
            }
            plan::plan(
                Input {
                    config,
                    items: None,
                    groups: None,
                },
                limits,
            )
        }
    }
}

/// Hash of what is planned. Deadline, retention and labels are terms of the registration, not content.
fn digest(command: &PlanCommand) -> String {
    let mut hash = ContentHash::default();
    hash.add("config", &command.config.clone().into());
    match &command.source {
        Source::Config => hash.tag("source"),
        Source::Items(items) => hash.add("items", items),
        Source::Groups(groups) => hash.add("groups", groups),
        Source::Packets { packets, policy } => {
            hash.add("packets", packets);
            match policy {
                Some(policy) => hash.add("policy", policy),
                None => hash.tag("policy"),
            }
        }
    }
    let completion = &command.completion;
    hash.tag(if completion.seal_rule == SealRule::Explicit {
        "explicit"
    } else {
        "when_all_recorded"
    });
    if !completion.is_everything() {
        let Completion {
            seal_rule: _,
            min_successful,
            tolerated_failure_count,
            tolerated_failure_percentage,
        } = completion;
        let rules = format!(
            "{min_successful:?} {tolerated_failure_count:?} {tolerated_failure_percentage:?}"
        );
        hash.add("completion", &rules.as_str().into());
    }
    hash.0.finalize().to_string()
}

/// A hash of tagged values. Each ends with its length, so that none can be taken for a part of another.
#[derive(Default)]
struct ContentHash(blake3::Hasher);

impl ContentHash {
    /// A tag without a value.
    fn tag(&mut self, tag: &str) {
        self.0.update(tag.as_bytes());
        self.0.update(&0_u64.to_le_bytes());
    }

    /// A value, as its compact text. That of a list is taken element by element: a million items have a long one.
    fn add(&mut self, tag: &str, value: &Value) {
        let mut length = 0;
        let mut text = |text: &str| {
            self.0.update(text.as_bytes());
            length += text.len() as u64;
        };
        text(tag);
        match value.as_array() {
            Some(values) => {
                let mut element = String::new();
                for value in values {
                    element.clear();
                    let whole = json::write_compact_within(&mut element, value, usize::MAX);
                    debug_assert!(whole, "no text is longer than the address space");
                    text(&element);
                    text(",");
                }
            }
            None => text(&json::compact(value)),
        }
        self.0.update(&length.to_le_bytes());
    }
}

/// The name asked for, else that of the config's orchestrator, else one of the request id, which is the same when the request
/// comes again, wherever and whenever; else a new one.
fn plan_id(
    requested: String,
    request_id: &str,
    config: &Object,
    most: usize,
) -> Result<String, Error> {
    if !requested.is_empty() {
        return Ok(requested);
    }
    let text = |field| {
        let value = config
            .get("orchestrator")
            .and_then(|orchestrator| orchestrator.get(field));
        value
            .map(Value::shared_text)
            .filter(|text| !text.is_empty())
    };
    match (text("run_id"), text("plan_id")) {
        (Some(run_id), Some(plan_id)) => {
            let id = format!("{run_id}:{plan_id}");
            let usable = id.len() <= most && !id.contains('\0');
            if usable {
                Ok(id)
            } else {
                Err(Error::Invalid {
                    field: "config.orchestrator".into(),
                    problem: format!(
                        "run_id and plan_id make a plan id of more than {most} bytes or with a NUL"
                    ),
                    reason: "INVALID_PLAN_ID",
                    limit: None,
                })
            }
        }
        _ if request_id.is_empty() => Ok(uuid::Uuid::now_v7().to_string()),
        _ => {
            let hash = blake3::derive_key(
                "fanout 2026-11-21 plan id of a request id",
                request_id.as_bytes(),
            );
            let bytes = std::array::from_fn(|byte| hash[byte]);
            Ok(uuid::Uuid::new_v8(bytes).to_string())
        }
    }
}
