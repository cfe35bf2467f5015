//! A real NATS server with JetStream, on a port of its own and in a directory that goes away with it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A server; killed when dropped.
pub struct NatsServer {
    process: Child,
    /// `nats://127.0.0.1:PORT`.
    pub url: String,
    _directory: tempfile::TempDir,
}

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

impl NatsServer {
    /// Starts one. `None` where there is none to start, which is said loudly; with CI=true that is a failure.
    pub fn start() -> Option<Self> {
        let program = match program() {
            Ok(program) => program,
            Err(why) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
                eprintln!("SKIPPED a test with NATS: {why}");
                return None;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in lines.by_ref().map(Result::unwrap) {
            if let Some((_, at)) = line.split_once("Listening for client connections on ") {
                address = Some(at.to_owned());
            }
            if line.contains("Server is ready") {
                break;
            }
            assert!(
                begin.elapsed() < START_TIMEOUT,
                "nats-server does not start"
            );
        }
        // Nobody reads on, and it must not wait for that.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            process,
            url: format!(
                "nats://{}",
                address.expect("nats-server says where it listens")
            ),
            _directory: directory,
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The program; found, or installed, once.
fn program() -> Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats-server");
        let output = Command::new(script).output();
        let output = output.map_err(|error| format!("{script}: {error}"))?;
        if output.status.success() {
            let path = String::from_utf8_lossy(&output.stdout);
            return Ok(PathBuf::from(path.trim()));
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    PROGRAM.get_or_init(find).clone()
}
