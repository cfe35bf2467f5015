//! NATS servers with JetStream, each a process with a folder of its own, which keep on disk what they acknowledge.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::PATIENCE;
use crate::tally::Outcome;

/// Between two looks whether a server is well.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The servers of one cluster, or one alone.
pub struct Nats {
    program: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    folder: PathBuf,
    /// Where clients come.
    address: SocketAddr,
    /// Where it says how it is.
    monitor: SocketAddr,
    /// None while it is killed.
    process: Option<Child>,
}

/// The server that `$NATS_SERVER` or `scripts/nats-server` names.
pub fn program() -> Outcome<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
    let found = Command::new(&script).stderr(Stdio::inherit()).output();
    let found = found.map_err(|error| format!("{}: {error}", script.display()))?;
    if !found.status.success() {
        return Err("there is no nats-server to run".into());
    }
    Ok(String::from_utf8(found.stdout)?.trim_end().into())
}

/// A port of the loopback interface that is free now.
pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Nats {
    /// Starts so many, with their files in the folder, and waits until they are well.
    pub async fn start(count: usize, folder: &Path) -> Outcome<Self> {
        let mut ports = Vec::new();
        for _ in 0..3 * count {
            ports.push(free_port()?);
        }
        let (clients, others) = ports.split_at(count);
        let (monitors, routes) = others.split_at(count);
        let mut nats = Self {
            program: program()?,
            nodes: Vec::new(),
        };
        for nth in 0..count {
            let folder = folder.join(format!("nats-{nth}"));
            fs::create_dir_all(&folder)?;
            let settings = settings(nth, &folder, clients[nth], monitors[nth], routes);
            fs::write(folder.join("settings"), settings)?;
            nats.nodes.push(Node {
                folder,
                address: SocketAddr::from(([127, 0, 0, 1], clients[nth])),
                monitor: SocketAddr::from(([127, 0, 0, 1], monitors[nth])),
                process: None,
            });
        }
        for nth in 0..count {
            nats.restart(nth)?;
        }
        nats.well().await?;
        Ok(nats)
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().map(|node| node.address)
    }

    pub fn kill(&mut self, nth: usize) -> Outcome<()> {
        if let Some(mut process) = self.nodes[nth].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    pub fn restart(&mut self, nth: usize) -> Outcome<()> {
        let node = &mut self.nodes[nth];
        let log = File::options()
            .create(true)
            .append(true)
            .open(node.folder.join("log"))?;
        let started = Command::new(&self.program)
            .arg("--config")
            .arg(node.folder.join("settings"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        node.process = Some(started.map_err(|error| format!("nats-server: {error}"))?);
        Ok(())
    }

    /// Waits until every server says that it is well: JetStream is there, and its streams are read.
    pub async fn well(&self) -> Outcome<()> {
        let since = Instant::now();
        for node in &self.nodes {
            while !matches!(
                tokio::time::timeout(LOOK_WITHIN, node.is_well()).await,
                Ok(Ok(true))
            ) {
                if since.elapsed() > PATIENCE {
                    return Err(format!("{} is not well", node.folder.display()).into());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}

impl Node {
    async fn is_well(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.monitor).await?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.0 200"))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for process in self
            .nodes
            .iter_mut()
            .filter_map(|node| node.process.as_mut())
        {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The settings of one server. Clients are not told of the others: each replica has its own way to every one of them. One
/// that says nothing for some seconds is taken for dead.
fn settings(nth: usize, folder: &Path, client: u16, monitor: u16, routes: &[u16]) -> String {
    let store = folder.join("store");
    let alone = format!(
        r#"server_name: "nats-{nth}"
listen: "127.0.0.1:{client}"
http: "127.0.0.1:{monitor}"
ping_interval: "1s"
ping_max: 2
jetstream {{
  store_dir: "{}"
  sync_interval: always
}}
"#,
        store.display()
    );
    if routes.len() == 1 {
        return alone;
    }
    let all: Vec<String> = routes
        .iter()
        .map(|port| format!("\"nats://127.0.0.1:{port}\""))
        .collect();
    format!(
        r#"{alone}cluster {{
  name: "replicas"
  listen: "127.0.0.1:{}"
  no_advertise: true
  routes: [{}]
}}
"#,
        routes[nth],
        all.join(", ")
    )
}
