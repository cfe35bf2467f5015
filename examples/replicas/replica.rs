//! One replica: a `fanout serve` on a port of its own, started again and again, with its own ways to NATS.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::Endpoint;

use crate::beside::beside;
use crate::client::PATIENCE;
use crate::nats::free_port;
use crate::relay::{Relay, Way};
use crate::tally::Outcome;

/// Between two looks whether it is ready, or has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOK_WITHIN: Duration = Duration::from_secs(1);

pub struct Replica {
    pub address: String,
    /// What it is told, beside where to listen.
    arguments: Vec<String>,
    /// What it says on standard error.
    log: PathBuf,
    /// None while it is killed.
    process: Option<Child>,
    ways: Vec<Relay>,
}

impl Replica {
    /// One that is not started yet.
    pub fn new(arguments: Vec<String>, log: PathBuf, ways: Vec<Relay>) -> Outcome<Self> {
        Ok(Self {
            address: format!("127.0.0.1:{}", free_port()?),
            arguments,
            log,
            process: None,
            ways,
        })
    }

    pub fn start(&mut self) -> Outcome<()> {
        let program = beside()?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let started = Command::new(&program)
            .args(["serve", "--listen", &self.address])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let started =
            started.map_err(|error| format!("{}: {error}; build it first", program.display()))?;
        self.process = Some(started);
        Ok(())
    }

    pub fn kill(&mut self) -> Outcome<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        let process = self.process.as_ref().ok_or("it does not run")?;
        Ok(kill(Pid::from_raw(process.id().try_into()?), signal)?)
    }

    pub fn set_ways(&self, way: Way) {
        self.ways.iter().for_each(|relay| relay.set(way));
    }

    /// Waits for its end, which it was asked for.
    pub async fn ended(&mut self, within: Duration) -> Outcome<ExitStatus> {
        let since = Instant::now();
        let process = self.process.as_mut().ok_or("it does not run")?;
        loop {
            if let Some(status) = process.try_wait()? {
                self.process = None;
                return Ok(status);
            }
            if since.elapsed() > within {
                return Err(format!("{} has not ended after {within:?}", self.address).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Outcome<()> {
        let since = Instant::now();
        while !matches!(
            tokio::time::timeout(LOOK_WITHIN, self.is_ready()).await,
            Ok(Ok(true))
        ) {
            let process = self.process.as_mut().ok_or("it does not run")?;
            if let Some(status) = process.try_wait()? {
                let log = self.log.display();
                return Err(
                    format!("{} has ended by itself ({status}); see {log}", self.address).into(),
                );
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("{} does not become ready", self.address).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> Outcome<bool> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        let request = HealthCheckRequest {
            service: "readiness".to_owned(),
        };
        let mut client = HealthClient::new(endpoint.connect().await?);
        let answer = client.check(request).await?;
        Ok(answer.get_ref().status() == ServingStatus::Serving)
    }

    /// A figure of its memory in KiB, by its name in the system's status of a process.
    pub fn resident_kib(&self) -> Outcome<u64> {
        let process = self.process.as_ref().ok_or("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(kib.parse()?)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
