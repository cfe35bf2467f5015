//! A journal that many processes share: who appends first wins, the others read on; nobody believes what is not true.

mod callers;
mod exploration;
mod network;
mod replica_set;
pub mod simulated;
mod truth;

use std::sync::Arc;
use std::time::Duration;

use fanout::journal::nats::stream::{Published, Stream};
use fanout::journal::{Error, History, Journal, Nats};
use futures_util::StreamExt;

use crate::harness::NatsServer;
use crate::journal::{connect, entries, expected, replay};
use simulated::Simulated;

async fn create(journal: &Nats) -> Arc<dyn History> {
    let history = journal.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=1)).wait().await.unwrap();
    history
}

async fn open(journal: &Nats) -> Arc<dyn History> {
    journal.open("plan").wait().await.unwrap()
}

#[tokio::test]
async fn two_processes_see_the_same_history() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    let opened = open(&other).await;
    assert_eq!(replay(&*opened, 0, 100).await, expected(1..=1));
    opened.append(1, &entries(2..=2)).wait().await.unwrap();
    assert_eq!(created.latest().wait().await, Ok(2));
    assert_eq!(replay(&*created, 1, 100).await, expected(2..=2));
    created.append(2, &entries(3..=4)).wait().await.unwrap();
    assert_eq!(replay(&*opened, 2, 1).await, expected(3..=3));
    assert_eq!(replay(&*opened, 3, 1).await, expected(4..=4));
    assert_eq!(replay(&*opened, 0, 100).await, expected(1..=4));
}

#[tokio::test]
async fn of_two_processes_that_append_at_one_place_the_later_is_told_where_the_history_is() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    let opened = open(&other).await;
    created.append(1, &entries(2..=3)).wait().await.unwrap();
    // Also those that follow the one that was too late are not done.
    let late = [
        opened.append(1, &entries(2..=2)),
        opened.append(2, &entries(3..=3)),
    ];
    for late in late {
        assert_eq!(late.wait().await, Err(Error::Conflict { at: 3 }));
    }
    assert_eq!(replay(&*opened, 1, 100).await, expected(2..=3));
    opened.append(3, &entries(4..=4)).wait().await.unwrap();
    assert_eq!(replay(&*created, 3, 100).await, expected(4..=4));
}

#[tokio::test]
async fn an_append_that_fits_no_message_is_sent_in_pieces_and_read_whole() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    created.append(1, &entries(2..=100)).wait().await.unwrap();
    assert!(stream.messages("fanout.plan.plan").len() > 5);
    assert_eq!(
        replay(&*open(&other).await, 0, 1_000).await,
        expected(1..=100)
    );
}

#[tokio::test]
async fn an_append_whose_last_piece_is_missing_counts_for_nothing() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    created.append(1, &entries(2..=100)).wait().await.unwrap();
    let subject = "fanout.plan.plan";
    let whole = stream.messages(subject);
    // The same history, whose writer died before it sent the last piece.
    let broken = Arc::new(Simulated::default());
    for message in &whole[..whole.len() - 1] {
        broken.insert(subject, message.payload.clone());
    }
    let (third, fourth) = (broken.journal(), broken.journal());
    let history = open(&third).await;
    assert_eq!(history.latest().wait().await, Ok(1));
    assert_eq!(replay(&*history, 0, 1_000).await, expected(1..=1));
    history.append(1, &entries(2..=3)).wait().await.unwrap();
    assert_eq!(
        replay(&*open(&fourth).await, 0, 1_000).await,
        expected(1..=3)
    );
    assert_eq!(
        replay(&*open(&other).await, 0, 1_000).await,
        expected(1..=100)
    );
}

#[tokio::test]
async fn a_registration_that_was_cut_between_two_messages_leaves_its_name_free_after_30_seconds() {
    let stream = Arc::new(Simulated::default());
    let created = stream.journal().create("plan").wait().await.unwrap();
    created.append(0, &entries(1..=100)).wait().await.unwrap();
    let subject = "fanout.plan.plan";
    let whole = stream.messages(subject);
    assert!(whole.len() > 5);
    for cut in 1..whole.len() {
        let cut_off = || {
            let broken = Arc::new(Simulated::default());
            for message in &whole[..cut] {
                broken.insert(subject, message.payload.clone());
            }
            broken
        };
        let broken = cut_off();
        let journal = broken.journal();
        let early = journal.create("plan").wait().await.err();
        assert_eq!(early, Some(Error::Exists), "{cut} messages");
        broken.let_pass(Duration::from_secs(31));
        let history = journal.create("plan").wait().await.unwrap();
        // Who was cut off and comes back is refused.
        let late = whole[cut].payload.clone();
        let late = broken.publish(subject, cut as u64, "late", late).await;
        assert_eq!(late, Ok(Published::Refused));
        history.append(0, &entries(1..=100)).wait().await.unwrap();
        assert_eq!(
            replay(&*open(&broken.journal()).await, 0, 1_000).await,
            expected(1..=100)
        );
        assert_eq!(broken.messages(subject).len(), whole.len());

        let deleted = cut_off();
        let journal = deleted.journal();
        journal.delete("plan").wait().await.unwrap();
        assert_eq!(journal.plans().wait().await, Ok(vec![]));
        create(&journal).await;
    }
}

#[tokio::test]
async fn appends_that_wait_for_a_message_are_sent_together_in_the_next() {
    let stream = Arc::new(Simulated::default());
    let created = create(&stream.journal()).await;
    let before = stream.messages("fanout.plan.plan").len();
    let answers = [1, 2, 3].map(|after| created.append(after, &entries(after + 1..=after + 1)));
    for answer in answers {
        answer.wait().await.unwrap();
    }
    assert_eq!(stream.messages("fanout.plan.plan").len() - before, 1);
    assert_eq!(replay(&*created, 0, 100).await, expected(1..=4));
}

#[tokio::test]
async fn a_plan_that_was_forgotten_elsewhere_is_gone_also_if_another_has_its_name_now() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    create(&one).await;
    for again in [false, true] {
        let opened = open(&other).await;
        one.delete("plan").wait().await.unwrap();
        assert_eq!(one.plans().wait().await, Ok(vec![]));
        if again {
            create(&one).await;
        }
        assert_eq!(opened.latest().wait().await, Err(Error::NotFound));
        assert_eq!(
            opened.append(1, &entries(2..=2)).wait().await,
            Err(Error::NotFound)
        );
        assert!(matches!(
            opened.replay(1, 10).wait().await,
            Err(Error::NotFound)
        ));
        if !again {
            create(&one).await;
        }
    }
    assert_eq!(replay(&*open(&other).await, 0, 100).await, expected(1..=1));
}

#[tokio::test]
async fn a_plan_in_a_stream_that_is_full_can_be_forgotten_and_makes_room() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    created.append(1, &entries(2..=30)).wait().await.unwrap();
    let opened = open(&other).await;
    stream.fill_up(0);
    let full = created.append(30, &entries(31..=31)).wait().await;
    assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
    one.delete("plan").wait().await.unwrap();
    assert_eq!(one.plans().wait().await, Ok(vec![]));
    assert_eq!(created.latest().wait().await, Err(Error::NotFound));
    assert_eq!(opened.latest().wait().await, Err(Error::NotFound));
    let again = create(&other).await;
    again.append(1, &entries(2..=20)).wait().await.unwrap();
}

#[tokio::test]
async fn a_plan_whose_only_message_fills_the_stream_can_be_forgotten() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    one.create("plan").wait().await.unwrap();
    let opened = open(&other).await;
    stream.fill_up(0);
    one.delete("plan").wait().await.unwrap();
    assert_eq!(one.plans().wait().await, Ok(vec![]));
    assert_eq!(stream.messages("fanout.plan.plan"), []);
    assert_eq!(
        opened.append(0, &entries(1..=1)).wait().await,
        Err(Error::NotFound)
    );
}

#[tokio::test]
async fn a_message_that_is_not_what_was_sent_is_damage() {
    for at in [60, 100] {
        let stream = Arc::new(Simulated::default());
        let created = create(&stream.journal()).await;
        created.append(1, &entries(2..=3)).wait().await.unwrap();
        let last = stream.messages("fanout.plan.plan").pop().unwrap();
        let mut payload = last.payload.to_vec();
        payload[at] ^= 1;
        stream.damage(last.position, payload.into());
        let history = open(&stream.journal()).await;
        let read = history.replay(0, 100).wait().await;
        assert!(
            matches!(read, Err(Error::Damaged(_))),
            "byte {at}: {read:?}"
        );
    }
}

/// The same message as version 1 wrote it: of form 1, its frames with BLAKE3 of all but the hash itself.
fn as_version_1_wrote_it(payload: &[u8], previous: &mut [u8; 16]) -> Vec<u8> {
    let mut message = payload.to_vec();
    message[0] = 1;
    let mut frames = &mut message[56..];
    while let Some((length, _)) = frames.split_first_chunk::<4>() {
        let end = 64 + u32::from_le_bytes(*length) as usize;
        let (frame, rest) = frames.split_at_mut(end);
        frame[28] = 0;
        frame[32..48].copy_from_slice(previous);
        let hashed = [&frame[..48], &frame[64..]].concat();
        previous.copy_from_slice(&blake3::hash(&hashed).as_bytes()[..16]);
        frame[48..64].copy_from_slice(previous);
        frames = rest;
    }
    message[40..56].copy_from_slice(previous);
    message
}

#[tokio::test]
async fn what_version_1_published_is_read_and_goes_on() {
    let stream = Arc::new(Simulated::default());
    let created = create(&stream.journal()).await;
    created.append(1, &entries(2..=5)).wait().await.unwrap();
    let mut hash = [0; 16];
    let mut changed = 0;
    for message in stream.messages("fanout.plan.plan") {
        if message.payload.len() > 56 {
            let payload = as_version_1_wrote_it(&message.payload, &mut hash);
            stream.damage(message.position, payload.into());
            changed += 1;
        }
    }
    assert_eq!(changed, 2);
    let opened = open(&stream.journal()).await;
    assert_eq!(replay(&*opened, 0, 100).await, expected(1..=5));
    opened.append(5, &entries(6..=7)).wait().await.unwrap();
    let last = stream.messages("fanout.plan.plan").pop().unwrap();
    assert_eq!(last.payload[0], 2);
    let opened = open(&stream.journal()).await;
    assert_eq!(replay(&*opened, 0, 100).await, expected(1..=7));
}

#[tokio::test]
async fn what_a_later_version_published_is_for_another_replica_and_no_damage() {
    let stream = Arc::new(Simulated::default());
    create(&stream.journal()).await;
    let last = stream.messages("fanout.plan.plan").pop().unwrap();
    let mut payload = last.payload.to_vec();
    payload[0] = 3;
    stream.damage(last.position, payload.into());
    let opened = stream.journal().open("plan").wait().await;
    let expected = "a later version wrote a message, of form 3".to_owned();
    assert_eq!(opened.err(), Some(Error::Failed(expected)));
}

#[tokio::test]
async fn others_are_told_of_appends_they_did_not_make() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    let opened = open(&other).await;
    created.append(1, &entries(2..=2)).wait().await.unwrap();
    let told = other.others().unwrap();
    assert_eq!(told.next().await, "plan".into());
    assert_eq!(replay(&*opened, 1, 100).await, expected(2..=2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_see_the_same_history_in_a_real_stream() {
    let Some(server) = NatsServer::start() else {
        return;
    };
    let (one, other) = (connect(&server, "s").await, connect(&server, "s").await);
    let created = create(&one).await;
    let opened = open(&other).await;
    created.append(1, &entries(2..=50)).wait().await.unwrap();
    assert_eq!(other.others().unwrap().next().await, "plan".into());
    let late = opened.append(1, &entries(2..=2)).wait().await;
    assert_eq!(late, Err(Error::Conflict { at: 50 }));
    assert_eq!(replay(&*opened, 1, 100).await, expected(2..=50));
    opened.append(50, &entries(51..=51)).wait().await.unwrap();
    assert_eq!(created.latest().wait().await, Ok(51));
    for after in 51..70 {
        created.replay(after - 1, 10).wait().await.unwrap();
        created
            .append(after, &entries(after + 1..=after + 1))
            .wait()
            .await
            .unwrap();
    }
    assert_eq!(replay(&*opened, 51, 100).await, expected(52..=70));
    assert_eq!(replay(&*open(&other).await, 0, 100).await, expected(1..=70));
    other.delete("plan").wait().await.unwrap();
    assert_eq!(created.latest().wait().await, Err(Error::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_to_its_end_or_left_half_read_leaves_nothing_behind_in_the_stream() {
    let Some(server) = NatsServer::start() else {
        return;
    };
    let (one, other) = (connect(&server, "s").await, connect(&server, "s").await);
    for plan in 0..30 {
        let name = format!("plan-{plan}");
        let created = one.create(&name).wait().await.unwrap();
        for after in 0..5 {
            let next = entries(after + 1..=after + 1);
            created.append(after, &next).wait().await.unwrap();
        }
        let opened = other.open(&name).wait().await.unwrap();
        assert_eq!(replay(&*opened, 0, 2).await, expected(1..=2));
        if plan % 2 == 0 {
            assert_eq!(replay(&*opened, 2, 100).await, expected(3..=5));
        }
    }
    let client = async_nats::connect(&server.url).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("s").await;
    let mut stream = stream.unwrap();
    // Each of the two has one that tells it of news. The others are not asked for again, but go by themselves after 5 s.
    let left = tokio::time::timeout(Duration::from_secs(4), async {
        while stream.info().await.unwrap().state.consumer_count > 2 {}
    });
    left.await.expect("consumers are left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_on_reading_after_a_while_gets_what_follows() {
    let Some(server) = NatsServer::start() else {
        return;
    };
    let (one, other) = (connect(&server, "s").await, connect(&server, "s").await);
    let created = create(&one).await;
    for after in 1..300 {
        let next = entries(after + 1..=after + 1);
        created.append(after, &next).wait().await.unwrap();
    }
    let opened = open(&other).await;
    assert_eq!(replay(&*opened, 0, 2).await, expected(1..=2));
    // The stream has given up what was being read with, as it does when nobody has gone on for a while.
    let client = async_nats::connect(&server.url).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("s").await;
    let stream = stream.unwrap();
    let mut names = stream.consumer_names();
    while let Some(name) = names.next().await {
        let name = name.unwrap();
        if name.starts_with("read-") {
            stream.delete_consumer(&name).await.unwrap();
        }
    }
    assert_eq!(replay(&*opened, 2, 1_000).await, expected(3..=300));
}

#[tokio::test]
async fn an_append_whose_first_pieces_were_read_is_read_when_the_others_come() {
    let stream = Arc::new(Simulated::default());
    create(&stream.journal()).await;
    let subject = "fanout.plan.plan";
    let before = stream.messages(subject).len();
    open(&stream.journal())
        .await
        .append(1, &entries(2..=100))
        .wait()
        .await
        .unwrap();
    let whole = stream.messages(subject);
    // The same history, while the append is on its way.
    for from in [0, before] {
        let late = Arc::new(Simulated::default());
        for message in &whole[..before.max(1 + from)] {
            late.insert(subject, message.payload.clone());
        }
        let journal = late.journal();
        let history = open(&journal).await;
        let known = history.latest().wait().await.unwrap();
        assert_eq!(replay(&*history, 0, 1_000).await, expected(1..=known));
        for message in &whole[before.max(1 + from)..] {
            late.insert(subject, message.payload.clone());
            if message.position < whole.last().unwrap().position {
                // Another reader, of whom the first knows nothing.
                assert_eq!(replay(&*history, 0, 1_000).await.len() as u64, known);
                assert_eq!(
                    replay(&*history, known, 1).await,
                    expected(known + 1..=known)
                );
            }
        }
        assert_eq!(
            replay(&*history, known, 1_000).await,
            expected(known + 1..=100)
        );
        history
            .append(100, &entries(101..=101))
            .wait()
            .await
            .unwrap();
        let reader = late.journal();
        assert_eq!(
            replay(&*open(&reader).await, 0, 1_000).await,
            expected(1..=101)
        );
    }
}

#[tokio::test]
async fn who_lost_an_append_appends_nothing_before_having_read_what_came_instead() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let created = create(&one).await;
    let opened = open(&other).await;
    opened.append(1, &entries(2..=3)).wait().await.unwrap();
    let lost = created.append(1, &entries(2..=3)).wait().await;
    assert_eq!(lost, Err(Error::Conflict { at: 3 }));
    // Somebody else in the same process reads it first.
    let also = open(&one).await;
    assert_eq!(replay(&*also, 0, 100).await, expected(1..=3));
    let late = created.append(3, &entries(4..=4)).wait().await;
    assert_eq!(late, Err(Error::Conflict { at: 3 }));
    assert_eq!(replay(&*created, 1, 100).await, expected(2..=3));
    created.append(3, &entries(4..=4)).wait().await.unwrap();
}

#[tokio::test]
async fn forgetting_a_history_leaves_the_one_that_has_its_name_after_it() {
    let stream = Arc::new(Simulated::default());
    let (one, other) = (stream.journal(), stream.journal());
    let first = create(&one).await;
    one.delete("plan").wait().await.unwrap();
    let second = create(&one).await;
    assert_ne!(first.number(), second.number());
    other
        .delete_only("plan", first.number())
        .wait()
        .await
        .unwrap();
    assert_eq!(second.latest().wait().await, Ok(1));
    other
        .delete_only("plan", second.number())
        .wait()
        .await
        .unwrap();
    assert_eq!(second.latest().wait().await, Err(Error::NotFound));
}
