//! The coordinator, which is killed and started again on the same port and directory.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use fanout::json::{self, Limits, Value};
use fanout::proto::ReconcileRequest;
use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use tonic::transport::{Channel, Endpoint};

use crate::program::{self, Program};
use crate::{Outcome, PATIENCE, PLAN, tasks};

/// Bytes of the largest message, in both directions.
pub const MESSAGE_BYTES: usize = 64 << 20;
/// Tasks in one page of the result.
const PAGE: i32 = 1_000;

pub type Client = FanoutServiceClient<Channel>;

pub struct Server {
    directory: PathBuf,
    durability: String,
    port: u16,
    program: Program,
}

impl Server {
    pub fn start(directory: &Path, durability: &str) -> Outcome<Self> {
        // A port that is free now, and the same after every start.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = start(directory, durability, port)?;
        Ok(Self {
            directory: directory.to_owned(),
            durability: durability.to_owned(),
            port,
            program,
        })
    }

    pub fn address(&self) -> String {
        self.program.address.clone()
    }

    pub fn kill_and_start(&mut self) -> Outcome<()> {
        self.program.process.kill()?;
        self.program.process.wait()?;
        self.program = start(&self.directory, &self.durability, self.port)?;
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Outcome<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.program.address))?;
            if let Ok(channel) = endpoint.connect().await {
                let service = "readiness".to_owned();
                let answer = HealthClient::new(channel)
                    .check(HealthCheckRequest { service })
                    .await;
                if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                    return Ok(());
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Err("the server does not become ready".into())
    }

    /// Plans tasks, for a plan that goes on although each has a record.
    pub async fn plan(&self, tasks: u64) -> Outcome<()> {
        let request = tasks::numbered(PLAN, tasks);
        connect(&self.program.address).await?.plan(request).await?;
        Ok(())
    }

    /// What every task has: its name, and the payload.
    pub async fn result(&self) -> Outcome<BTreeMap<String, u64>> {
        let mut client = connect(&self.program.address).await?;
        let mut result = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = ReconcileRequest {
                plan_id: PLAN.into(),
                page_size: PAGE,
                page_token,
                ..Default::default()
            };
            let page = client.reconcile(request).await?.into_inner();
            let document = json::parse(&page.document, Limits::default())?;
            let records = document.get("records").and_then(Value::as_array);
            for record in records.unwrap_or_default() {
                let text = |value: Option<&Value>| value.map(|value| value.text().into_owned());
                let task = text(record.get("task_id")).ok_or("a record without a task")?;
                let payload = text(record.lookup("outcome.payload").as_deref());
                result.insert(task, payload.ok_or("a record without a payload")?.parse()?);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(result);
            }
        }
    }

    /// Its resident memory.
    pub fn resident_kib(&self) -> Outcome<u64> {
        self.program.kib("VmRSS:")
    }

    /// Bytes of all files in the directory.
    pub fn journal_bytes(&self) -> Outcome<u64> {
        fn bytes(path: &Path) -> std::io::Result<u64> {
            let mut sum = 0;
            for entry in std::fs::read_dir(path)? {
                let (entry, metadata) =
                    entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
                sum += if metadata.is_dir() {
                    bytes(&entry)?
                } else {
                    metadata.len()
                };
            }
            Ok(sum)
        }
        Ok(bytes(&self.directory)?)
    }
}

fn start(directory: &Path, durability: &str, port: u16) -> Outcome<Program> {
    Program::start(
        Command::new(program::beside()?)
            .args([
                "serve",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--durability",
                durability,
            ])
            .arg("--data-dir")
            .arg(directory),
    )
}

/// A client on a connection of its own.
pub async fn connect(address: &str) -> Outcome<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let channel = endpoint.tcp_nodelay(true).connect().await?;
    Ok(FanoutServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES))
}
