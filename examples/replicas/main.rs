//! Has replicas killed, stopped and cut off from NATS, and NATS itself killed, while they take records, and compares what
//! they show afterwards; --help says more.

#[path = "../program/beside.rs"]
mod beside;
mod client;
mod compare;
#[path = "../crash/expected.rs"]
mod expected;
mod faults;
mod fleet;
mod join;
mod nats;
mod probe;
mod relay;
mod replica;
mod shown;
mod submitter;
mod tally;
#[path = "../program/tasks.rs"]
mod tasks;
mod usage;
mod watcher;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use expected::Draw;
use faults::Faults;
use fleet::{Fleet, Kept};
use probe::Prober;
use shown::Shown;
use tally::{Outcome, Tally};
use usage::Arguments;
use work::Work;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::given() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{}", usage::HELP.trim());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("replicas: {error}; see --help");
            return ExitCode::FAILURE;
        }
    };
    let Ok(folder) = tempfile::Builder::new()
        .prefix("fanout-replicas-")
        .tempdir()
    else {
        eprintln!("replicas: there is no room for temporary files");
        return ExitCode::FAILURE;
    };
    let tally = Arc::new(Tally::default());
    let outcome = tokio::select! {
        outcome = replicas(&arguments, folder.path(), &tally) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    if let Err(error) = outcome {
        tally.wrong(error);
    }
    eprint!("what callers heard:\n{}", tally.heard());
    if tally.close() {
        return ExitCode::SUCCESS;
    }
    eprintln!("replicas: the logs are in {}", folder.keep().display());
    ExitCode::FAILURE
}

async fn replicas(
    arguments: &Arguments,
    folder: &std::path::Path,
    tally: &Arc<Tally>,
) -> Outcome<()> {
    let since = Instant::now();
    let mut fleet = Fleet::start(arguments.kept, arguments.replicas, folder).await?;
    let addresses = fleet.addresses();
    // Two for each fault: by anybody while it lasts, and by the replica that it hit afterwards.
    client::plan(&addresses, probe::PLAN, 2 * arguments.faults + 1).await?;
    if arguments.join > 0 {
        join::fill(&addresses, arguments.join).await?;
    }
    let (released, parts) = watch::channel((0, faults::PARTS * arguments.faults.max(1)));
    let mut work =
        Work::start(arguments.records, arguments.seed, &addresses, tally, &parts).await?;
    let mut prober = Prober {
        addresses: Arc::clone(&addresses),
        tally: Arc::clone(tally),
        applied: Vec::new(),
    };
    let mut faults = Faults {
        fleet: &mut fleet,
        prober: &mut prober,
        tally,
        draw: Draw::of(arguments.seed, u64::MAX),
        released: &released,
        worst: (Duration::ZERO, "no fault".into()),
        worst_back: (Duration::ZERO, "no fault".into()),
    };
    faults.run(arguments.faults).await?;
    let (worst, worst_back) = (faults.worst, faults.worst_back);
    released.send_modify(|(part, parts)| *part = *parts);
    work.submitted().await?;
    let worked = since.elapsed();
    work.seal().await?;
    client::seal(&addresses, probe::PLAN).await?;
    work.watched().await?;
    eprintln!("all records are acknowledged; comparing");
    let probes = Shown::of(probe::PLAN);
    let probed = (0..)
        .map(expected::name)
        .zip(0..prober.applied.len() as u64);
    let probed = probed.collect();
    let mut again = false;
    loop {
        for replica in 0..addresses.len() {
            work.compare(replica).await?;
            let ending = compare::ending(&addresses, replica, &probes, tally).await?;
            if !again {
                ending.is_of(&prober.applied, &probed, probe::PLAN, tally);
            }
        }
        if again || arguments.kept == Kept::Memory {
            break;
        }
        // Once more, from what the journal has.
        for replica in &mut fleet.replicas {
            replica.kill()?;
            replica.start()?;
        }
        for replica in &mut fleet.replicas {
            replica.ready().await?;
        }
        again = true;
    }
    let mut memory = 0;
    for replica in &fleet.replicas {
        memory = memory.max(replica.resident_kib()? >> 10);
    }
    println!(
        "{} faults, {} replicas on {}, {} plans, {} submitters, {} watchers; {} s, memory {memory} MiB at most",
        arguments.faults,
        addresses.len(),
        arguments.kept,
        work::PLANS,
        work::PLANS * work::SUBMITTERS,
        work::PLANS as usize * addresses.len(),
        worked.as_secs(),
    );
    let said =
        |(longest, fault): (Duration, String)| format!("{} ms ({fault})", longest.as_millis());
    println!("a record was taken after a fault within {}", said(worst));
    println!(
        "a replica took records again after its own within {}",
        said(worst_back)
    );
    let [told, not_connected, broken] = tally.told();
    println!(
        "{told} calls were told to try again, {not_connected} connections could not be made, {broken} calls broke"
    );
    if arguments.join > 0 && matches!(arguments.kept, Kept::Nats(_)) {
        let joined = join::measure(&mut fleet, arguments.join).await?;
        let [ready, read, taken] =
            [joined.ready, joined.read, joined.taken].map(|time| time.as_millis());
        println!(
            "a replica that joined was ready after {ready} ms, read a plan of {} records {read} ms later, and took one after {taken} ms",
            arguments.join
        );
        if joined.taken > join::TAKEN_WITHIN {
            tally.wrong("a replica that joined took over too late");
        }
    }
    Ok(())
}
