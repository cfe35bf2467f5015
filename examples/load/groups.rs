//! A coordinator that keeps plans beside the same groups written by a program that does nothing else: with so many records on
//! their way, as many as the coordinator's journal wrote together, by its own count, and each group when the one before is
//! acknowledged, as the journal's are.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use fanout::proto::View;

use crate::server::Server;
use crate::submit::{self, PLAN, Pace, Rate, SUBMIT, Shape};
use crate::wire::receipts;
use crate::{Outcome, RECORD_BYTES, Size, ratio};

/// Groups that a round has at least, where it is not too long for that.
const GROUPS: usize = 1_000;

/// What a journal has written, by its own count.
#[derive(Clone, Copy)]
pub struct Written {
    /// How often.
    pub times: usize,
    /// Bytes, of all times together.
    pub bytes: usize,
}

impl Written {
    /// What a page of metrics says, without what it said before.
    pub fn since(before: Option<Self>, page: &str) -> Outcome<Self> {
        let count = |name: &str| -> Outcome<usize> {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.ok_or("a count is missing")?.trim().parse()?)
        };
        Ok(Self {
            times: count("fanout_journal_writes_total ")? - before.map_or(0, |before| before.times),
            bytes: count("fanout_journal_written_bytes_total ")?
                - before.map_or(0, |before| before.bytes),
        })
    }

    /// Bytes that were written at a time.
    pub fn group_bytes(&self) -> usize {
        self.bytes / self.times.max(1)
    }
}

/// A coordinator that keeps plans, and counts what it writes.
pub struct Kept {
    server: Server,
    metrics: String,
}

impl Kept {
    /// Starts one with these arguments.
    pub async fn start(arguments: &[&str]) -> Outcome<Self> {
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let arguments = [arguments, &["--metrics-listen", &metrics]].concat();
        let server = Server::fanout_with(&arguments).await?;
        server.ready().await?;
        Ok(Self { server, metrics })
    }

    /// What its journal has written, without what it had before.
    fn written(&self, before: Option<Written>) -> Outcome<Written> {
        let mut connection = TcpStream::connect(&self.metrics)?;
        connection
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n")?;
        let mut page = String::new();
        connection.read_to_string(&mut page)?;
        Written::since(before, &page)
    }
}

/// Compares, and prints a line for each number of records on their way; `raw` writes the same groups, and answers after how many
/// seconds the last one was acknowledged.
pub async fn compare(
    kept: &Kept,
    size: Size,
    raw: impl AsyncFn(Written) -> Outcome<f64>,
) -> Outcome<()> {
    let memory = Server::fanout().await?;
    println!(
        "   on their way  records a group  coordinator        raw  of raw  in memory  of both"
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
        let send = async |server: &Server| -> Outcome<Rate> {
            server.settle().await?;
            submit::send(
                server,
                SUBMIT,
                receipts,
                &messages,
                Pace::InFlight(in_flight),
            )
            .await
        };
        let mut rounds = Vec::new();
        for round in 0..=size.rounds {
            submit::plan_tasks(&kept.server, PLAN, records).await?;
            let before = kept.written(None)?;
            let rate = send(&kept.server).await?;
            let written = kept.written(Some(before))?;
            submit::delete(&kept.server, PLAN).await?;
            submit::plan_tasks(&memory, PLAN, records).await?;
            let unkept = send(&memory).await?;
            submit::delete(&memory, PLAN).await?;
            let raw = records as f64 / raw(written).await?;
            if round > 0 {
                let group = records as f64 / written.times as f64;
                rounds.push((group, rate.per_second, raw, unkept.per_second));
            }
        }
        println!(
            "{on_their_way:>15} {:>16.1} {:>12.0} {:>10.0} {:>7.2} {:>10.0} {:>8.2}",
            ratio(&rounds, |round| round.0),
            ratio(&rounds, |round| round.1),
            ratio(&rounds, |round| round.2),
            ratio(&rounds, |round| round.1 / round.2),
            ratio(&rounds, |round| round.3),
            // As long as the way in memory and the raw write take, one after the other.
            ratio(&rounds, |round| round.1 / round.3 + round.1 / round.2),
        );
    }
    Ok(())
}
