//! `GetTask`, `ListTasks`, `ExplainTask`: tasks as they stand, and why.

use std::collections::BTreeSet;

use tonic::Status;

use super::admission::named;
use super::{Fanout, convert, status};
use crate::config::PAGE_SIZE;
use crate::coordinator::PlanView;
use crate::engine::{MissingCause, RecordKind, TaskStanding, TaskState};
use crate::identity::Caller;
use crate::proto::{
    self, ExplainTaskRequest, ExplainTaskResponse, GetTaskRequest, GetTaskResponse,
    ListTasksRequest, ListTasksResponse, TaskReason, TaskReasonCode, View,
};
use crate::reconcile::{MatchedBy, Status as RecordStatus};

pub(super) async fn get(
    fanout: &Fanout,
    caller: &Caller,
    request: &GetTaskRequest,
) -> Result<GetTaskResponse, Status> {
    let (view, standing) = find(fanout, caller, &request.plan_id, &request.task_id).await?;
    Ok(GetTaskResponse {
        task: Some(task(&view, &standing, request.view())),
    })
}

pub(super) async fn list(
    fanout: &Fanout,
    caller: &Caller,
    request: &ListTasksRequest,
) -> Result<ListTasksResponse, Status> {
    let limits = &fanout.config.limits;
    let name = named(caller, &request.plan_id, limits)?;
    let page_size = convert::page_size(request.page_size, PAGE_SIZE.0)?;
    let start = convert::task_page_start(&request.page_token)?;
    // As sets: a request may repeat a value a million times, and each task is asked for it.
    let states: BTreeSet<i32> = request.states.iter().copied().collect();
    let statuses: BTreeSet<i32> = request.statuses.iter().copied().collect();
    let unknown_state = |state: &i32| proto::TaskState::try_from(*state).is_err();
    let unknown_status = |status: &i32| proto::TaskStatus::try_from(*status).is_err();
    for (field, unknown) in [
        ("states", states.iter().any(unknown_state)),
        ("statuses", statuses.iter().any(unknown_status)),
    ] {
        if unknown {
            let problem = "holds a value that this server does not know";
            return Err(status::invalid(field, problem, "UNKNOWN_ENUM_VALUE"));
        }
    }
    let wanted = |standing: TaskState, record: Option<RecordStatus>| {
        let standing = i32::from(state(standing));
        let record = i32::from(convert::task_status(record));
        (states.is_empty() || states.contains(&standing))
            && (statuses.is_empty() || statuses.contains(&record))
    };
    let page = fanout
        .coordinator
        .tasks(&name, start, page_size, wanted)
        .await
        .map_err(|error| status::of(&error))?;
    let standings = page.tasks.iter();
    let tasks = standings.map(|standing| task(&page.view, standing, request.view()));
    let tasks = convert::fitting(tasks, limits);
    let cut_off = page
        .tasks
        .get(tasks.len())
        .map(|standing| standing.task as usize);
    let next = cut_off.or(page.next);
    Ok(ListTasksResponse {
        tasks,
        next_page_token: convert::task_page_token(next),
    })
}

pub(super) async fn explain(
    fanout: &Fanout,
    caller: &Caller,
    request: &ExplainTaskRequest,
) -> Result<ExplainTaskResponse, Status> {
    let (view, standing) = find(fanout, caller, &request.plan_id, &request.task_id).await?;
    let next_event = match view.standing.end {
        None => view.spec.deadline,
        Some(_) => view.expires_at(),
    };
    Ok(ExplainTaskResponse {
        task: Some(task(&view, &standing, View::Basic)),
        reasons: reasons(&view, &standing),
        next_event_time: next_event.map(convert::timestamp),
    })
}

async fn find(
    fanout: &Fanout,
    caller: &Caller,
    plan_id: &str,
    task_id: &str,
) -> Result<(PlanView, TaskStanding), Status> {
    let limits = &fanout.config.limits;
    let name = named(caller, plan_id, limits)?;
    let task_id = convert::required_text("task_id", task_id, limits.key_bytes_max)?;
    let found = fanout.coordinator.task(&name, task_id).await;
    found.map_err(|error| status::of(&error))
}

fn task(view: &PlanView, standing: &TaskStanding, wanted: View) -> proto::Task {
    let spec = &view.spec;
    let held = standing.held.as_deref();
    let sign = standing.sign_of_life.as_deref();
    let full = wanted == View::Full;
    let document = match (held, sign) {
        (Some(held), _) => held.document.clone(),
        (None, Some(sign)) => sign.document.clone(),
        (None, None) => prost::bytes::Bytes::new(),
    };
    let accepted_at = held.map(|held| held.at).or(sign.map(|sign| sign.at));
    proto::Task {
        task_id: spec.task_id(standing.task).to_owned(),
        group_key: spec.group_key_text(standing.task).into_owned(),
        state: state(standing.state).into(),
        status: convert::task_status(held.map(|held| held.verdict.status)).into(),
        successful: held.is_some_and(|held| held.verdict.successful),
        revision: held.map_or(0, |held| held.revision),
        matched_by: convert::matched_by(held.map(|held| held.matched_by)).into(),
        sequence: held.map_or_else(
            || sign.map_or(0, |sign| sign.sequence),
            |held| held.sequence,
        ),
        accept_time: accepted_at.map(convert::timestamp),
        missing_cause: missing_cause(standing.missing_cause()).into(),
        sandbox_session_id: sign
            .map(|sign| sign.session.to_string())
            .unwrap_or_default(),
        request: if full {
            spec.request(standing.task)
        } else {
            prost::bytes::Bytes::new()
        },
        record: if full {
            document
        } else {
            prost::bytes::Bytes::new()
        },
    }
}

fn state(state: TaskState) -> proto::TaskState {
    match state {
        TaskState::Pending => proto::TaskState::Pending,
        TaskState::Running => proto::TaskState::Running,
        TaskState::Recorded => proto::TaskState::Recorded,
        TaskState::Missing => proto::TaskState::Missing,
    }
}

fn missing_cause(cause: Option<MissingCause>) -> proto::MissingCause {
    match cause {
        None => proto::MissingCause::Unspecified,
        Some(MissingCause::NeverStarted) => proto::MissingCause::NeverStarted,
        Some(MissingCause::StartedNoResult) => proto::MissingCause::StartedNoResult,
        Some(MissingCause::RecordQuarantined) => proto::MissingCause::RecordQuarantined,
    }
}

/// The decisive reason first.
fn reasons(view: &PlanView, standing: &TaskStanding) -> Vec<TaskReason> {
    let mut reasons = Vec::new();
    let mut say = |code: TaskReasonCode, description: String, sequence: u64, quarantine_id: u64| {
        reasons.push(TaskReason {
            code: code.into(),
            description,
            sequence,
            quarantine_id,
        });
    };
    if let Some(held) = &standing.held {
        let status = held.verdict.status.name();
        let by = match held.matched_by {
            MatchedBy::TaskId => "task_id",
            MatchedBy::Id => "id",
            MatchedBy::SandboxSessionId => "sandbox_session_id",
            MatchedBy::GroupKey => "group_key",
            MatchedBy::Operator => "an operator",
        };
        let (code, word) = if held.verdict.successful {
            (TaskReasonCode::RecordedSuccessful, "successful")
        } else {
            (TaskReasonCode::RecordedUnsuccessful, "not successful")
        };
        let description = format!("its record is {status} ({word}), matched by {by}");
        say(code, description, held.sequence, 0);
        if held.revision > 1 {
            let description = format!("it is record {} of this task", held.revision);
            say(
                TaskReasonCode::SupersededPrevious,
                description,
                held.sequence,
                0,
            );
        }
    }
    for record in &standing.quarantined {
        let description = format!("record {} in quarantine may be its own", record.id);
        say(
            TaskReasonCode::RecordQuarantined,
            description,
            record.sequence,
            record.id,
        );
    }
    if standing.held.is_none() {
        match &standing.sign_of_life {
            Some(sign) => {
                let kind = match sign.kind {
                    RecordKind::Started => "STARTED",
                    RecordKind::Progress | RecordKind::Result => "PROGRESS",
                };
                let description = format!("it sent {kind} and no result");
                say(
                    TaskReasonCode::StartedNoResult,
                    description,
                    sign.sequence,
                    0,
                );
            }
            None => {
                let description = "nothing was heard of it".to_owned();
                say(TaskReasonCode::NeverStarted, description, 0, 0);
            }
        }
    }
    if let Some(end) = &view.standing.end {
        let description = format!("the plan has ended: {}", end.reason.name());
        say(TaskReasonCode::PlanEnded, description, end.sequence, 0);
    }
    reasons
}
