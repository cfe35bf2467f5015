//! `tasks`, `explain`: where the tasks of a plan stand, and why.

use clap::{Args, ValueEnum};

use super::client::{ServerAddress, connect, explain as explained};
use super::files::write_out;
use super::print::{self, json_line, number, object, printable, short, table, word};
use super::{DONE, Failure, Outcome};
use crate::json::{Object, Value};
use crate::proto::{ExplainTaskRequest, ListTasksRequest, Task, TaskReason, TaskState, View};

/// `fanout tasks`.
#[derive(Debug, Args)]
pub(super) struct Tasks {
    /// The plan's id.
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Only tasks in this state. May be repeated.
    #[arg(long = "state", value_enum)]
    states: Vec<State>,
    /// Print one JSON object a line instead of a table, with the task request and the record.
    #[arg(long)]
    json: bool,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Nothing was heard of it.
    Pending,
    /// It sent STARTED or PROGRESS, and no result yet.
    Running,
    /// It has a record.
    Recorded,
    /// The plan ended without a record of it.
    Missing,
}

impl State {
    fn proto(self) -> TaskState {
        match self {
            Self::Pending => TaskState::Pending,
            Self::Running => TaskState::Running,
            Self::Recorded => TaskState::Recorded,
            Self::Missing => TaskState::Missing,
        }
    }
}

/// `fanout explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The plan's id.
    plan_id: String,
    /// The task's id.
    task_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn tasks(command: Tasks) -> Outcome {
    let mut client = connect(&command.server).await?;
    let view = if command.json {
        View::Full
    } else {
        View::Basic
    };
    let mut request = ListTasksRequest {
        plan_id: command.plan_id,
        page_size: 1_000,
        view: view.into(),
        states: command
            .states
            .iter()
            .map(|state| state.proto().into())
            .collect(),
        ..Default::default()
    };
    let mut rows = Vec::new();
    loop {
        let answer = client.list_tasks(request.clone()).await;
        let answer = answer.map_err(|status| explained(&status))?.into_inner();
        for task in &answer.tasks {
            if command.json {
                let mut line = task_object(task);
                line.set("request", print::document(&task.request));
                line.set("record", print::document(&task.record));
                write_out(&json_line(line))?;
            } else {
                rows.push(vec![
                    short(&task.task_id, 60),
                    state_word(task),
                    status_word(task),
                    task.revision.to_string(),
                    cause_word(task),
                ]);
            }
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    if !command.json {
        let header = ["TASK", "STATE", "STATUS", "REVISION", "WHY MISSING"];
        write_out(&table(&header, &rows))?;
    }
    Ok(DONE)
}

pub(super) async fn explain(command: Explain) -> Outcome {
    let mut client = connect(&command.server).await?;
    let request = ExplainTaskRequest {
        plan_id: command.plan_id,
        task_id: command.task_id,
    };
    let answer = client.explain_task(request).await;
    let answer = answer.map_err(|status| explained(&status))?.into_inner();
    let task = answer
        .task
        .ok_or_else(|| Failure::new("the server's answer has no task"))?;
    let next = answer.next_event_time.map(|time| time.to_string());
    if command.json {
        let mut line = task_object(&task);
        let reasons = answer
            .reasons
            .iter()
            .map(|reason| reason_object(reason).into());
        line.set("reasons", Value::array(reasons.collect()));
        line.set(
            "next_event_time",
            next.map_or(Value::Null, |time| Value::string(&time)),
        );
        write_out(&json_line(line))?;
        return Ok(DONE);
    }
    let mut text = format!("{}: {}\n", printable(&task.task_id), state_word(&task));
    for reason in &answer.reasons {
        text.push_str(&format!(
            "  {}: {}\n",
            reason_word(reason),
            printable(&reason.description)
        ));
    }
    if let Some(next) = next {
        text.push_str(&format!("next event at {next}\n"));
    }
    write_out(&text)?;
    Ok(DONE)
}

fn state_word(task: &Task) -> String {
    word(task.state().as_str_name(), "TASK_STATE_")
}

fn status_word(task: &Task) -> String {
    match task.revision {
        0 => "-".to_owned(),
        _ => print::task_status(task.status()),
    }
}

fn cause_word(task: &Task) -> String {
    match task.revision {
        0 => word(task.missing_cause().as_str_name(), "MISSING_CAUSE_"),
        _ => "-".to_owned(),
    }
}

fn reason_word(reason: &TaskReason) -> String {
    word(reason.code().as_str_name(), "TASK_REASON_CODE_")
}

fn reason_object(reason: &TaskReason) -> Object {
    object([
        ("code", reason_word(reason).as_str().into()),
        ("description", reason.description.as_str().into()),
        ("sequence", number(reason.sequence)),
        ("quarantine_id", number(reason.quarantine_id)),
    ])
}

fn task_object(task: &Task) -> Object {
    let time = task.accept_time.map(|time| time.to_string());
    object([
        ("task_id", task.task_id.as_str().into()),
        ("group_key", task.group_key.as_str().into()),
        ("state", state_word(task).as_str().into()),
        ("status", status_word(task).as_str().into()),
        ("successful", Value::Bool(task.successful)),
        ("revision", number(task.revision.into())),
        (
            "matched_by",
            word(task.matched_by().as_str_name(), "MATCHED_BY_")
                .as_str()
                .into(),
        ),
        ("sequence", number(task.sequence)),
        (
            "accept_time",
            time.map_or(Value::Null, |time| Value::string(&time)),
        ),
        ("missing_cause", cause_word(task).as_str().into()),
        (
            "sandbox_session_id",
            task.sandbox_session_id.as_str().into(),
        ),
    ])
}
