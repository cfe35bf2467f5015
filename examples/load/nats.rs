//! What it costs to keep plans on NATS JetStream: the same records to a server that does, and, beside it, the limit: the
//! same batches published to the same NATS server, each acknowledged; and two replicas, each with a plan of its own. Then
//! the journal by itself, and batches as the coordinator makes them, by how many records are on their way, beside the same
//! batches published one by one.
//!
//! The NATS server is one process with its settings as they come, so it acknowledges before its disk has it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use bytes::Bytes;
use fanout::journal::Journal;
use fanout::proto::View;
use tokio::task::JoinSet;

use crate::appends;
use crate::groups::{self, Kept, Written};
use crate::server::Server;
use crate::submit::{self, PLAN, Pace, Rate, SUBMIT, Shape};
use crate::wire::receipts;
use crate::{Outcome, RECORD_BYTES, Size, cell, median, ratio, within};

const STREAMS: usize = 64;
/// Messages of one stream whose acknowledgements have not come: as many as a coordinator reads ahead.
const IN_FLIGHT: usize = 64;
/// What a record takes in a journal beside its document, about.
const BESIDE_DOCUMENT: usize = 60;
/// The plan of the second replica.
const OTHER_PLAN: &str = "other";

/// A NATS server in a directory that goes away with it.
struct Nats {
    process: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Nats {
    async fn start() -> Outcome<Self> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
        let found = Command::new(script).stderr(Stdio::inherit()).output()?;
        if !found.status.success() {
            return Err("there is no nats-server to compare with".into());
        }
        let program = String::from_utf8(found.stdout)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let directory = tempfile::tempdir()?;
        let process = Command::new(program.trim_end())
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            process,
            url: format!("nats://127.0.0.1:{port}"),
            _directory: directory,
        })
    }

    async fn connect(&self) -> Outcome<Context> {
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = within("NATS", client.connect(&self.url)).await?;
        within("NATS", client.flush()).await?;
        Ok(jetstream::new(client))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Compares, and prints a line for each number of records in a message.
pub async fn compare(size: Size) -> Outcome<()> {
    let nats = Nats::start().await?;
    let context = nats.connect().await?;
    let bare = stream::Config {
        name: "bare".to_owned(),
        ..stream::Config::default()
    };
    context.create_stream(bare).await?;
    let replica = || async { Server::fanout_with(&["--nats", &nats.url]).await };
    let (one, other) = (replica().await?, replica().await?);
    for server in [&one, &other] {
        within("readiness", server.ready()).await?;
    }
    println!(
        "Records/s and CPU-s per million of the coordinator (user/system), {} rounds, {STREAMS} streams",
        size.rounds
    );
    for batch in [1, 16, 128] {
        let shape = Shape {
            streams: STREAMS,
            batch,
            record_bytes: RECORD_BYTES,
            view: View::Full,
            records: size.records,
        };
        let half = Shape {
            streams: STREAMS / 2,
            ..shape
        };
        let messages = submit::one_for_each(PLAN, 0, shape);
        let halves = [PLAN, OTHER_PLAN].map(|plan| submit::one_for_each(plan, 0, half));
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            let limit = publish(&context, shape).await?;
            submit::plan_tasks(&one, PLAN, shape.records).await?;
            one.settle().await?;
            let alone = submit::send(&one, SUBMIT, receipts, &messages, Pace::Free).await?;
            submit::delete(&one, PLAN).await?;
            submit::plan_tasks(&one, PLAN, shape.records).await?;
            submit::plan_tasks(&other, OTHER_PLAN, shape.records).await?;
            one.settle().await?;
            other.settle().await?;
            let (first, second) = tokio::join!(
                submit::send(&one, SUBMIT, receipts, &halves[0], Pace::Free),
                submit::send(&other, SUBMIT, receipts, &halves[1], Pace::Free)
            );
            let both = [first?, second?];
            submit::delete(&one, PLAN).await?;
            submit::delete(&other, OTHER_PLAN).await?;
            if round > 0 {
                rounds.push((limit, alone, both));
            }
        }
        println!("{batch} records a message:");
        let limit = median(rounds.iter().map(|(limit, ..)| *limit));
        println!("{:>24}  {limit:>9.0}", "publish, acknowledged");
        let alone: Vec<Rate> = rounds.iter().map(|(_, alone, _)| *alone).collect();
        let over = ratio(&rounds, |(limit, alone, _)| alone.per_second / limit);
        println!("{:>24}  {}  {over:.2} of it", "one replica", cell(&alone));
        for (nth, name) in ["one of two replicas", "the other"].iter().enumerate() {
            let rates: Vec<Rate> = rounds.iter().map(|(_, _, both)| both[nth]).collect();
            println!("{name:>24}  {}", cell(&rates));
        }
        let together = ratio(&rounds, |(_, alone, [one, other])| {
            (one.per_second + other.per_second) / alone.per_second
        });
        let cpu = ratio(&rounds, |(_, alone, [one, other])| {
            f64::midpoint(one.cpu_per_million, other.cpu_per_million) / alone.cpu_per_million
        });
        println!(
            "{:>24}  {together:.2} times one replica's records/s, {cpu:.2} times its CPU a record",
            "two replicas"
        );
    }
    drop((one, other));
    by_group(&nats, &context, size).await
}

/// Compares with the same batches, published one after the other: what is appended to a plan follows what was before it,
/// which the server has to have acknowledged.
async fn by_group(nats: &Nats, context: &Context, size: Size) -> Outcome<()> {
    let raw = async |written: Written| one_by_one(context, written, Place::Any).await;
    let both = async |written: Written| {
        let anywhere = one_by_one(context, written, Place::Any).await?;
        Ok([
            anywhere,
            one_by_one(context, written, Place::Expected).await?,
        ])
    };
    let options = fanout::journal::nats::Options {
        servers: vec![nats.url.clone()],
        stream: "appends".to_owned(),
        replicas: 1,
        credentials: None,
        certificate_authority: None,
        certificate: None,
    };
    let journal = fanout::journal::Nats::connect(&options).await?;
    if let Some(mut failure) = journal.failure() {
        within("NATS", failure.wait_for(Option::is_none)).await?;
    }
    appends::on_nats(&journal, size, both).await?;
    drop(journal);
    let kept = Kept::start(&["--nats", &nats.url]).await?;
    println!(
        "Acknowledged by NATS before every receipt; raw: the same batches published one by one"
    );
    groups::compare(&kept, size, raw).await
}

/// Where a message is to be in its subject.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Any,
    /// Behind the one before.
    Expected,
}

/// Seconds of publishing as many batches, each when the one before is acknowledged.
async fn one_by_one(context: &Context, written: Written, place: Place) -> Outcome<f64> {
    let batch = Bytes::from(vec![b'x'; written.group_bytes()]);
    let mut last = 0;
    let began = Instant::now();
    for _ in 0..written.times {
        let mut message = PublishMessage::build().payload(batch.clone());
        if place == Place::Expected {
            message = message.expected_last_subject_sequence(last);
        }
        let sent = context.send_publish("bare", message).await?;
        last = sent.await?.sequence;
    }
    let seconds = began.elapsed().as_secs_f64();
    purge(context).await?;
    Ok(seconds)
}

/// Forgets what was published.
async fn purge(context: &Context) -> Outcome<()> {
    within("NATS", async {
        let bare = context.get_stream("bare").await?;
        let purged = bare.purge().await;
        purged.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

/// Records per second of publishing batches of the same size, each acknowledged.
async fn publish(context: &Context, shape: Shape) -> Outcome<f64> {
    let batch = Bytes::from(vec![b'x'; shape.batch * (RECORD_BYTES + BESIDE_DOCUMENT)]);
    let each = shape.records / (shape.streams * shape.batch);
    let mut streams = JoinSet::new();
    let began = Instant::now();
    for _ in 0..shape.streams {
        let (context, batch) = (context.clone(), batch.clone());
        streams.spawn(async move {
            let mut waiting = std::collections::VecDeque::new();
            for _ in 0..each {
                if waiting.len() == IN_FLIGHT
                    && let Some(first) = waiting.pop_front()
                {
                    let first: jetstream::context::PublishAckFuture = first;
                    first.await?;
                }
                waiting.push_back(context.publish("bare", batch.clone()).await?);
            }
            for answer in waiting {
                answer.await?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(done) = streams.join_next().await {
        done??;
    }
    let rate = (each * shape.streams * shape.batch) as f64 / began.elapsed().as_secs_f64();
    purge(context).await?;
    Ok(rate)
}
