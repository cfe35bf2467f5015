//! What bad neighbours cost the others.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::{
    DeletePlanRequest, Disposition, ListTasksRequest, RecordKind, WatchPlanRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::server::Server;
use crate::{Client, Outcome, PLAN, message, register, submit};

const STREAMS: usize = 16;
const TASKS_PER_STREAM: usize = 50_000;
/// How often each task gets another record.
const TIMES: u64 = 3;
/// The last tasks are those of the client that is killed, but for the very last: that of the one that does not read.
const RESUMING_TASKS: usize = 200;
const BAD_STREAMS: usize = 100;
const ROUNDS: usize = 5;
/// What is left to the others of their speed.
const AT_LEAST: f64 = 0.9;

pub async fn run() -> Outcome<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // The first round of all meets cold memory.
    round(false).await?;
    for _ in 0..ROUNDS {
        alone.push(round(false).await?);
        beside.push(round(true).await?);
    }
    let ratios: Vec<f64> = beside.iter().zip(&alone).map(|(b, a)| b / a).collect();
    let (alone, beside, ratio) = (median(alone), median(beside), median(ratios));
    println!(
        "{alone:.0} records/s alone, {beside:.0} beside bad neighbours: {ratio:.2} (medians of {ROUNDS} rounds)"
    );
    if ratio < AT_LEAST {
        return Err(format!("bad neighbours cost more than {AT_LEAST} leaves").into());
    }
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Answers the records/s of the well-behaved. Without bad neighbours the client that resumes is there, too, but is not
/// killed: its own records are not what is measured.
async fn round(bad: bool) -> Outcome<f64> {
    let server = Server::start(&[])?;
    let mut client = server.connect().await?;
    let tasks = STREAMS * TASKS_PER_STREAM + RESUMING_TASKS;
    register(&mut client, tasks).await?;

    let mut resuming = Resuming::start(server.address())?;
    let neighbours = if bad {
        Some(neighbours(&server).await?)
    } else {
        None
    };
    let began = Instant::now();
    let mut submitting = JoinSet::new();
    for stream in 0..STREAMS {
        let client = server.connect().await?;
        let first = stream * TASKS_PER_STREAM;
        let tasks = (first..first + TASKS_PER_STREAM).collect();
        submitting.spawn(submit(client, tasks, TIMES));
    }
    if bad {
        // In the middle of its stream, whichever record that is.
        tokio::time::sleep(Duration::from_millis(200)).await;
        resuming = resuming.kill_and_resume(server.address())?;
    }
    while let Some(submitted) = submitting.join_next().await {
        submitted??;
    }
    let seconds = began.elapsed().as_secs_f64();
    resuming.finish()?;
    drop(neighbours);

    let request = ListTasksRequest {
        plan_id: PLAN.into(),
        page_size: 2,
        states: vec![fanout::proto::TaskState::Pending.into()],
        ..Default::default()
    };
    let pending = client.list_tasks(request).await?.into_inner().tasks;
    let last = format!("task-{}", tasks - 1);
    if pending.iter().any(|task| task.task_id != last) {
        return Err(format!("a task has no record: {pending:?}").into());
    }
    let delete = DeletePlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    client.delete_plan(delete).await?;
    Ok((STREAMS * TASKS_PER_STREAM) as f64 * TIMES as f64 / seconds)
}

/// One that sends and never reads, some that say nothing, some that watch and never read.
async fn neighbours(server: &Server) -> Outcome<Vec<Box<dyn Send>>> {
    let mut held: Vec<Box<dyn Send>> = Vec::new();
    let mut silent = server.connect().await?;
    let mut watchers = server.connect().await?;
    for _ in 0..BAD_STREAMS {
        let (requests, stream) = mpsc::channel::<fanout::proto::SubmitRecordRequest>(1);
        let responses = silent.submit_record(ReceiverStream::new(stream)).await?;
        held.push(Box::new((requests, responses)));
        let request = WatchPlanRequest {
            plan_id: PLAN.into(),
            include_payload: true,
            ..Default::default()
        };
        held.push(Box::new(watchers.watch_plan(request).await?));
    }
    let mut deaf: Client =
        FanoutServiceClient::connect(format!("http://{}", server.address())).await?;
    let (requests, stream) = mpsc::channel(1);
    let responses = deaf.submit_record(ReceiverStream::new(stream)).await?;
    let last = STREAMS * TASKS_PER_STREAM + RESUMING_TASKS - 1;
    let sending = tokio::spawn(async move {
        for outcome in 0.. {
            // No result, so that the plan stays open.
            let mut progress = message(&[last], outcome);
            progress.records[0].set_kind(RecordKind::Progress);
            // Until nothing more is taken from it: then this waits for ever.
            if requests.send(progress).await.is_err() {
                return;
            }
        }
    });
    held.push(Box::new((responses, AbortOnDrop(sending))));
    Ok(held)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The client that is killed, a process of its own.
struct Resuming(Child);

impl Resuming {
    fn start(address: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["resuming", address]).stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    fn kill_and_resume(mut self, address: &str) -> Outcome<Self> {
        self.0.kill()?;
        self.0.wait()?;
        Self::start(address)
    }

    fn finish(mut self) -> Outcome<()> {
        if self.0.wait()?.success() {
            Ok(())
        } else {
            Err("the client that was killed did not finish its records".into())
        }
    }
}

/// Sends its records one by one, each after the receipt of the one before, a little apart; those that an earlier life
/// sent are duplicates.
pub async fn resume(address: &str) -> Outcome<()> {
    let mut client = FanoutServiceClient::connect(format!("http://{address}")).await?;
    let (requests, stream) = mpsc::channel(1);
    let answer = client.submit_record(ReceiverStream::new(stream)).await?;
    let mut responses = answer.into_inner();
    let first = STREAMS * TASKS_PER_STREAM;
    for task in first..first + RESUMING_TASKS - 1 {
        requests.send(message(&[task], 0)).await?;
        let response = responses.message().await?.ok_or("no receipt")?;
        let disposition = response.receipts[0].disposition();
        if !matches!(disposition, Disposition::Accepted | Disposition::Duplicate) {
            return Err(format!("{:?}", response.receipts[0]).into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
