//! What every journal keeps. Each test runs on each journal, by its name.

use std::ops::Deref;
use std::sync::Arc;

use fanout::engine::{EndReason, Entry, Event, Spec, Terms, Timestamp};
use fanout::journal::disk::{Durability, Options};
use fanout::journal::{Disk, Error, History, Journal, Memory, Nats, nats};
use fanout::json::Object;
use fanout::plan::{self, Input};

use crate::harness::NatsServer;
use crate::nats::simulated::Simulated;

fn spec() -> Arc<Spec> {
    let plan = plan::plan(Input::default(), &plan::Limits::default()).unwrap();
    Arc::new(Spec::new(Terms::default(), &Object::default(), &plan, usize::MAX).unwrap())
}

pub fn entry(sequence: u64) -> Arc<Entry> {
    let event = match sequence {
        1 => Event::PlanCreated(spec()),
        _ => Event::PlanEnded {
            reason: EndReason::Sealed,
            note: format!("entry {sequence}").into(),
        },
    };
    Arc::new(Entry {
        sequence,
        at: Timestamp(sequence),
        event,
    })
}

pub fn entries(sequences: std::ops::RangeInclusive<u64>) -> Vec<Arc<Entry>> {
    sequences.map(entry).collect()
}

/// What tells two entries of these tests apart.
fn shown(entry: &Entry) -> (u64, u64, String) {
    let event = match &entry.event {
        Event::PlanEnded { note, .. } => note.to_string(),
        other => format!("{other:?}").chars().take(11).collect(),
    };
    (entry.sequence, entry.at.0, event)
}

pub async fn replay(history: &dyn History, after: u64, limit: usize) -> Vec<(u64, u64, String)> {
    let entries = history.replay(after, limit).wait().await.unwrap();
    entries.iter().map(|entry| shown(entry)).collect()
}

pub fn expected(sequences: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64, String)> {
    sequences.map(|sequence| shown(&entry(sequence))).collect()
}

async fn what_was_appended_is_replayed_in_order(journal: &dyn Journal) {
    let history = journal.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=3)).wait().await.unwrap();
    history.append(3, &entries(4..=4)).wait().await.unwrap();
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=4));
    assert_eq!(replay(&*history, 2, 100).await, expected(3..=4));
    assert_eq!(replay(&*history, 1, 2).await, expected(2..=3));
    assert_eq!(replay(&*history, 4, 100).await, []);
    assert_eq!(replay(&*history, 99, 100).await, []);
}

async fn an_append_at_another_sequence_changes_nothing_and_says_where_the_history_is(
    journal: &dyn Journal,
) {
    let history = journal.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=2)).wait().await.unwrap();
    for after in [0, 1, 3] {
        let refused = history
            .append(after, &entries(after + 1..=after + 1))
            .wait()
            .await;
        assert_eq!(refused, Err(Error::Conflict { at: 2 }));
    }
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=2));
}

async fn of_many_appends_at_one_place_exactly_one_succeeds(journal: &dyn Journal) {
    let history = journal.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=1)).wait().await.unwrap();
    let writers = (0..8).map(|_| {
        let history = Arc::clone(&history);
        tokio::spawn(async move { history.append(1, &entries(2..=2)).wait().await })
    });
    let mut kept = 0;
    for writer in writers.collect::<Vec<_>>() {
        match writer.await.unwrap() {
            Ok(()) => kept += 1,
            Err(error) => assert_eq!(error, Error::Conflict { at: 2 }),
        }
    }
    assert_eq!(kept, 1);
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=2));
}

async fn an_opened_history_is_the_same_as_the_created_one(journal: &dyn Journal) {
    let created = journal.create("plan").wait().await.unwrap();
    let opened = journal.open("plan").wait().await.unwrap();
    created.append(0, &entries(1..=1)).wait().await.unwrap();
    opened.append(1, &entries(2..=2)).wait().await.unwrap();
    assert_eq!(replay(&*created, 0, 100).await, expected(1..=2));
}

async fn a_name_is_taken_once_and_free_again_after_deletion(journal: &dyn Journal) {
    journal.create("plan").wait().await.unwrap();
    assert_eq!(
        journal.create("plan").wait().await.err(),
        Some(Error::Exists)
    );
    journal.delete("plan").wait().await.unwrap();
    journal.delete("plan").wait().await.unwrap();
    assert_eq!(
        journal.open("plan").wait().await.err(),
        Some(Error::NotFound)
    );
    let again = journal.create("plan").wait().await.unwrap();
    assert_eq!(replay(&*again, 0, 100).await, []);
}

async fn plans_are_listed_by_name_and_do_not_mix(journal: &dyn Journal) {
    for (name, last) in [("b", 1), ("a", 2), ("ü/..\u{202e}", 3)] {
        let history = journal.create(name).wait().await.unwrap();
        history.append(0, &entries(1..=last)).wait().await.unwrap();
    }
    let plans = journal.plans().wait().await.unwrap();
    assert_eq!(plans, ["a".into(), "b".into(), "ü/..\u{202e}".into()]);
    let history = journal.open("a").wait().await.unwrap();
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=2));
}

async fn appends_follow_each_other_before_they_are_done_and_are_done_in_their_order(
    journal: &dyn Journal,
) {
    let history = journal.create("plan").wait().await.unwrap();
    let answers: Vec<_> = (0..50)
        .map(|after| history.append(after, &entries(after + 1..=after + 1)))
        .collect();
    let behind = history.append(49, &entries(50..=50)).wait().await;
    assert_eq!(behind, Err(Error::Conflict { at: 50 }));
    let mut answers = answers.into_iter().rev();
    // The last one is done, so all are.
    answers.next().unwrap().wait().await.unwrap();
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=50));
    for answer in answers {
        answer.wait().await.unwrap();
    }
}

async fn an_append_that_nobody_waits_for_is_done_all_the_same(journal: &dyn Journal) {
    let history = journal.create("plan").wait().await.unwrap();
    drop(history.append(0, &entries(1..=2)));
    history.append(2, &entries(3..=3)).wait().await.unwrap();
    assert_eq!(replay(&*history, 0, 100).await, expected(1..=3));
}

async fn the_latest_entry_is_the_last_one_whose_append_is_done(journal: &dyn Journal) {
    let history = journal.create("plan").wait().await.unwrap();
    assert_eq!(history.latest().wait().await, Ok(0));
    history.append(0, &entries(1..=2)).wait().await.unwrap();
    history.append(2, &entries(3..=3)).wait().await.unwrap();
    assert_eq!(history.latest().wait().await, Ok(3));
}

/// A disk in a directory that goes away with it.
struct OnDisk {
    disk: Disk,
    _directory: tempfile::TempDir,
}

impl Deref for OnDisk {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

fn on_disk(durability: Durability) -> OnDisk {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        durability,
        ..Options::new(directory.path().join("journal"))
    };
    OnDisk {
        disk: Disk::open(&options).unwrap(),
        _directory: directory,
    }
}

/// Makes a test of each clause for one journal.
macro_rules! contract {
    ($journal:ident, $new:expr, [$($clause:ident),* $(,)?]) => {
        mod $journal {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    super::$clause(&$new).await;
                }
            )*
        }
    };
}

/// The whole contract, for one journal.
macro_rules! whole_contract {
    ($journal:ident, $new:expr) => {
        contract!(
            $journal,
            $new,
            [
                what_was_appended_is_replayed_in_order,
                an_append_at_another_sequence_changes_nothing_and_says_where_the_history_is,
                of_many_appends_at_one_place_exactly_one_succeeds,
                an_opened_history_is_the_same_as_the_created_one,
                a_name_is_taken_once_and_free_again_after_deletion,
                plans_are_listed_by_name_and_do_not_mix,
                appends_follow_each_other_before_they_are_done_and_are_done_in_their_order,
                an_append_that_nobody_waits_for_is_done_all_the_same,
                the_latest_entry_is_the_last_one_whose_append_is_done,
            ]
        );
    };
}

/// A journal on a NATS server that goes away with it; None where there is none.
async fn on_nats() -> Option<OnNats> {
    let server = NatsServer::start()?;
    let nats = connect(&server, "fanout").await;
    Some(OnNats {
        nats,
        _server: server,
    })
}

struct OnNats {
    nats: Nats,
    _server: NatsServer,
}

impl Deref for OnNats {
    type Target = Nats;

    fn deref(&self) -> &Nats {
        &self.nats
    }
}

/// A journal in a stream of this server, once it is there.
pub async fn connect(server: &NatsServer, stream: &str) -> Nats {
    let options = nats::Options {
        servers: vec![server.url.clone()],
        stream: stream.to_owned(),
        replicas: 1,
        credentials: None,
        certificate_authority: None,
        certificate: None,
    };
    let nats = Nats::connect(&options).await.unwrap();
    let mut failure = nats.failure().unwrap();
    failure.wait_for(Option::is_none).await.unwrap();
    nats
}

whole_contract!(memory, super::Memory::default());
whole_contract!(disk_fsync, *super::on_disk(super::Durability::Fsync));
whole_contract!(disk_os, *super::on_disk(super::Durability::Os));
whole_contract!(
    nats_simulated,
    *std::sync::Arc::new(super::Simulated::default()).journal()
);
whole_contract!(
    nats_jetstream,
    *match super::on_nats().await {
        Some(journal) => journal,
        None => return,
    }
);
