//! A journal that many processes share: who appends first wins, the others read on; nobody believes what is not true.

mod callers;
mod exploration;
mod network;
mod replica_set;
pub mod simulated;
mod truth;

use std::sync::Arc;

use fanout::journal::{Error, History, Journal, Nats};

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
