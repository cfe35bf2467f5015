//! `SubmitRecord` beside a bare tonic echo of the same messages, interleaved in one run.
//!
//! `cargo bench --bench submit`. The server is another process; client and server share the machine. Every round sends
//! the same messages first to the echo, which does no work at all, then to a coordinator, which matches, applies and
//! receipts each record; receipts are checked. Reported are records per second (medians of the rounds), their ratio, and
//! the server's CPU seconds per million records.

#[path = "support/echo.rs"]
mod echo;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout::config::Config;
use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::plan_request::Source;
use fanout::proto::{
    DeletePlanRequest, Disposition, PlanRequest, Record, SubmitRecordRequest, SubmitRecordResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const ROUNDS: usize = 5;
const RECORDS: usize = 200_000;
const RECORD_BYTES: usize = 330;
const SHAPES: [(usize, usize); 4] = [(1, 1), (8, 1), (64, 1), (64, 128)];
const MESSAGES_IN_FLIGHT: usize = 64;
const ROLE: &str = "FANOUT_BENCH_ROLE";

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => runtime.block_on(serve(true)),
        Ok("fanout") => runtime.block_on(serve(false)),
        _ => runtime.block_on(compare()),
    }
}

async fn serve(echo: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("an address"));
    if echo {
        echo::serve(listener).await;
    } else {
        fanout::server::run(listener, Config::default(), std::future::pending())
            .await
            .expect("serves");
    }
}

/// A server process, ended when dropped.
struct Server {
    process: Child,
    channel: Channel,
}

impl Server {
    async fn start(role: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut address = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut address)
            .expect("prints its address");
        let channel = Endpoint::from_shared(format!("http://{}", address.trim()))
            .expect("an address")
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .connect()
            .await
            .expect("connects");
        Self { process, channel }
    }

    /// CPU seconds used so far, user and system (Linux counts them in hundredths).
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))
            .unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn compare() {
    let echo = Server::start("echo").await;
    let fanout = Server::start("fanout").await;
    println!("{RECORDS} records of {RECORD_BYTES} bytes a round, {ROUNDS} rounds, medians");
    println!(
        "{:>7} {:>6}  {:>12} {:>12} {:>6}  {:>16} {:>16}",
        "streams", "batch", "echo rec/s", "submit rec/s", "ratio", "echo CPU-s/M", "submit CPU-s/M"
    );
    for (streams, batch) in SHAPES {
        let (mut echoed, mut submitted) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let plan_id = format!("bench-{streams}-{batch}-{round}");
            let messages = messages(&plan_id, streams, batch);
            let sample = measure(&echo, &messages, echo_stream).await;
            register(&fanout, &plan_id).await;
            let other = measure(&fanout, &messages, submit_stream).await;
            FanoutServiceClient::new(fanout.channel.clone())
                .delete_plan(DeletePlanRequest {
                    plan_id,
                    ..Default::default()
                })
                .await
                .expect("deletes");
            // The first round warms up.
            if round > 0 {
                echoed.push(sample);
                submitted.push(other);
            }
        }
        let (echo_rate, echo_cpu) = medians(echoed);
        let (submit_rate, submit_cpu) = medians(submitted);
        println!(
            "{streams:>7} {batch:>6}  {echo_rate:>12.0} {submit_rate:>12.0} {:>6.2}  {echo_cpu:>16.2} {submit_cpu:>16.2}",
            submit_rate / echo_rate
        );
    }
}

fn messages(plan_id: &str, streams: usize, batch: usize) -> Vec<Vec<SubmitRecordRequest>> {
    let record = |n: usize| {
        let body = format!(r#"{{"status":"succeeded","outcome":{{"changed":{n},"note":""#);
        let filler = "x".repeat(RECORD_BYTES.saturating_sub(body.len() + 24));
        Record {
            task_id: format!("task-{n}"),
            body: format!("{body}{filler}\"}}}}").into(),
            ..Default::default()
        }
    };
    let per_stream = RECORDS / streams;
    let stream = |nth: usize| {
        let records: Vec<Record> = (nth * per_stream..(nth + 1) * per_stream)
            .map(record)
            .collect();
        let message = |records: &[Record]| SubmitRecordRequest {
            plan_id: plan_id.to_owned(),
            records: records.to_vec(),
        };
        records.chunks(batch).map(message).collect()
    };
    (0..streams).map(stream).collect()
}

async fn register(server: &Server, plan_id: &str) {
    let items = (0..RECORDS)
        .map(|n| format!("{{\"k\":\"{n}\"}}"))
        .collect::<Vec<_>>()
        .join(",");
    let config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#;
    let request = PlanRequest {
        plan_id: plan_id.to_owned(),
        config: config.into(),
        source: Some(Source::Items(format!("[{items}]").into())),
        ..Default::default()
    };
    let mut client =
        FanoutServiceClient::new(server.channel.clone()).max_encoding_message_size(64 << 20);
    client.plan(request).await.expect("plans");
}

/// Sends all messages over their streams at once; records per second and CPU seconds per million records.
async fn measure<F: Future<Output = usize> + Send + 'static>(
    server: &Server,
    messages: &[Vec<SubmitRecordRequest>],
    stream: fn(Channel, ReceiverStream<SubmitRecordRequest>) -> F,
) -> (f64, f64) {
    let messages = messages.to_vec();
    let cpu = server.cpu_seconds();
    let start = Instant::now();
    let mut streams = tokio::task::JoinSet::new();
    for requests in messages {
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        tokio::spawn(async move {
            for request in requests {
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        });
        streams.spawn(stream(
            server.channel.clone(),
            ReceiverStream::new(receiver),
        ));
    }
    let answered: usize = streams.join_all().await.into_iter().sum();
    let seconds = start.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
    assert_eq!(answered, RECORDS, "every record is answered");
    (
        answered as f64 / seconds,
        (server.cpu_seconds() - cpu) * 1e6 / answered as f64,
    )
}

async fn echo_stream(channel: Channel, requests: ReceiverStream<SubmitRecordRequest>) -> usize {
    let mut responses = echo::call(channel, requests).await;
    let mut answered = 0;
    while let Some(response) = responses.message().await.expect("an answer") {
        answered += response.records.len();
    }
    answered
}

async fn submit_stream(channel: Channel, requests: ReceiverStream<SubmitRecordRequest>) -> usize {
    let mut client = FanoutServiceClient::new(channel);
    let mut responses = client
        .submit_record(requests)
        .await
        .expect("a stream")
        .into_inner();
    let mut answered = 0;
    while let Some(SubmitRecordResponse { receipts, .. }) =
        responses.message().await.expect("an answer")
    {
        let accepted =
            |receipt: &fanout::proto::Receipt| receipt.disposition() == Disposition::Accepted;
        assert!(receipts.iter().all(accepted), "every record is accepted");
        answered += receipts.len();
    }
    answered
}

fn medians(samples: Vec<(f64, f64)>) -> (f64, f64) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (rates, cpus): (Vec<f64>, Vec<f64>) = samples.into_iter().unzip();
    (median(rates), median(cpus))
}
