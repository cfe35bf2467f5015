//! Records with offsets: whatever breaks, sending them again applies nothing twice, and tells what was told.

use fanout::proto::{
    Disposition, Record, SubmitRecordRequest, SubmitRecordResponse, SubmitRecordsRequest, View,
    Warning,
};
use proptest::prelude::*;
use tonic::{Code, Status};

use crate::arbitrary::cases;
use crate::harness::{RecordStream, TestServer, record, refusal};

fn result(task: &str, payload: u64) -> Record {
    record(&format!(
        r#"{{"id":"task-{task}","status":"completed","n":{payload}}}"#
    ))
}

async fn send(
    stream: &mut RecordStream,
    first_offset: Option<u64>,
    records: &[Record],
) -> Result<SubmitRecordResponse, Status> {
    let request = SubmitRecordRequest {
        plan_id: "p".into(),
        records: records.to_vec(),
        producer_id: "sandbox 7".into(),
        first_offset,
        ..Default::default()
    };
    stream.send_request(request).await;
    stream.next().await.map(Option::unwrap)
}

/// A server with a plan of the tasks `task-a` to `task-c`.
async fn server() -> TestServer {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b", "c"]).await;
    server
}

fn dispositions(response: &SubmitRecordResponse) -> Vec<(Disposition, u32)> {
    let receipts = response.receipts.iter();
    receipts
        .map(|receipt| (receipt.disposition(), receipt.revision))
        .collect()
}

#[tokio::test]
async fn what_is_sent_again_gets_the_receipts_it_got_although_its_tasks_went_on() {
    use Disposition::{Accepted, Duplicate, SupersededPrevious};
    let mut server = server().await;
    let records = [
        result("a", 1),
        result("a", 2),
        result("a", 2),
        result("b", 1),
    ];
    let mut stream = server.open().await;
    let first = send(&mut stream, Some(0), &records).await.unwrap();
    assert_eq!(first.committed_offset, Some(4));
    assert_eq!(
        dispositions(&first),
        [
            (Accepted, 1),
            (SupersededPrevious, 2),
            (Duplicate, 2),
            (Accepted, 1)
        ]
    );
    drop(stream);

    // Somebody else goes on with the task.
    let request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: vec![result("a", 3)],
        ..Default::default()
    };
    server.submit_records(request).await.unwrap();

    let mut stream = server.open().await;
    let again = send(&mut stream, Some(0), &records).await.unwrap();
    assert_eq!(again.receipts, first.receipts);
    assert_eq!(again.committed_offset, Some(4));
    assert_eq!(again.counts, {
        let unchanged = send(&mut stream, None, &[]).await.unwrap();
        unchanged.counts
    });
}

#[tokio::test]
async fn part_of_a_message_may_be_new() {
    let mut server = server().await;
    let mut stream = server.open().await;
    let first = send(&mut stream, Some(0), &[result("a", 1)]).await.unwrap();
    let both = send(&mut stream, Some(0), &[result("a", 1), result("b", 1)])
        .await
        .unwrap();
    assert_eq!(both.receipts[0], first.receipts[0]);
    assert_eq!(
        dispositions(&both),
        [(Disposition::Accepted, 1), (Disposition::Accepted, 1)]
    );
    assert_eq!(both.committed_offset, Some(2));
}

#[tokio::test]
async fn what_is_sent_again_for_short_receipts_gets_those_it_got_without_their_records() {
    let mut server = server().await;
    let records = [result("a", 1), result("a", 2), record("[]")];
    let mut submit = async |view: View| {
        let request = SubmitRecordsRequest {
            plan_id: "p".into(),
            records: records.to_vec(),
            producer_id: "sandbox 7".into(),
            first_offset: Some(0),
            view: view.into(),
        };
        server.submit_records(request).await.unwrap().into_inner()
    };
    let mut full = submit(View::Unspecified).await;
    let documents = full
        .receipts
        .iter_mut()
        .map(|receipt| std::mem::take(&mut receipt.record));
    assert_eq!(
        documents.collect::<Vec<_>>(),
        [
            &br#"{"id":"task-a","status":"completed","n":1}"#[..],
            br#"{"id":"task-a","status":"completed","n":2}"#,
            b"",
        ]
    );
    assert_eq!(submit(View::Basic).await, full);
}

#[tokio::test]
async fn a_message_without_records_asks_how_many_have_come() {
    let mut server = server().await;
    let mut stream = server.open().await;
    let none = send(&mut stream, None, &[]).await.unwrap();
    assert_eq!((none.committed_offset, none.receipts.len()), (Some(0), 0));
    send(&mut stream, Some(0), &[result("a", 1), result("b", 1)])
        .await
        .unwrap();
    let two = send(&mut stream, None, &[]).await.unwrap();
    assert_eq!((two.committed_offset, two.receipts.len()), (Some(2), 0));
    // An offset that is left out follows what was sent before.
    let third = send(&mut stream, None, &[result("c", 1)]).await.unwrap();
    assert_eq!(third.committed_offset, Some(3));
}

#[tokio::test]
async fn records_after_a_gap_are_refused_with_the_offset_that_is_expected() {
    let mut server = server().await;
    let mut stream = server.open().await;
    send(&mut stream, Some(0), &[result("a", 1)]).await.unwrap();
    let status = send(&mut stream, Some(2), &[result("b", 1)])
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::OutOfRange,
            "OFFSET_AHEAD".into(),
            "first_offset".into()
        )
    );
    assert_eq!(
        status.message(),
        "the first offset is 2, but the plan has 1 records of this producer"
    );
}

#[tokio::test]
async fn what_was_no_record_or_set_aside_is_said_again_in_the_same_words() {
    let mut server = server().await;
    let records = [
        record("[1]"),
        record(r#"{"id":"nobody"}"#),
        Record {
            id: "task-a".into(),
            ..record(r#"{"id":"task-b"}"#)
        },
        result("b", 1),
    ];
    let mut stream = server.open().await;
    let first = send(&mut stream, Some(0), &records).await.unwrap();
    let kinds: Vec<_> = first.receipts.iter().map(|r| r.disposition()).collect();
    assert_eq!(
        kinds,
        [
            Disposition::Invalid,
            Disposition::Unmatched,
            Disposition::Accepted,
            Disposition::Accepted
        ]
    );
    let warned: Vec<_> = first.receipts[2].warnings().collect();
    assert_eq!(warned, [Warning::FieldInBodyIgnored]);
    assert_eq!(first.receipts[1].quarantine_id, 1);
    let again = send(&mut stream, Some(0), &records).await.unwrap();
    assert_eq!(again, first);
}

#[tokio::test]
async fn a_producer_is_said_first_and_stays_and_its_first_records_have_an_offset() {
    let mut server = server().await;
    let request = |producer_id: &str, first_offset| SubmitRecordRequest {
        plan_id: "p".into(),
        records: vec![result("a", 1)],
        producer_id: producer_id.into(),
        first_offset,
        ..Default::default()
    };
    let long = "x".repeat(1_025);
    for (requests, field, reason) in [
        (vec![request("", Some(0))], "producer_id", "FIELD_REQUIRED"),
        (vec![request("one", None)], "first_offset", "FIELD_REQUIRED"),
        (
            vec![request("one", Some(0)), request("two", Some(0))],
            "producer_id",
            "PRODUCER_ID_CHANGED",
        ),
        (
            vec![request("", None), request("one", Some(0))],
            "producer_id",
            "PRODUCER_ID_CHANGED",
        ),
        (
            vec![request("one", Some(u64::MAX))],
            "first_offset",
            "INVALID_OFFSET",
        ),
        (vec![request(&long, Some(0))], "producer_id", "KEY_TOO_LONG"),
    ] {
        let mut stream = server.open().await;
        let last = requests.len() - 1;
        for (nth, request) in requests.into_iter().enumerate() {
            stream.send_request(request).await;
            if nth < last {
                stream.next().await.unwrap().unwrap();
            }
        }
        let status = stream.next().await.unwrap_err();
        let expected = (Code::InvalidArgument, reason.into(), field.into());
        assert_eq!(refusal(&status), expected);
    }
}

#[tokio::test]
async fn a_plan_has_no_more_producers_and_numbered_records_than_it_may() {
    let mut server = TestServer::with(|config| {
        config.limits.producers_per_plan_max = 1;
        config.limits.numbered_records_max = 2;
    })
    .await;
    server.register("p", &["a", "b", "c"]).await;
    let mut submit = async |producer: &str, first_offset, records: &[Record]| {
        let request = SubmitRecordsRequest {
            plan_id: "p".into(),
            records: records.to_vec(),
            producer_id: producer.into(),
            first_offset: Some(first_offset),
            ..Default::default()
        };
        let answer = server.submit_records(request).await;
        answer.map(|answer| answer.into_inner().committed_offset)
    };
    let two = [result("a", 1), result("b", 1)];
    assert_eq!(submit("one", 0, &two).await.unwrap(), Some(2));
    for (producer, first_offset) in [("one", 2), ("two", 0)] {
        let refused = submit(producer, first_offset, &[result("c", 1)]).await;
        let status = refused.unwrap_err();
        assert_eq!(
            (status.code(), refusal(&status).1),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned())
        );
    }
    assert_eq!(submit("one", 0, &two).await.unwrap(), Some(2));
}

proptest! {
    #![proptest_config(cases(40))]

    /// Messages of any size, each sent up to three times, with breaks anywhere: the same receipts as without breaks.
    #[test]
    fn any_resending_comes_to_the_same_as_none(
        records in prop::collection::vec((0..3_u8, 0..3_u64), 1..24),
        steps in prop::collection::vec((0..4_u64, 1..6_usize, any::<bool>()), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let task = |task: u8| ["a", "b", "c"][usize::from(task)];
            let records: Vec<Record> = records.iter().map(|(to, n)| result(task(*to), *n)).collect();
            let mut plain = server().await;
            let mut stream = plain.open().await;
            let expected = send(&mut stream, Some(0), &records).await.unwrap();
            let mut broken = server().await;
            let mut stream = broken.open().await;
            let mut found = Vec::new();
            let mut check = |first: usize, answer: SubmitRecordResponse| {
                for (at, mut receipt) in (first..).zip(answer.receipts) {
                    // Where messages end differs, and so do the numbers of events.
                    receipt.sequence = 0;
                    match found.get(at) {
                        None => found.push(receipt),
                        Some(before) => assert_eq!(&receipt, before),
                    }
                }
            };
            let mut committed = 0;
            for (back, count, again) in steps {
                let first = committed - back.min(committed);
                let begin = usize::try_from(first).unwrap();
                let part = &records[begin.min(records.len())..(begin + count).min(records.len())];
                if part.is_empty() {
                    continue;
                }
                if again {
                    stream = broken.open().await;
                }
                let answer = send(&mut stream, Some(first), part).await.unwrap();
                committed = answer.committed_offset.unwrap();
                check(begin, answer);
            }
            let begin = usize::try_from(committed).unwrap();
            if begin < records.len() {
                let answer = send(&mut stream, Some(committed), &records[begin..]).await.unwrap();
                check(begin, answer);
            }
            let expected: Vec<_> = expected.receipts.into_iter().map(|mut receipt| {
                receipt.sequence = 0;
                receipt
            }).collect();
            assert_eq!(found, expected);
        });
    }
}
