//! Limits at which something is taken, and a step past which it is refused and the limit named. Those that other
//! chapters check in the same way are not repeated here.

use fanout::proto::plan_request::Source;
use fanout::proto::{
    Disposition, GetPlanRequest, PlanRequest, Receipt, ReconcileRequest, Record, SealPlanRequest,
    SubmitRecordsRequest, View, WatchPlanRequest,
};

use super::Target;
use super::fields::{call, wrong_answers};
use super::target::PLAN;
use super::wire::{Call, field, framed, said};
use crate::harness::{fanout, plan_request, record};

/// A message of just so many bytes: the plan's id, and a field that nobody knows.
fn message(bytes: usize) -> Vec<u8> {
    let message = field(1, PLAN.as_bytes());
    let rest = bytes - message.len();
    let head = field(1_000, &vec![0; rest]).len() - rest;
    let message = [message, field(1_000, &vec![0; rest - head])].concat();
    assert_eq!(message.len(), bytes);
    message
}

#[tokio::test]
async fn a_message_is_taken_at_its_limit_and_refused_a_byte_past_it() {
    let target = Target::start(&["--message-bytes-max", "100000"]).await;
    let path = "/fanout.v1.FanoutService/GetPlan";
    let peer = target.peer().await;
    let at = peer.call(Call::of(path, framed(&message(100_000)))).await;
    assert_eq!(at.said(), "Ok +1");
    let past = peer.call(Call::of(path, framed(&message(100_001)))).await;
    assert_eq!(past.said(), "InvalidArgument MESSAGE_TOO_LARGE message");
    let text = past.status.unwrap().message().to_owned();
    assert!(text.contains("100000"), "the limit is not named: {text}");
    target.ends_well().await;
}

#[tokio::test]
async fn a_request_whose_answer_would_be_too_long_is_refused_before_anything_is_done() {
    let mut target = Target::start(&["--message-bytes-max", "100000"]).await;
    target
        .client
        .plan(plan_request("records", &["a"]))
        .await
        .unwrap();
    // Small on the wire, and spelt out in its record.
    let long = format!("[{}1e20]", "1e20,".repeat(2_000));
    let submit = |count: usize| SubmitRecordsRequest {
        plan_id: "records".into(),
        records: (0..count)
            .map(|n| Record {
                id: "task-a".into(),
                ..record(&format!(
                    r#"{{"id":"task-a","id":"task-a","status":"failed","n":{n},"x":{long}}}"#
                ))
            })
            .collect(),
        ..Default::default()
    };
    let refused = target.client.submit_records(submit(5)).await.unwrap_err();
    assert_eq!(
        said(&refused),
        "InvalidArgument MESSAGE_TOO_LARGE records <= 100000"
    );
    let get = GetPlanRequest {
        plan_id: "records".into(),
        ..Default::default()
    };
    let plan = target
        .client
        .get_plan(get)
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(plan.counts.unwrap().recorded, 0);
    let taken = target.client.submit_records(submit(1)).await.unwrap();
    assert_eq!(taken.into_inner().receipts.len(), 1);
    // Without the records in them, receipts of more fit.
    let short = SubmitRecordsRequest {
        view: View::Basic.into(),
        ..submit(5)
    };
    let taken = target.client.submit_records(short).await.unwrap();
    assert_eq!(taken.into_inner().receipts.len(), 5);
    target.ends_well().await;
}

#[tokio::test]
async fn a_plan_whose_documents_do_not_fit_a_message_is_answered_without_them() {
    let mut target = Target::start(&["--message-bytes-max", "100000"]).await;
    let items: Vec<String> = (0..20)
        .map(|n| format!(r#"{{"k":{n},"x":"{}"}}"#, "x".repeat(4_000)))
        .collect();
    let request = PlanRequest {
        plan_id: "large".into(),
        config: r#"{"group_key_path":"k","task_request_template":{"items":"{{group.items}}"}}"#
            .into(),
        source: Some(Source::Items(format!("[{}]", items.join(",")).into())),
        ..Default::default()
    };
    let planned = target.client.plan(request).await.unwrap().into_inner();
    assert!(planned.created);
    assert_eq!(planned.document, "");
    assert!(!planned.next_page_token.is_empty());
    target.ends_well().await;
}

#[tokio::test]
async fn rendered_task_requests_are_taken_at_their_limit_and_refused_a_byte_past_it() {
    let request = plan_request("measured", &["a", "bb", "ccc"]);
    let mut target = Target::start(&[]).await;
    let planned = target
        .client
        .plan(request.clone())
        .await
        .unwrap()
        .into_inner();
    let bytes: usize = planned
        .task_requests
        .iter()
        .map(|task| task.document.len())
        .sum();
    target.ends_well().await;
    let mut at = Target::start(&["--task-request-bytes-max", &bytes.to_string()]).await;
    assert!(
        at.client
            .plan(request.clone())
            .await
            .unwrap()
            .into_inner()
            .created
    );
    at.ends_well().await;
    let less = bytes - 1;
    let mut past = Target::start(&["--task-request-bytes-max", &less.to_string()]).await;
    let refused = past.client.plan(request).await.unwrap_err();
    let expected = format!("InvalidArgument LIMIT_EXCEEDED plan.task_requests <= {less}");
    assert_eq!(said(&refused), expected);
    past.ends_well().await;
}

#[tokio::test]
async fn documents_of_a_plan_are_taken_up_to_its_quota_and_refused_past_it() {
    let mut target = Target::start(&["--plan-document-bytes-max", "100"]).await;
    target
        .client
        .plan(plan_request("records", &["a", "b"]))
        .await
        .unwrap();
    // Of 50 bytes with the status that is written into it.
    let padded = |task: &str, bytes: usize| {
        let head = format!(r#"{{"id":"{task}","status":"failed","x":""#);
        record(&format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2)))
    };
    let request = SubmitRecordsRequest {
        plan_id: "records".into(),
        records: vec![
            padded("task-a", 50),
            padded("task-b", 51),
            padded("task-b", 50),
            padded("task-a", 44),
        ],
        ..Default::default()
    };
    let receipts = target
        .client
        .submit_records(request)
        .await
        .unwrap()
        .into_inner()
        .receipts;
    let limit = |receipt: &Receipt| {
        receipt
            .violation
            .as_ref()
            .map_or(0, |violation| violation.limit)
    };
    let found: Vec<_> = receipts
        .iter()
        .map(|receipt| (receipt.disposition(), limit(receipt)))
        .collect();
    let (accepted, too_large) = (Disposition::Accepted, Disposition::TooLarge);
    assert_eq!(
        found,
        [
            (accepted, 0),
            (too_large, 100),
            (accepted, 0),
            (too_large, 100)
        ]
    );
    target.ends_well().await;
}

#[tokio::test]
async fn request_ids_are_remembered_up_to_their_limit_and_refused_past_it() {
    let mut target = Target::start(&["--request-ids-max", "1"]).await;
    let seal = |request_id: &str| SealPlanRequest {
        plan_id: "records".into(),
        request_id: request_id.into(),
        ..Default::default()
    };
    target
        .client
        .plan(plan_request("records", &["a"]))
        .await
        .unwrap();
    target.client.seal_plan(seal("a")).await.unwrap();
    target.client.seal_plan(seal("a")).await.unwrap();
    let refused = target.client.seal_plan(seal("b")).await.unwrap_err();
    assert_eq!(
        said(&refused),
        "ResourceExhausted QUOTA_EXCEEDED <= request_ids_max"
    );
    target.ends_well().await;
}

#[tokio::test]
async fn a_whole_plan_document_is_answered_at_4_mib_and_left_out_a_byte_past_it() {
    let mut target = Target::start(&[]).await;
    target.client = target.client.max_decoding_message_size(16 << 20);
    let request = |padding: usize| PlanRequest {
        plan_id: "sound".into(),
        config: format!(r#"{{"orchestrator":{{"x":"{}"}}}}"#, "x".repeat(padding)).into(),
        source: Some(Source::Items("[]".into())),
        validate_only: true,
        ..Default::default()
    };
    let small = target.client.plan(request(0)).await.unwrap().into_inner();
    let padding = (4 << 20) - small.document.len();
    let at = target
        .client
        .plan(request(padding))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(at.document.len(), 4 << 20);
    let past = target
        .client
        .plan(request(padding + 1))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(past.document, "");
    target.ends_well().await;
}

#[tokio::test]
async fn times_records_and_labels_are_taken_at_their_limit_and_refused_past_it() {
    let mut target = Target::start(&[]).await;
    let time = |seconds: i64, nanos: i32| Some(prost_types::Duration { seconds, nanos });
    let plan = |change: &dyn Fn(&mut PlanRequest)| {
        let mut request = PlanRequest {
            validate_only: true,
            ..plan_request("sound", &["a"])
        };
        change(&mut request);
        call("Plan", &request)
    };
    let labels = |count: usize| {
        plan(&|request| {
            request.labels = (0..count).map(|n| (n.to_string(), "x".into())).collect();
        })
    };
    let submit = |count: usize| {
        let request = SubmitRecordsRequest {
            plan_id: PLAN.into(),
            records: vec![record(""); count],
            ..Default::default()
        };
        call("SubmitRecords", &request)
    };
    let ended = SealPlanRequest {
        plan_id: "ended".into(),
        ..Default::default()
    };
    target
        .client
        .plan(plan_request("ended", &["a"]))
        .await
        .unwrap();
    target.client.seal_plan(ended).await.unwrap();
    let wait = |wait| {
        let request = ReconcileRequest {
            plan_id: "ended".into(),
            wait,
            ..Default::default()
        };
        call("Reconcile", &request)
    };
    let watch = |heartbeat_interval| {
        let request = WatchPlanRequest {
            plan_id: "ended".into(),
            heartbeat_interval,
            ..Default::default()
        };
        call("WatchPlan", &request)
    };
    const MONTH: i64 = 30 * 24 * 3_600;
    let no_time = |field: &str| format!("InvalidArgument INVALID_DURATION {field}");
    let ok = || "Ok +1".to_owned();
    let cases = [
        (
            "a timeout of 1 ms",
            plan(&|request| request.timeout = time(0, 1_000_000)),
            ok(),
        ),
        (
            "a timeout of less",
            plan(&|request| request.timeout = time(0, 999_999)),
            no_time("timeout"),
        ),
        (
            "a timeout of 30 days",
            plan(&|request| request.timeout = time(MONTH, 0)),
            ok(),
        ),
        (
            "a timeout of more",
            plan(&|request| request.timeout = time(MONTH, 1)),
            no_time("timeout"),
        ),
        (
            "no retention",
            plan(&|request| request.retention = time(0, 0)),
            ok(),
        ),
        (
            "a retention of less",
            plan(&|request| request.retention = time(0, -1)),
            no_time("retention"),
        ),
        (
            "a retention of 30 days",
            plan(&|request| request.retention = time(MONTH, 0)),
            ok(),
        ),
        (
            "a retention of more",
            plan(&|request| request.retention = time(MONTH, 1)),
            no_time("retention"),
        ),
        ("no wait", wait(time(0, 0)), ok()),
        ("a wait of 5 minutes", wait(time(300, 0)), ok()),
        ("a wait of more", wait(time(300, 1)), no_time("wait")),
        ("heartbeats of 100 ms", watch(time(0, 100_000_000)), ok()),
        (
            "heartbeats of less",
            watch(time(0, 99_999_999)),
            no_time("heartbeat_interval"),
        ),
        ("heartbeats of 5 minutes", watch(time(300, 0)), ok()),
        (
            "heartbeats of more",
            watch(time(300, 1)),
            no_time("heartbeat_interval"),
        ),
        ("64 labels", labels(64), ok()),
        (
            "65 labels",
            labels(65),
            "InvalidArgument TOO_MANY_LABELS labels <= 64".into(),
        ),
        ("1,000 records", submit(1_000), ok()),
        (
            "1,001 records",
            submit(1_001),
            "InvalidArgument TOO_MANY_RECORDS records <= 1000".into(),
        ),
    ];
    let cases = cases.map(|(what, call, expected)| (what.to_owned(), call, expected));
    let peer = target.peer().await;
    assert_eq!(
        wrong_answers(&peer, cases.into()).await,
        Vec::<String>::new()
    );
    target.ends_well().await;
}

#[test]
fn a_setting_out_of_its_range_ends_the_server_before_it_serves() {
    for depth in ["0", "1025", "nine"] {
        let command = &mut fanout();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--json-depth-max",
            depth,
        ]);
        let said = crate::harness::Program::start(command).finish();
        assert_eq!((said.code, &*said.stdout), (1, ""), "{depth}");
        assert!(
            said.stderr.contains("--json-depth-max"),
            "{depth}: {}",
            said.stderr
        );
    }
}
