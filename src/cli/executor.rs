//! One task, run as a child process: the task request on its standard input, the record from its standard output.
//!
//! The child leads a process group of its own, so that it can be ended with everything it started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::access::CREDENTIAL_VARIABLES;
use super::print::{number, object};
use super::trace_context::TRACEPARENT;
use crate::json::{self, Object, Value};

/// Longest record taken from standard output.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How much of the end of standard error a failed record carries.
const STDERR_TAIL_BYTES: usize = 4 << 10;
/// Longest value in an executor's environment, in bytes: systems have a limit, for one value (Linux: 128 KiB) or for all.
const VARIABLE_BYTES_MAX: usize = 32 << 10;
/// How long an executor has between SIGTERM and SIGKILL.
const END_GRACE: Duration = Duration::from_secs(5);
/// How long output may stay open after the executor has exited: something it started still holds it.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// A command to run for each task.
pub(super) struct Executor {
    pub(super) command: Vec<OsString>,
    pub(super) timeout: Option<Duration>,
    /// What its spans follow from; empty if nobody said.
    pub(super) traceparent: String,
    pub(super) interrupt: Interrupt,
}

/// How a run is cut short.
#[derive(Clone)]
pub(super) struct Interrupt {
    /// No more executors are started, and those that run are ended.
    pub(super) end: CancellationToken,
    /// They get no more time to end by themselves.
    pub(super) kill: CancellationToken,
}

/// What came of a run.
pub(super) enum Ran {
    /// A record: the executor's own, or a failed one that says why there is none.
    Record(Object),
    /// It was ended because the whole run was; there is nothing to report.
    Interrupted,
}

/// Why there is no good record.
struct Trouble {
    kind: &'static str,
    message: String,
    details: Vec<(&'static str, Value)>,
}

impl Trouble {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: u64) -> Self {
        self.details.push((name, number(value)));
        self
    }
}

/// Whether a process can be started with it.
fn fits_environment(value: &OsStr) -> bool {
    let value = value.as_encoded_bytes();
    value.len() <= VARIABLE_BYTES_MAX && !value.contains(&0)
}

impl Executor {
    /// Runs one task. What of the environment does not fit there is left out.
    pub(super) async fn run(&self, request: &[u8], environment: &[(&str, &OsStr)]) -> Ran {
        let mut child = match self.spawn(environment) {
            Ok(child) => child,
            Err(error) => {
                let program = self
                    .command
                    .first()
                    .map(|program| program.to_string_lossy().into_owned());
                let message = format!("failed to start {}: {error}", program.unwrap_or_default());
                return Ran::Record(failed_record(
                    Trouble::new("spawn_failed", message),
                    None,
                    "",
                ));
            }
        };
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        let input = child.stdin.take();
        let mut request = request.to_vec();
        request.push(b'\n');
        let feed = tokio::spawn(async move {
            if let Some(mut input) = input {
                // An executor need not read its input; a closed pipe is its own affair.
                let _ = input.write_all(&request).await;
            }
        });
        let stdout = collect(child.stdout.take(), Keep::Head(RECORD_BYTES_MAX));
        let stderr = collect(child.stderr.take(), Keep::Tail(STDERR_TAIL_BYTES));

        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut timed_out = false;
        let status = tokio::select! {
            status = child.wait() => status,
            () = self.interrupt.end.cancelled() => {
                // However it ended: nobody asks any more.
                let _ = self.end(&mut child, group).await;
                return Ran::Interrupted;
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                timed_out = true;
                self.end(&mut child, group).await
            }
        };
        let (stdout, stderr) = outputs(stdout, stderr, group).await;
        feed.abort();
        let stderr = String::from_utf8_lossy(&stderr.bytes).into_owned();
        Ran::Record(match self.judge(status, timed_out, &stdout) {
            Ok(record) => record,
            Err(trouble) => failed_record(trouble, read_record(&stdout).ok(), stderr.trim_end()),
        })
    }

    fn spawn(&self, environment: &[(&str, &OsStr)]) -> io::Result<Child> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::other("there is no command"))?;
        let traceparent = [(TRACEPARENT, &*self.traceparent)];
        let traceparent = traceparent.into_iter().filter(|(_, said)| !said.is_empty());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(traceparent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // Who runs tasks need not be who plans them.
        for variable in CREDENTIAL_VARIABLES {
            command.env_remove(variable);
        }
        for &(variable, value) in environment {
            match fits_environment(value) {
                true => command.env(variable, value),
                // Not that of the executor, if any, that has started this.
                false => command.env_remove(variable),
            };
        }
        command.spawn()
    }

    /// Ends a child and everything it started: SIGTERM, a while, SIGKILL.
    async fn end(&self, child: &mut Child, group: Option<Pid>) -> io::Result<ExitStatus> {
        signal(group, Signal::SIGTERM);
        let ended = tokio::select! {
            ended = timeout(END_GRACE, child.wait()) => ended.ok(),
            () = self.interrupt.kill.cancelled() => None,
        };
        signal(group, Signal::SIGKILL);
        match ended {
            Some(status) => status,
            None => child.wait().await,
        }
    }

    /// The executor's record, if it ended well and left one.
    fn judge(
        &self,
        status: io::Result<ExitStatus>,
        timed_out: bool,
        stdout: &Kept,
    ) -> Result<Object, Trouble> {
        if let (true, Some(timeout)) = (timed_out, self.timeout) {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let message = format!(
                "the executor did not end within {} s",
                timeout.as_secs_f64()
            );
            return Err(Trouble::new("timeout", message).with("timeout_ms", milliseconds));
        }
        let status = status.map_err(|error| Trouble::new("wait_failed", error.to_string()))?;
        if let Some(signal) = status.signal() {
            let name = Signal::try_from(signal)
                .map_or_else(|_| signal.to_string(), |name| name.to_string());
            let message = format!("the executor was ended by {name}");
            return Err(Trouble::new("signal", message)
                .with("signal", u64::try_from(signal).unwrap_or_default()));
        }
        match status.code() {
            Some(0) => read_record(stdout),
            code => {
                let code = code.unwrap_or_default();
                let message = format!("the executor exited with {code}");
                Err(Trouble::new("exit_code", message)
                    .with("exit_code", u64::try_from(code).unwrap_or_default()))
            }
        }
    }
}

fn read_record(stdout: &Kept) -> Result<Object, Trouble> {
    if stdout.more {
        let message = format!("the executor printed more than {RECORD_BYTES_MAX} bytes");
        return Err(
            Trouble::new("record_too_large", message).with("limit", RECORD_BYTES_MAX as u64)
        );
    }
    if stdout.bytes.trim_ascii().is_empty() {
        return Err(Trouble::new("no_record", "the executor printed no record"));
    }
    match json::parse(&stdout.bytes, json::Limits::default()) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(other) => {
            let message = format!(
                "expected a JSON object on standard output, found {}",
                other.kind()
            );
            Err(Trouble::new("unreadable_record", message))
        }
        Err(error) => {
            let message = format!("standard output is not one JSON object: {error}");
            Err(Trouble::new("unreadable_record", message))
        }
    }
}

/// A failed record that says what went wrong. What the executor printed is kept, but its success is not believed.
fn failed_record(trouble: Trouble, printed: Option<Object>, stderr_tail: &str) -> Object {
    let mut error = object([
        ("kind", trouble.kind.into()),
        ("message", trouble.message.as_str().into()),
    ]);
    for (name, value) in trouble.details {
        error.set(name, value);
    }
    if !stderr_tail.is_empty() {
        error.set("stderr_tail", stderr_tail);
    }
    let mut record = printed.unwrap_or_default();
    record.set("status", "failed");
    record.remove("success");
    record.set("executor_error", Value::from(error));
    record
}

/// A failed record for one that the coordinator refused.
pub(super) fn refused_record(description: &str) -> Object {
    failed_record(Trouble::new("record_refused", description), None, "")
}

/// Which end of an output is kept.
#[derive(Clone, Copy)]
enum Keep {
    Head(usize),
    Tail(usize),
}

/// What was kept of an output.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Whether there was more.
    more: bool,
}

/// Reads an output to its end, so that nobody blocks on a full pipe, and keeps a bounded part of it.
fn collect(
    output: Option<impl AsyncRead + Unpin + Send + 'static>,
    keep: Keep,
) -> JoinHandle<Kept> {
    tokio::spawn(async move {
        let mut kept = Kept::default();
        let Some(mut output) = output else {
            return kept;
        };
        let mut chunk = vec![0; 16 << 10];
        // An output that cannot be read has ended, as far as anybody can tell.
        while let Ok(length @ 1..) = output.read(&mut chunk).await {
            kept.bytes.extend_from_slice(&chunk[..length]);
            match keep {
                Keep::Head(most) if kept.bytes.len() > most => {
                    kept.bytes.truncate(most);
                    kept.more = true;
                }
                Keep::Tail(most) if kept.bytes.len() > most => {
                    kept.bytes.drain(..kept.bytes.len() - most);
                    kept.more = true;
                }
                _ => {}
            }
        }
        kept
    })
}

/// Waits for the outputs to end. What the executor started and left behind is ended with it.
async fn outputs(
    stdout: JoinHandle<Kept>,
    stderr: JoinHandle<Kept>,
    group: Option<Pid>,
) -> (Kept, Kept) {
    let mut both = Box::pin(async {
        (
            stdout.await.unwrap_or_default(),
            stderr.await.unwrap_or_default(),
        )
    });
    if let Ok(kept) = timeout(OUTPUT_GRACE, &mut both).await {
        signal(group, Signal::SIGKILL);
        return kept;
    }
    signal(group, Signal::SIGKILL);
    both.await
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // A group without members has ended already.
        let _ = killpg(group, signal);
    }
}
