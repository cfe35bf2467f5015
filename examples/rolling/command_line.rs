//! `fanout submit` and `fanout watch`, which have to get through restarts by themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use fanout::json::{self, Limits, Value};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::beside::beside;
use crate::client;
use crate::expected::name;
use crate::submitter::Released;
use crate::tally::{Outcome, Tally};

const PLAN: &str = "command line";

/// The two processes, and what they say.
pub struct CommandLine {
    records: u64,
    submit: Child,
    watch: Child,
    written: JoinHandle<Outcome<()>>,
    submitted: JoinHandle<Outcome<Vec<Value>>>,
    watched: JoinHandle<Outcome<Vec<Value>>>,
}

impl CommandLine {
    /// Registers a plan of so many tasks, and begins to send a record for each.
    pub async fn start(
        addresses: &[String],
        records: u64,
        folder: &Path,
        released: &Released,
    ) -> Outcome<Self> {
        client::plan(addresses, PLAN, records).await?;
        let mut submit = start("submit", &["--plan-id", PLAN, "-"], &addresses[0], folder)?;
        let mut watch = start("watch", &[PLAN], &addresses[0], folder)?;
        let lines = submit.stdin.take().ok_or("no standard input")?;
        let receipts = submit.stdout.take().ok_or("no standard output")?;
        let frames = watch.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            records,
            submit,
            watch,
            written: tokio::spawn(write(lines, records, released.clone())),
            submitted: tokio::spawn(read(receipts)),
            watched: tokio::spawn(read(frames)),
        })
    }

    /// Waits until both are done, and compares what they printed.
    pub async fn done(mut self, addresses: &[String], tally: &Tally) -> Outcome<()> {
        self.written.await??;
        let receipts = self.submitted.await??;
        let status = self.submit.wait().await?;
        if !status.success() {
            tally.wrong(format_args!("fanout submit ended with {status}"));
        }
        client::seal(addresses, PLAN).await?;
        let frames = self.watched.await??;
        let status = self.watch.wait().await?;
        if !status.success() {
            tally.wrong(format_args!("fanout watch ended with {status}"));
        }
        tally.acknowledge(receipts.len());
        if receipts.len() as u64 != self.records {
            let (found, records) = (receipts.len(), self.records);
            tally.wrong(format_args!(
                "fanout submit printed {found} receipts for {records} records"
            ));
        }
        let mut accepted = BTreeMap::new();
        for (task, receipt) in (0..).map(name).zip(&receipts) {
            let said = ["task_id", "disposition", "revision"].map(|key| text(receipt, key));
            if said != [task.as_str(), "accepted", "1"] {
                tally.wrong(format_args!("fanout submit printed {said:?} for {task}"));
            }
            accepted.insert(text(receipt, "sequence"), task);
        }
        let results = frames
            .iter()
            .filter(|frame| text(frame, "frame") == "result");
        let mut seen = BTreeMap::new();
        for result in results {
            if seen
                .insert(text(result, "sequence"), text(result, "task_id"))
                .is_some()
            {
                tally.wrong("fanout watch printed a result twice");
            }
        }
        let lost = accepted
            .iter()
            .filter(|(sequence, task)| seen.get(*sequence) != Some(task));
        tally.lose(lost.count());
        tally.double(
            seen.keys()
                .filter(|sequence| !accepted.contains_key(*sequence))
                .count(),
        );
        Ok(())
    }
}

fn start(command: &str, arguments: &[&str], address: &str, folder: &Path) -> Outcome<Child> {
    let log = File::create(folder.join(format!("fanout-{command}.log")))?;
    let started = Command::new(beside()?)
        .args([command, "--server", address, "--json"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    Ok(started?)
}

/// Writes a record for each task, as far as it may be sent by now.
async fn write(mut lines: ChildStdin, records: u64, mut released: Released) -> Outcome<()> {
    let mut task = 0;
    while task < records {
        let (part, parts) = *released.borrow_and_update();
        let end = records * part / parts;
        while task < end {
            let task_id = name(task);
            let line = format!(
                "{{\"task_id\":\"{task_id}\",\"status\":\"succeeded\",\"outcome\":{{\"payload\":{task}}}}}\n"
            );
            lines.write_all(line.as_bytes()).await?;
            task += 1;
        }
        if part < parts {
            released.changed().await?;
        }
    }
    Ok(())
}

/// What a process prints, a document a line.
async fn read(lines: ChildStdout) -> Outcome<Vec<Value>> {
    let mut lines = BufReader::new(lines).lines();
    let mut documents = Vec::new();
    while let Some(line) = lines.next_line().await? {
        documents.push(json::parse(line.as_bytes(), Limits::default())?);
    }
    Ok(documents)
}

fn text(document: &Value, key: &str) -> String {
    document
        .get(key)
        .map(|value| value.text().into_owned())
        .unwrap_or_default()
}
