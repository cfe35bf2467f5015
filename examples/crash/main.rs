//! Kills the coordinator again and again while it takes records, and counts what is missing afterwards.
//!
//!     cargo build --release && cargo run --release --example crash -- --kills N --records M --seed S [--durability fsync|os]
//!
//! The `fanout` beside this example serves one plan from a directory. Sixteen producers, each with tasks of its own, send
//! it records with offsets, in messages of 1 to 64, several unanswered at a time; eight watchers follow it. Meanwhile it is
//! killed with SIGKILL, each time after a random number of records, sometimes while it still starts, and started again. Whoever loses the
//! connection comes back: a producer asks how many of its records the plan has, which must not be fewer than were
//! acknowledged, sends the last acknowledged message again, which must get the same receipts, and goes on; a watcher goes on
//! after its cursor. What each record must come to (accepted, or in place of an earlier one, or a duplicate; and which
//! revision) is computed here, from the producer's records alone, so that one that was lost or applied twice shows in the
//! receipts. At the end every watcher must have seen every accepted record once, in sequence; the plan's result must be
//! what the records come to; and the result must be the same after another start, which folds the journal.
//!
//! The last line is `acknowledged A, lost L, doubled D, equal yes|no`: records with a receipt, those of them that the plan
//! did not have later, records that were applied twice, and whether all else was as it must be. Exit code 1 unless it ends
//! with `lost 0, doubled 0, equal yes`. The same seed sends the same records and draws the same numbers.

mod expected;
mod producer;
#[path = "../program/program.rs"]
mod program;
mod server;
#[path = "../program/tasks.rs"]
mod tasks;
mod watcher;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use expected::{Draw, Expected};
use server::Server;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PLAN: &str = "crash";
const PRODUCERS: u64 = 16;
const WATCHERS: usize = 8;
/// Records for each task, on average.
const RECORDS_PER_TASK: u64 = 20;
/// How often it is looked whether the server has lived for long enough.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long the server lives at most.
const LIFE_MAX: Duration = Duration::from_secs(2);
/// One kill in so many comes while the server still starts.
const EARLY_KILL_IN: u64 = 10;
/// A server that has not said that it is ready by then has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was found wrong so far, and how far everybody is.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    /// Anything else that must not be.
    wrong: AtomicU64,
}

impl Tally {
    fn wrong(&self, what: impl std::fmt::Display) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        eprintln!("wrong: {what}");
    }

    fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

struct Arguments {
    kills: u64,
    records: u64,
    seed: u64,
    durability: String,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| crash(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    const USAGE: &str = "expected: --kills N --records M --seed S [--durability fsync|os]";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(USAGE.into());
        };
        given.insert(name, value);
    }
    let mut number = |name: &str| -> Outcome<u64> {
        let value = given.remove(name).ok_or(USAGE)?;
        value.parse().map_err(|_| USAGE.into())
    };
    let (kills, records, seed) = (number("--kills")?, number("--records")?, number("--seed")?);
    let durability = given.remove("--durability").unwrap_or("fsync").to_owned();
    if !given.is_empty() {
        return Err(USAGE.into());
    }
    Ok(Arguments {
        kills,
        records,
        seed,
        durability,
    })
}

#[tokio::main]
async fn crash(arguments: &Arguments) -> Outcome<bool> {
    let begin = Instant::now();
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path(), &arguments.durability)?;
    server.ready().await?;
    let tasks = (arguments.records / RECORDS_PER_TASK).max(PRODUCERS);
    let each = arguments.records.div_ceil(PRODUCERS);
    let expected: Vec<Arc<Expected>> = (0..PRODUCERS)
        .map(|nth| Arc::new(Expected::of(arguments.seed, nth, PRODUCERS, tasks, each)))
        .collect();
    server.plan(tasks).await?;

    let tally = Arc::new(Tally::default());
    let address = server.address();
    // Told to the watchers when the last receipt is there: which sequences there were, and what each was.
    let (all_accepted, accepted) = watch::channel(None);
    let mut producers = JoinSet::new();
    for own in &expected {
        let (own, tally, address) = (Arc::clone(own), Arc::clone(&tally), address.clone());
        producers.spawn(async move { producer::run(&own, &address, &tally).await });
    }
    let mut watchers = JoinSet::new();
    for nth in 0..WATCHERS {
        let (tally, address, accepted) = (Arc::clone(&tally), address.clone(), accepted.clone());
        watchers.spawn(async move { watcher::run(nth, &address, accepted, &tally).await });
    }

    let mut draw = Draw::of(arguments.seed, u64::MAX);
    let mut seen = BTreeMap::new();
    let (mut kills, mut working) = (0, true);
    // Killed in the midst of the work: when so many records more are acknowledged, so that all of it is gone through.
    let on_average = arguments.records / (arguments.kills + 1);
    let mut until = draw.below(2 * on_average);
    let mut born = Instant::now();
    while working || kills < arguments.kills {
        tokio::select! {
            ended = producers.join_next(), if working => match ended {
                Some(receipts) => seen.extend(receipts??),
                None => working = false,
            },
            () = tokio::time::sleep(LOOK_EVERY), if kills < arguments.kills => {
                let acknowledged = Tally::of(&tally.acknowledged);
                if acknowledged < until && born.elapsed() < LIFE_MAX {
                    continue;
                }
                server.kill_and_start()?;
                kills += 1;
                if draw.below(EARLY_KILL_IN) > 0 {
                    server.ready().await?;
                }
                born = Instant::now();
                until = Tally::of(&tally.acknowledged) + draw.below(2 * on_average);
                if kills % 10 == 0 {
                    let seconds = begin.elapsed().as_secs();
                    eprintln!("{kills} kills, {acknowledged} records acknowledged, {seconds} s");
                }
            }
        }
    }
    server.ready().await?;
    all_accepted.send_replace(Some(Arc::new(seen)));
    while let Some(watched) = watchers.join_next().await {
        watched??;
    }
    let result = server.result().await?;
    for (task, payload) in expected.iter().flat_map(|own| own.finally()) {
        if result.get(&task) != Some(&payload) {
            tally.wrong(format_args!(
                "task {task} has {:?}, expected {payload}",
                result.get(&task)
            ));
        }
    }
    server.kill_and_start()?;
    server.ready().await?;
    if server.result().await? != result {
        tally.wrong("the result is another one after another start");
    }
    println!(
        "{kills} kills, {tasks} tasks, {PRODUCERS} producers, {WATCHERS} watchers; journal {} MiB, memory {} MiB, {} s",
        server.journal_bytes()? >> 20,
        server.resident_kib()? >> 10,
        begin.elapsed().as_secs()
    );
    let [acknowledged, lost, doubled, wrong] = [
        &tally.acknowledged,
        &tally.lost,
        &tally.doubled,
        &tally.wrong,
    ]
    .map(Tally::of);
    let equal = if wrong == 0 { "yes" } else { "no" };
    println!("acknowledged {acknowledged}, lost {lost}, doubled {doubled}, equal {equal}");
    Ok(lost == 0 && doubled == 0 && wrong == 0 && acknowledged >= arguments.records)
}
