//! What it costs to keep plans on disk: the same records to a server in memory and to servers that keep them, and, beside
//! those, the raw limit: appending the same bytes to a file, with an fdatasync after as many records as there are streams.
//! Then the journal by itself; and an fsync before every receipt beside the same groups: with so many records on their way,
//! as many as the coordinator had one wait for the disk for, by its own count, are appended and synced by a program that
//! does nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use fanout::proto::View;

use crate::appends;
use crate::server::Server;
use crate::submit::{self, PLAN, Pace, SUBMIT, Shape};
use crate::wire::receipts;
use crate::{Outcome, RECORD_BYTES, Size, cell, median, ratio, within};

const STREAMS: usize = 64;
/// Groups that a round has at least, where it is not too long for that.
const GROUPS: usize = 1_000;
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
    appends::compare(directory.path(), size).await?;
    by_group(directory.path(), size).await?;
    replay(
        directory.path(),
        if size.everything { 1_000_000 } else { 200_000 },
    )
    .await
}

/// Compares with fsync at so many records on their way, and prints a line for each number of them.
async fn by_group(directory: &Path, size: Size) -> Outcome<()> {
    let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let data = directory.join("groups").display().to_string();
    let memory = Server::fanout().await?;
    let arguments = ["--data-dir", &data, "--metrics-listen", &metrics];
    let disk = Server::fanout_with(&arguments).await?;
    println!(
        "One record a message, an fsync before every receipt; raw: the same groups appended and synced"
    );
    println!(
        "   on their way  records a sync  coordinator        raw  of raw  raw, room taken  of that  in memory  of both"
    );
    for (streams, in_flight) in [(2, 1), (8, 1), (64, 1), (64, 4), (64, 16), (64, 64)] {
        let on_their_way = streams * in_flight;
        let records = (on_their_way * GROUPS).min(size.records) / streams * streams;
        let shape = Shape {
            streams,
            batch: 1,
            record_bytes: RECORD_BYTES,
            view: View::Full,
            records,
        };
        let messages = submit::one_for_each(PLAN, 0, shape);
        let pace = Pace::InFlight(in_flight);
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            submit::plan_tasks(&disk, PLAN, records).await?;
            disk.settle().await?;
            let before = writes(&metrics)?;
            let rate = submit::send(&disk, SUBMIT, receipts, &messages, pace).await?;
            let group = records as f64 / (writes(&metrics)? - before);
            submit::delete(&disk, PLAN).await?;
            submit::plan_tasks(&memory, PLAN, records).await?;
            memory.settle().await?;
            let unkept = submit::send(&memory, SUBMIT, receipts, &messages, pace).await?;
            submit::delete(&memory, PLAN).await?;
            let bytes = (group * (RECORD_BYTES + BESIDE_DOCUMENT) as f64) as usize;
            let groups = (records as f64 / group) as usize;
            let [grown, taken] =
                [false, true].map(|take| appends::synced(directory, bytes, groups, take));
            if round > 0 {
                let per_second = |seconds: f64| groups as f64 * group / seconds;
                let raw = [per_second(grown?), per_second(taken?)];
                rounds.push((group, rate.per_second, raw, unkept.per_second));
            }
        }
        println!(
            "{on_their_way:>15} {:>15.1} {:>12.0} {:>10.0} {:>7.2} {:>16.0} {:>8.2} {:>10.0} {:>8.2}",
            ratio(&rounds, |round| round.0),
            ratio(&rounds, |round| round.1),
            ratio(&rounds, |round| round.2[0]),
            ratio(&rounds, |round| round.1 / round.2[0]),
            ratio(&rounds, |round| round.2[1]),
            ratio(&rounds, |round| round.1 / round.2[1]),
            ratio(&rounds, |round| round.3),
            // As long as the way in memory and the raw write take, one after the other.
            ratio(&rounds, |round| round.1 / round.3 + round.1 / round.2[0]),
        );
    }
    Ok(())
}

/// How often the journal of a server has written, by its metrics at this address.
fn writes(metrics: &str) -> Outcome<f64> {
    let mut connection = TcpStream::connect(metrics)?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    connection.read_to_string(&mut page)?;
    let count = page
        .lines()
        .find_map(|line| line.strip_prefix("fanout_journal_writes_total "));
    Ok(count
        .ok_or("no count of the journal's writes")?
        .trim()
        .parse()?)
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
    let group = vec![b'x'; shape.streams * shape.batch * (RECORD_BYTES + BESIDE_DOCUMENT)];
    let groups = shape.records / (shape.streams * shape.batch);
    let mut rates = [0.0; 2];
    for (rate, sync) in rates.iter_mut().zip([false, true]) {
        let path = directory.join("raw");
        let mut file = File::create(&path)?;
        let begin = Instant::now();
        for _ in 0..groups {
            file.write_all(&group)?;
            if sync {
                file.sync_data()?;
            }
        }
        *rate = (groups * shape.streams * shape.batch) as f64 / begin.elapsed().as_secs_f64();
        std::fs::remove_file(&path)?;
    }
    Ok(rates)
}
