//! A crowd at one plan: many record streams and many watchers, and what is left of it afterwards.
//!
//!     cargo run --release --example crowd [-- STREAMS WATCHERS TASKS]
//!
//! Starts the server as a process of its own, plans so many tasks (default 100,000), submits one record for each over so
//! many concurrent streams (1,000) while so many watchers (100) follow. Checks that every record is accepted once, and that
//! every watcher sees every result once, in sequence, and then `End`. Then deletes the plan. All of it twice, with the
//! server's resident memory with the plan and after its deletion, when at least half of it has to have come back. The last
//! line is `crowd: passed`, or the exit code is 1.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::plan_request::Source;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    DeletePlanRequest, Disposition, ListPlansRequest, PlanRequest, Record, SubmitRecordRequest,
    WatchPlanRequest,
};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Client = FanoutServiceClient<Channel>;
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Below the server's limit of streams on a connection.
const STREAMS_PER_CONNECTION: usize = 250;
const RECORDS_PER_MESSAGE: usize = 20;
/// How long to use the server a little until half of the peak is free again.
const MEMORY_PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (streams, watchers, tasks) = (next(1_000)?, next(100)?, next(100_000)?);
    let server = Server::start()?;
    println!("{} MiB resident at the beginning", server.resident_mib()?);
    for _ in 0..2 {
        let (peak, after) = crowd(&server, streams, watchers, tasks).await?;
        if after > peak / 2 {
            return Err("the plan's memory did not come back".into());
        }
    }
    println!("crowd: passed");
    Ok(())
}

/// Answers the server's resident memory with the plan and after its deletion, in MiB.
async fn crowd(
    server: &Server,
    streams: usize,
    watchers: usize,
    tasks: usize,
) -> Outcome<(u64, u64)> {
    let mut client = server.connect().await?;
    let groups: Vec<String> = (0..tasks)
        .map(|task| format!("{{\"key\":\"{task}\"}}"))
        .collect();
    let request = PlanRequest {
        plan_id: "crowd".into(),
        config: r#"{"task_request_template":{"id":"t{{group.key}}"}}"#.into(),
        source: Some(Source::Groups(format!("[{}]", groups.join(",")).into())),
        page_size: 1,
        ..Default::default()
    };
    client.plan(request).await?;

    let began = Instant::now();
    let mut watching = JoinSet::new();
    let mut submitting = JoinSet::new();
    let most = streams.max(watchers);
    for first in (0..most).step_by(STREAMS_PER_CONNECTION) {
        let client = server.connect().await?;
        for number in first..(first + STREAMS_PER_CONNECTION).min(most) {
            if number < watchers {
                watching.spawn(watch(client.clone(), tasks));
            }
            if number < streams {
                submitting.spawn(submit(
                    client.clone(),
                    (number..tasks).step_by(streams).collect(),
                ));
            }
        }
    }
    while let Some(submitted) = submitting.join_next().await {
        submitted??;
    }
    let submitted = began.elapsed();
    while let Some(watched) = watching.join_next().await {
        watched??;
    }
    let peak = server.resident_mib()?;
    println!(
        "{tasks} records over {streams} streams in {submitted:.1?}; {watchers} watchers had all after {:.1?}",
        began.elapsed()
    );
    let delete = DeletePlanRequest {
        plan_id: "crowd".into(),
        ..Default::default()
    };
    client.delete_plan(delete).await?;
    drop(client);
    // The allocator gives memory back a little after it is free, while it is used.
    let deleted = Instant::now();
    let mut after = server.resident_mib()?;
    while after > peak / 2 && deleted.elapsed() < MEMORY_PATIENCE {
        server
            .connect()
            .await?
            .list_plans(ListPlansRequest::default())
            .await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = server.resident_mib()?;
    }
    println!(
        "{peak} MiB resident with the plan, {after} MiB {:.1?} after it was deleted",
        deleted.elapsed()
    );
    Ok((peak, after))
}

/// Sends one record for each of these tasks, and reads every receipt.
async fn submit(mut client: Client, tasks: Vec<usize>) -> Outcome<()> {
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    let sending = async {
        for tasks in tasks.chunks(RECORDS_PER_MESSAGE) {
            let record = |task: &usize| Record {
                id: format!("t{task}"),
                success: Some(true),
                body: format!("{{\"outcome\":{task}}}").into(),
                ..Default::default()
            };
            let records = tasks.iter().map(record).collect();
            let request = SubmitRecordRequest {
                plan_id: "crowd".into(),
                records,
            };
            if requests.send(request).await.is_err() {
                break;
            }
        }
        drop(requests);
    };
    let receiving = async {
        let mut responses = client
            .submit_record(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let mut accepted = 0;
        while let Some(response) = responses.message().await? {
            for receipt in &response.receipts {
                if receipt.disposition() != Disposition::Accepted {
                    return Err(format!("a record was not accepted: {receipt:?}").into());
                }
                accepted += 1;
            }
        }
        Ok::<usize, Box<dyn Error + Send + Sync>>(accepted)
    };
    let ((), accepted) = tokio::join!(sending, receiving);
    if accepted? == tasks.len() {
        Ok(())
    } else {
        Err("a receipt is missing".into())
    }
}

/// Follows the plan to its end, and checks what it is shown.
async fn watch(mut client: Client, tasks: usize) -> Outcome<()> {
    let request = WatchPlanRequest {
        plan_id: "crowd".into(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(request).await?.into_inner();
    let (mut last, mut seen) = (0, vec![false; tasks]);
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Frame::Result(result)) => {
                let task: usize = result.task_id.trim_start_matches('t').parse()?;
                if result.sequence <= last || std::mem::replace(&mut seen[task], true) {
                    return Err(format!("out of sequence or seen twice: {result:?}").into());
                }
                last = result.sequence;
            }
            Some(Frame::End(_)) if seen.iter().all(|seen| *seen) => return Ok(()),
            Some(Frame::Heartbeat(_)) => {}
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
    Err("the watch ended without End".into())
}

/// The server, in a process of its own.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Outcome<Self> {
        // An example stands beside the program it belongs to.
        let program = std::env::current_exe()?;
        let program = program
            .ancestors()
            .nth(2)
            .ok_or("no directory")?
            .join("fanout");
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!(
                    "{}: {error}; build it first: cargo build --release",
                    program.display()
                )
            })?;
        let stderr = process.stderr.take().ok_or("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let line = lines.next().ok_or("the server said nothing")??;
        let address = line.split_once("address=").ok_or("no address")?.1;
        let address = address.split(' ').next().unwrap_or_default().to_owned();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Self { process, address })
    }

    async fn connect(&self) -> Outcome<Client> {
        Ok(Client::connect(format!("http://{}", self.address)).await?)
    }

    fn resident_mib(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .ok_or("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .parse()?;
        Ok(kib / 1_024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
