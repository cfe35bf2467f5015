//! `watch`: a plan's results as they come, across broken connections.

use std::time::Duration;

use clap::Args;

use super::client::{Client, ServerAddress, connect, explain};
use super::files::write_out;
use super::patience::Patience;
use super::print::{self, json_line, number, object, printable, word};
use super::{DONE, Failure, NOT_COMPLETED, Outcome};
use crate::config::duration;
use crate::json::{Object, Value};
use crate::proto::watch_plan_response::Frame;
use crate::proto::{End, PlanStatus, Progress, Result as TaskResult, WatchPlanRequest};

/// `fanout watch`.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// The plan's id.
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Go on after this cursor instead of from the beginning.
    #[arg(long, value_name = "CURSOR", default_value = "")]
    after: String,
    /// Begin with what there is now, instead of how it came about.
    #[arg(long, conflicts_with = "after")]
    snapshot: bool,
    /// Print one JSON object a line, with the cursor to go on from.
    #[arg(long)]
    json: bool,
    /// With --json: print the records' documents, too.
    #[arg(long)]
    payload: bool,
    /// Time between heartbeats on a quiet plan.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    heartbeat: Option<Duration>,
    /// Exit with 2 if the plan does not end as `completed`.
    #[arg(long)]
    fail_on_failure: bool,
}

const RECONNECT_AFTER: Duration = Duration::from_secs(1);

pub(super) async fn watch(command: Watch) -> Outcome {
    let mut client = connect(&command.server).await?;
    let mut request = WatchPlanRequest {
        plan_id: command.plan_id.clone(),
        after: command.after.clone(),
        include_snapshot: command.snapshot,
        include_payload: command.payload,
        heartbeat_interval: command
            .heartbeat
            .and_then(|interval| interval.try_into().ok()),
    };
    let mut patience = Patience::default();
    loop {
        let cursor_before = request.after.clone();
        match follow(&mut client, &mut request, &command).await {
            Ok(End { status, .. }) => {
                let completed = status == i32::from(PlanStatus::Completed);
                return Ok(if completed || !command.fail_on_failure {
                    DONE
                } else {
                    NOT_COMPLETED
                });
            }
            Err(Broken::Failed(failure)) => return Err(failure),
            Err(Broken::Unread) => return Ok(DONE),
            Err(Broken::Cut(status)) => {
                if request.after != cursor_before {
                    patience.renew();
                }
                if patience.wait_after(&status).is_none() {
                    return Err(explain(&status));
                }
                eprintln!(
                    "watch was cut ({}); going on in 1 s",
                    printable(status.message())
                );
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}

enum Broken {
    /// The stream ended before the plan did.
    Cut(tonic::Status),
    Failed(Failure),
    /// Nobody reads what is printed.
    Unread,
}

async fn follow(
    client: &mut Client,
    request: &mut WatchPlanRequest,
    command: &Watch,
) -> Result<End, Broken> {
    let stream = client
        .watch_plan(request.clone())
        .await
        .map_err(Broken::Cut)?;
    let mut stream = stream.into_inner();
    loop {
        let Some(response) = stream.message().await.map_err(Broken::Cut)? else {
            return Err(Broken::Cut(tonic::Status::unavailable(
                "the stream ended without an end",
            )));
        };
        let Some(frame) = response.frame else {
            continue;
        };
        let text = match command.json {
            true => json_line(frame_object(&response.cursor, &frame)),
            false => frame_text(&frame),
        };
        if !write_out(&text).map_err(Broken::Failed)? {
            return Err(Broken::Unread);
        }
        // A snapshot in parts was seen only with its last one.
        if !matches!(&frame, Frame::Snapshot(snapshot) if !snapshot.last) {
            request.after = response.cursor;
            request.include_snapshot = false;
        }
        if let Frame::End(end) = frame {
            return Ok(end);
        }
    }
}

fn frame_text(frame: &Frame) -> String {
    match frame {
        Frame::Snapshot(snapshot) => {
            let mut text: String = snapshot.results.iter().map(result_text).collect();
            if let Some(plan) = snapshot.plan.as_ref().filter(|_| snapshot.last) {
                let counts = print::counts_line(&plan.counts.unwrap_or_default());
                text.push_str(&format!("now          {counts}\n"));
            }
            text
        }
        Frame::Result(result) => result_text(result),
        Frame::Progress(progress) => {
            let kind = word(progress.kind().as_str_name(), "RECORD_KIND_");
            format!("{kind:<12} {}\n", printable(&progress.task_id))
        }
        Frame::Heartbeat(heartbeat) => {
            format!(
                "waiting      {}\n",
                print::counts_line(&heartbeat.counts.unwrap_or_default())
            )
        }
        Frame::End(end) => format!(
            "end          {} ({}): {}\n",
            print::plan_status(end.status()),
            print::end_reason(end.end_reason()),
            print::counts_line(&end.counts.unwrap_or_default())
        ),
    }
}

fn result_text(result: &TaskResult) -> String {
    let status = print::task_status(result.status());
    let again = if result.revision > 1 {
        format!("  (revision {})", result.revision)
    } else {
        String::new()
    };
    format!("{status:<12} {}{again}\n", printable(&result.task_id))
}

fn frame_object(cursor: &str, frame: &Frame) -> Object {
    let with_cursor = |kind: &str, mut body: Object| {
        let mut object = object([("frame", kind.into()), ("cursor", cursor.into())]);
        object.extend(&std::mem::take(&mut body));
        object
    };
    match frame {
        Frame::Snapshot(snapshot) => {
            let results = snapshot
                .results
                .iter()
                .map(|result| result_object(result).into());
            let body = object([
                (
                    "plan",
                    snapshot
                        .plan
                        .as_ref()
                        .map_or(Value::Null, |plan| print::plan(plan).into()),
                ),
                ("results", Value::array(results.collect())),
                ("last", Value::Bool(snapshot.last)),
            ]);
            with_cursor("snapshot", body)
        }
        Frame::Result(result) => with_cursor("result", result_object(result)),
        Frame::Progress(progress) => with_cursor("progress", progress_object(progress)),
        Frame::Heartbeat(heartbeat) => {
            let counts = print::counts(&heartbeat.counts.unwrap_or_default());
            with_cursor("heartbeat", object([("counts", counts)]))
        }
        Frame::End(end) => {
            let body = object([
                ("status", print::plan_status(end.status()).as_str().into()),
                (
                    "end_reason",
                    print::end_reason(end.end_reason()).as_str().into(),
                ),
                ("counts", print::counts(&end.counts.unwrap_or_default())),
            ]);
            with_cursor("end", body)
        }
    }
}

fn result_object(result: &TaskResult) -> Object {
    let mut object = object([
        ("sequence", number(result.sequence)),
        ("task_id", result.task_id.as_str().into()),
        ("group_key", result.group_key.as_str().into()),
        (
            "status",
            print::task_status(result.status()).as_str().into(),
        ),
        ("successful", Value::Bool(result.successful)),
        ("revision", number(result.revision.into())),
        (
            "matched_by",
            word(result.matched_by().as_str_name(), "MATCHED_BY_")
                .as_str()
                .into(),
        ),
    ]);
    if !result.record.is_empty() {
        object.set("record", print::document(&result.record));
    }
    object
}

fn progress_object(progress: &Progress) -> Object {
    let mut object = object([
        ("sequence", number(progress.sequence)),
        ("task_id", progress.task_id.as_str().into()),
        (
            "kind",
            word(progress.kind().as_str_name(), "RECORD_KIND_")
                .as_str()
                .into(),
        ),
        (
            "sandbox_session_id",
            progress.sandbox_session_id.as_str().into(),
        ),
    ]);
    if !progress.body.is_empty() {
        object.set("body", print::document(&progress.body));
    }
    object
}
