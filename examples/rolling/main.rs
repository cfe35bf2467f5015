//! Restarts the coordinator again and again, as an update does, behind clients that do what they are told; --help says
//! more.

#[path = "../program/beside.rs"]
mod beside;
#[path = "../replicas/client.rs"]
mod client;
mod command_line;
#[path = "../replicas/compare.rs"]
mod compare;
#[path = "../crash/expected.rs"]
mod expected;
#[path = "../replicas/fleet.rs"]
#[allow(dead_code, reason = "here no plans are lost on purpose")]
mod fleet;
#[path = "../replicas/nats.rs"]
#[allow(dead_code, reason = "here NATS is well all the time")]
mod nats;
#[path = "../replicas/relay.rs"]
#[allow(dead_code, reason = "here the ways to NATS are open all the time")]
mod relay;
#[path = "../replicas/replica.rs"]
#[allow(dead_code, reason = "here nobody is killed or cut off")]
mod replica;
#[path = "../replicas/shown.rs"]
mod shown;
#[path = "../replicas/submitter.rs"]
mod submitter;
#[path = "../replicas/tally.rs"]
mod tally;
#[path = "../program/tasks.rs"]
mod tasks;
#[path = "../replicas/watcher.rs"]
mod watcher;
#[path = "../replicas/work.rs"]
mod work;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use command_line::CommandLine;
use expected::Draw;
use fleet::{Fleet, Kept};
use tally::{Outcome, Tally};
use work::Work;

const HELP: &str = "
Restarts the coordinator again and again, as an update does, behind clients that do what they are told.

  cargo build --release && cargo run --release --example rolling -- --records M [--restarts N] [--seed S] [--kept WHERE]

  --records M     how many records, of all clients together
  --restarts N    how many restarts while they go through (default 20)
  --seed S        draws the records, and when the restarts are (default 1)
  --kept WHERE    disk (default): one process with a data directory; nats: three replicas on one NATS server, which are
                  restarted one after the other (scripts/nats-server has one, or set NATS_SERVER to its path)

The clients are submitters and watchers of their own, as in the example replicas, and two processes of the `fanout` beside
this example: `fanout submit` with a fifth of the records, and `fanout watch`. SIGTERM ends the coordinator; when it has
ended it is started again on the same port. A client may meet two things: an error that says to try again (RetryInfo), and
a connection that cannot be made while nobody listens. Any other error is wrong, and so is a call that breaks without a
word.

The last line is `acknowledged A, lost L, doubled D, equal yes|no`: records with a receipt, those of them that a plan does
not have, records that were applied twice, and whether all else was as it must be. Exit code 1 unless it ends with `lost 0,
doubled 0, equal yes`; then the logs are kept, and it is said where.
";

/// A process that is asked to end has ended by then: its clients all go when they are told.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// How long the work goes on before a restart, at most.
const CALM_MS: u64 = 500;

struct Arguments {
    records: u64,
    restarts: u64,
    seed: u64,
    kept: Kept,
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{}", HELP.trim());
        return ExitCode::SUCCESS;
    }
    let Some(arguments) = arguments(&words) else {
        eprintln!(
            "rolling: expected --records M [--restarts N] [--seed S] [--kept disk|nats]; see --help"
        );
        return ExitCode::FAILURE;
    };
    let folder = tempfile::Builder::new().prefix("fanout-rolling-").tempdir();
    let Ok(folder) = folder else {
        eprintln!("rolling: there is no room for temporary files");
        return ExitCode::FAILURE;
    };
    let tally = Arc::new(Tally::default());
    let outcome = tokio::select! {
        outcome = rolling(&arguments, folder.path(), &tally) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    if let Err(error) = outcome {
        tally.wrong(error);
    }
    eprint!("what callers heard:\n{}", tally.heard());
    if tally.close() {
        return ExitCode::SUCCESS;
    }
    eprintln!("rolling: the logs are in {}", folder.keep().display());
    ExitCode::FAILURE
}

fn arguments(words: &[String]) -> Option<Arguments> {
    let mut arguments = Arguments {
        records: 0,
        restarts: 20,
        seed: 1,
        kept: Kept::Disk,
    };
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return None;
        };
        match (name.as_str(), value.as_str()) {
            ("--records", value) => arguments.records = value.parse().ok()?,
            ("--restarts", value) => arguments.restarts = value.parse().ok()?,
            ("--seed", value) => arguments.seed = value.parse().ok()?,
            ("--kept", "disk") => arguments.kept = Kept::Disk,
            ("--kept", "nats") => arguments.kept = Kept::Nats(1),
            _ => return None,
        }
    }
    (arguments.records > 0).then_some(arguments)
}

async fn rolling(arguments: &Arguments, folder: &Path, tally: &Arc<Tally>) -> Outcome<()> {
    let since = Instant::now();
    let replicas = if arguments.kept == Kept::Disk { 1 } else { 3 };
    let mut fleet = Fleet::start(arguments.kept, replicas, folder).await?;
    let addresses = fleet.addresses();
    let restarts = arguments.restarts;
    let (released, parts) = watch::channel((0, restarts.max(1)));
    let by_command_line = arguments.records / 5;
    let by_others = arguments.records - by_command_line;
    let mut work = Work::start(by_others, arguments.seed, &addresses, tally, &parts).await?;
    let command_line = CommandLine::start(&addresses, by_command_line, folder, &parts).await?;

    let mut draw = Draw::of(arguments.seed, u64::MAX);
    let mut longest = [Duration::ZERO; 2];
    for nth in 1..=restarts {
        released.send_modify(|(part, parts)| *part = (*part + 1).min(*parts));
        tokio::time::sleep(Duration::from_millis(draw.below(CALM_MS))).await;
        let at = usize::try_from(nth)? % replicas;
        let replica = &mut fleet.replicas[at];
        let asked = Instant::now();
        replica.signal(Signal::SIGTERM)?;
        let status = replica.ended(ENDED_WITHIN).await?;
        if !status.success() {
            tally.wrong(format_args!("replica {at} ended with {status}"));
        }
        let ended = asked.elapsed();
        replica.start()?;
        replica.ready().await?;
        let ready = asked.elapsed() - ended;
        longest = [longest[0].max(ended), longest[1].max(ready)];
        let acknowledged = tally.acknowledged();
        eprintln!(
            "{nth} of {restarts} restarts, {acknowledged} records acknowledged: ended in {} ms, ready again in {} ms",
            ended.as_millis(),
            ready.as_millis()
        );
    }
    released.send_modify(|(part, parts)| *part = *parts);
    work.submitted().await?;
    let worked = since.elapsed();
    work.seal().await?;
    work.watched().await?;
    command_line.done(&addresses, tally).await?;
    for replica in 0..replicas {
        work.compare(replica).await?;
    }
    println!(
        "{restarts} restarts of {replicas} on {}, {} s; one ended within {} ms and was ready again within {} ms",
        arguments.kept,
        worked.as_secs(),
        longest[0].as_millis(),
        longest[1].as_millis()
    );
    let [told, not_connected, broken] = tally.told();
    println!(
        "{told} calls were told to try again, {not_connected} connections could not be made, {broken} calls broke without a word"
    );
    if broken > 0 {
        tally.wrong(format_args!("{broken} calls broke without a word"));
    }
    Ok(())
}
