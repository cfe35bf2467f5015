//! The server, in a process of its own.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{self, Program};
use crate::{Client, Outcome};

/// A running server; it does not outlive this.
pub struct Server {
    program: Program,
}

impl Server {
    pub fn start(settings: &[&str]) -> Outcome<Self> {
        let program = program::beside()?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(settings);
        let program = Program::start(&mut command)
            .map_err(|error| format!("{error}; build it first: cargo build --release"))?;
        Ok(Self { program })
    }

    pub async fn connect(&self) -> Outcome<Client> {
        Ok(Client::connect(format!("http://{}", self.program.address)).await?)
    }

    pub fn address(&self) -> &str {
        &self.program.address
    }

    pub fn resident_mib(&self) -> Outcome<u64> {
        Ok(self.program.kib("VmRSS:")? / 1_024)
    }

    /// Asks it to end.
    pub fn terminate(&self) -> Outcome<()> {
        let process = Pid::from_raw(self.program.process.id().try_into()?);
        Ok(kill(process, Signal::SIGTERM)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, at_most: Duration) -> Outcome<ExitStatus> {
        let until = Instant::now() + at_most;
        loop {
            if let Some(status) = self.program.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err(format!("the server is still there after {at_most:?}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
