//! The server, in a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Client, Outcome};

/// A running server; it does not outlive this.
pub struct Server {
    process: Child,
    pub address: String,
}

impl Server {
    pub fn start(settings: &[&str]) -> Outcome<Self> {
        // An example stands beside the program it belongs to.
        let program = std::env::current_exe()?;
        let program = program
            .ancestors()
            .nth(2)
            .ok_or("no directory")?
            .join("fanout");
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(settings)
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

    pub async fn connect(&self) -> Outcome<Client> {
        Ok(Client::connect(format!("http://{}", self.address)).await?)
    }

    pub fn resident_mib(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .ok_or("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .parse()?;
        Ok(kib / 1_024)
    }

    /// Asks it to end.
    pub fn terminate(&self) -> Outcome<()> {
        let process = Pid::from_raw(self.process.id().try_into()?);
        Ok(kill(process, Signal::SIGTERM)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, at_most: Duration) -> Outcome<ExitStatus> {
        let until = Instant::now() + at_most;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err(format!("the server is still there after {at_most:?}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
