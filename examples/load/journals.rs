//! What it costs to keep plans on disk: the same records to a server in memory and to servers that keep them, and, beside
//! those, the raw limit: appending the same bytes to a file, with an fdatasync after as many records as there are streams.
//! Then the journal by itself, and an fsync before every receipt beside the same groups.

use std::path::Path;
use std::time::Instant;

use fanout::proto::View;

use crate::appends::{self, Raw};
use crate::groups::{self, Kept, Written};
use crate::server::Server;
use crate::submit::{self, PLAN, Pace, SUBMIT, Shape};
use crate::wire::receipts;
use crate::{Outcome, RECORD_BYTES, Size, cell, median, ratio, within};

const STREAMS: usize = 64;
/// What a record takes in a journal beside its document, about.
const BESIDE_DOCUMENT: usize = 60;

/// Compares, and prints a line for each number of records in a message.
pub async fn compare(size: Size) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let on_disk = async |durability: &str| {
        let data = directory.path().join(durability);
        Server::fanout_with(&[
            "--data-dir",
            &data.display().to_string(),
            "--durability",
            durability,
        ])
        .await
    };
    let servers = [
        Server::fanout().await?,
        on_disk("os").await?,
        on_disk("fsync").await?,
    ];
    println!(
        "Records/s and CPU-s per million (user/system), {} rounds, {STREAMS} streams",
        size.rounds
    );
    for batch in [1, 16, 128] {
        let shape = Shape {
            streams: STREAMS,
            batch,
            record_bytes: RECORD_BYTES,
            view: View::Full,
            records: size.records,
        };
        let messages = submit::one_for_each(PLAN, 0, shape);
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            let mut rates = Vec::new();
            for server in &servers {
                rates.push(submit::on_a_plan(server, &messages, shape).await?);
            }
            let raw = raw(directory.path(), shape)?;
            if round > 0 {
                rounds.push((rates, raw));
            }
        }
        println!("{batch} records a message:");
        for (nth, name) in ["memory", "os", "fsync"].iter().enumerate() {
            let rates: Vec<_> = rounds.iter().map(|(rates, _)| rates[nth]).collect();
            let over = ratio(&rounds, |(rates, _)| {
                rates[nth].per_second / rates[0].per_second
            });
            println!("{name:>24}  {}  {over:.2} of memory", cell(&rates));
        }
        for (nth, name) in ["append", "append and fdatasync"].iter().enumerate() {
            let per_second = median(rounds.iter().map(|(_, raw)| raw[nth]));
            let over = ratio(&rounds, |(rates, raw)| rates[1 + nth].per_second / raw[nth]);
            println!("{name:>24}  {per_second:>9.0}  we reach {over:.2} of it");
        }
    }
    drop(servers);
    appends::on_disk(directory.path(), size).await?;
    by_group(directory.path(), size).await?;
    replay(
        directory.path(),
        if size.everything { 1_000_000 } else { 200_000 },
    )
    .await
}

/// Compares an fsync before every receipt with the same groups, appended and synced.
async fn by_group(directory: &Path, size: Size) -> Outcome<()> {
    let data = directory.join("groups").display().to_string();
    let kept = Kept::start(&["--data-dir", &data]).await?;
    println!("An fsync before every receipt; raw: the same groups appended and synced");
    let raw = async |written: Written| {
        appends::raw(directory, written.group_bytes(), written.times, Raw::Synced)
    };
    groups::compare(&kept, size, raw).await
}

/// How long a killed server is away that has so many records.
async fn replay(directory: &Path, records: usize) -> Outcome<()> {
    let data = directory.join("replay").display().to_string();
    let server = Server::fanout_with(&["--data-dir", &data, "--durability", "os"]).await?;
    let shape = Shape {
        streams: 8,
        batch: 128,
        record_bytes: RECORD_BYTES,
        view: View::Full,
        records,
    };
    submit::plan_tasks(&server, PLAN, records).await?;
    let messages = submit::one_for_each(PLAN, 0, shape);
    submit::send(&server, SUBMIT, receipts, &messages, Pace::Free).await?;
    drop(server);
    let begin = Instant::now();
    let server = Server::fanout_with(&["--data-dir", &data]).await?;
    let opened = begin.elapsed();
    within("readiness", server.ready()).await?;
    let ready = begin.elapsed();
    println!(
        "A killed server with {records} records of as many tasks has read and checked them after {:.2} s, and is ready after {:.2} s: {:.0} records/s",
        opened.as_secs_f64(),
        ready.as_secs_f64(),
        records as f64 / ready.as_secs_f64()
    );
    Ok(())
}

/// Records per second of appending alone, and with an fdatasync for every group.
fn raw(directory: &Path, shape: Shape) -> Outcome<[f64; 2]> {
    let group = shape.streams * shape.batch;
    let groups = shape.records / group;
    let per_second = |how| -> Outcome<f64> {
        let bytes = group * (RECORD_BYTES + BESIDE_DOCUMENT);
        Ok((groups * group) as f64 / appends::raw(directory, bytes, groups, how)?)
    };
    Ok([per_second(Raw::Appended)?, per_second(Raw::Synced)?])
}
