//! A crowd at one server: many record streams and many watchers at once, well-behaved and otherwise.
//!
//!     cargo build --release && cargo run --release --example crowd -- live [STREAMS WATCHERS TASKS]
//!     cargo build --release && cargo run --release --example crowd -- drain [STREAMS WATCHERS TASKS]
//!     cargo build --release && cargo run --release --example crowd -- neighbours
//!
//! - `live`: so many tasks (default 100,000), one record for each over so many concurrent streams (1,000) while so many
//!   watchers (100) follow. Every record is accepted once, every watcher sees every result once, in sequence, and then
//!   `End`. Then the plan is deleted. All of it twice, with the server's resident memory with the plan and after its
//!   deletion, when at least half of it has to have come back.
//! - `drain`: the same crowd, submitting without end; then SIGTERM, while a frozen program holds a watch and a record
//!   stream, somebody watches the health, and a connection says nothing. Every client is told to retry, no receipt
//!   contradicts another or what a watcher saw, and the server is gone when its grace is over.
//! - `neighbours`: records/s of 16 well-behaved streams, alone and beside a client that is killed in the middle and
//!   resumes, one that never reads its receipts, a hundred streams that say nothing, and a hundred watchers that read
//!   nothing; rounds of both in turn. Not slower than nine tenths.
//!
//! The server is a process of its own. The last line is `crowd: passed`, or the exit code is 1.

mod drain;
mod live;
mod neighbours;
#[path = "../program/program.rs"]
mod program;
mod server;
#[path = "../program/tasks.rs"]
mod tasks;

use std::error::Error;

use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::{Disposition, Record, SubmitRecordRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Client = FanoutServiceClient<Channel>;
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The plan of all of this.
const PLAN: &str = "crowd";
/// Below the server's limit of streams on a connection.
const STREAMS_PER_CONNECTION: usize = 250;
const RECORDS_PER_MESSAGE: usize = 20;

/// How many there are.
#[derive(Clone, Copy)]
struct Size {
    streams: usize,
    watchers: usize,
    tasks: usize,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    let number = |at: usize, default| words.get(at).map_or(Ok(default), |word| word.parse());
    let size = || {
        Ok::<Size, std::num::ParseIntError>(Size {
            streams: number(0, 1_000)?,
            watchers: number(1, 100)?,
            tasks: number(2, 100_000)?,
        })
    };
    match &*what {
        "live" => live::run(size()?).await?,
        "drain" => drain::run(size()?).await?,
        "neighbours" => neighbours::run().await?,
        // What the above start as processes of their own.
        "frozen" => return drain::freeze(&words[0]).await,
        "resuming" => return neighbours::resume(&words[0]).await,
        _ => return Err("what? live, drain or neighbours".into()),
    }
    println!("crowd: passed");
    Ok(())
}

/// Plans `task-0`, `task-1` and so on.
async fn register(client: &mut Client, tasks: usize) -> Outcome<()> {
    let request = tasks::numbered(PLAN, tasks as u64);
    client.plan(request).await?;
    Ok(())
}

/// A message with a record for each of these tasks.
fn message(tasks: &[usize], outcome: u64) -> SubmitRecordRequest {
    let record = |task: &usize| Record {
        id: format!("task-{task}"),
        success: Some(true),
        body: format!("{{\"outcome\":{outcome}}}").into(),
        ..Default::default()
    };
    SubmitRecordRequest {
        plan_id: PLAN.into(),
        records: tasks.iter().map(record).collect(),
        ..Default::default()
    }
}

/// Sends a record for each of these tasks, so many times, and checks every receipt: the first is accepted, each later one
/// supersedes the one before.
async fn submit(mut client: Client, tasks: Vec<usize>, times: u64) -> Outcome<()> {
    let (requests, stream) = mpsc::channel(4);
    let sending = async {
        for outcome in 0..times {
            for tasks in tasks.chunks(RECORDS_PER_MESSAGE) {
                if requests.send(message(tasks, outcome)).await.is_err() {
                    return;
                }
            }
        }
        drop(requests);
    };
    let receiving = async {
        let answer = client.submit_record(ReceiverStream::new(stream)).await?;
        let mut responses = answer.into_inner();
        let mut receipted = 0;
        while let Some(response) = responses.message().await? {
            for receipt in &response.receipts {
                let expected = if receipted < tasks.len() as u64 {
                    Disposition::Accepted
                } else {
                    Disposition::SupersededPrevious
                };
                if receipt.disposition() != expected {
                    return Err(format!("expected {expected:?}: {receipt:?}").into());
                }
                receipted += 1;
            }
        }
        Ok::<u64, Box<dyn Error + Send + Sync>>(receipted)
    };
    let ((), receipted) = tokio::join!(sending, receiving);
    if receipted? == tasks.len() as u64 * times {
        Ok(())
    } else {
        Err("a receipt is missing".into())
    }
}
