//! The real program for a test: its output line by line, and no wait without an end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use fanout::proto::{Plan, PlanRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Client;

/// Longer than anything takes, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program, with nothing of this process's environment that it reads.
pub fn fanout() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanout"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANOUT_") {
            command.env_remove(name);
        }
    }
    // Help is wrapped to the terminal's width.
    command.env("COLUMNS", "100");
    command
}

/// A running program. Dropped, it is ended.
pub struct Program {
    pid: Pid,
    pub stdin: Option<ChildStdin>,
    pub stdout: Output,
    pub stderr: Output,
    exit: Receiver<ExitStatus>,
    /// Whether its end was seen; its id may be another's since.
    ended: bool,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let stdin = child.stdin.take();
        let stdout = Output::of(child.stdout.take().unwrap());
        let stderr = Output::of(child.stderr.take().unwrap());
        let (sender, exit) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait().unwrap()));
        Self {
            pid,
            stdin,
            stdout,
            stderr,
            exit,
            ended: false,
        }
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// How much of the machine's memory it has now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever had.
    pub fn resident_peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Waits for its end, its standard input being over.
    pub fn finish(mut self) -> Said {
        drop(self.stdin.take());
        let Ok(status) = self.exit.recv_timeout(PATIENCE) else {
            panic!(
                "does not end; it said so far:\n{}\n{}",
                self.stdout.text, self.stderr.text
            );
        };
        self.ended = true;
        Said {
            code: status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or_default()),
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What a failed test leaves gets time to end what it started itself.
        for signal in [Signal::SIGCONT, Signal::SIGTERM, Signal::SIGKILL] {
            let wait = match signal {
                Signal::SIGKILL => Duration::from_secs(10),
                _ => Duration::ZERO,
            };
            if self.ended || self.exit.recv_timeout(wait).is_ok() {
                return;
            }
            let _ = kill(self.pid, signal);
        }
    }
}

/// What a program prints, as it comes.
pub struct Output {
    lines: Receiver<String>,
    /// What has come so far.
    text: String,
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        Self::opened(move || pipe)
    }

    /// Makes a pipe with a name, and reads what is written to it. Its end is the end of the last one that writes.
    pub fn of_pipe(path: PathBuf) -> Self {
        pipe(&path);
        Self::opened(move || File::open(path).unwrap())
    }

    fn opened<R: Read>(open: impl FnOnce() -> R + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(open());
            loop {
                let mut line = Vec::new();
                if pipe.read_until(b'\n', &mut line).unwrap_or_default() == 0 {
                    return;
                }
                if sender.send(String::from_utf8(line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            lines,
            text: String::new(),
        }
    }

    /// Waits for the next line, and answers it without its end.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.text.push_str(&line);
                line.trim_end_matches('\n').to_owned()
            }
            Err(error) => panic!("no line ({error}) after:\n{}", self.text),
        }
    }

    /// Waits for a line that holds this text.
    pub fn line_with(&mut self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Waits for the end, and answers everything.
    pub fn rest(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.text.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.text),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("its output stays open after:\n{}", self.text)
                }
            }
        }
    }
}

/// What a finished program said. The code is negative if a signal ended it.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What is said: code, standard output, standard error.
pub fn says(code: i32, stdout: &str, stderr: &str) -> Said {
    Said {
        code,
        stdout: stdout.into(),
        stderr: stderr.into(),
    }
}

/// Runs the program in a directory.
pub fn said(directory: &Path, arguments: &[&str]) -> Said {
    said_with(directory, arguments, "")
}

/// Runs the program in a directory, with a standard input.
pub fn said_with(directory: &Path, arguments: &[&str], input: &str) -> Said {
    let mut program = Program::start(fanout().current_dir(directory).args(arguments));
    if let Some(mut stdin) = program.stdin.take() {
        // A program that fails before it reads closes this end.
        let _ = stdin.write_all(input.as_bytes());
    }
    program.finish()
}

/// A directory with these files in it.
pub fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// Makes a pipe with a name: who opens it waits for another who opens its other end.
pub fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Writes to a pipe with a name, once somebody reads it.
pub fn tell(path: &Path, text: &'static str) {
    let path = path.to_owned();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || sender.send(std::fs::write(path, text)));
    told.recv_timeout(PATIENCE)
        .expect("nobody reads the pipe")
        .unwrap();
}

/// Names of what is in a directory.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A file of the project.
pub fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `fanout serve` as a process of its own.
pub struct Served {
    pub program: Program,
    pub address: String,
}

impl Served {
    /// Starts it on a free port.
    pub fn start(arguments: &[&str]) -> Self {
        Self::at("127.0.0.1:0", arguments)
    }

    pub fn at(listen: &str, arguments: &[&str]) -> Self {
        Self::of(fanout().args(["serve", "--listen", listen]).args(arguments))
    }

    /// Starts it with this command.
    pub fn of(command: &mut Command) -> Self {
        let mut program = Program::start(command);
        let line = program.stderr.line_with("serving address=");
        let (_, rest) = line.split_once("address=").unwrap();
        let address = rest.split(' ').next().unwrap().to_owned();
        Self { program, address }
    }

    /// Registers a plan, which no command does alone.
    pub fn plan(&self, request: PlanRequest) -> Plan {
        let answer = self.call(async |mut client| client.plan(request).await.unwrap());
        answer.into_inner().plan.unwrap()
    }

    /// Makes calls with a client.
    pub fn call<T>(&self, calls: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let address = format!("http://{}", self.address);
        runtime.block_on(async {
            let calls = async { calls(Client::connect(address).await.unwrap()).await };
            tokio::time::timeout(PATIENCE, calls).await.unwrap()
        })
    }

    /// A client command to this server, which it finds as FANOUT_SERVER.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = fanout();
        command.args(arguments).env("FANOUT_SERVER", &self.address);
        command
    }

    /// What a client command says.
    pub fn said(&self, arguments: &[&str]) -> Said {
        Program::start(&mut self.client(arguments)).finish()
    }

    /// The same where that directory's files are.
    pub fn said_in(&self, directory: &Path, arguments: &[&str]) -> Said {
        Program::start(self.client(arguments).current_dir(directory)).finish()
    }

    pub fn said_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut program = Program::start(&mut self.client(arguments));
        program.say(input);
        program.finish()
    }

    /// Ends it with SIGTERM.
    pub fn stop(self) -> Said {
        self.program.signal(Signal::SIGTERM);
        self.program.finish()
    }
}
