//! `submit`: records from a file or standard input to a plan.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::client::{ServerAddress, connect};
use super::files::{read_list, write_out};
use super::print::{self, json_line, number, object, word};
use super::{DONE, Failure, NOT_COMPLETED, Outcome, record_stream};
use crate::json::{self, Value};
use crate::proto::{Disposition, Receipt, Record, View, Violation};

/// `fanout submit`.
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// Records: a JSON list or JSON Lines; `-` or nothing is standard input, sent line by line as it comes.
    #[arg(default_value = "-", value_name = "FILE")]
    records: PathBuf,
    /// The plan.
    #[arg(long, env = "FANOUT_PLAN_ID", value_name = "PLAN")]
    plan_id: String,
    #[command(flatten)]
    server: ServerAddress,
    /// Print every receipt as one JSON object a line. Without it, only records that were not applied are printed.
    #[arg(long)]
    json: bool,
    /// Exit with 2 if any record was not applied.
    #[arg(long)]
    fail_on_failure: bool,
}

/// Records in one message.
const BATCH_RECORDS: usize = 128;
/// Bytes of records in one message.
const BATCH_BYTES: usize = 1 << 20;
/// Records read ahead.
const READ_AHEAD: usize = 1_024;

pub(super) async fn submit(command: Submit) -> Outcome {
    let client = connect(&command.server).await?;
    let (records, lines) = mpsc::channel(READ_AHEAD);
    let path = command.records.clone();
    let reader = tokio::task::spawn_blocking(move || read(&path, &records));
    let (batches, mut answers) = record_stream::open(client, &command.plan_id, View::Basic);
    tokio::spawn(send_in_batches(lines, batches));

    let progress = if command.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    let mut dispositions: BTreeMap<String, u64> = BTreeMap::new();
    let mut counts = None;
    let (mut position, mut not_applied) = (0u64, 0u64);
    while let Some(answered) = answers.recv().await {
        let answered = answered?;
        for (record, receipt) in answered.records.iter().zip(&answered.response.receipts) {
            let disposition = word(receipt.disposition().as_str_name(), "DISPOSITION_");
            not_applied += u64::from(receipt.code != 0);
            if command.json {
                write_out(&json_line(receipt_object(position, &disposition, receipt)))?;
            } else if receipt.code != 0 {
                progress.suspend(|| write_out(&line(position, &disposition, record, receipt)))?;
            }
            *dispositions.entry(disposition).or_default() += 1;
            position += 1;
        }
        counts = answered.response.counts;
        progress.set_message(print::counted(position, "record") + " sent");
        progress.tick();
    }
    progress.finish_and_clear();
    let read = reader
        .await
        .map_err(|panic| Failure::new(format!("internal error: {panic}")))?;
    if position > 0 {
        let summary: Vec<_> = dispositions
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        let records = print::counted(position, "record");
        eprintln!("{records}: {}", summary.join(", "));
    } else if read.is_ok() {
        eprintln!("no records");
    }
    if let Some(counts) = counts {
        eprintln!(
            "plan {}: {}",
            print::printable(&command.plan_id),
            print::counts_line(&counts)
        );
    }
    read?;
    Ok(if not_applied > 0 && command.fail_on_failure {
        NOT_COMPLETED
    } else {
        DONE
    })
}

/// Reads records and hands them on; a file that ends early is an error after what could be read was sent.
fn read(path: &Path, records: &mpsc::Sender<Record>) -> Result<(), Failure> {
    let send = |value: &Value| {
        let record = Record {
            body: json::compact(value).into(),
            ..Default::default()
        };
        records.blocking_send(record).is_ok()
    };
    if path != Path::new("-") {
        let list = read_list(path)?;
        let sent = list.as_array().unwrap_or_default().iter().all(send);
        debug_assert!(
            sent || records.is_closed(),
            "only a closed channel takes nothing"
        );
        return Ok(());
    }
    let mut lines = std::io::stdin().lock();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = lines
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::new(format!("-:{number}: failed to read: {error}")))?;
        if length == 0 {
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value =
            json::parse(line.trim_ascii_end(), json::Limits::default()).map_err(|error| {
                Failure::new(format!(
                    "-:{number}:{}: {}; expected one record on each line",
                    error.column, error.problem
                ))
            })?;
        let all_sent = match &value {
            Value::Array(list) => list.iter().all(send),
            record => send(record),
        };
        if !all_sent {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what is there, in messages of moderate size, without waiting for more.
async fn send_in_batches(mut records: mpsc::Receiver<Record>, batches: record_stream::Batches) {
    while let Some(first) = records.recv().await {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Ok(record) = records.try_recv() else {
                break;
            };
            bytes += record.body.len();
            batch.push(record);
        }
        if batches.send(batch).await.is_err() {
            return;
        }
    }
}

fn receipt_object(position: u64, disposition: &str, receipt: &Receipt) -> json::Object {
    let mut line = object([
        ("record", number(position)),
        ("disposition", disposition.into()),
        (
            "code",
            number(u64::try_from(receipt.code).unwrap_or_default()),
        ),
        ("task_id", receipt.task_id.as_str().into()),
        (
            "matched_by",
            word(receipt.matched_by().as_str_name(), "MATCHED_BY_")
                .as_str()
                .into(),
        ),
        ("revision", number(receipt.revision.into())),
        ("sequence", number(receipt.sequence)),
        (
            "status",
            print::task_status(receipt.status()).as_str().into(),
        ),
    ]);
    let warnings = receipt
        .warnings()
        .map(|warning| word(warning.as_str_name(), "WARNING_").as_str().into());
    let warnings: Vec<Value> = warnings.collect();
    if !warnings.is_empty() {
        line.set("warnings", Value::array(warnings));
    }
    if !receipt.candidate_task_ids.is_empty() {
        let candidates = receipt
            .candidate_task_ids
            .iter()
            .map(|id| id.as_str().into());
        line.set("candidate_task_ids", Value::array(candidates.collect()));
    }
    if let Some(violation) = &receipt.violation {
        line.set(
            "violation",
            Value::from(object([
                ("field", field(violation).into()),
                ("description", violation.description.as_str().into()),
                ("reason", violation.reason.as_str().into()),
                ("limit", number(violation.limit)),
            ])),
        );
    }
    if receipt.quarantine_id > 0 {
        line.set("quarantine_id", number(receipt.quarantine_id));
    }
    line
}

/// The field in its record. The server counts the records of one message, which is nothing the caller knows.
fn field(violation: &Violation) -> &str {
    let field = violation.field.as_str();
    field.split_once("].").map_or(field, |(_, field)| field)
}

fn line(position: u64, disposition: &str, record: &Record, receipt: &Receipt) -> String {
    let why = match (&receipt.violation, receipt.disposition()) {
        (Some(violation), _) => format!("{}: {}", field(violation), violation.description),
        (_, Disposition::Ambiguous) => {
            format!("it may be for {}", receipt.candidate_task_ids.join(", "))
        }
        (_, Disposition::Late) => format!(
            "the plan has ended; task {} keeps what it has",
            receipt.task_id
        ),
        _ => "no key names a planned task".to_owned(),
    };
    let body = print::short(&String::from_utf8_lossy(&record.body), 60);
    format!(
        "record {position}: {disposition}: {} {body}\n",
        print::printable(&why)
    )
}
