//! A server in a process of its own, and what it uses.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::echo::LONGER;
use crate::program::{self, Program};
use crate::{Outcome, within};

/// All streams are spread over so many.
const CONNECTIONS: usize = 4;
const WATCHER_WINDOW_BYTES: u32 = 64 << 10;
const WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long a server may go on tidying up after a round.
const SETTLED_WITHIN: u32 = 200;
const GLANCE: Duration = Duration::from_millis(10);

/// A running server; it does not outlive this.
pub struct Server {
    program: Program,
    /// Over TLS: whose certificate it has to show, in PEM form.
    trusted: Option<String>,
    /// What says who calls, if that has to be said.
    authorization: Option<AsciiMetadataValue>,
    /// How many bytes an echo is to answer more with than it is sent.
    pub longer: usize,
    pub connections: Vec<Channel>,
}

/// What a server has used so far.
#[derive(Default)]
pub struct Cpu {
    /// Seconds of each thread.
    threads: HashMap<String, f64>,
    /// All threads' hundredths of a second, those that ended included: good for shares only.
    user: f64,
    system: f64,
}

/// CPU time between two moments.
#[derive(Clone, Copy, Default)]
pub struct Used {
    pub seconds: f64,
    pub user: f64,
    pub system: f64,
}

impl Server {
    /// An echo: this program in another role.
    pub async fn echo(role: &[&str]) -> Outcome<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(role), None).await
    }

    /// The same over TLS, with what a server needs for that in these arguments.
    pub async fn echo_over_tls(role: &[&str], tls: [&str; 4], trusted: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        Self::start(command.args(role).args(tls), Some(trusted)).await
    }

    /// The coordinator over TLS, which is called with a token that is in the list of this file.
    pub async fn fanout_over_tls(
        tls: [&str; 4],
        trusted: &str,
        tokens: &str,
        token: &str,
    ) -> Outcome<Self> {
        let mut command = Self::program(&tls)?;
        command.args(["--tokens", tokens]);
        let mut server = Self::start(&mut command, Some(trusted)).await?;
        server.authorization = Some(format!("Bearer {token}").parse()?);
        Ok(server)
    }

    /// The coordinator: the program beside this example, else this program as one.
    pub async fn fanout() -> Outcome<Self> {
        Self::fanout_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn fanout_with(arguments: &[&str]) -> Outcome<Self> {
        Self::start(&mut Self::program(arguments)?, None).await
    }

    fn program(arguments: &[&str]) -> Outcome<Command> {
        let program = Some(program::beside()?).filter(|program| program.is_file());
        if program.is_none() {
            println!(
                "There is no fanout beside this example: its library serves, as this example was built."
            );
        }
        let program = program.map_or_else(std::env::current_exe, Ok)?;
        let mut command = Command::new(program);
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--records-per-message-max",
                "1024",
            ])
            .args(arguments);
        Ok(command)
    }

    async fn start(command: &mut Command, trusted: Option<&str>) -> Outcome<Self> {
        let mut server = Self {
            program: Program::start(command)?,
            trusted: trusted.map(str::to_owned),
            authorization: None,
            longer: 0,
            connections: Vec::new(),
        };
        server.connections = server.connect(WINDOW_BYTES).await?;
        Ok(server)
    }

    /// More connections, for those who do not read what they are sent.
    pub async fn connect_deaf(&self) -> Outcome<Vec<Channel>> {
        self.connect(WATCHER_WINDOW_BYTES).await
    }

    async fn connect(&self, window: u32) -> Outcome<Vec<Channel>> {
        let address = &self.program.address;
        let endpoint = match &self.trusted {
            None => Endpoint::from_shared(format!("http://{address}"))?,
            Some(authority) => {
                let authority = Certificate::from_pem(authority);
                Endpoint::from_shared(format!("https://{address}"))?
                    .tls_config(ClientTlsConfig::new().ca_certificate(authority))?
            }
        };
        let endpoint = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(window)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(within("a connection", endpoint.connect()).await?);
        }
        Ok(connections)
    }

    /// A request of who may make it.
    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", authorization.clone());
        }
        if self.longer > 0 {
            request.metadata_mut().insert(LONGER, self.longer.into());
        }
        request
    }

    pub fn connection(&self, nth: usize) -> Channel {
        self.connections[nth % self.connections.len()].clone()
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> Outcome<()> {
        let mut health = HealthClient::new(self.connection(0));
        let service = || HealthCheckRequest {
            service: "readiness".to_owned(),
        };
        while health.check(service()).await?.into_inner().status() != ServingStatus::Serving {
            tokio::time::sleep(GLANCE / 2).await;
        }
        Ok(())
    }

    /// Of its process.
    pub fn id(&self) -> u32 {
        self.program.process.id()
    }

    pub fn cpu(&self) -> Outcome<Cpu> {
        let process = format!("/proc/{}", self.program.process.id());
        let mut cpu = Cpu::default();
        for thread in fs::read_dir(format!("{process}/task"))? {
            let thread = thread?;
            // A thread may end at any time.
            let Ok(stat) = fs::read_to_string(thread.path().join("schedstat")) else {
                continue;
            };
            let nanoseconds: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
            let name = thread.file_name().to_string_lossy().into_owned();
            cpu.threads.insert(name, nanoseconds / 1e9);
        }
        let stat = fs::read_to_string(format!("{process}/stat"))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = after_name.split_whitespace().skip(11);
        cpu.user = ticks.next().unwrap_or_default().parse()?;
        cpu.system = ticks.next().unwrap_or_default().parse()?;
        Ok(cpu)
    }

    pub fn resident_mib(&self) -> Outcome<f64> {
        Ok(self.program.kib("VmRSS:")? as f64 / 1_024.0)
    }

    /// Waits until it does nothing any more, so that what it tidies up is not measured as somebody else's slowness.
    pub async fn settle(&self) -> Outcome<()> {
        for _ in 0..SETTLED_WITHIN {
            let before = self.cpu()?;
            tokio::time::sleep(GLANCE).await;
            if self.cpu()?.since(&before).seconds < GLANCE.as_secs_f64() / 10.0 {
                return Ok(());
            }
        }
        Err("a server is busy though nobody asks for anything".into())
    }
}

impl Cpu {
    pub fn since(&self, then: &Self) -> Used {
        let thread = |(name, now): (&String, &f64)| now - then.threads.get(name).unwrap_or(&0.0);
        Used {
            seconds: self.threads.iter().map(thread).sum(),
            user: self.user - then.user,
            system: self.system - then.system,
        }
    }
}
