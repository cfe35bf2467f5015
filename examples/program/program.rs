//! A server in a process of its own, for the examples that measure one.

#[path = "beside.rs"]
mod place;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub use place::beside;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long it may take to say its address.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// A running server; it does not outlive this.
pub struct Program {
    pub process: Child,
    pub address: String,
}

impl Program {
    /// Starts it, and reads its address from what it says on standard error.
    pub fn start(command: &mut Command) -> Outcome<Self> {
        let process = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut program = Self {
            process,
            address: String::new(),
        };
        let stderr = program.process.stderr.take().ok_or("no standard error")?;
        let (said, first) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
            let address = lines.find_map(|line| {
                let (_, address) = line.split_once("address=")?;
                Some(address.split(' ').next().unwrap_or_default().to_owned())
            });
            let _ = said.send(address);
            lines.for_each(drop);
        });
        let address = first.recv_timeout(STARTED_WITHIN)?;
        program.address = address.ok_or("a server did not say its address")?;
        Ok(program)
    }

    /// A figure of its memory in KiB, by its name in the system's status of a process.
    pub fn kib(&self, name: &str) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.ok_or_else(|| format!("no {name}"))?.trim();
        Ok(kib.trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
