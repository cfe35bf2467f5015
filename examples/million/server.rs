//! The coordinator in a process of its own, and what it uses.

use std::fs;
use std::process::Command;
use std::time::Duration;

use fanout::proto::fanout_service_client::FanoutServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::Outcome;
use crate::program::{self, Program};

pub type Client = FanoutServiceClient<Channel>;

/// Larger than any message of a server with default settings.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How long a server may go on tidying up.
const SETTLED_WITHIN: u32 = 500;
const GLANCE: Duration = Duration::from_millis(20);

/// A running server; it does not outlive this.
pub struct Server {
    program: Program,
}

impl Server {
    /// The program beside this example, else this program as one.
    pub fn start() -> Outcome<Self> {
        let program = Some(program::beside()?).filter(|program| program.is_file());
        if program.is_none() {
            println!(
                "There is no fanout beside this example: its library serves, as this example was built."
            );
        }
        let program = program.map_or_else(std::env::current_exe, Ok)?;
        let mut command = Command::new(program);
        let program = Program::start(command.args(["serve", "--listen", "127.0.0.1:0"]))?;
        Ok(Self { program })
    }

    /// A client on a connection of its own.
    pub async fn client(&self) -> Outcome<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.program.address))?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let client = FanoutServiceClient::new(endpoint.connect().await?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// CPU seconds of its threads so far; those that have ended are not counted.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        let mut seconds = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.program.process.id()))? {
            // A thread may end at any time.
            if let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) {
                let nanoseconds: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
                seconds += nanoseconds / 1e9;
            }
        }
        Ok(seconds)
    }

    /// Resident memory now.
    pub fn resident_mib(&self) -> Outcome<f64> {
        Ok(self.program.kib("VmRSS:")? as f64 / 1_024.0)
    }

    /// The most resident memory so far.
    pub fn peak_mib(&self) -> Outcome<f64> {
        Ok(self.program.kib("VmHWM:")? as f64 / 1_024.0)
    }

    /// Waits until it does nothing any more.
    pub async fn settle(&self) -> Outcome<()> {
        for _ in 0..SETTLED_WITHIN {
            let before = self.cpu_seconds()?;
            tokio::time::sleep(GLANCE).await;
            if self.cpu_seconds()? - before < GLANCE.as_secs_f64() / 10.0 {
                return Ok(());
            }
        }
        Err("the server is busy though nobody asks for anything".into())
    }
}
