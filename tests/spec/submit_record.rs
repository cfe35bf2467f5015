//! The record stream: one receipt for each record, in order, at once, and true.

use std::sync::Arc;

use fanout::journal::disk::{Durability, Options};
use fanout::journal::{Disk, Journal, Memory};
use fanout::json::{self, Value};
use fanout::proto::{
    DeletePlanRequest, Disposition, MatchedBy, PlanStatus, Receipt, Record, RecordKind,
    SealPlanRequest, SubmitRecordRequest, SubmitRecordsRequest, TaskStatus, View, Warning,
};
use tonic::Code;

use crate::harness::{TestServer, document, long_ids, record, refusal};

fn disposition(receipt: &Receipt) -> Disposition {
    receipt.disposition()
}

fn dispositions(receipts: &[Receipt]) -> Vec<Disposition> {
    receipts.iter().map(disposition).collect()
}

#[tokio::test]
async fn a_record_is_reconciled_the_moment_it_arrives() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let mut stream = server.open().await;
    let body = r#"{"id":"task-a","status":"succeeded","outcome":{"pr":7}}"#;
    stream.send("p", vec![record(body)]).await;
    let response = stream.next().await.unwrap().unwrap();
    let receipt = &response.receipts[0];
    assert_eq!(
        receipt.record,
        r#"{"id":"task-a","status":"completed","outcome":{"pr":7}}"#
    );
    assert_eq!(disposition(receipt), Disposition::Accepted);
    assert_eq!(
        (receipt.code, receipt.task_id.as_str()),
        (Code::Ok as i32, "task-a")
    );
    assert_eq!(
        (receipt.matched_by(), receipt.status()),
        (MatchedBy::Id, TaskStatus::Completed)
    );
    assert_eq!(
        (receipt.revision, receipt.sequence, receipt.successful),
        (1, 2, true)
    );
    let counts = response.counts.unwrap();
    assert_eq!(
        (
            counts.tasks,
            counts.recorded,
            counts.missing,
            counts.outcomes
        ),
        (2, 1, 1, 1)
    );
    assert_eq!(
        (response.status(), response.sequence),
        (PlanStatus::Incomplete, 2)
    );

    stream
        .send("", vec![record(r#"{"id":"task-b","success":true}"#)])
        .await;
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!((last.status(), last.sequence), (PlanStatus::Completed, 4));
}

#[tokio::test]
async fn receipts_come_in_the_view_that_was_asked_for_last_and_in_the_full_one_before() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b", "c", "d"]).await;
    let mut stream = server.open().await;
    let views = [
        View::Unspecified,
        View::Basic,
        View::Unspecified,
        View::Full,
    ];
    // All are there before the first is read: they may be applied together, and each is answered as it says.
    for (task, view) in ["a", "b", "c", "d"].iter().zip(views) {
        let request = SubmitRecordRequest {
            plan_id: "p".into(),
            records: vec![record(&format!(r#"{{"id":"task-{task}","success":true}}"#))],
            view: view.into(),
            ..Default::default()
        };
        stream.send_request(request).await;
    }
    let mut receipts = Vec::new();
    for _ in views {
        let response = stream.next().await.unwrap().unwrap();
        assert_eq!(response.counts.unwrap().tasks, 4);
        receipts.extend(response.receipts);
    }
    let receipt = |task: &str, sequence, record: &'static str| Receipt {
        disposition: Disposition::Accepted.into(),
        task_id: format!("task-{task}"),
        matched_by: MatchedBy::Id.into(),
        revision: 1,
        sequence,
        status: TaskStatus::Completed.into(),
        successful: true,
        record: record.into(),
        ..Default::default()
    };
    assert_eq!(
        receipts,
        [
            receipt(
                "a",
                2,
                r#"{"id":"task-a","success":true,"status":"completed"}"#
            ),
            receipt("b", 3, ""),
            receipt("c", 4, ""),
            receipt(
                "d",
                5,
                r#"{"id":"task-d","success":true,"status":"completed"}"#
            ),
        ]
    );
}

#[tokio::test]
async fn every_disposition_has_its_code_and_says_what_it_must() {
    let mut server = TestServer::start().await;
    let groups = r#"[{"key":"g"},{"key":"g"},{"key":"h"}]"#;
    server
        .register_with("p", &[], |request| {
            request.config = r#"{"task_request_template":{"id":"task-{{group.index}}"}}"#.into();
            request.source = Some(fanout::proto::plan_request::Source::Groups(groups.into()));
        })
        .await;
    let long = "x".repeat(1_025);
    let cases = [
        (
            r#"{"id":"task-0","status":"failed"}"#,
            Disposition::Accepted,
            Code::Ok,
        ),
        (
            r#"{"id":"task-0","status":"failed"}"#,
            Disposition::Duplicate,
            Code::Ok,
        ),
        (
            r#"{ "id": "task-0", "status": "failed" }"#,
            Disposition::Duplicate,
            Code::Ok,
        ),
        (
            r#"{"id":"task-0","status":"passed"}"#,
            Disposition::SupersededPrevious,
            Code::Ok,
        ),
        (r#"{"id":"stray"}"#, Disposition::Unmatched, Code::NotFound),
        (
            r#"{"group_key":"g"}"#,
            Disposition::Ambiguous,
            Code::FailedPrecondition,
        ),
        ("[]", Disposition::Invalid, Code::InvalidArgument),
        (
            &format!(r#"{{"id":"{long}"}}"#),
            Disposition::TooLarge,
            Code::InvalidArgument,
        ),
    ];
    let records = cases.iter().map(|(body, ..)| record(body)).collect();
    let receipts = server.submit("p", records).await;
    for ((body, disposition, code), receipt) in cases.iter().zip(&receipts) {
        assert_eq!(
            (receipt.disposition(), receipt.code),
            (*disposition, *code as i32),
            "{body}"
        );
    }
    assert_eq!(receipts[1].sequence, receipts[0].sequence);
    assert!(
        receipts[1].record.is_empty(),
        "a duplicate's record is not sent again"
    );
    assert_eq!(
        (receipts[3].revision, receipts[3].status()),
        (2, TaskStatus::Completed)
    );
    assert_eq!(
        [receipts[4].quarantine_id, receipts[5].quarantine_id],
        [1, 2]
    );
    assert_eq!(receipts[5].candidate_task_ids, ["task-0", "task-1"]);
    let violation = receipts[6].violation.clone().unwrap();
    assert_eq!(
        (violation.field.as_str(), violation.reason.as_str()),
        ("records[6].body", "INVALID_JSON")
    );
    assert_eq!(
        violation.description,
        "1:1: expected an object, found \"[\""
    );
    let violation = receipts[7].violation.clone().unwrap();
    let (field, reason) = (violation.field.as_str(), violation.reason.as_str());
    assert_eq!(
        (field, reason, violation.limit),
        ("records[7].id", "KEY_TOO_LONG", 1_024)
    );

    let sealed = SealPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    server.seal_plan(sealed).await.unwrap();
    let late = server.submit("p", vec![record(r#"{"id":"task-2"}"#)]).await;
    assert_eq!(
        (late[0].disposition(), late[0].code),
        (Disposition::Late, Code::FailedPrecondition as i32)
    );
    assert_eq!(
        (
            late[0].task_id.as_str(),
            late[0].quarantine_id,
            late[0].status()
        ),
        ("task-2", 3, TaskStatus::Unspecified)
    );
}

#[tokio::test]
async fn a_record_is_matched_four_ways_whether_its_key_is_typed_or_in_the_body() {
    let mut server = TestServer::start().await;
    let template = r#"{"group_key_path":"k","task_request_template":
        {"id":"task-{{group.key}}","sandbox_session_id":"box-{{group.key}}"}}"#;
    server
        .register_with("p", &["a", "b", "c", "d"], |request| {
            request.config = template.into()
        })
        .await;
    let typed = |set: fn(&mut Record)| {
        let mut record = record(r#"{"success":true}"#);
        set(&mut record);
        record
    };
    let receipts = server
        .submit(
            "p",
            vec![
                typed(|record| record.task_id = "task-a".into()),
                record(r#"{"task_id":"task-a","n":1}"#),
                typed(|record| record.id = "task-b".into()),
                record(r#"{"id":"task-b","n":1}"#),
                typed(|record| record.sandbox_session_id = "box-c".into()),
                record(r#"{"sandbox_session_id":"box-c","n":1}"#),
                typed(|record| record.group_key = "d".into()),
            ],
        )
        .await;
    let matched: Vec<_> = receipts
        .iter()
        .map(|receipt| (receipt.task_id.as_str(), receipt.matched_by()))
        .collect();
    assert_eq!(
        matched,
        [
            ("task-a", MatchedBy::TaskId),
            ("task-a", MatchedBy::TaskId),
            ("task-b", MatchedBy::Id),
            ("task-b", MatchedBy::Id),
            ("task-c", MatchedBy::SandboxSessionId),
            ("task-c", MatchedBy::SandboxSessionId),
            ("task-d", MatchedBy::GroupKey),
        ]
    );
}

#[tokio::test]
async fn a_session_is_learnt_from_started_and_then_matches_alone() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let started = Record {
        task_id: "task-b".into(),
        sandbox_session_id: "box".into(),
        kind: RecordKind::Started.into(),
        ..Record::default()
    };
    let result = Record {
        sandbox_session_id: "box".into(),
        success: Some(true),
        ..Record::default()
    };
    let receipts = server.submit("p", vec![started, result]).await;
    assert_eq!(
        receipts[0].status(),
        TaskStatus::Unspecified,
        "STARTED is no result"
    );
    assert_eq!(
        (receipts[1].task_id.as_str(), receipts[1].matched_by()),
        ("task-b", MatchedBy::SandboxSessionId)
    );
    assert_eq!(
        document(&receipts[1].record),
        document(br#"{"sandbox_session_id":"box","success":true,"status":"completed"}"#)
    );
}

#[tokio::test]
async fn warnings_tell_the_sender_what_to_look_at_and_the_record_is_taken() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let disagreeing = record(r#"{"id":"task-a","group_key":"b"}"#);
    let ignored = Record {
        status: "passed".into(),
        ..record(r#"{"id":"task-b","status":"failed"}"#)
    };
    let receipts = server.submit("p", vec![disagreeing, ignored]).await;
    assert_eq!(dispositions(&receipts), [Disposition::Accepted; 2]);
    let warnings: Vec<Vec<_>> = receipts
        .iter()
        .map(|receipt| receipt.warnings().collect())
        .collect();
    assert_eq!(
        warnings,
        [
            vec![Warning::KeysDisagree],
            vec![Warning::FieldInBodyIgnored]
        ]
    );
    assert!(receipts[1].successful);
}

#[tokio::test]
async fn half_close_ends_the_stream_with_ok_after_the_last_receipt() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let mut stream = server.open().await;
    for n in 0..5 {
        stream
            .send(
                "p",
                vec![record(&format!(
                    r#"{{"id":"task-a","n":{n},"status":"failed"}}"#
                ))],
            )
            .await;
    }
    stream.half_close();
    let mut receipts = Vec::new();
    while let Some(response) = stream.next().await.unwrap() {
        receipts.extend(response.receipts);
    }
    // The first one ends the plan; what comes then is late.
    let expected = [
        Disposition::Accepted,
        Disposition::Late,
        Disposition::Late,
        Disposition::Late,
        Disposition::Late,
    ];
    assert_eq!(dispositions(&receipts), expected);
}

#[tokio::test]
async fn one_bad_record_never_ends_the_stream() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let mut stream = server.open().await;
    stream
        .send(
            "p",
            vec![record("\u{0}"), record(r#"{"id":"task-a","success":true}"#)],
        )
        .await;
    let response = stream.next().await.unwrap().unwrap();
    assert_eq!(
        dispositions(&response.receipts),
        [Disposition::Invalid, Disposition::Accepted]
    );
    stream
        .send(
            "p",
            vec![Record {
                kind: 99,
                ..record("{}")
            }],
        )
        .await;
    let response = stream.next().await.unwrap().unwrap();
    let violation = response.receipts[0].violation.clone().unwrap();
    assert_eq!(
        (violation.field.as_str(), violation.reason.as_str()),
        ("records[0].kind", "UNKNOWN_ENUM_VALUE")
    );
}

#[tokio::test]
async fn a_stream_of_a_deleted_plan_ends_and_the_next_plan_of_its_name_has_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = |name: &str, durability| {
        let options = Options {
            durability,
            ..Options::new(directory.path().join(name))
        };
        Arc::new(Disk::open(&options).unwrap()) as Arc<dyn Journal>
    };
    let journals = [
        Arc::new(Memory::default()),
        on_disk("fsync", Durability::Fsync),
        on_disk("os", Durability::Os),
    ];
    let body = r#"{"id":"task-a","success":true}"#;
    for (nth, journal) in journals.into_iter().enumerate() {
        let mut server = TestServer::over(journal, |_| {}).await;
        server.register("p", &["a", "b"]).await;
        let (mut used, mut numbered) = (server.open().await, server.open().await);
        used.send("p", vec![record(body)]).await;
        assert_eq!(
            dispositions(&used.next().await.unwrap().unwrap().receipts),
            [Disposition::Accepted]
        );
        let of_producer = |records| SubmitRecordRequest {
            plan_id: "p".into(),
            producer_id: "worker".into(),
            records,
            first_offset: Some(0),
            ..Default::default()
        };
        numbered.send_request(of_producer(vec![])).await;
        assert_eq!(
            numbered.next().await.unwrap().unwrap().committed_offset,
            Some(0)
        );
        let delete = DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        server.delete_plan(delete).await.unwrap();
        server.register("p", &["a", "b"]).await;

        // A record that the deleted plan has already is no duplicate any more.
        used.send("p", vec![record(body)]).await;
        numbered.send_request(of_producer(vec![])).await;
        for stream in [&mut used, &mut numbered] {
            let status = stream.next().await.unwrap_err();
            assert_eq!(
                refusal(&status),
                (Code::NotFound, "PLAN_NOT_FOUND".into(), String::new()),
                "journal {nth}"
            );
        }
        let receipts = server.submit("p", vec![record(body)]).await;
        assert_eq!(
            (receipts[0].disposition(), receipts[0].sequence),
            (Disposition::Accepted, 2),
            "journal {nth}"
        );
    }
}

#[tokio::test]
async fn protocol_misuse_ends_the_stream_with_its_reason() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let mut first = server.open().await;
    first.send("", vec![record("{}")]).await;
    let status = first.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "FIELD_REQUIRED".into(),
            "plan_id".into()
        )
    );

    let mut unknown = server.open().await;
    unknown.send("q", vec![record("{}")]).await;
    let status = unknown.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::NotFound, "PLAN_NOT_FOUND".into(), String::new())
    );

    let mut empty = server.open().await;
    empty.send("p", vec![]).await;
    let status = empty.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "FIELD_REQUIRED".into(),
            "records".into()
        )
    );

    let mut changed = server.open().await;
    changed
        .send("p", vec![record(r#"{"id":"task-a","success":true}"#)])
        .await;
    assert_eq!(
        dispositions(&changed.next().await.unwrap().unwrap().receipts),
        [Disposition::Accepted]
    );
    changed.send("other", vec![record("{}")]).await;
    let status = changed.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "PLAN_ID_CHANGED".into(),
            "plan_id".into()
        )
    );

    let mut crowded = server.open().await;
    crowded.send("p", vec![record("{}"); 1_001]).await;
    let status = crowded.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "TOO_MANY_RECORDS".into(),
            "records".into()
        )
    );
}

#[tokio::test]
async fn limits_of_a_record_hold_one_past_and_not_at_them() {
    let mut server = TestServer::with(|config| {
        config.limits.record_body_bytes_max = 64;
        config.limits.key_bytes_max = 8;
        config.limits.json_depth_max = 3;
    })
    .await;
    server.register("p", &["a"]).await;
    let padded = |bytes: usize| record(&format!("{{{}}}", " ".repeat(bytes - 2)));
    let receipts = server
        .submit(
            "p",
            vec![
                padded(64),
                padded(65),
                record(r#"{"id":"12345678"}"#),
                record(r#"{"id":"123456789"}"#),
                record(r#"{"a":[[]]}"#),
                record(r#"{"a":[[[]]]}"#),
                Record {
                    status: "123456789".into(),
                    ..record("{}")
                },
                Record {
                    group_key: "a\0".into(),
                    ..record("{}")
                },
            ],
        )
        .await;
    let found: Vec<_> = receipts
        .iter()
        .map(|receipt| {
            let violation = receipt.violation.clone().unwrap_or_default();
            let field = violation
                .field
                .split_once('.')
                .map(|(_, field)| field.to_owned())
                .unwrap_or_default();
            (
                receipt.disposition(),
                field,
                violation.reason,
                violation.limit,
            )
        })
        .collect();
    let refused = |disposition, field: &str, reason: &str, limit| {
        (disposition, field.to_owned(), reason.to_owned(), limit)
    };
    let unmatched = || refused(Disposition::Unmatched, "", "", 0);
    assert_eq!(
        found,
        [
            unmatched(),
            refused(Disposition::TooLarge, "body", "BODY_TOO_LARGE", 64),
            unmatched(),
            refused(Disposition::TooLarge, "id", "KEY_TOO_LONG", 8),
            unmatched(),
            refused(Disposition::TooLarge, "body", "JSON_LIMIT_EXCEEDED", 3),
            refused(Disposition::TooLarge, "status", "KEY_TOO_LONG", 8),
            refused(Disposition::Invalid, "group_key", "INVALID_TEXT", 0),
        ]
    );
}

#[tokio::test]
async fn a_plans_quota_is_answered_as_resource_exhausted() {
    let mut server = TestServer::with(|config| config.limits.quarantined_records_max = 1).await;
    server.register("p", &["a"]).await;
    let receipts = server
        .submit("p", vec![record(r#"{"id":"x"}"#), record(r#"{"id":"y"}"#)])
        .await;
    assert_eq!(
        dispositions(&receipts),
        [Disposition::Unmatched, Disposition::TooLarge]
    );
    assert_eq!(receipts[1].code, Code::ResourceExhausted as i32);
    assert_eq!(
        receipts[1].violation.clone().unwrap().reason,
        "PLAN_QUOTA_EXCEEDED"
    );
}

#[tokio::test]
async fn a_document_as_deep_as_the_limit_is_taken_and_comes_back_whole() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let nested = format!("{}1{}", "[".repeat(511), "]".repeat(511));
    let receipts = server
        .submit(
            "p",
            vec![record(&format!(r#"{{"id":"task-a","outcome":{nested}}}"#))],
        )
        .await;
    assert_eq!(dispositions(&receipts), [Disposition::Accepted]);
    let request = fanout::proto::ReconcileRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let result = server
        .reconcile(request)
        .await
        .unwrap()
        .into_inner()
        .document;
    // Records stand two levels deep in the result.
    let limits = json::Limits {
        depth: 514,
        ..json::Limits::default()
    };
    let result = json::parse(&result, limits).unwrap();
    let outcome = &result.get("outcomes").and_then(Value::as_array).unwrap()[0];
    assert_eq!(json::compact(outcome), nested);
}

#[tokio::test]
async fn a_submitter_that_does_not_read_its_receipts_stalls_nobody_else() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let stalled = server.open().await;
    let heavy = record(&format!(
        r#"{{"id":"task-a","pad":"{}"}}"#,
        "x".repeat(100_000)
    ));
    // Sent until nothing more goes out: the server has stopped reading this stream.
    let requests = stalled.requests.clone().unwrap();
    let filling = tokio::spawn(async move {
        for n in 0..2_000 {
            let mut record = heavy.clone();
            record.id = format!("executor-{n}");
            let request = fanout::proto::SubmitRecordRequest {
                plan_id: "p".into(),
                records: vec![record],
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                return;
            }
        }
        panic!("200 MB were taken from a peer that reads nothing");
    });
    let mut other = server.open().await;
    for n in 0..500 {
        other
            .send(
                "p",
                vec![record(&format!(
                    r#"{{"id":"task-b","n":{n},"status":"failed"}}"#
                ))],
            )
            .await;
        assert_eq!(other.next().await.unwrap().unwrap().receipts.len(), 1);
    }
    assert!(!filling.is_finished());
    filling.abort();
}

#[tokio::test]
async fn records_of_many_streams_at_one_plan_are_all_applied_once() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    server.register("p", &keys).await;
    let mut streams = Vec::new();
    for worker in 0..8 {
        let mut stream = server.open().await;
        streams.push(tokio::spawn(async move {
            let mut accepted = 0;
            for n in 0..200 {
                // Every stream reports every task, with the same content.
                let n = (n * 7 + worker * 25) % 200;
                stream
                    .send(
                        "p",
                        vec![record(&format!(r#"{{"id":"task-k{n}","success":true}}"#))],
                    )
                    .await;
                let response = stream.next().await.unwrap().unwrap();
                accepted +=
                    usize::from(response.receipts[0].disposition() == Disposition::Accepted);
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for stream in streams {
        accepted += stream.await.unwrap();
    }
    assert_eq!(accepted, 200);
}

/// Recorded tasks, and records that were set aside.
async fn taken(server: &mut TestServer) -> (u64, u64) {
    let request = fanout::proto::GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let plan = server.get_plan(request).await.unwrap().into_inner().plan;
    let counts = plan.unwrap().counts.unwrap();
    (counts.recorded, counts.quarantined)
}

fn too_large() -> (Code, String, String) {
    let reason = "MESSAGE_TOO_LARGE".into();
    (Code::InvalidArgument, reason, "records".into())
}

#[tokio::test]
async fn records_are_not_applied_if_long_task_ids_in_their_receipts_would_not_fit_the_answer() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 1 << 20).await;
    let ids = long_ids(100);
    server.register_alike(&ids).await;
    let pad = "x".repeat(9_000);
    let records: Vec<_> = ids
        .iter()
        .map(|id| Record {
            task_id: id.clone(),
            ..record(&format!(r#"{{"pad":"{pad}"}}"#))
        })
        .collect();
    let request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: records.clone(),
        ..Default::default()
    };
    let refused = server.submit_records(request).await.unwrap_err();
    assert_eq!(refusal(&refused), too_large());
    let mut stream = server.open().await;
    stream.send("p", records.clone()).await;
    assert_eq!(
        refusal(&stream.next().await.unwrap_err()),
        too_large(),
        "a message of a stream is no larger"
    );
    assert_eq!(taken(&mut server).await, (0, 0));
    assert_eq!(server.submit("p", records[..80].to_vec()).await.len(), 80);
    assert_eq!(taken(&mut server).await, (80, 0));
}

#[tokio::test]
async fn records_are_not_set_aside_if_the_tasks_they_may_be_for_would_not_fit_the_answer() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 1 << 20).await;
    server.register_alike(&long_ids(16)).await;
    let request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: vec![record(r#"{"group_key":"alike"}"#); 100],
        view: View::Basic.into(),
        ..Default::default()
    };
    let refused = server.submit_records(request.clone()).await.unwrap_err();
    assert_eq!(refusal(&refused), too_large());
    assert_eq!(taken(&mut server).await, (0, 0));
    let receipts = server.submit("p", request.records[..50].to_vec()).await;
    let listed: Vec<_> = receipts
        .iter()
        .map(|receipt| (disposition(receipt), receipt.candidate_task_ids.len()))
        .collect();
    assert_eq!(listed, [(Disposition::Ambiguous, 16); 50]);
}

#[tokio::test]
async fn receipts_that_are_remembered_are_refused_if_they_would_not_fit_the_answer() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 1 << 20).await;
    let ids = long_ids(16);
    server.register_alike(&ids).await;
    let submit = |first_offset: u64, record: Record, count: usize| SubmitRecordsRequest {
        plan_id: "p".into(),
        producer_id: "one".into(),
        first_offset: Some(first_offset),
        records: vec![record; count],
        ..Default::default()
    };
    let alike = record(r#"{"group_key":"alike"}"#);
    for first_offset in [0, 50] {
        let request = submit(first_offset, alike.clone(), 50);
        server.submit_records(request).await.unwrap();
    }
    // What comes again is answered as it was then, whatever it says now.
    let named = Record {
        task_id: ids[0].clone(),
        ..Record::default()
    };
    let again = submit(0, named.clone(), 100);
    let refused = server.submit_records(again).await.unwrap_err();
    assert_eq!(refusal(&refused), too_large());
    let again = server.submit_records(submit(0, named, 50)).await.unwrap();
    assert_eq!(
        dispositions(&again.into_inner().receipts),
        [Disposition::Ambiguous; 50]
    );
    assert_eq!(taken(&mut server).await, (0, 100));
}

#[tokio::test]
async fn records_that_name_their_tasks_are_taken_up_to_the_size_of_a_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 1 << 20).await;
    let keys: Vec<String> = (0..1_000).map(|n| format!("{n:0>90}")).collect();
    let many: Vec<_> = keys.iter().map(String::as_str).collect();
    server.register("many", &many).await;
    let few: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let few: Vec<_> = few.iter().map(String::as_str).collect();
    server.register("few", &few).await;
    // 1,000 small records are about half of a message with their receipts, 100 large ones nearly all of it.
    for (plan_id, keys, pad) in [("many", many, 200), ("few", few, 10_000)] {
        let pad = "x".repeat(pad);
        let body = |key| format!(r#"{{"id":"task-{key}","success":true,"pad":"{pad}"}}"#);
        let records = keys.iter().map(|key| record(&body(key))).collect();
        let receipts = server.submit(plan_id, records).await;
        let expected = vec![Disposition::Accepted; keys.len()];
        assert_eq!(dispositions(&receipts), expected, "{plan_id}");
    }
}
