//! `Reconcile`: the whole plan's answer at any time, whole or in pages; and documents without a plan.

use std::time::{Duration, Instant};

use fanout::json::{self, Value};
use fanout::proto::{
    CompletionPolicy, DeletePlanRequest, EndReason, PlanRequest, PlanStatus, ReconcileDocuments,
    ReconcileRequest, ReconcileResponse, SealRule, View,
};
use tonic::Code;

use crate::harness::{TestServer, document, project, record, refusal};

fn of_plan(plan_id: &str) -> ReconcileRequest {
    ReconcileRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    }
}

fn list<'d>(document: &'d Value, field: &str) -> &'d [Value] {
    document.get(field).and_then(Value::as_array).unwrap()
}

async fn reconcile(server: &mut TestServer, request: ReconcileRequest) -> ReconcileResponse {
    server.reconcile(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn an_open_plan_answers_incomplete_and_shows_what_is_missing() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    server
        .submit(
            "p",
            vec![record(
                r#"{"id":"task-b","status":"passed","outcome":{"n":1}}"#,
            )],
        )
        .await;
    let response = reconcile(&mut server, of_plan("p")).await;
    assert_eq!(
        (response.status(), response.end_reason()),
        (PlanStatus::Incomplete, EndReason::Unspecified)
    );
    assert_eq!((response.sequence, response.cursor.is_empty()), (2, false));
    let document = document(&response.document);
    assert_eq!(
        json::compact(document.get("records").unwrap()),
        r#"[{"id":"task-a","group_key":"a","status":"missing_record"},{"id":"task-b","status":"completed","outcome":{"n":1}}]"#
    );
    assert_eq!(
        json::compact(document.get("outcomes").unwrap()),
        r#"[{"n":1}]"#
    );
    assert_eq!(
        json::compact(document.get("reconciliation").unwrap()),
        r#"{"schema":"homeboy/generic-fanout-reconcile-reconciliation/v1","group_count":2,"task_count":2,"record_count":2,"success_count":1,"failure_count":1,"outcome_count":1,"failed_task_ids":["task-a"]}"#
    );
    assert_eq!(
        document.get("status").and_then(Value::as_str),
        Some("incomplete")
    );
}

#[tokio::test]
async fn sealing_with_the_call_ends_the_plan_and_answers_how() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let response = reconcile(
        &mut server,
        ReconcileRequest {
            seal: true,
            ..of_plan("p")
        },
    )
    .await;
    assert_eq!(
        (response.status(), response.end_reason()),
        (PlanStatus::Failed, EndReason::Sealed)
    );
    assert_eq!(
        document(&response.document)
            .get("status")
            .and_then(Value::as_str),
        Some("failed")
    );
}

#[tokio::test]
async fn sealing_with_the_call_answers_also_of_a_plan_that_is_forgotten_at_its_end() {
    let mut server = TestServer::start().await;
    for _ in 0..30 {
        let forget_at_once = |request: &mut PlanRequest| {
            request.retention = Some(prost_types::Duration::default());
        };
        server.register_with("p", &["a"], forget_at_once).await;
        let seal = ReconcileRequest {
            seal: true,
            ..of_plan("p")
        };
        let response = reconcile(&mut server, seal).await;
        assert_eq!(response.end_reason(), EndReason::Sealed);
        let delete = DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        // It has gone by itself, or is about to.
        drop(server.delete_plan(delete).await);
    }
}

#[tokio::test]
async fn waiting_for_the_end_of_a_plan_that_is_deleted_is_answered_as_watching_it() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let wait = Some(prost_types::Duration {
        seconds: 300,
        nanos: 0,
    });
    let began = Instant::now();
    let reconcile = ReconcileRequest {
        wait,
        ..of_plan("p")
    };
    let delete = DeletePlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    // On one connection, which are begun in this order.
    let (mut waiting, mut deleting) = (server.clone(), server.clone());
    let (reconciled, deleted) =
        tokio::join!(waiting.reconcile(reconcile), deleting.delete_plan(delete));
    assert!(deleted.is_ok());
    assert_eq!(
        refusal(&reconciled.unwrap_err()),
        (Code::NotFound, "PLAN_REMOVED".into(), String::new())
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn waiting_answers_as_soon_as_the_plan_ends() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let mut waiting = server.connect().await;
    let wait = Some(prost_types::Duration {
        seconds: 300,
        nanos: 0,
    });
    let began = Instant::now();
    let waiting = tokio::spawn(async move {
        waiting
            .reconcile(ReconcileRequest {
                wait,
                ..of_plan("p")
            })
            .await
    });
    server
        .submit("p", vec![record(r#"{"id":"task-a","success":true}"#)])
        .await;
    let response = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!(response.status(), PlanStatus::Completed);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn waiting_for_a_plan_that_does_not_end_answers_what_there_is() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let wait = Some(prost_types::Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    let response = reconcile(
        &mut server,
        ReconcileRequest {
            wait,
            ..of_plan("p")
        },
    )
    .await;
    assert_eq!(response.status(), PlanStatus::Incomplete);
}

#[tokio::test]
async fn a_basic_view_counts_without_a_document() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let response = reconcile(
        &mut server,
        ReconcileRequest {
            view: View::Basic.into(),
            ..of_plan("p")
        },
    )
    .await;
    assert!(response.document.is_empty());
    assert_eq!(response.counts.unwrap().missing, 1);
}

#[tokio::test]
async fn pages_put_together_are_the_whole_document() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    let explicit = Some(CompletionPolicy {
        seal_rule: SealRule::Explicit.into(),
        ..Default::default()
    });
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    server
        .register_with("p", &keys, |request| request.completion_policy = explicit)
        .await;
    let records = keys.iter().filter(|key| !key.ends_with('3')).map(|key| {
        let status = if key.ends_with('5') {
            "failed"
        } else {
            "passed"
        };
        record(&format!(
            r#"{{"id":"task-{key}","status":"{status}","outcome":{key}}}"#
        ))
    });
    server.submit("p", records.collect()).await;
    let whole = document(&reconcile(&mut server, of_plan("p")).await.document);
    let mut pages = Vec::new();
    let mut page_token = String::new();
    loop {
        let response = reconcile(
            &mut server,
            ReconcileRequest {
                page_size: 10,
                page_token,
                ..of_plan("p")
            },
        )
        .await;
        pages.push(document(&response.document));
        assert_eq!(
            response.counts.unwrap().tasks,
            25,
            "counts are of the whole plan"
        );
        page_token = response.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages.len(), 3);
    for field in ["records", "outcomes"] {
        let together: Vec<Value> = pages
            .iter()
            .flat_map(|page| list(page, field).to_vec())
            .collect();
        assert_eq!(together, list(&whole, field), "{field}");
    }
    let of = |document: &Value, field: &str| {
        document
            .get("reconciliation")
            .unwrap()
            .get(field)
            .unwrap()
            .clone()
    };
    let failed = pages
        .iter()
        .flat_map(|page| of(page, "failed_task_ids").into_list());
    assert_eq!(
        failed.collect::<Vec<_>>(),
        of(&whole, "failed_task_ids").into_list()
    );
    for page in &pages {
        for field in [
            "task_count",
            "record_count",
            "success_count",
            "failure_count",
            "outcome_count",
        ] {
            assert_eq!(
                of(page, field),
                of(&whole, field),
                "{field} is of the whole plan"
            );
        }
        assert_eq!(page.get("status"), whole.get("status"));
    }
}

#[tokio::test]
async fn a_result_that_does_not_fit_one_message_asks_for_pages() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 256 << 10).await;
    server.register("p", &["a", "b", "c"]).await;
    for key in ["a", "b", "c"] {
        let pad = "x".repeat(100_000);
        server
            .submit(
                "p",
                vec![record(&format!(r#"{{"id":"task-{key}","pad":"{pad}"}}"#))],
            )
            .await;
    }
    let status = server.reconcile(of_plan("p")).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "DOCUMENT_TOO_LARGE".into(),
            "page_size".into()
        )
    );
    let page = reconcile(
        &mut server,
        ReconcileRequest {
            page_size: 1,
            ..of_plan("p")
        },
    )
    .await;
    assert_eq!(list(&document(&page.document), "records").len(), 1);
}

#[tokio::test]
async fn a_record_that_calls_itself_missing_is_a_record_in_the_counts() {
    let mut server = TestServer::start().await;
    let config =
        r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}RULES}"#;
    let records = r#"[{"id":"task-a","status":"missing_record"},
        {"id":"task-b","status":"missing_record","success":true}]"#;
    // (successful, failed), then with a list of successful statuses that has that of missing records.
    for (rules, expected) in [
        ("", (1, 1)),
        (r#","success_statuses":["missing_record"]"#, (2, 0)),
    ] {
        let documents = ReconcileDocuments {
            config: config.replace("RULES", rules).into(),
            items: r#"[{"k":"a"},{"k":"b"},{"k":"c"}]"#.into(),
            records: records.into(),
            ..Default::default()
        };
        let request = ReconcileRequest {
            documents: Some(documents),
            ..Default::default()
        };
        let counts = reconcile(&mut server, request).await.counts.unwrap();
        assert_eq!((counts.recorded, counts.missing), (2, 1), "{rules}");
        assert_eq!((counts.successful, counts.failed), expected, "{rules}");
    }
}

#[tokio::test]
async fn a_result_of_documents_is_answered_64_kib_below_a_message_and_refused_a_byte_past_it() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 256 << 10).await;
    let request = |padding: usize| {
        let pad = "x".repeat(padding);
        let config =
            format!(r#"{{"task_request_template":{{"id":"t"}},"orchestrator":{{"pad":"{pad}"}}}}"#);
        ReconcileRequest {
            documents: Some(ReconcileDocuments {
                config: config.into(),
                items: "[1]".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let beside = reconcile(&mut server, request(0)).await.document.len();
    let padding = (192 << 10) - beside;
    let at = reconcile(&mut server, request(padding)).await;
    assert_eq!(at.document.len(), 192 << 10);
    let past = request(padding + 1);
    let status = server.reconcile(past.clone()).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "DOCUMENT_TOO_LARGE".into(),
            "documents".into()
        )
    );
    let basic = ReconcileRequest {
        view: View::Basic.into(),
        ..past
    };
    let basic = reconcile(&mut server, basic).await;
    assert_eq!(
        (basic.document.len(), basic.counts.unwrap().missing),
        (0, 1)
    );
}

#[tokio::test]
async fn documents_are_reconciled_without_a_plan_as_the_command_does() {
    let mut server = TestServer::start().await;
    let file = |name: &str| {
        std::fs::read(project("tests/vectors/cli/04-missing-and-failed").join(name)).unwrap()
    };
    let expected = document(&file("expected-result.json"));
    let with_items = ReconcileDocuments {
        config: file("config.json").into(),
        items: file("items.json").into(),
        records: file("records.json").into(),
        ..Default::default()
    };
    let with_plan = ReconcileDocuments {
        config: file("config.json").into(),
        plan: file("expected-plan.json").into(),
        records: file("records.json").into(),
        ..Default::default()
    };
    for documents in [with_items, with_plan] {
        let request = ReconcileRequest {
            documents: Some(documents),
            ..Default::default()
        };
        let response = reconcile(&mut server, request).await;
        assert_eq!(
            json::pretty(&document(&response.document)),
            json::pretty(&expected)
        );
        let count = |field| {
            expected
                .get("reconciliation")
                .unwrap()
                .get(field)
                .unwrap()
                .text()
                .parse::<u64>()
                .unwrap()
        };
        let counts = response.counts.unwrap();
        assert_eq!(
            (counts.tasks, counts.successful),
            (count("task_count"), count("success_count"))
        );
        assert_eq!(counts.failed + counts.missing, count("failure_count"));
        assert_eq!(response.status(), PlanStatus::Failed);
    }
}
