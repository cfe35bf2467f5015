//! What a plan of a million tasks takes, from its planning to its end: time, memory, and the way of its result.
//!
//!     cargo build --release && cargo run --release --example million [-- TASKS]
//!
//! The coordinator is the `fanout` program beside this example with its default settings, a process of its own; this one
//! is the client, on the same machine. It plans a task for each item of `{"k":N}` with PlanStream, in chunks of about
//! 1 MiB; submits a record of 330 bytes for each over eight streams on as many connections, 250 a message, and expects
//! each to be accepted, so that the plan is completed; fetches its result, first pages of both sizes several times, then all
//! of it in pages of 1,000; and deletes it. Then all but the fetching is done again. Between the steps it waits until the server is quiet, and looks at its resident
//! memory then.
//!
//! The last line is a JSON object:
//!
//! - `plan_s`, `plan_cpu_s`: from opening the stream to its answer, and the server's CPU seconds in it.
//! - `start_mib`, `plan_mib`, `plan_peak_mib`, `records_mib`: resident memory of the server before anything, with the plan,
//!   at most until then, and with all records.
//! - `held_mib`: what is left of that when the server has given back what is free, which takes some ten seconds.
//! - `memory`: what the plan with its records holds, so `held_mib` without `start_mib`, over 1.5 times the records' bytes and
//!   250 bytes a task.
//! - `records_per_s`, `records_cpu_s`: the records' way.
//! - `first_page_100_ms`, `first_page_1000_ms`, `whole_ms`: Reconcile from the call to its answer, the median of nine; the
//!   whole document of so many tasks fits no message, so its answer is a refusal.
//! - `result_mb_per_s`, `result_mb_per_cpu_s`: bytes of all pages' documents, in a second and in a CPU second of the server.
//! - `deleted_mib`, `deleted_s`: what is left after DeletePlan, and after how long there was no more than a tenth above
//!   that, on a server that answers a call ten times a second. Here, too, twenty seconds are looked at.
//! - `deleted_again_mib`: the same after the second time. Much more than after the first would be a leak.
//!
//! Anything unexpected is an error: exit code 1. A figure that is worse than hoped for is none.

#[path = "../program/program.rs"]
mod program;
mod server;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fanout::proto::plan_stream_request::Part;
use fanout::proto::{
    DeletePlanRequest, Disposition, ListPlansRequest, PlanCommit, PlanRequest, PlanStatus,
    PlanStreamRequest, ReconcileRequest, Record, SubmitRecordRequest,
};
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use server::{Client, Server};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TASKS: usize = 1_000_000;
const PLAN: &str = "million";
const RECORD_BYTES: usize = 330;
const CHUNK_BYTES: usize = 1 << 20;
const STREAMS: usize = 8;
const BATCH: usize = 250;
const PAGE_SIZE: i32 = 1_000;
/// How often a first page is asked for.
const TIMES: usize = 9;
const LOOKED_AT: Duration = Duration::from_secs(20);
const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let tasks = match words[..] {
        [] => Ok(TASKS),
        // What it starts as a process of its own, if there is no program beside it.
        ["serve", ..] => return fanout::cli::main(std::env::args_os()),
        [tasks] => tasks.parse(),
        _ => "".parse(),
    };
    let ended = match tasks {
        Ok(tasks) => measure(tasks),
        Err(_) => Err("expected: [TASKS]".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("million: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was measured, by name.
#[derive(Default)]
struct Figures(BTreeMap<&'static str, Value>);

impl Figures {
    fn add(&mut self, name: &'static str, value: f64) {
        println!("{name:>20} {value:>12.3}");
        self.0.insert(name, json!((value * 1e3).round() / 1e3));
    }
}

#[tokio::main]
async fn measure(tasks: usize) -> Outcome<()> {
    let mut figures = Figures::default();
    let server = Server::start()?;
    let mut client = server.client().await?;
    server.settle().await?;
    let start = server.resident_mib()?;
    figures.add("start_mib", start);

    let parts = parts(tasks)?;
    let (began, cpu) = (Instant::now(), server.cpu_seconds()?);
    plan(&mut client, parts, tasks).await?;
    figures.add("plan_s", began.elapsed().as_secs_f64());
    figures.add("plan_cpu_s", server.cpu_seconds()? - cpu);
    server.settle().await?;
    figures.add("plan_peak_mib", server.peak_mib()?);
    figures.add("plan_mib", server.resident_mib()?);

    let (began, cpu) = (Instant::now(), server.cpu_seconds()?);
    submit(&server, tasks).await?;
    figures.add(
        "records_per_s",
        tasks as f64 / began.elapsed().as_secs_f64(),
    );
    figures.add("records_cpu_s", server.cpu_seconds()? - cpu);
    server.settle().await?;
    figures.add("records_mib", server.resident_mib()?);
    let (held, _) = at_rest(&server, &mut client).await?;
    figures.add("held_mib", held);
    let allowed = (tasks * RECORD_BYTES) as f64 * 1.5 + tasks as f64 * 250.0;
    figures.add("memory", (held - start) * MIB / allowed);

    for (name, page_size) in [("first_page_100_ms", 100), ("first_page_1000_ms", 1_000)] {
        let first =
            async |client: &mut Client| page(client, page_size, String::new()).await.map(drop);
        figures.add(name, median_ms(&mut client, first).await?);
    }
    let whole = async |client: &mut Client| match page(client, 0, String::new()).await {
        // A small plan's fits.
        Err(error) if !error.to_string().contains("ask for pages") => Err(error),
        _ => Ok(()),
    };
    figures.add("whole_ms", median_ms(&mut client, whole).await?);
    server.settle().await?;
    let (began, cpu) = (Instant::now(), server.cpu_seconds()?);
    let megabytes = result(&mut client, tasks).await? as f64 / 1e6;
    figures.add("result_mb", megabytes);
    figures.add("result_mb_per_s", megabytes / began.elapsed().as_secs_f64());
    let cpu = server.cpu_seconds()? - cpu;
    figures.add("result_mb_per_cpu_s", megabytes / cpu);

    let (left, after) = delete(&server, &mut client).await?;
    figures.add("deleted_mib", left);
    figures.add("deleted_s", after.as_secs_f64());
    // What the first has left behind is the allocator's, and taken for the second.
    plan(&mut client, self::parts(tasks)?, tasks).await?;
    submit(&server, tasks).await?;
    let (left, _) = delete(&server, &mut client).await?;
    figures.add("deleted_again_mib", left);
    figures.0.insert("tasks", json!(tasks));
    println!("{}", json!(figures.0));
    Ok(())
}

/// The plan's messages.
fn parts(tasks: usize) -> Outcome<Vec<PlanStreamRequest>> {
    let config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#;
    let header = PlanRequest {
        plan_id: PLAN.into(),
        config: config.into(),
        page_size: 1,
        ..Default::default()
    };
    let mut parts = vec![Part::Header(header)];
    let mut digest = Sha256::new();
    let mut chunk = String::new();
    for task in 0..tasks {
        chunk.push(if chunk.is_empty() { '[' } else { ',' });
        write!(chunk, "{{\"k\":{task}}}")?;
        if chunk.len() >= CHUNK_BYTES || task + 1 == tasks {
            chunk.push(']');
            digest.update(&chunk);
            parts.push(Part::Items(std::mem::take(&mut chunk).into()));
        }
    }
    let mut hex = String::new();
    for byte in digest.finalize() {
        write!(hex, "{byte:02x}")?;
    }
    parts.push(Part::Commit(PlanCommit {
        item_count: tasks as u64,
        digest: hex,
    }));
    let message = |part| PlanStreamRequest { part: Some(part) };
    Ok(parts.into_iter().map(message).collect())
}

async fn plan(client: &mut Client, parts: Vec<PlanStreamRequest>, tasks: usize) -> Outcome<()> {
    let answer = client.plan_stream(tokio_stream::iter(parts)).await?;
    let answer = answer.into_inner();
    let planned = answer.plan.unwrap_or_default();
    let counts = planned.counts.unwrap_or_default();
    if !answer.created || counts.tasks != tasks as u64 {
        return Err(format!("{} tasks were planned", counts.tasks).into());
    }
    Ok(())
}

/// A record for each task; the plan has to be completed by the last.
async fn submit(server: &Server, tasks: usize) -> Outcome<()> {
    let mut streams = JoinSet::new();
    for nth in 0..STREAMS {
        let mut client = server.client().await?;
        let own = nth * tasks / STREAMS..(nth + 1) * tasks / STREAMS;
        streams.spawn(async move {
            let count = own.len();
            let batches = own.clone().step_by(BATCH).map(move |first| {
                let records = first..own.end.min(first + BATCH);
                SubmitRecordRequest {
                    plan_id: PLAN.into(),
                    records: records.map(record).collect(),
                    ..Default::default()
                }
            });
            let answers = client.submit_record(tokio_stream::iter(batches)).await?;
            let mut answers = answers.into_inner();
            let (mut accepted, mut completed) = (0, false);
            while let Some(answer) = answers.message().await? {
                completed |= answer.status() == PlanStatus::Completed;
                let receipts = answer.receipts.iter();
                accepted += receipts
                    .filter(|receipt| receipt.disposition() == Disposition::Accepted)
                    .count();
            }
            if accepted != count {
                return Err(format!("{accepted} of {count} records were accepted").into());
            }
            Outcome::Ok(completed)
        });
    }
    let mut completed = false;
    while let Some(stream) = streams.join_next().await {
        completed |= stream??;
    }
    if completed {
        Ok(())
    } else {
        Err("every task has a record, and the plan is not completed".into())
    }
}

/// What an executor sends: its task, and a document with a status, an outcome, nested members and numbers. Encoded it
/// takes exactly so many bytes.
fn record(task: usize) -> Record {
    let (score, changed, tokens) = (task % 1_000, task % 97, 1_000 + task % 9_000);
    let mut body = format!(
        r#"{{"status":"succeeded","attempt":1,"outcome":{{"changed":{changed},"score":0.{score:03},"checks":{{"lint":true,"tests":"passed"}}}},"usage":{{"input_tokens":{tokens},"seconds":1.5e1}},"summary":"module \"{task}\" is fine"#
    );
    let mut record = Record {
        task_id: format!("task-{task}"),
        body: body.clone().into(),
        ..Default::default()
    };
    let end = "\"}";
    let room = RECORD_BYTES.saturating_sub(record.encoded_len() + end.len());
    body.extend(
        " and nothing else had to be changed;"
            .chars()
            .cycle()
            .take(room),
    );
    body.push_str(end);
    record.body = body.into();
    record
}

/// A page of the result: its document, and where the next begins.
async fn page(client: &mut Client, page_size: i32, page_token: String) -> Outcome<(usize, String)> {
    let request = ReconcileRequest {
        plan_id: PLAN.into(),
        page_size,
        page_token,
        ..Default::default()
    };
    let answer = client.reconcile(request).await?.into_inner();
    if answer.status() != PlanStatus::Completed || answer.document.is_empty() {
        return Err(format!("a page says {}", answer.status().as_str_name()).into());
    }
    Ok((answer.document.len(), answer.next_page_token))
}

async fn median_ms(
    client: &mut Client,
    call: impl AsyncFn(&mut Client) -> Outcome<()>,
) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        call(client).await?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[TIMES / 2].as_secs_f64() * 1e3)
}

/// All pages; answers the bytes of their documents.
async fn result(client: &mut Client, tasks: usize) -> Outcome<usize> {
    let (mut bytes, mut pages) = (0, 0);
    let mut page_token = String::new();
    loop {
        let (length, next) = page(client, PAGE_SIZE, page_token).await?;
        (bytes, pages) = (bytes + length, pages + 1);
        if next.is_empty() {
            break;
        }
        page_token = next;
    }
    if pages == tasks.div_ceil(PAGE_SIZE as usize) && bytes > tasks * RECORD_BYTES {
        Ok(bytes)
    } else {
        Err(format!("{bytes} bytes came in {pages} pages").into())
    }
}

/// Deletes the plan; answers what memory is left, and after how long it was about that.
async fn delete(server: &Server, client: &mut Client) -> Outcome<(f64, Duration)> {
    let request = DeletePlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    client.delete_plan(request).await?;
    let plans = client.list_plans(ListPlansRequest::default()).await?;
    if !plans.into_inner().plans.is_empty() {
        return Err("the deleted plan is still there".into());
    }
    at_rest(server, client).await
}

/// Has a server answer a call now and then; answers what memory it has in the end, and after how long it had about that.
async fn at_rest(server: &Server, client: &mut Client) -> Outcome<(f64, Duration)> {
    let began = Instant::now();
    let mut seen = Vec::new();
    while began.elapsed() < LOOKED_AT {
        client.list_plans(ListPlansRequest::default()).await?;
        seen.push((began.elapsed(), server.resident_mib()?));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = seen.last().map_or(0.0, |(_, resident)| *resident);
    let there = seen.iter().find(|(_, resident)| *resident <= left * 1.1);
    Ok((left, there.map_or(LOOKED_AT, |(after, _)| *after)))
}
