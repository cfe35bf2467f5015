//! What the journal takes by itself, without a coordinator or a client: groups of records are appended to a plan's history,
//! each made and appended while the one before is waited for, beside a program that does nothing but write as many bytes and
//! sync them, or publish them, as often as the journal has by its own count.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanout::engine::{Entry, Event, Held, MatchedBy, Status, Timestamp, Verdict};
use fanout::journal::disk::files::SystemFiles;
use fanout::journal::disk::{self, Finding, Options};
use fanout::journal::{Answer, Disk, Journal, Nats};
use fanout::telemetry::{self, Census};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::groups::Written;
use crate::{Outcome, RECORD_BYTES, Size, ratio};

const PLAN: &str = "appends";
/// Groups that a round has, where it is not too long for that.
const GROUPS: usize = 1_000;

/// Compares, and prints a line for each number of records in a group. `append` appends so many records so many times, and
/// answers how many seconds that took and what the journal wrote; `raw` has the seconds of programs that write as much.
async fn compare(
    size: Size,
    append: impl AsyncFn(usize, usize) -> Outcome<(f64, Written)>,
    raw: impl AsyncFn(Written) -> Outcome<Vec<f64>>,
) -> Outcome<()> {
    for group in [1, 8, 64, 512, 4_096] {
        let groups = (4 * size.records / group).clamp(10, GROUPS);
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            let (seconds, written) = append(group, groups).await?;
            let raw = raw(written).await?;
            if round > 0 {
                rounds.push((written, seconds, raw));
            }
        }
        let records = (groups * group) as f64;
        print!(
            "{group:>12} {:>7.1} {:>10.0} {:>10.0}",
            ratio(&rounds, |(written, ..)| records / written.times as f64),
            ratio(&rounds, |(written, ..)| written.group_bytes() as f64),
            ratio(&rounds, |(_, seconds, _)| records / seconds),
        );
        for nth in 0..rounds[0].2.len() {
            print!(
                " {:>16.0} {:>8.2}",
                ratio(&rounds, |(.., raw)| records / raw[nth]),
                ratio(&rounds, |(_, seconds, raw)| raw[nth] / seconds),
            );
        }
        println!();
    }
    Ok(())
}

/// Compares the journal on disk.
pub async fn on_disk(directory: &Path, size: Size) -> Outcome<()> {
    println!(
        "The journal by itself, records/s, two groups on their way; raw: as many bytes appended and synced as often"
    );
    println!(
        "     a group  a sync      bytes    journal              raw   of raw  raw, room taken  of that"
    );
    let data = directory.join(PLAN);
    let append = async |group, groups| {
        let disk = Disk::open(&Options::new(&data))?;
        let appended = append(&disk, group, groups).await?;
        drop(disk);
        let found = disk::verify(Arc::new(SystemFiles), &data)?;
        let [found] = &found[..] else {
            return Err("there is not one plan".into());
        };
        if found.entries != (groups * group) as u64 || found.finding != Finding::Sound {
            return Err(format!("what was appended is not there: {found:?}").into());
        }
        std::fs::remove_dir_all(&data)?;
        Ok(appended)
    };
    let raw = async |written: Written| {
        [Raw::Synced, Raw::SyncedInRoom]
            .map(|how| raw(directory, written.group_bytes(), written.times, how))
            .into_iter()
            .collect()
    };
    compare(size, append, raw).await
}

/// Compares the journal on NATS; `raw` has the seconds of publishing as much one by one, and of doing so at the place behind the
/// one before and at no other, as an append has to be.
pub async fn on_nats(
    nats: &Nats,
    size: Size,
    raw: impl AsyncFn(Written) -> Outcome<[f64; 2]>,
) -> Outcome<()> {
    println!(
        "The journal by itself, records/s, two groups on their way; raw: the same batches published one by one, anywhere and in their place"
    );
    println!(
        "     a group a batch      bytes    journal              raw   of raw     raw, in place  of that"
    );
    let append = async |group, groups| {
        let appended = append(nats, group, groups).await?;
        let history = nats.open(PLAN).wait().await?;
        let kept = history.latest().wait().await?;
        if kept != (groups * group) as u64 {
            return Err(format!("what was appended is not there: {kept} records are").into());
        }
        nats.delete(PLAN).wait().await?;
        Ok(appended)
    };
    compare(size, append, async |written| Ok(raw(written).await?.into())).await
}

/// Seconds of appending so many groups to a history of their own, and what was written for them.
async fn append(journal: &dyn Journal, group: usize, groups: usize) -> Outcome<(f64, Written)> {
    let history = journal.create(PLAN).wait().await?;
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
