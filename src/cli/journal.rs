//! `journal`: what operators do with a data directory that no server has open.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::print::{counted, printable};
use super::{DONE, FAILED, Failure, Outcome};
use crate::journal::disk::files::SystemFiles;
use crate::journal::disk::{self, Finding, Verified};

/// `fanout journal`.
#[derive(Debug, Args)]
pub(super) struct Journal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct DataDirectory {
    /// The server's data directory. No server may have it open.
    #[arg(long, env = "FANOUT_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and check every plan; change nothing. Exit code 1 if one is damaged.
    ///
    /// A last append that is not as it was written is no damage: nobody was told that it was taken if it was not written
    /// whole, and the server cuts it off when it starts. Damage in it looks the same.
    Verify {
        #[command(flatten)]
        directory: DataDirectory,
        /// Print one JSON object for each plan.
        #[arg(long)]
        json: bool,
    },
    /// Write a plan's whole history as JSON Lines: a heading, and a line for each event.
    Export {
        #[command(flatten)]
        directory: DataDirectory,
        /// The plan.
        plan_id: String,
    },
    /// Make a plan of a history that was exported. There must be no plan of that name.
    Import {
        #[command(flatten)]
        directory: DataDirectory,
        /// The file; `-` is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

pub(super) async fn journal(command: Journal) -> Outcome {
    let done = tokio::task::spawn_blocking(move || match command.command {
        Command::Verify { directory, json } => verify(&directory, json),
        Command::Export { directory, plan_id } => export(&directory, &plan_id),
        Command::Import { directory, file } => import(&directory, &file),
    });
    done.await?
}

fn verify(directory: &DataDirectory, json: bool) -> Outcome {
    let plans = disk::verify(Arc::new(SystemFiles), &directory.data_dir)?;
    let mut out = io::stdout().lock();
    for plan in &plans {
        let line = if json { as_json(plan) } else { as_text(plan) };
        writeln!(out, "{line}")?;
    }
    let cannot_be_served = |plan: &&Verified| match plan.finding {
        Finding::Sound | Finding::NeverWritten | Finding::Torn { .. } => false,
        Finding::Damaged { .. } | Finding::Later(_) | Finding::Unreadable(_) => true,
    };
    let wrong = plans.iter().filter(cannot_be_served).count();
    let all = counted(plans.len() as u64, "plan");
    eprintln!("{all}, {wrong} of them cannot be served");
    Ok(if wrong == 0 { DONE } else { FAILED })
}

fn finding(finding: &Finding) -> (&'static str, String) {
    match finding {
        Finding::Sound => ("sound", String::new()),
        Finding::NeverWritten => ("never_written", String::new()),
        Finding::Torn { offset, bytes } => (
            "torn",
            format!(
                "{} from {offset} on were not written whole",
                counted(*bytes, "byte")
            ),
        ),
        Finding::Damaged { offset, problem } => ("damaged", format!("at {offset}: {problem}")),
        Finding::Later(problem) => ("later_version", problem.clone()),
        Finding::Unreadable(problem) => ("unreadable", problem.clone()),
    }
}

fn as_text(plan: &Verified) -> String {
    let (word, detail) = finding(&plan.finding);
    let name = plan.plan_id.as_deref().unwrap_or(&plan.name);
    let detail = if detail.is_empty() {
        detail
    } else {
        format!(" ({detail})")
    };
    printable(&format!(
        "{name}: {word}{detail}, {}, {}",
        counted(plan.entries, "event"),
        counted(plan.bytes, "byte")
    ))
}

fn as_json(plan: &Verified) -> String {
    use crate::json::{Object, Value, compact};
    let (word, detail) = finding(&plan.finding);
    let number = |number: u64| Value::from(usize::try_from(number).unwrap_or(usize::MAX));
    let mut line = Object::default();
    let name = plan.plan_id.as_deref();
    line.set("plan_id", name.map_or(Value::Null, Value::string));
    line.set("directory", Value::string(&plan.name));
    line.set("finding", Value::string(word));
    line.set("detail", Value::string(&detail));
    line.set("events", number(plan.entries));
    line.set("bytes", number(plan.bytes));
    compact(&line.into())
}

fn export(directory: &DataDirectory, plan_id: &str) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let files = Arc::new(SystemFiles);
    let events = disk::export(files, &directory.data_dir, plan_id, &mut out)?;
    out.flush()?;
    eprintln!("{}", counted(events, "event"));
    Ok(DONE)
}

fn import(directory: &DataDirectory, file: &PathBuf) -> Outcome {
    let files = Arc::new(SystemFiles);
    let imported = if file.as_os_str() == "-" {
        disk::import(files, &directory.data_dir, &mut io::stdin().lock())
    } else {
        let opened = File::open(file);
        let opened =
            opened.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        disk::import(files, &directory.data_dir, &mut BufReader::new(opened))
    };
    let (plan_id, events) = imported?;
    let events = counted(events, "event");
    eprintln!("plan {}: {events}", printable(&plan_id));
    Ok(DONE)
}
