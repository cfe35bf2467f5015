//! `quarantine list`, `rematch`, `discard`: records that were set aside, and their repair.

use clap::{Args, Subcommand};

use super::client::{Client, ServerAddress, connect, explain};
use super::files::write_out;
use super::print::{self, json_line, number, object, printable, short, table, word};
use super::{DONE, Failure, Outcome};
use crate::json::{self, Object, Value};
use crate::proto::{
    DiscardRecordRequest, ListQuarantineRequest, QuarantinedRecord, RematchRecordRequest,
};

/// `fanout quarantine`.
#[derive(Debug, Args)]
pub(super) struct Quarantine {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// List records that matched no task or several, or came too late.
    List(List),
    /// Apply a record to a task after all.
    Rematch(Rematch),
    /// Set a record aside for good.
    Discard(Discard),
}

#[derive(Debug, Args)]
struct List {
    /// The plan's id.
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Also those that were rematched or discarded.
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line instead of a table, with the record.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Rematch {
    #[command(flatten)]
    target: Target,
    /// The task's id.
    task_id: String,
    #[command(flatten)]
    answer: Answer,
}

#[derive(Debug, Args)]
struct Discard {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    answer: Answer,
}

#[derive(Debug, Args)]
struct Target {
    /// The plan's id.
    plan_id: String,
    /// The record's number in quarantine, from 1.
    #[arg(value_parser = quarantine_id)]
    quarantine_id: u64,
}

#[derive(Debug, Args)]
struct Answer {
    /// Why, for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn quarantine_id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("numbers begin at 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

pub(super) async fn quarantine(command: Quarantine) -> Outcome {
    match command.command {
        QuarantineCommand::List(command) => list(command).await,
        QuarantineCommand::Rematch(Rematch {
            target,
            task_id,
            answer,
        }) => rematch(target, task_id, answer).await,
        QuarantineCommand::Discard(Discard { target, answer }) => discard(target, answer).await,
    }
}

async fn list(command: List) -> Outcome {
    let mut client = connect(&command.server).await?;
    let mut request = ListQuarantineRequest {
        plan_id: command.plan_id,
        page_size: 1_000,
        include_resolved: command.all,
        ..Default::default()
    };
    let mut rows = Vec::new();
    loop {
        let answer = client.list_quarantine(request.clone()).await;
        let answer = answer.map_err(|status| explain(&status))?.into_inner();
        for record in &answer.records {
            if command.json {
                write_out(&json_line(record_object(record)))?;
            } else {
                rows.push(row(record));
            }
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    if !command.json {
        write_out(&table(
            &["ID", "REASON", "RESOLUTION", "CANDIDATES", "RECORD"],
            &rows,
        ))?;
    }
    Ok(DONE)
}

async fn rematch(target: Target, task_id: String, answer: Answer) -> Outcome {
    let mut client: Client = connect(&answer.server).await?;
    let request = RematchRecordRequest {
        plan_id: target.plan_id,
        quarantine_id: target.quarantine_id,
        task_id,
        reason: answer.reason,
    };
    let rematched = client.rematch_record(request).await;
    let rematched = rematched.map_err(|status| explain(&status))?.into_inner();
    let receipt = rematched.receipt.unwrap_or_default();
    let record = found(rematched.record)?;
    if answer.json {
        write_out(&json_line(record_object(&record)))?;
        return Ok(DONE);
    }
    let disposition = word(receipt.disposition().as_str_name(), "DISPOSITION_");
    let status = print::task_status(receipt.status());
    let task_id = printable(&receipt.task_id);
    write_out(&format!(
        "record {}: {disposition}, {task_id} is {status}\n",
        record.quarantine_id
    ))?;
    Ok(DONE)
}

async fn discard(target: Target, answer: Answer) -> Outcome {
    let mut client: Client = connect(&answer.server).await?;
    let request = DiscardRecordRequest {
        plan_id: target.plan_id,
        quarantine_id: target.quarantine_id,
        reason: answer.reason,
    };
    let discarded = client.discard_record(request).await;
    let record = found(
        discarded
            .map_err(|status| explain(&status))?
            .into_inner()
            .record,
    )?;
    if answer.json {
        write_out(&json_line(record_object(&record)))?;
    } else {
        write_out(&format!("record {}: discarded\n", record.quarantine_id))?;
    }
    Ok(DONE)
}

fn found(record: Option<QuarantinedRecord>) -> Result<QuarantinedRecord, Failure> {
    record.ok_or_else(|| Failure::new("the server's answer has no record"))
}

fn reason_word(record: &QuarantinedRecord) -> String {
    word(record.reason().as_str_name(), "QUARANTINE_REASON_")
}

fn resolution_word(record: &QuarantinedRecord) -> String {
    match word(record.resolution().as_str_name(), "QUARANTINE_RESOLUTION_").as_str() {
        "unspecified" => "-".to_owned(),
        word => word.to_owned(),
    }
}

fn row(record: &QuarantinedRecord) -> Vec<String> {
    let candidates = match record.candidate_task_ids.as_slice() {
        [] => "-".to_owned(),
        tasks => short(&tasks.join(" "), 40),
    };
    vec![
        record.quarantine_id.to_string(),
        reason_word(record),
        resolution_word(record),
        candidates,
        short(&json::compact(&print::document(&record.record)), 60),
    ]
}

fn record_object(record: &QuarantinedRecord) -> Object {
    let candidates = record
        .candidate_task_ids
        .iter()
        .map(|task| task.as_str().into());
    let time = record.quarantine_time.map(|time| time.to_string());
    object([
        ("quarantine_id", number(record.quarantine_id)),
        ("reason", reason_word(record).as_str().into()),
        ("candidate_task_ids", Value::array(candidates.collect())),
        (
            "kind",
            word(record.kind().as_str_name(), "RECORD_KIND_")
                .as_str()
                .into(),
        ),
        (
            "quarantine_time",
            time.map_or(Value::Null, |time| Value::string(&time)),
        ),
        ("sequence", number(record.sequence)),
        ("resolution", resolution_word(record).as_str().into()),
        ("task_id", record.task_id.as_str().into()),
        ("resolution_note", record.resolution_note.as_str().into()),
        ("record", print::document(&record.record)),
    ])
}
