//! What the journal takes by itself, without a coordinator or a client: groups of records are appended to a plan's history,
//! each made and appended while the disk is waited for with the one before, beside a program that does nothing but write as
//! many bytes and sync them, as often as the journal has by its own count.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanout::engine::{Entry, Event, Held, MatchedBy, Status, Timestamp, Verdict};
use fanout::journal::disk::files::SystemFiles;
use fanout::journal::disk::{self, Finding, Options};
use fanout::journal::{Answer, Disk, Journal};
use fanout::telemetry::{self, Census};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::groups::Written;
use crate::{Outcome, RECORD_BYTES, Size, ratio};

const PLAN: &str = "appends";
/// Groups that a round has, where it is not too long for that.
const GROUPS: usize = 1_000;

/// Compares, and prints a line for each number of records in a group.
pub async fn compare(directory: &Path, size: Size) -> Outcome<()> {
    println!(
        "The journal by itself, records/s, two groups on their way; raw: as many bytes appended and synced as often"
    );
    println!(
        "     a group  a sync      bytes    journal        raw  of raw  raw, room taken  of that"
    );
    for group in [1, 8, 64, 512, 4_096] {
        let groups = (4 * size.records / group).clamp(10, GROUPS);
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            let (kept, written) = append(directory, group, groups).await?;
            let raw = |how| raw(directory, written.group_bytes(), written.times, how);
            let [grown, taken] = [Raw::Synced, Raw::SyncedInRoom].map(raw);
            if round > 0 {
                let per_second = |seconds: f64| (groups * group) as f64 / seconds;
                rounds.push((written, [kept, grown?, taken?].map(per_second)));
            }
        }
        println!(
            "{group:>12} {:>7.1} {:>10.0} {:>10.0} {:>10.0} {:>7.2} {:>16.0} {:>8.2}",
            ratio(&rounds, |round| (groups * group) as f64
                / round.0.times as f64),
            ratio(&rounds, |round| round.0.group_bytes() as f64),
            ratio(&rounds, |round| round.1[0]),
            ratio(&rounds, |round| round.1[1]),
            ratio(&rounds, |round| round.1[0] / round.1[1]),
            ratio(&rounds, |round| round.1[2]),
            ratio(&rounds, |round| round.1[0] / round.1[2]),
        );
    }
    Ok(())
}

/// Seconds of appending so many groups to a history of their own, and what was written for them.
async fn append(directory: &Path, group: usize, groups: usize) -> Outcome<(f64, Written)> {
    let data = directory.join(PLAN);
    let disk = Disk::open(&Options::new(&data))?;
    let history = disk.create(PLAN).wait().await?;
    let document = Bytes::from(vec![b'x'; RECORD_BYTES]);
    let before = Written::since(None, &telemetry::page(Census::default()))?;
    let begin = Instant::now();
    let mut under_way = Answer::Ready(Ok(()));
    for nth in 0..groups {
        let after = (nth * group) as u64;
        let entries: Vec<_> = (1..=group as u64)
            .map(|place| accepted(after + place, &document))
            .collect();
        let next = history.append(after, &entries);
        std::mem::replace(&mut under_way, next).wait().await?;
    }
    under_way.wait().await?;
    let seconds = begin.elapsed().as_secs_f64();
    let written = Written::since(Some(before), &telemetry::page(Census::default()))?;
    drop((history, disk));
    let found = disk::verify(Arc::new(SystemFiles), &data)?;
    let [found] = &found[..] else {
        return Err("there is not one plan".into());
    };
    if found.entries != (groups * group) as u64 || found.finding != Finding::Sound {
        return Err(format!("what was appended is not there: {found:?}").into());
    }
    std::fs::remove_dir_all(&data)?;
    Ok((seconds, written))
}

fn accepted(sequence: u64, document: &Bytes) -> Arc<Entry> {
    let at = Timestamp(sequence);
    let held = Held {
        task: u32::try_from(sequence).unwrap_or(u32::MAX),
        revision: 1,
        sequence,
        at,
        verdict: Verdict {
            status: Status::Completed,
            successful: true,
        },
        has_outcome: true,
        matched_by: MatchedBy::TaskId,
        document: document.clone(),
    };
    Arc::new(Entry {
        sequence,
        at,
        event: Event::RecordAccepted(Arc::new(held)),
    })
}

/// How a program appends that does nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// To a file that grows.
    Appended,
    /// With an fdatasync after each group.
    Synced,
    /// And to a file that has the room before.
    SyncedInRoom,
}

/// Seconds of appending so many groups of so many bytes.
pub fn raw(directory: &Path, bytes: usize, groups: usize, how: Raw) -> Outcome<f64> {
    let group = vec![b'x'; bytes];
    let path = directory.join("raw");
    let mut file = File::create(&path)?;
    if how == Raw::SyncedInRoom {
        let room = i64::try_from(bytes * groups)?;
        fallocate(&file, FallocateFlags::empty(), 0, room)?;
        file.sync_all()?;
    }
    let begin = Instant::now();
    for _ in 0..groups {
        file.write_all(&group)?;
        if how != Raw::Appended {
            file.sync_data()?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(seconds)
}
