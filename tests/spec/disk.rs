//! The journal on disk, over a file system that can be made to fail.

mod care;
mod damage;
mod directory;
mod faults;
mod fixture;
mod histories;
mod long;
mod power;
mod simulated;
mod stored;

use std::sync::Arc;

use fanout::engine::{EndReason, Entry, Event, Spec, Terms, Timestamp};
use fanout::journal::disk::{Durability, OpenError, Options};
use fanout::journal::{Disk, Error, History, Journal};
use fanout::json::Value;
use fanout::plan::{self, Input};

use crate::harness::parse;
use simulated::Drive;

fn options() -> Options {
    Options::new("data")
}

fn open(drive: &Drive) -> Disk {
    try_open(drive, Durability::Fsync).unwrap()
}

fn try_open(drive: &Drive, durability: Durability) -> Result<Disk, OpenError> {
    let options = Options {
        durability,
        ..options()
    };
    Disk::open_on(drive.boot(), &options)
}

/// A plan of so many tasks.
fn spec(plan_id: &str, tasks: usize) -> Arc<Spec> {
    let config = parse(
        r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"},"success_statuses":["done"]}"#,
    );
    let item = |task: usize| parse(&format!(r#"{{"k":"k{task}","text":"é\n"}}"#));
    let input = Input {
        config: config.as_object().unwrap().clone(),
        items: Some(Value::array((0..tasks).map(item).collect())),
        groups: None,
    };
    let planned = plan::plan(input, &plan::Limits::default()).unwrap();
    let terms = Terms {
        plan_id: plan_id.into(),
        ..Terms::default()
    };
    let config = config.as_object().unwrap();
    Arc::new(Spec::new(terms, config, &planned, usize::MAX).unwrap())
}

/// An entry that differs from that of any other sequence, also in its length.
fn entry(sequence: u64) -> Arc<Entry> {
    let event = match sequence {
        1 => Event::PlanCreated(spec("plan", 2)),
        _ => Event::PlanEnded {
            reason: EndReason::Sealed,
            note: format!("{sequence} ")
                .repeat((sequence * sequence % 61) as usize)
                .into(),
        },
    };
    Arc::new(Entry {
        sequence,
        at: Timestamp(sequence * 1_000),
        event,
    })
}

fn entries(sequences: std::ops::RangeInclusive<u64>) -> Vec<Arc<Entry>> {
    sequences.map(entry).collect()
}

/// Whether these are the entries from 1 on, as [`entry`] has them.
fn assert_are_the_first(found: &[Arc<Entry>]) {
    for (sequence, found) in (1..).zip(found) {
        assert_eq!(found.sequence, sequence);
        assert_eq!(found.at, Timestamp(sequence * 1_000));
        match (&found.event, &entry(sequence).event) {
            (Event::PlanCreated(found), Event::PlanCreated(expected)) => {
                assert_eq!(found.head, expected.head);
                assert_eq!(found.request(1), expected.request(1));
            }
            (Event::PlanEnded { note: found, .. }, Event::PlanEnded { note, .. }) => {
                assert_eq!(found, note);
            }
            (found, _) => panic!("entry {sequence} is {found:?}"),
        }
    }
}

async fn replay(history: &dyn History) -> Vec<Arc<Entry>> {
    history.replay(0, usize::MAX).wait().await.unwrap()
}

/// What is there of a plan, which is what was appended; nothing if it is not listed.
async fn kept(disk: &Disk, plan_id: &str) -> u64 {
    match disk.open(plan_id).wait().await {
        Ok(history) => {
            let found = replay(&*history).await;
            assert_are_the_first(&found);
            found.len() as u64
        }
        Err(error) => {
            assert_eq!(error, Error::NotFound);
            0
        }
    }
}
