//! The server is asked to end while everybody is busy.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{Disposition, RecordKind, WatchPlanRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::server::Server;
use crate::{
    Client, Outcome, PLAN, RECORDS_PER_MESSAGE, STREAMS_PER_CONNECTION, Size, message, register,
};

const GRACE: Duration = Duration::from_secs(5);
/// How much later than its grace the server may be gone.
const LATE: Duration = Duration::from_secs(1);
/// How much of a grace is enough where nobody is frozen.
const PROMPT: Duration = Duration::from_secs(4);

/// Receipts that a watcher has to have seen as well.
const CHECKED_AT_LEAST: usize = 10_000;

/// What happened to a task: its sequence, the task, the revision.
type Happened = HashMap<u64, (usize, u32)>;

pub async fn run(size: Size) -> Outcome<()> {
    for frozen in [false, true] {
        drain(size, frozen).await?;
    }
    Ok(())
}

async fn drain(size: Size, with_frozen: bool) -> Outcome<()> {
    let grace = format!("{}s", GRACE.as_secs());
    let mut server = Server::start(&["--drain-grace", &grace])?;
    register(&mut server.connect().await?, size.tasks).await?;

    let frozen = with_frozen.then(|| Frozen::start(server.address()));
    let frozen = frozen.transpose()?;
    let idle = TcpStream::connect(server.address())?;
    let mut health = HealthClient::connect(format!("http://{}", server.address())).await?;
    let request = HealthCheckRequest {
        service: "readiness".into(),
    };
    let mut health = health.watch(request).await?.into_inner();
    let first = health.message().await?.map(|answer| answer.status());
    if first != Some(ServingStatus::Serving) {
        return Err(format!("the server is not ready: {first:?}").into());
    }

    let (busy, mut is_busy) = watch::channel(0);
    let mut watching = JoinSet::new();
    let mut submitting = JoinSet::new();
    let most = size.streams.max(size.watchers);
    for first in (0..most).step_by(STREAMS_PER_CONNECTION) {
        let client = server.connect().await?;
        for number in first..(first + STREAMS_PER_CONNECTION).min(most) {
            if number < size.watchers {
                watching.spawn(watch_until_told(client.clone()));
            }
            if number < size.streams {
                // Task 0 never has a record, so the plan stays open.
                let tasks = (number + 1..size.tasks).step_by(size.streams).collect();
                submitting.spawn(submit_until_told(client.clone(), tasks, busy.clone()));
            }
        }
    }
    is_busy.wait_for(|streams| *streams == size.streams).await?;

    let began = Instant::now();
    server.terminate()?;
    let mut receipts = Happened::new();
    while let Some(submitted) = submitting.join_next().await {
        for (sequence, happened) in submitted?? {
            if receipts.insert(sequence, happened).is_some() {
                return Err(format!("two receipts have sequence {sequence}").into());
            }
        }
    }
    let mut seen = Happened::new();
    while let Some(watched) = watching.join_next().await {
        for (sequence, happened) in watched?? {
            if *seen.entry(sequence).or_insert(happened) != happened {
                return Err(format!("two watchers saw different results at {sequence}").into());
            }
        }
    }
    let mut checked = 0;
    for (sequence, happened) in &receipts {
        match seen.get(sequence) {
            Some(same) if same == happened => checked += 1,
            Some(other) => {
                return Err(format!("{sequence}: receipt {happened:?}, watchers {other:?}").into());
            }
            None => {}
        }
    }
    let last = health.message().await?.map(|answer| answer.status());
    if last != Some(ServingStatus::NotServing) {
        return Err(format!("health said {last:?}").into());
    }
    told_to_retry(health.message().await.err())?;
    let told = began.elapsed();
    let ended = server.wait(GRACE + LATE)?;
    let gone = began.elapsed();
    drop((idle, frozen));
    if !ended.success() {
        return Err(format!("the server ended with {ended}").into());
    }
    if !with_frozen && gone > PROMPT {
        return Err(format!("nobody was frozen, but it took {gone:?}").into());
    }
    println!(
        "{}: {} streams and {} watchers were told to retry in {told:.1?}; {} receipts, {checked} of them seen by \
         watchers too, none contradicted; gone after {gone:.1?} of {GRACE:?}",
        if with_frozen {
            "with a frozen program"
        } else {
            "with a quiet connection"
        },
        size.streams,
        size.watchers,
        receipts.len(),
    );
    if checked < CHECKED_AT_LEAST {
        return Err("the watchers saw too little of it".into());
    }
    Ok(())
}

fn told_to_retry(status: Option<Status>) -> Outcome<()> {
    let status = status.ok_or("a stream ended as if all was done")?;
    let details = status.get_error_details();
    if status.code() == Code::Unavailable && details.retry_info().is_some() {
        Ok(())
    } else {
        Err(format!("not told to retry: {status:?}").into())
    }
}

/// Sends records for these tasks again and again; says on `busy` when the first receipts are there.
async fn submit_until_told(
    mut client: Client,
    tasks: Vec<usize>,
    busy: watch::Sender<usize>,
) -> Outcome<Happened> {
    let (requests, stream) = mpsc::channel(4);
    let sending = async move {
        for outcome in 0.. {
            for tasks in tasks.chunks(RECORDS_PER_MESSAGE) {
                if requests.send(message(tasks, outcome)).await.is_err() {
                    return;
                }
            }
        }
    };
    let receiving = async {
        let (mut happened, mut revisions, mut last) = (Happened::new(), HashMap::new(), 0);
        let mut responses = client
            .submit_record(ReceiverStream::new(stream))
            .await?
            .into_inner();
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                ended => {
                    told_to_retry(ended.err())?;
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(happened);
                }
            };
            if happened.is_empty() {
                busy.send_modify(|streams| *streams += 1);
            }
            for receipt in response.receipts {
                let fine = matches!(
                    receipt.disposition(),
                    Disposition::Accepted | Disposition::SupersededPrevious
                );
                if !fine {
                    return Err(format!("a record was not accepted: {receipt:?}").into());
                }
                let task = receipt.task_id.trim_start_matches('t').parse()?;
                // Nobody else has this task.
                let revision = revisions.entry(task).or_insert(0);
                *revision += 1;
                if receipt.revision != *revision || receipt.sequence <= last {
                    return Err(format!(
                        "expected revision {revision} after sequence {last}: {receipt:?}"
                    )
                    .into());
                }
                last = receipt.sequence;
                happened.insert(last, (task, receipt.revision));
            }
        }
    };
    // The sender ends when the stream does.
    let (received, ()) = tokio::join!(receiving, sending);
    received
}

async fn watch_until_told(mut client: Client) -> Outcome<Happened> {
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(request).await?.into_inner();
    let (mut last, mut seen) = (0, Happened::new());
    loop {
        let frame = match frames.message().await {
            Ok(Some(frame)) => frame.frame,
            ended => {
                told_to_retry(ended.err())?;
                return Ok(seen);
            }
        };
        match frame {
            Some(Frame::Result(result)) => {
                if result.sequence <= last {
                    return Err(format!("out of sequence: {result:?}").into());
                }
                last = result.sequence;
                let task = result.task_id.trim_start_matches('t').parse()?;
                seen.insert(last, (task, result.revision));
            }
            Some(Frame::Heartbeat(_) | Frame::Progress(_)) => {}
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
}

/// A program with a watch and a record stream, stopped so that it neither reads nor answers.
struct Frozen(Child);

impl Frozen {
    fn start(address: &str) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["frozen", address])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let frozen = Self(process);
        if line != "ready\n" {
            return Err("the program to freeze did not get its streams".into());
        }
        kill(Pid::from_raw(frozen.0.id().try_into()?), Signal::SIGSTOP)?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a watch and a record stream, says `ready`, and waits to be frozen.
pub async fn freeze(address: &str) -> Outcome<()> {
    let mut client = Client::connect(format!("http://{address}")).await?;
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        include_payload: true,
        ..Default::default()
    };
    let _watch = client.watch_plan(request).await?;
    let (requests, stream) = mpsc::channel(4);
    let mut receipts = client
        .submit_record(ReceiverStream::new(stream))
        .await?
        .into_inner();
    // No result: the plan is to stay open.
    let mut started = message(&[0], 0);
    started.records[0].set_kind(RecordKind::Started);
    requests.send(started).await?;
    receipts.message().await?.ok_or("no receipt")?;
    println!("ready");
    std::future::pending().await
}
