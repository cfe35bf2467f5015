//! The server, with little memory and few file descriptors.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fanout::identity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::honest::Honest;
use crate::program::{self, Program};
use crate::{Outcome, SERVER_PRIORITY};

const MEMORY_BYTES: u64 = 512 << 20;
const FILE_DESCRIPTORS: usize = 400;
/// What of its memory may be left, beyond what it had, when all is over.
const LEFT_MIB: u64 = 96;
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// How often to look.
const GLANCE: Duration = Duration::from_millis(100);

pub struct Limited {
    program: Program,
    group: Option<Group>,
    _files: TempDir,
    begin_mib: u64,
}

impl Limited {
    /// Starts it with a token for each of two tenants.
    pub fn start(tokens: &[String; 2]) -> Outcome<Self> {
        let files = tempfile::tempdir()?;
        let mut list = String::new();
        for (name, token) in ["honest", "hostile"].iter().zip(tokens) {
            let digits = identity::digest(token).map(|byte| format!("{byte:02x}"));
            list += &format!(
                "[[token]]\nname = \"{name}\"\ntenant = \"{name}\"\nsha256 = \"{}\"\nroles = [\"plan\", \"submit\", \"watch\"]\n",
                digits.concat()
            );
        }
        let callers = files.path().join("callers.toml");
        fs::write(&callers, list)?;
        let program = program::beside()?;
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!(
                "ulimit -n {FILE_DESCRIPTORS} && exec nice -n {SERVER_PRIORITY} \"$@\""
            ))
            .arg("sh")
            .arg(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--tokens"])
            .arg(callers)
            .args(["--memory-bytes-max", &(MEMORY_BYTES / 2).to_string()])
            .args(["--tenant-bytes-max", &(MEMORY_BYTES / 8).to_string()])
            .args(["--tenant-plans-max", "20"])
            .args(["--tenant-tasks-max", "100000"])
            .args(["--tenant-streams-max", "100"])
            .args(["--tenant-records-per-second-max", "5000"])
            .args(["--message-bytes-max", "4194304"]);
        let program = Program::start(&mut command)
            .map_err(|error| format!("{error}; build it first: cargo build --release"))?;
        let group = match Group::with(program.process.id()) {
            Ok(group) => Some(group),
            Err(error) => {
                println!(
                    "NOT LIMITED: no control group can be made ({error}); its memory is only measured"
                );
                None
            }
        };
        let mut server = Self {
            program,
            group,
            _files: files,
            begin_mib: 0,
        };
        server.begin_mib = server.resident_mib()?;
        Ok(server)
    }

    pub fn address(&self) -> &str {
        &self.program.address
    }

    pub fn resident_mib(&self) -> Outcome<u64> {
        Ok(self.program.kib("VmRSS:")? / 1_024)
    }

    pub fn peak_mib(&self) -> Outcome<u64> {
        Ok(self.program.kib("VmHWM:")? / 1_024)
    }

    /// What is resident when memory has had time to go back, with the honest client's calls: it does not go back by itself.
    pub async fn settled_mib(&self, honest: &mut Honest) -> Outcome<u64> {
        let began = Instant::now();
        loop {
            let held = self.resident_mib()?;
            if held <= self.begin_mib + LEFT_MIB {
                return Ok(held);
            }
            if began.elapsed() > SETTLED_WITHIN {
                return Err(format!("{held} MiB stay, {} MiB at the start", self.begin_mib).into());
            }
            honest.calls(GLANCE).await?;
        }
    }

    pub fn limit_said(&self) -> String {
        let mib = MEMORY_BYTES >> 20;
        match self.group {
            Some(_) => format!("{mib} MiB allowed"),
            None => format!("not limited to {mib} MiB"),
        }
    }

    /// Ends it; it has to be there to be ended, and below its limit.
    pub fn end(mut self) -> Outcome<()> {
        if self.peak_mib()? >= MEMORY_BYTES >> 20 {
            return Err("it had more memory than it may".into());
        }
        if let Some(ended) = self.program.process.try_wait()? {
            return Err(format!("the server is gone: {ended}").into());
        }
        let process = Pid::from_raw(self.program.process.id().try_into()?);
        kill(process, Signal::SIGTERM)?;
        let ended = self.program.process.wait()?;
        if !ended.success() {
            return Err(format!("the server ended with {ended}").into());
        }
        Ok(())
    }
}

/// A control group of one process.
struct Group(PathBuf);

impl Group {
    fn with(process: u32) -> std::io::Result<Self> {
        let mut failed = std::io::Error::other("there is no /sys/fs/cgroup");
        for (root, limit) in [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ] {
            let group = Self(PathBuf::from(root).join(format!("fanout-abuse-{process}")));
            let made = fs::create_dir(&group.0)
                .and_then(|()| fs::write(group.0.join(limit), MEMORY_BYTES.to_string()))
                .and_then(|()| fs::write(group.0.join("cgroup.procs"), process.to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process may take a moment to be gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
