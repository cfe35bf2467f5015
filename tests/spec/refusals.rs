//! Wrong input for every method: the exact code, reason and field, and a server that goes on.

use fanout::proto::plan_request::Source;
use fanout::proto::{
    CancelPlanRequest, CompletionPolicy, DeletePlanRequest, FindingPackets, GetPlanRequest,
    ListPlansRequest, PlanRequest, ReconcileDocuments, ReconcileRequest, SealPlanRequest,
    SubmitRecordsRequest, WatchPlanRequest,
};
use prost::bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{TestServer, plan_request, record, refusal};

const LONG: usize = 1_025;

/// Code, reason and field, and what it takes to say them.
fn invalid(reason: &str, field: &str) -> (Code, String, String) {
    (Code::InvalidArgument, reason.into(), field.into())
}

fn not_found() -> (Code, String, String) {
    (Code::NotFound, "PLAN_NOT_FOUND".into(), String::new())
}

/// Every refusal says in words what its details say, and none suggests to retry what cannot succeed.
fn check(what: &str, status: &Status, expected: &(Code, String, String)) {
    assert_eq!(&refusal(status), expected, "{what}: {status:?}");
    assert!(!status.message().is_empty(), "{what} says nothing");
    assert!(
        status.get_error_details().retry_info().is_none(),
        "{what} suggests to retry"
    );
    assert!(
        status.details().len() <= 4_096,
        "{what}: details are {} bytes",
        status.details().len()
    );
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn a_wrong_plan_request_is_refused_with_its_field() {
    let mut server = TestServer::start().await;
    let request = || plan_request("p", &["a"]);
    let packets = |packets: &'static str, policy: &'static str| {
        Some(Source::FindingPackets(FindingPackets {
            packets: packets.into(),
            policy: policy.into(),
        }))
    };
    let config = |config: &'static str| PlanRequest {
        config: config.into(),
        ..request()
    };
    let labels = |count: usize, length: usize| PlanRequest {
        labels: (0..count)
            .map(|n| (format!("{n}"), "x".repeat(length)))
            .collect(),
        ..request()
    };
    let cases: Vec<(&str, PlanRequest, (Code, String, String))> = vec![
        (
            "long plan id",
            PlanRequest {
                plan_id: "x".repeat(LONG),
                ..request()
            },
            invalid("TEXT_TOO_LONG", "plan_id"),
        ),
        (
            "NUL in the plan id",
            PlanRequest {
                plan_id: "a\0".into(),
                ..request()
            },
            invalid("INVALID_TEXT", "plan_id"),
        ),
        (
            "long request id",
            PlanRequest {
                request_id: "x".repeat(LONG),
                ..request()
            },
            invalid("TEXT_TOO_LONG", "request_id"),
        ),
        (
            "config is no JSON",
            config("{"),
            invalid("INVALID_JSON", "config"),
        ),
        (
            "config is no object",
            config("[]"),
            invalid("INVALID_DOCUMENT", "config"),
        ),
        (
            "config is not UTF-8",
            PlanRequest {
                config: vec![0xff].into(),
                ..request()
            },
            invalid("INVALID_JSON", "config"),
        ),
        (
            "group key path is an object",
            config(r#"{"group_key_path":{}}"#),
            invalid("INVALID_DOCUMENT", "config.group_key_path"),
        ),
        (
            "template renders to a list",
            config(r#"{"task_request_template":"{{group.items}}"}"#),
            invalid("INVALID_DOCUMENT", "config.task_request_template"),
        ),
        (
            "unknown matching",
            config(r#"{"matching":"loose"}"#),
            invalid("INVALID_DOCUMENT", "config.matching"),
        ),
        (
            "unknown duplicate policy",
            config(r#"{"duplicate_policy":"best"}"#),
            invalid("INVALID_DOCUMENT", "config.duplicate_policy"),
        ),
        (
            "two tasks of one identity",
            PlanRequest {
                config: r#"{"task_request_template":{"id":"same"}}"#.into(),
                source: Some(Source::Groups(r#"[{"key":"a"},{"key":"b"}]"#.into())),
                ..request()
            },
            invalid("INVALID_DOCUMENT", "plan.task_requests[1]"),
        ),
        (
            "name of the config's orchestrator is too long",
            PlanRequest {
                plan_id: String::new(),
                config: format!(
                    r#"{{"orchestrator":{{"run_id":"{}","plan_id":"p"}}}}"#,
                    "x".repeat(LONG)
                )
                .into(),
                ..request()
            },
            invalid("INVALID_PLAN_ID", "config.orchestrator"),
        ),
        (
            "items are no list",
            PlanRequest {
                source: Some(Source::Items("{}".into())),
                ..request()
            },
            invalid("INVALID_DOCUMENT", "items"),
        ),
        (
            "items are no JSON",
            PlanRequest {
                source: Some(Source::Items("[1,]".into())),
                ..request()
            },
            invalid("INVALID_JSON", "items"),
        ),
        (
            "groups are no list",
            PlanRequest {
                source: Some(Source::Groups("1".into())),
                ..request()
            },
            invalid("INVALID_DOCUMENT", "groups"),
        ),
        (
            "packets are no list",
            PlanRequest {
                source: packets("{}", ""),
                ..request()
            },
            invalid("INVALID_DOCUMENT", "finding_packets.packets"),
        ),
        (
            "policy is no object",
            PlanRequest {
                source: packets("[]", "[]"),
                ..request()
            },
            invalid("INVALID_DOCUMENT", "finding_packets.policy"),
        ),
        (
            "unknown seal rule",
            PlanRequest {
                completion_policy: Some(CompletionPolicy {
                    seal_rule: 9,
                    ..Default::default()
                }),
                ..request()
            },
            invalid("UNKNOWN_ENUM_VALUE", "completion_policy.seal_rule"),
        ),
        (
            "minimum of 0",
            PlanRequest {
                completion_policy: Some(CompletionPolicy {
                    min_successful: Some(0),
                    ..Default::default()
                }),
                ..request()
            },
            invalid(
                "INVALID_COMPLETION_POLICY",
                "completion_policy.min_successful",
            ),
        ),
        (
            "share over 100",
            PlanRequest {
                completion_policy: Some(CompletionPolicy {
                    tolerated_failure_percentage: Some(100.5),
                    ..Default::default()
                }),
                ..request()
            },
            invalid(
                "INVALID_COMPLETION_POLICY",
                "completion_policy.tolerated_failure_percentage",
            ),
        ),
        (
            "share that is no number",
            PlanRequest {
                completion_policy: Some(CompletionPolicy {
                    tolerated_failure_percentage: Some(f64::NAN),
                    ..Default::default()
                }),
                ..request()
            },
            invalid(
                "INVALID_COMPLETION_POLICY",
                "completion_policy.tolerated_failure_percentage",
            ),
        ),
        (
            "deadline and timeout",
            PlanRequest {
                deadline: Some(prost_types::Timestamp {
                    seconds: 4_000_000_000,
                    nanos: 0,
                }),
                timeout: seconds(1),
                ..request()
            },
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "timeout"),
        ),
        (
            "deadline in the past",
            PlanRequest {
                deadline: Some(prost_types::Timestamp {
                    seconds: 1,
                    nanos: 0,
                }),
                ..request()
            },
            invalid("DEADLINE_PASSED", "deadline"),
        ),
        (
            "deadline before 1970",
            PlanRequest {
                deadline: Some(prost_types::Timestamp {
                    seconds: -1,
                    nanos: 0,
                }),
                ..request()
            },
            invalid("INVALID_TIMESTAMP", "deadline"),
        ),
        (
            "no timeout at all",
            PlanRequest {
                timeout: seconds(0),
                ..request()
            },
            invalid("INVALID_DURATION", "timeout"),
        ),
        (
            "timeout over 30 days",
            PlanRequest {
                timeout: seconds(30 * 24 * 3_600 + 1),
                ..request()
            },
            invalid("INVALID_DURATION", "timeout"),
        ),
        (
            "negative retention",
            PlanRequest {
                retention: seconds(-1),
                ..request()
            },
            invalid("INVALID_DURATION", "retention"),
        ),
        (
            "65 labels",
            labels(65, 1),
            invalid("TOO_MANY_LABELS", "labels"),
        ),
        (
            "long label",
            labels(1, 257),
            invalid("TEXT_TOO_LONG", "labels"),
        ),
        (
            "page size over 1,000",
            PlanRequest {
                page_size: 1_001,
                ..request()
            },
            invalid("INVALID_PAGE_SIZE", "page_size"),
        ),
        (
            "negative page size",
            PlanRequest {
                page_size: -1,
                ..request()
            },
            invalid("INVALID_PAGE_SIZE", "page_size"),
        ),
    ];
    for (what, request, expected) in cases {
        let status = server.plan(request).await.expect_err(what);
        check(what, &status, &expected);
    }
    assert_eq!(
        server
            .list_plans(ListPlansRequest::default())
            .await
            .unwrap()
            .into_inner()
            .plans,
        []
    );
}

#[tokio::test]
async fn limits_of_a_plan_hold_one_past_and_not_at_them() {
    let mut server = TestServer::with(|config| {
        config.limits.items_per_plan_max = 2;
        config.limits.tasks_per_plan_max = 2;
        config.limits.json_depth_max = 4;
    })
    .await;
    server.register("at", &["a", "b"]).await;
    let status = server
        .plan(plan_request("items", &["a", "b", "c"]))
        .await
        .unwrap_err();
    check("3 items", &status, &invalid("LIMIT_EXCEEDED", "items"));
    assert_eq!(
        status.get_error_details().error_info().unwrap().metadata["limit"],
        "2"
    );
    let groups = PlanRequest {
        source: Some(Source::Groups(
            r#"[{"key":"a"},{"key":"b"},{"key":"c"}]"#.into(),
        )),
        ..Default::default()
    };
    let status = server.plan(groups).await.unwrap_err();
    check("3 groups", &status, &invalid("LIMIT_EXCEEDED", "groups"));
    let deep = |config: &'static str| PlanRequest {
        config: config.into(),
        ..Default::default()
    };
    server.plan(deep(r#"{"a":[[[]]]}"#)).await.unwrap();
    let status = server.plan(deep(r#"{"a":[[[[]]]]}"#)).await.unwrap_err();
    check(
        "depth 5",
        &status,
        &invalid("JSON_LIMIT_EXCEEDED", "config"),
    );

    let mut small = TestServer::with(|config| config.limits.task_request_bytes_max = 100).await;
    let status = small
        .plan(plan_request("p", &["a", "b"]))
        .await
        .unwrap_err();
    check(
        "task requests over 100 bytes",
        &status,
        &invalid("LIMIT_EXCEEDED", "plan.task_requests"),
    );
}

/// Requests by the field that is meant.
type Named<R> = Vec<(&'static str, R)>;

/// A call for each document that one may bring, with so many JSON values in that document, and its field.
fn documents_of(values: usize) -> (Named<PlanRequest>, Named<ReconcileRequest>) {
    // The document, the list in it, and what is in that.
    let zeros = vec!["0"; values - 2].join(",");
    let (object, list) = (format!(r#"{{"a":[{zeros}]}}"#), format!("[[{zeros}]]"));
    let (object, list) = (Bytes::from(object), Bytes::from(list));
    let plan = |source: Source| PlanRequest {
        source: Some(source),
        ..Default::default()
    };
    let found = |packets: &Bytes, policy: &Bytes| {
        let (packets, policy) = (packets.clone(), policy.clone());
        plan(Source::FindingPackets(FindingPackets { packets, policy }))
    };
    let config = PlanRequest {
        config: object.clone(),
        ..plan(Source::Items("[1]".into()))
    };
    let plans = vec![
        ("config", config),
        ("items", plan(Source::Items(list.clone()))),
        ("groups", plan(Source::Groups(list.clone()))),
        ("finding_packets.packets", found(&list, &"{}".into())),
        ("finding_packets.policy", found(&"[]".into(), &object)),
    ];
    let documents = |of: &dyn Fn(&mut ReconcileDocuments)| {
        let mut documents = ReconcileDocuments::default();
        of(&mut documents);
        ReconcileRequest {
            documents: Some(documents),
            ..Default::default()
        }
    };
    let reconciled = vec![
        (
            "documents.config",
            documents(&|its| its.config = object.clone()),
        ),
        (
            "documents.plan",
            documents(&|its| its.plan = object.clone()),
        ),
        (
            "documents.records",
            documents(&|its| its.records = list.clone()),
        ),
        (
            "documents.items",
            documents(&|its| its.items = list.clone()),
        ),
        (
            "documents.groups",
            documents(&|its| its.groups = list.clone()),
        ),
    ];
    (plans, reconciled)
}

#[tokio::test]
async fn a_document_has_a_json_value_for_every_4_bytes_of_the_largest_message_and_no_more() {
    let server = TestServer::with(|config| config.limits.message_bytes_max = 1_000).await;
    let mut client = server.connect().await;
    let mut answers = async |values: usize| {
        let (plans, reconciled) = documents_of(values);
        let mut answers = Vec::new();
        for (field, request) in plans {
            answers.push((field, client.plan(request).await.map(drop)));
        }
        for (field, request) in reconciled {
            answers.push((field, client.reconcile(request).await.map(drop)));
        }
        answers
    };
    // What else is wrong with these documents is not looked at here.
    for (field, answer) in answers(250).await {
        let said = answer.err().map(|status| status.message().to_owned());
        let counted = said.is_some_and(|said| said.contains("JSON values"));
        assert!(!counted, "{field}");
    }
    for (field, answer) in answers(251).await {
        let status = answer.unwrap_err();
        check(field, &status, &invalid("LIMIT_EXCEEDED", field));
        let expected = format!("{field}: more than 250 JSON values");
        assert_eq!(status.message(), expected);
        let info = status.get_error_details().error_info().unwrap().clone();
        assert_eq!(info.metadata["limit"], "250");
    }
}

#[tokio::test]
async fn documents_to_reconcile_have_as_many_records_as_a_plan_may_have_tasks_and_no_more() {
    let server = TestServer::with(|config| config.limits.tasks_per_plan_max = 2).await;
    let mut client = server.connect().await;
    let mut reconcile = async |records: &'static str| {
        let documents = Some(ReconcileDocuments {
            records: records.into(),
            items: r#"["a"]"#.into(),
            ..Default::default()
        });
        let request = ReconcileRequest {
            documents,
            ..Default::default()
        };
        client.reconcile(request).await
    };
    assert!(reconcile("[{},{}]").await.is_ok());
    let status = reconcile("[{},{},{}]").await.unwrap_err();
    let field = "documents.records";
    check("3 records", &status, &invalid("LIMIT_EXCEEDED", field));
    assert_eq!(status.message(), "documents.records: more than 2 records");
    let info = status.get_error_details().error_info().unwrap().clone();
    assert_eq!(info.metadata["limit"], "2");
}

#[tokio::test]
async fn a_task_that_no_record_could_name_or_no_answer_carry_is_refused() {
    let mut server = TestServer::with(|config| {
        config.limits.key_bytes_max = 10;
        config.limits.message_bytes_max = 4_096;
    })
    .await;
    // The id is `task-` and the key.
    server.register("at", &["12345"]).await;
    let task = |task: usize| format!("config.task_request_template (task {task})");
    let status = server
        .plan(plan_request("past", &["1", "123456"]))
        .await
        .unwrap_err();
    check(
        "an id of 11 bytes",
        &status,
        &invalid("LIMIT_EXCEEDED", &task(1)),
    );
    let status = server.plan(plan_request("nul", &["\0"])).await.unwrap_err();
    check(
        "an id with a NUL",
        &status,
        &invalid("INVALID_TEXT", &task(0)),
    );

    // The request is `{"id":"a","text":"..."}` and what every request has.
    let with = |text: usize| {
        let text = "x".repeat(text);
        let config = format!(r#"{{"task_request_template":{{"id":"a","text":"{text}"}}}}"#);
        PlanRequest {
            config: config.into(),
            source: Some(Source::Groups(r#"[{"key":"a"}]"#.into())),
            ..Default::default()
        }
    };
    let answer = server.plan(with(1_000)).await.unwrap().into_inner();
    let rest = 2_048 - (answer.task_requests[0].document.len() - 1_000);
    let answer = server.plan(with(rest)).await.unwrap().into_inner();
    assert_eq!(answer.task_requests[0].document.len(), 2_048);
    let status = server.plan(with(rest + 1)).await.unwrap_err();
    check(
        "a request of 2,049 bytes",
        &status,
        &invalid("LIMIT_EXCEEDED", &task(0)),
    );
}

#[tokio::test]
async fn a_call_about_no_plan_or_an_unknown_one_is_refused_by_every_method() {
    let mut server = TestServer::start().await;
    for (plan_id, expected) in [
        ("", invalid("FIELD_REQUIRED", "plan_id")),
        ("unknown", not_found()),
        ("bad\0", invalid("INVALID_TEXT", "plan_id")),
        (&"x".repeat(LONG), invalid("TEXT_TOO_LONG", "plan_id")),
    ] {
        let plan_id = plan_id.to_owned();
        let get = GetPlanRequest {
            plan_id: plan_id.clone(),
            ..Default::default()
        };
        check(
            "GetPlan",
            &server.get_plan(get).await.unwrap_err(),
            &expected,
        );
        let seal = SealPlanRequest {
            plan_id: plan_id.clone(),
            ..Default::default()
        };
        check(
            "SealPlan",
            &server.seal_plan(seal).await.unwrap_err(),
            &expected,
        );
        let cancel = CancelPlanRequest {
            plan_id: plan_id.clone(),
            ..Default::default()
        };
        check(
            "CancelPlan",
            &server.cancel_plan(cancel).await.unwrap_err(),
            &expected,
        );
        let delete = DeletePlanRequest {
            plan_id: plan_id.clone(),
            ..Default::default()
        };
        check(
            "DeletePlan",
            &server.delete_plan(delete).await.unwrap_err(),
            &expected,
        );
        let watch = WatchPlanRequest {
            plan_id: plan_id.clone(),
            ..Default::default()
        };
        check(
            "WatchPlan",
            &server.watch_plan(watch).await.unwrap_err(),
            &expected,
        );
        let submit = SubmitRecordsRequest {
            plan_id: plan_id.clone(),
            records: vec![record("{}")],
            ..Default::default()
        };
        check(
            "SubmitRecords",
            &server.submit_records(submit).await.unwrap_err(),
            &expected,
        );
        if !plan_id.is_empty() {
            let reconcile = ReconcileRequest {
                plan_id,
                ..Default::default()
            };
            check(
                "Reconcile",
                &server.reconcile(reconcile).await.unwrap_err(),
                &expected,
            );
        }
    }
}

#[tokio::test]
async fn wrong_fields_of_calls_about_a_plan_are_named() {
    let mut server = TestServer::start().await;
    let cursor = server.register("p", &["a"]).await.cursor;
    let plan_id = || "p".to_owned();

    let get = GetPlanRequest {
        plan_id: plan_id(),
        page_size: 1_001,
        ..Default::default()
    };
    check(
        "GetPlan",
        &server.get_plan(get).await.unwrap_err(),
        &invalid("INVALID_PAGE_SIZE", "page_size"),
    );
    let get = GetPlanRequest {
        plan_id: plan_id(),
        page_token: "p.1.x".into(),
        ..Default::default()
    };
    check(
        "GetPlan",
        &server.get_plan(get).await.unwrap_err(),
        &invalid("INVALID_PAGE_TOKEN", "page_token"),
    );

    let list = ListPlansRequest {
        page_size: -1,
        ..Default::default()
    };
    check(
        "ListPlans",
        &server.list_plans(list).await.unwrap_err(),
        &invalid("INVALID_PAGE_SIZE", "page_size"),
    );
    let list = ListPlansRequest {
        page_token: "t.1".into(),
        ..Default::default()
    };
    check(
        "ListPlans",
        &server.list_plans(list).await.unwrap_err(),
        &invalid("INVALID_PAGE_TOKEN", "page_token"),
    );
    let list = ListPlansRequest {
        status: 77,
        ..Default::default()
    };
    check(
        "ListPlans",
        &server.list_plans(list).await.unwrap_err(),
        &invalid("UNKNOWN_ENUM_VALUE", "status"),
    );

    let seal = SealPlanRequest {
        plan_id: plan_id(),
        reason: "x".repeat(LONG),
        ..Default::default()
    };
    check(
        "SealPlan",
        &server.seal_plan(seal).await.unwrap_err(),
        &invalid("TEXT_TOO_LONG", "reason"),
    );
    let cancel = CancelPlanRequest {
        plan_id: plan_id(),
        request_id: "x".repeat(LONG),
        ..Default::default()
    };
    check(
        "CancelPlan",
        &server.cancel_plan(cancel).await.unwrap_err(),
        &invalid("TEXT_TOO_LONG", "request_id"),
    );
    let delete = DeletePlanRequest {
        plan_id: plan_id(),
        request_id: "a\0".into(),
    };
    check(
        "DeletePlan",
        &server.delete_plan(delete).await.unwrap_err(),
        &invalid("INVALID_TEXT", "request_id"),
    );

    let watch = |request: WatchPlanRequest| WatchPlanRequest {
        plan_id: "p".into(),
        ..request
    };
    let cases = [
        (
            watch(WatchPlanRequest {
                after: cursor.clone(),
                include_snapshot: true,
                ..Default::default()
            }),
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "include_snapshot"),
        ),
        (
            watch(WatchPlanRequest {
                after: "nonsense".into(),
                ..Default::default()
            }),
            invalid("INVALID_CURSOR", "after"),
        ),
        (
            watch(WatchPlanRequest {
                after: cursor.replace(".1", ".2"),
                ..Default::default()
            }),
            (Code::OutOfRange, "CURSOR_AHEAD".into(), "after".into()),
        ),
        (
            watch(WatchPlanRequest {
                heartbeat_interval: seconds(301),
                ..Default::default()
            }),
            invalid("INVALID_DURATION", "heartbeat_interval"),
        ),
        (
            watch(WatchPlanRequest {
                heartbeat_interval: seconds(0),
                ..Default::default()
            }),
            invalid("INVALID_DURATION", "heartbeat_interval"),
        ),
    ];
    for (request, expected) in cases {
        check(
            "WatchPlan",
            &server.watch_plan(request).await.unwrap_err(),
            &expected,
        );
    }

    let submit = |records| SubmitRecordsRequest {
        plan_id: "p".into(),
        records,
        ..Default::default()
    };
    let status = server.submit_records(submit(vec![])).await.unwrap_err();
    check(
        "SubmitRecords",
        &status,
        &invalid("FIELD_REQUIRED", "records"),
    );
    let status = server
        .submit_records(submit(vec![record("{}"); 1_001]))
        .await
        .unwrap_err();
    check(
        "SubmitRecords",
        &status,
        &invalid("TOO_MANY_RECORDS", "records"),
    );
}

#[tokio::test]
async fn a_wrong_reconcile_request_is_refused_with_its_field() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let of_plan = |request: ReconcileRequest| ReconcileRequest {
        plan_id: "p".into(),
        ..request
    };
    let documents = |documents: ReconcileDocuments| ReconcileRequest {
        documents: Some(documents),
        ..Default::default()
    };
    let empty = ReconcileDocuments::default;
    let cases: Vec<(&str, ReconcileRequest, (Code, String, String))> = vec![
        (
            "neither",
            ReconcileRequest::default(),
            invalid("FIELD_REQUIRED", "plan_id"),
        ),
        (
            "both",
            of_plan(documents(empty())),
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "documents"),
        ),
        (
            "documents and a wait",
            ReconcileRequest {
                wait: seconds(0),
                ..documents(empty())
            },
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "wait"),
        ),
        (
            "documents and a seal",
            ReconcileRequest {
                seal: true,
                ..documents(empty())
            },
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "seal"),
        ),
        (
            "documents and a page size",
            ReconcileRequest {
                page_size: 1,
                ..documents(empty())
            },
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "page_size"),
        ),
        (
            "documents and a page token",
            ReconcileRequest {
                page_token: "t.1".into(),
                ..documents(empty())
            },
            invalid("FIELDS_EXCLUDE_EACH_OTHER", "page_token"),
        ),
        (
            "long wait",
            of_plan(ReconcileRequest {
                wait: seconds(301),
                ..Default::default()
            }),
            invalid("INVALID_DURATION", "wait"),
        ),
        (
            "negative wait",
            of_plan(ReconcileRequest {
                wait: seconds(-1),
                ..Default::default()
            }),
            invalid("INVALID_DURATION", "wait"),
        ),
        (
            "page size",
            of_plan(ReconcileRequest {
                page_size: 1_001,
                ..Default::default()
            }),
            invalid("INVALID_PAGE_SIZE", "page_size"),
        ),
        (
            "page token",
            of_plan(ReconcileRequest {
                page_size: 1,
                page_token: "zzz".into(),
                ..Default::default()
            }),
            invalid("INVALID_PAGE_TOKEN", "page_token"),
        ),
        (
            "config",
            documents(ReconcileDocuments {
                config: "1".into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "documents.config"),
        ),
        (
            "records",
            documents(ReconcileDocuments {
                records: "{}".into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "documents.records"),
        ),
        (
            "records",
            documents(ReconcileDocuments {
                records: "[".into(),
                ..empty()
            }),
            invalid("INVALID_JSON", "documents.records"),
        ),
        (
            "items",
            documents(ReconcileDocuments {
                items: "{}".into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "documents.items"),
        ),
        (
            "groups",
            documents(ReconcileDocuments {
                groups: "{}".into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "documents.groups"),
        ),
        (
            "plan",
            documents(ReconcileDocuments {
                plan: "{}".into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "plan.task_requests"),
        ),
        (
            "plan's task request",
            documents(ReconcileDocuments {
                plan: r#"{"task_requests":[7]}"#.into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "plan.task_requests[0]"),
        ),
        (
            "task request without identity",
            documents(ReconcileDocuments {
                plan: r#"{"task_requests":[{"id":" "}]}"#.into(),
                ..empty()
            }),
            invalid("INVALID_DOCUMENT", "plan.task_requests[0]"),
        ),
    ];
    for (what, request, expected) in cases {
        let status = server.reconcile(request).await.expect_err(what);
        check(what, &status, &expected);
    }
}

#[tokio::test]
async fn text_of_a_caller_in_an_error_is_shortened_and_cannot_forge_lines() {
    let mut server = TestServer::start().await;
    let plan_id = format!("a\nb\u{202e}{}", "c".repeat(1_000));
    let status = server
        .get_plan(GetPlanRequest {
            plan_id,
            ..Default::default()
        })
        .await
        .unwrap_err();
    check("GetPlan", &status, &not_found());
    assert!(
        !status.message().contains(['\n', '\u{202e}']),
        "{}",
        status.message()
    );
    assert!(status.message().len() <= 1_100);

    // Each character takes eight when it is escaped; a quota's and a task's answers say most.
    let text = "\u{202e}".repeat(341);
    let request = fanout::proto::GetTaskRequest {
        plan_id: "p".into(),
        task_id: text.clone(),
        ..Default::default()
    };
    server.register("p", &["a"]).await;
    let status = server.get_task(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let size = status.details().len();
    assert!((2_000..=4_096).contains(&size), "{size} bytes of details");
}
