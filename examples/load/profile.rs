//! Where the coordinator's time goes while it takes records, and at no other time: `perf` looks at its process.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fanout::proto::View;

use crate::server::Server;
use crate::submit::{self, PLAN, Pace, SUBMIT, Shape};
use crate::wire::receipts;
use crate::{Outcome, RECORD_BYTES};

const ROUNDS: usize = 8;
const RECORDS: usize = 204_800;
/// A function with a smaller share, in percent, is not listed.
const SHARE_MIN: &str = "0.7";

/// Sends records over so many streams to a server with these arguments, and lists the functions that take the time of it.
pub async fn profile(streams: usize, batch: usize, view: View, arguments: &[&str]) -> Outcome<()> {
    let server = Server::fanout_with(arguments).await?;
    let shape = Shape {
        streams,
        batch,
        record_bytes: RECORD_BYTES,
        view,
        records: RECORDS / streams * streams,
    };
    let messages = submit::one_for_each(PLAN, 0, shape);
    let mut perf = Perf::start(server.id())?;
    for round in 0..=ROUNDS {
        submit::plan_tasks(&server, PLAN, shape.records).await?;
        server.settle().await?;
        // The first round warms up.
        perf.look(round > 0)?;
        let rate = submit::send(&server, SUBMIT, receipts, &messages, Pace::Free).await?;
        perf.look(false)?;
        submit::delete(&server, PLAN).await?;
        println!(
            "{:>9.0} records/s, {:.2} CPU-s per million",
            rate.per_second, rate.cpu_per_million
        );
    }
    perf.report()
}

/// `perf`, which begins to look when it is told to.
struct Perf {
    process: Child,
    orders: File,
    directory: PathBuf,
}

impl Perf {
    fn start(process: u32) -> Outcome<Self> {
        let directory = std::env::temp_dir().join(format!("fanout-profile-{process}"));
        fs::create_dir_all(&directory)?;
        let fifo = directory.join("orders");
        Command::new("mkfifo").arg(&fifo).status()?;
        let process = Command::new("perf")
            .args(["record", "--freq=4000", "--delay=-1", "--pid"])
            .arg(process.to_string())
            .arg(format!("--control=fifo:{}", fifo.display()))
            .arg(format!("--output={}", directory.join("data").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("perf: {error}"))?;
        let orders = File::options().write(true).open(fifo)?;
        Ok(Self {
            process,
            orders,
            directory,
        })
    }

    fn look(&mut self, look: bool) -> Outcome<()> {
        let order = if look { "enable\n" } else { "disable\n" };
        Ok(self.orders.write_all(order.as_bytes())?)
    }

    fn report(mut self) -> Outcome<()> {
        self.orders.write_all(b"stop\n")?;
        self.process.wait()?;
        Command::new("perf")
            .args(["report", "--stdio", "--no-children", "--percent-limit"])
            .arg(SHARE_MIN)
            .arg("--input")
            .arg(self.directory.join("data"))
            .stderr(Stdio::null())
            .status()?;
        fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}
