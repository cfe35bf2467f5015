//! Plans at a coordinator: what is planned, registering it, and waiting for its end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::client::{Client, explain};
use super::files::{read_config, read_document, read_list};
use super::patience::is_passing;
use super::plan_parts::{self, Registration};
use crate::config::duration;
use crate::json::{self, Object, Value};
use crate::plan::{self, FindingsInput, Input};
use crate::proto::plan_request::Source;
use crate::proto::{
    CompletionPolicy, FindingPackets, GetPlanRequest, Plan, PlanRequest, PlanStatus,
    ReconcileRequest, TaskRequest, View,
};

/// Task requests fetched at a time.
const PAGE_SIZE: i32 = 1_000;
/// How long a coordinator is asked to wait with its answer; five minutes are the most.
const LONG_POLL: prost_types::Duration = prost_types::Duration {
    seconds: 300,
    nanos: 0,
};
/// How long to wait after a passing failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The files that say what is planned.
#[derive(Debug, Args)]
pub(super) struct PlanInput {
    /// The config: a JSON object. docs/config.md says what may stand in it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Items: a JSON list or JSON Lines; `-` is standard input. Without it: the config's.
    #[arg(long, value_name = "FILE", conflicts_with = "packets")]
    items: Option<PathBuf>,
    /// Finding packets instead of items: a JSON list or JSON Lines.
    #[arg(long, value_name = "FILE")]
    packets: Option<PathBuf>,
    /// How packets and findings are named and grouped: a JSON object.
    #[arg(long, value_name = "FILE", requires = "packets")]
    policy: Option<PathBuf>,
}

/// When the plan ends, if not when every task has a record, and what counts as completed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "The plan's end")]
pub(super) struct Ending {
    /// End the plan so long after its registration, whatever is missing: for example 90s, 15m, 30d at most.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// End the plan, completed, as soon as so many tasks are successful.
    #[arg(long, value_name = "N")]
    min_successful: Option<u64>,
    /// End the plan, failed, as soon as more tasks than this are not successful; with up to so many it is completed.
    #[arg(long, value_name = "N")]
    tolerate_failures: Option<u64>,
    /// The same as a share of all tasks, 0 to 100. With both, both have to hold.
    #[arg(long, value_name = "PERCENT")]
    tolerate_failure_percentage: Option<f64>,
}

impl Ending {
    /// Whether nothing is asked for.
    pub(super) fn is_default(&self) -> bool {
        self.deadline.is_none() && self.policy().is_none()
    }

    fn policy(&self) -> Option<CompletionPolicy> {
        let policy = CompletionPolicy {
            min_successful: self.min_successful,
            tolerated_failure_count: self.tolerate_failures,
            tolerated_failure_percentage: self.tolerate_failure_percentage,
            ..Default::default()
        };
        (policy != CompletionPolicy::default()).then_some(policy)
    }

    /// Asks for it.
    pub(super) fn put_into(&self, request: &mut PlanRequest) -> Result<(), Failure> {
        let timeout = self.deadline.map(prost_types::Duration::try_from);
        request.timeout = timeout
            .transpose()
            .map_err(|_| Failure::new("--deadline is too long"))?;
        request.completion_policy = self.policy();
        Ok(())
    }
}

/// What is planned.
pub(super) struct Planned {
    pub(super) config: Object,
    source: Given,
}

enum Given {
    Config,
    Items(Value),
    Packets {
        packets: Value,
        policy: Option<Value>,
    },
}

impl PlanInput {
    /// Reads the files.
    pub(super) fn read(&self) -> Result<Planned, Failure> {
        let config = read_config(&self.config)?;
        let source = match (&self.items, &self.packets) {
            (Some(items), _) => Given::Items(read_list(items)?),
            (None, Some(packets)) => Given::Packets {
                packets: read_list(packets)?,
                policy: self.policy.as_deref().map(read_document).transpose()?,
            },
            (None, None) => Given::Config,
        };
        Ok(Planned { config, source })
    }
}

impl Planned {
    /// What registers it.
    pub(super) fn registration(&self) -> Registration {
        let compact = |value: &Value| json::compact(value).into();
        let (items, source) = match &self.source {
            Given::Config => (None, None),
            // A value that is no list leaves the config's items, as in the documents.
            Given::Items(items) => (items.as_array().map(|_| items.clone()), None),
            Given::Packets { packets, policy } => {
                let packets = FindingPackets {
                    packets: compact(packets),
                    policy: policy.as_ref().map(compact).unwrap_or_default(),
                };
                (None, Some(Source::FindingPackets(packets)))
            }
        };
        let request = PlanRequest {
            config: compact(&self.config.clone().into()),
            source,
            page_size: PAGE_SIZE,
            ..Default::default()
        };
        Registration { request, items }
    }

    /// The plan, made here.
    pub(super) fn outline(self) -> Result<plan::Outline, Failure> {
        let Self { config, source } = self;
        let limits = plan::Limits::default();
        let items = match source {
            Given::Packets { packets, policy } => {
                let input = FindingsInput::new(Some(packets), policy, config);
                return Ok(plan::outline_findings(&input, &limits)?);
            }
            Given::Items(items) => Some(items),
            Given::Config => {
                if let Some(packets) = FindingsInput::of_config(&config) {
                    return Ok(plan::outline_findings(&packets, &limits)?);
                }
                None
            }
        };
        let input = Input {
            config,
            items,
            groups: None,
        };
        Ok(plan::outline(input, &limits)?)
    }
}

/// A plan at a coordinator, with all its task requests.
pub(super) struct Registered {
    pub(super) plan: Plan,
    pub(super) task_requests: Vec<TaskRequest>,
    /// Whether it was not there before.
    pub(super) created: bool,
}

/// Registers a plan, and fetches the task requests that did not come with the answer.
pub(super) async fn register(
    client: &mut Client,
    registration: Registration,
) -> Result<Registered, Failure> {
    let answer = plan_parts::send(client, registration).await?;
    let plan = answer.plan.unwrap_or_default();
    let mut task_requests = answer.task_requests;
    let mut page_token = answer.next_page_token;
    while !page_token.is_empty() {
        let request = GetPlanRequest {
            plan_id: plan.plan_id.clone(),
            view: View::Full.into(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client
            .get_plan(request)
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        task_requests.extend(page.task_requests);
        page_token = page.next_page_token;
    }
    Ok(Registered {
        plan,
        task_requests,
        created: answer.created,
    })
}

/// Ends a plan if asked to, and waits for its end if asked to.
pub(super) async fn wait(
    client: &mut Client,
    plan_id: &str,
    at_most: Option<Duration>,
    seal: bool,
) -> Result<(), Failure> {
    let wait = at_most
        .map(prost_types::Duration::try_from)
        .transpose()
        .map_err(|_| Failure::new("--wait is too long"))?;
    let request = ReconcileRequest {
        plan_id: plan_id.to_owned(),
        view: View::Basic.into(),
        wait,
        seal,
        ..Default::default()
    };
    let answer = client.reconcile(request).await;
    answer.map(drop).map_err(|status| explain(&status))
}

/// Waits for a plan's end for as long as it takes.
pub(super) async fn end(client: &mut Client, plan_id: &str) -> Result<(), Failure> {
    loop {
        let request = ReconcileRequest {
            plan_id: plan_id.to_owned(),
            view: View::Basic.into(),
            wait: Some(LONG_POLL),
            ..Default::default()
        };
        match client.reconcile(request).await {
            Ok(answer) if answer.get_ref().status() == PlanStatus::Incomplete => {}
            Ok(_) => return Ok(()),
            Err(status) if is_passing(&status) => tokio::time::sleep(RETRY_AFTER).await,
            Err(status) => return Err(explain(&status)),
        }
    }
}
