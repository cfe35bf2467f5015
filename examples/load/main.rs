//! How fast the coordinator is, beside what is possible at all: two echoes on the same HTTP implementation with the same
//! settings, which are sent the same messages, in turn with it, round by round.
//!
//!     cargo build --release && cargo run --release --example load -- compare [--quick] [--raw]
//!     cargo build --release && cargo run --release --example load -- profile STREAMS BATCH [short] [SERVER-ARGUMENT...]
//!     cargo build --release && cargo run --release --example load -- journals [--quick]
//!     cargo build --release && cargo run --release --example load -- nats [--quick]
//!     cargo build --release && cargo run --release --example load -- tls [--quick]
//!
//! The **bare echo** is a service as it is generated from the contract: it decodes each message, answers with the same, and
//! does no work. The **keeping echo** copies each record's id and body into an arena of huge pages besides, and keeps them
//! until the round is over; it matches nothing and has no state. With `--raw`, a harder limit, both pass bytes on as they
//! are, and what is kept is the message. Where receipts have their records in them, the coordinator answers with more bytes
//! than it is sent; so both are compared once more while they answer with as many as it does.
//!
//! `profile` lists the functions that take the coordinator's time (with `perf`), `journals` says what it costs to keep plans on
//! disk, what the journal takes by itself, and what an fsync before every receipt, `nats` on NATS, `tls` how the coordinator compares with the bare echo where
//! both speak TLS.
//!
//! The coordinator is the `fanout` program beside this example with its default settings, but for batches of 1,024
//! records, which it is told to allow; it matches, applies, keeps and receipts every record. Each is a process of its
//! own, this one the client: it encodes all messages before a round begins, sends bytes, and looks at every answer for no
//! more than how many records it answers and whether each was accepted with code 0. Streams are spread over four
//! connections. Records are a task id and a JSON document with a status, an outcome, nested members and numbers, of 330
//! bytes unless it says otherwise; every record is for another task of one plan unless it says otherwise. Planning,
//! opening the streams, and deleting the plan after every round are not measured. A first round that warms up is not counted. A ratio is
//! the median of the rounds' ratios, other figures are medians of the rounds: five (of records one by one fifteen), with `--quick` three (nine)
//! smaller ones.
//!
//! The last line is a JSON object:
//!
//! - `submit_1`, `submit_8`, `submit_64`, `submit_256`: records/s over so many streams, one record a message, as a share
//!   of the keeping echo's. Every receipt has the reconciled record in it, as is the default.
//! - `submit_1_short` and so on: the same with receipts in the view BASIC, without it.
//! - `bare_64`, `bare_64_short`: the same over 64 streams, as a share of the bare echo's.
//! - `submit_1_as_long` and so on, `bare_64_as_long`, `cpu_as_long`: with whole receipts, beside echoes whose answers are
//!   as long. Not with `--raw`.
//! - `cpu`, `cpu_short`: CPU seconds of the server for a record over 64 streams, over the keeping echo's.
//! - `receipt_p99`: one stream, the next record is sent when the receipt of the one before is there; of the times from
//!   sending to receipt the slowest of a hundred, over the bare echo's.
//! - `watch_p99`: the same to the result at a watcher on another connection, over the same of the bare echo.
//! - `flat_1m`: records/s on a plan of 1,000,000 tasks, as a share of those on a plan of 1,000: a thousand records at a
//!   time, over eight streams, to plans of 1,000 and to the large one in turn.
//! - `stalled_watchers_100`: records/s over 64 streams while 100 watchers, who asked for the documents too, read
//!   nothing and are sent nothing any more, as a share of those of a second server without, 12,800 records at one and then
//!   at the other.
//! - `plans_2000`: records/s over 2,000 streams, each for a plan of its own, as a share of those over 2,000 streams for
//!   one plan. After every eight records of a stream others have their turn.
//! - `watch_100`: results that reach 100 watchers in a second, from the first record's sending to the last watcher's last
//!   result, as a share of those that the bare echo sends to 100 clients from ready-encoded bytes of the same size.
//!
//! The table has what these come from, and more shapes without `--quick`. CPU is in seconds per million records or
//! delivered results, with the shares of the program (user) and of the system; RSS is right after the round, with what is
//! kept in it. Anything unexpected, or that takes longer than a minute, is an error: exit code 1.

mod appends;
mod echo;
mod groups;
mod journals;
mod latency;
mod nats;
mod plans;
mod profile;
#[path = "../program/program.rs"]
mod program;
mod server;
mod submit;
#[path = "../program/tasks.rs"]
mod tasks;
mod tls;
mod watch;
mod wire;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fanout::proto::View;
use serde_json::{Map, Value, json};

use latency::Latency;
use server::{Server, Used};
use submit::{Rate, Shape};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const RECORD_BYTES: usize = 330;
const LARGE_RECORD_BYTES: usize = 2_000;
const WATCHERS: usize = 100;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    records: usize,
    /// Records one by one.
    samples: usize,
    /// Results for each watcher.
    watched: usize,
    everything: bool,
}

const QUICK: Size = Size {
    rounds: 3,
    records: 76_800,
    samples: 1_000,
    watched: 8_192,
    everything: false,
};

const FULL: Size = Size {
    rounds: 5,
    records: 204_800,
    samples: 4_000,
    watched: 32_768,
    everything: true,
};

/// Those that are compared.
struct Servers {
    bare: Server,
    keeping: Server,
    fanout: Server,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["compare"] => compare(FULL, &["decoding"]),
        ["compare", "--quick"] => compare(QUICK, &["decoding"]),
        ["compare", "--raw"] => compare(FULL, &[]),
        ["compare", "--quick", "--raw"] => compare(QUICK, &[]),
        ["profile", streams, batch, "short", ref arguments @ ..] => {
            profiled(streams, batch, View::Basic, arguments)
        }
        ["profile", streams, batch, ref arguments @ ..] => {
            profiled(streams, batch, View::Full, arguments)
        }
        ["journals"] => with_journals(FULL),
        ["journals", "--quick"] => with_journals(QUICK),
        ["nats"] => with_nats(FULL),
        ["nats", "--quick"] => with_nats(QUICK),
        ["tls"] => over_tls(FULL),
        ["tls", "--quick"] => over_tls(QUICK),
        // What it starts as processes of their own.
        ["bare", "decoding", "--tls-cert", certificate, "--tls-key", key] => {
            echo::serve(false, true, Some([certificate, key]))
        }
        ["bare", ref how @ ..] => echo::serve(false, how == ["decoding"], None),
        ["keeping", ref how @ ..] => echo::serve(true, how == ["decoding"], None),
        ["serve", ..] => return fanout::cli::main(std::env::args_os()),
        _ => Err(
            "expected: compare [--quick] [--raw], profile STREAMS BATCH [short], journals [--quick], nats [--quick], or tls [--quick]"
                .into(),
        ),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn profiled(streams: &str, batch: &str, view: View, arguments: &[&str]) -> Outcome<()> {
    profile::profile(streams.parse()?, batch.parse()?, view, arguments).await
}

#[tokio::main]
async fn with_journals(size: Size) -> Outcome<()> {
    journals::compare(size).await
}

#[tokio::main]
async fn with_nats(size: Size) -> Outcome<()> {
    nats::compare(size).await
}

#[tokio::main]
async fn over_tls(size: Size) -> Outcome<()> {
    tls::compare(size).await
}

#[tokio::main]
async fn compare(size: Size, echoes: &[&str]) -> Outcome<()> {
    let began = Instant::now();
    let mut servers = Servers {
        bare: Server::echo(&[&["bare"], echoes].concat()).await?,
        keeping: Server::echo(&[&["keeping"], echoes].concat()).await?,
        fanout: Server::fanout().await?,
    };
    let mut figures = Map::new();
    let mut figure = |name: &str, value: f64| {
        figures.insert(name.to_owned(), json!((value * 1e3).round() / 1e3));
    };

    println!(
        "Records, {} rounds; records/s, CPU-s per million (user/system), RSS in MiB",
        size.rounds
    );
    heading();
    for shape in shapes(size) {
        let rounds = submit::compare(&servers, shape, size).await?;
        row(shape, &rounds);
        if (shape.batch, shape.record_bytes) == (1, RECORD_BYTES) {
            for (nth, suffix) in [(2, ""), (3, "_short")] {
                let [over_bare, over_keeping] = over_echoes(&rounds, nth);
                figure(&format!("submit_{}{suffix}", shape.streams), over_keeping);
                if shape.streams == 64 {
                    figure(&format!("bare_64{suffix}"), over_bare);
                    let cpu = ratio(&rounds, |round| {
                        round[nth].cpu_per_million / round[1].cpu_per_million
                    });
                    figure(&format!("cpu{suffix}"), cpu);
                }
            }
        }
    }

    if echoes == ["decoding"] {
        println!(
            "\nBeside echoes that answer with as many bytes as the coordinator with whole receipts:"
        );
        for shape in shapes(size) {
            if (shape.batch, shape.record_bytes) != (1, RECORD_BYTES) {
                continue;
            }
            let rounds = submit::compare_as_long(&mut servers, shape, size).await?;
            let cells = [0, 1, 2].map(|server| {
                let rates: Vec<Rate> = rounds.iter().map(|round| round[server]).collect();
                cell(&rates)
            });
            let [over_bare, over_keeping] = over_echoes(&rounds, 2);
            let streams = shape.streams;
            println!(
                "{streams:>13} streams  {}  {over_bare:>7.2}  {over_keeping:>10.2}",
                cells.join("  ")
            );
            figure(&format!("submit_{streams}_as_long"), over_keeping);
            if streams == 64 {
                figure("bare_64_as_long", over_bare);
                let cpu = ratio(&rounds, |round| {
                    round[2].cpu_per_million / round[1].cpu_per_million
                });
                figure("cpu_as_long", cpu);
            }
        }
    }

    println!("\nOne record at a time, from sending to:");
    let rounds = latency::compare(&servers, size).await?;
    for (nth, name) in ["the bare echo", "its receipt", "a watcher"]
        .iter()
        .enumerate()
    {
        let micros = |of: fn(&Latency) -> Duration| {
            ratio(&rounds, |round| of(&round[nth]).as_secs_f64() * 1e6)
        };
        let (p50, p99) = (micros(|latency| latency.p50), micros(|latency| latency.p99));
        let over = ratio(&rounds, |round| {
            round[nth].p99.as_secs_f64() / round[0].p99.as_secs_f64()
        });
        println!("{name:>15}  p50 {p50:>5.0} us  p99 {p99:>5.0} us  {over:.2} of the echo's");
        match nth {
            1 => figure("receipt_p99", over),
            2 => figure("watch_p99", over),
            _ => {}
        }
    }

    println!(
        "\nRecords/s of the coordinator alone, {} rounds",
        size.rounds
    );
    let rounds = plans::by_size(size).await?;
    figure("flat_1m", beside("1,000 tasks", "1,000,000", &rounds));
    let rounds = submit::stalled_watchers(WATCHERS, size).await?;
    figure(
        "stalled_watchers_100",
        beside("no watchers", "100 stalled", &rounds),
    );
    let rounds = plans::by_number(size).await?;
    figure("plans_2000", beside("one plan", "2,000 plans", &rounds));

    println!(
        "\nResults/s to {WATCHERS} watchers together; CPU-s per million (user/system); {} each",
        size.watched
    );
    for payload in [false, true] {
        if payload && !size.everything {
            continue;
        }
        let rounds = watch::compare(&servers, WATCHERS, payload, size).await?;
        let names = ["bare fan-out", "as records come", "all there before"];
        for (nth, name) in names.iter().enumerate() {
            let rates: Vec<Rate> = rounds.iter().map(|round| round[nth]).collect();
            let over = ratio(&rounds, |round| round[nth].per_second / round[0].per_second);
            let name = format!("{name}{}", if payload { ", documents too" } else { "" });
            println!("{name:>32}  {}  {over:.2}", cell(&rates));
            if nth == 1 && !payload {
                figure("watch_100", over);
            }
        }
    }
    println!("\nAfter {:.0} s:", began.elapsed().as_secs_f64());
    println!("{}", Value::Object(figures));
    Ok(())
}

fn shapes(size: Size) -> Vec<Shape> {
    let shape = |streams, batch, record_bytes| Shape {
        streams,
        batch,
        record_bytes,
        view: View::Full,
        // As many bytes, about.
        records: size.records * RECORD_BYTES / record_bytes / streams * streams,
    };
    let mut shapes: Vec<_> = [1, 8, 64, 256]
        .map(|streams| shape(streams, 1, RECORD_BYTES))
        .into();
    if size.everything {
        shapes.extend([16, 128, 1_024].map(|batch| shape(64, batch, RECORD_BYTES)));
        shapes.extend([1, 8, 64, 256].map(|streams| shape(streams, 1, LARGE_RECORD_BYTES)));
        shapes.extend([16, 128, 1_024].map(|batch| shape(64, batch, LARGE_RECORD_BYTES)));
    }
    shapes
}

fn heading() {
    let servers = [
        "bare echo",
        "keeping echo",
        "coordinator",
        "with short receipts",
    ];
    let servers = servers.map(|name| format!("{name:>37}")).join("");
    println!(
        "{:>5} {:>7} {:>5}{servers}  of bare, short  of keeping, short",
        "bytes", "streams", "batch"
    );
}

fn row(shape: Shape, rounds: &[[Rate; 4]]) {
    let cells = [0, 1, 2, 3].map(|server| {
        let rates: Vec<Rate> = rounds.iter().map(|round| round[server]).collect();
        format!(
            "{} {:>5.0}",
            cell(&rates),
            median(rates.iter().map(|rate| rate.resident_mib))
        )
    });
    let [[bare, keeping], [short_bare, short_keeping]] = [2, 3].map(|nth| over_echoes(rounds, nth));
    println!(
        "{:>5} {:>7} {:>5}  {}  {bare:>7.2}  {short_bare:>5.2}  {keeping:>10.2}  {short_keeping:>5.2}",
        shape.record_bytes,
        shape.streams,
        shape.batch,
        cells.join("  ")
    );
}

/// Records/s of the coordinator, in this place of a round, over the bare echo's and over the keeping echo's.
fn over_echoes<const N: usize>(rounds: &[[Rate; N]], nth: usize) -> [f64; 2] {
    [0, 1].map(|echo| {
        ratio(rounds, |round| {
            round[nth].per_second / round[echo].per_second
        })
    })
}

/// How many a second, and the CPU of it.
fn cell(rates: &[Rate]) -> String {
    let per_second = median(rates.iter().map(|rate| rate.per_second));
    let cpu = median(rates.iter().map(|rate| rate.cpu_per_million));
    let sum = |of: fn(&Used) -> f64| rates.iter().map(|rate| of(&rate.used)).sum::<f64>();
    let (user, system) = (sum(|used| used.user), sum(|used| used.system));
    let user = cpu * user / (user + system).max(1.0);
    format!(
        "{per_second:>9.0} {cpu:>5.2} ({user:.2}/{:.2})",
        (cpu - user).max(0.0)
    )
}

/// Prints one beside the other, and answers the other's share of the one.
fn beside(one: &str, other: &str, rounds: &[[f64; 2]]) -> f64 {
    let rate = |nth: usize| median(rounds.iter().map(|round| round[nth]));
    let share = ratio(rounds, |[one, other]| other / one);
    println!(
        "{one:>15} {:>9.0}  {other:>15} {:>9.0}  {share:.2}",
        rate(0),
        rate(1)
    );
    share
}

fn ratio<R>(rounds: &[R], of: impl Fn(&R) -> f64) -> f64 {
    median(rounds.iter().map(of))
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What comes of it, if it does in time.
async fn within<T, E>(what: &str, doing: impl Future<Output = Result<T, E>>) -> Outcome<T>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    match tokio::time::timeout(PATIENCE, doing).await {
        Ok(done) => done.map_err(|error| format!("{what}: {}", error.into()).into()),
        Err(_) => Err(format!("{what} took longer than {PATIENCE:?}").into()),
    }
}
