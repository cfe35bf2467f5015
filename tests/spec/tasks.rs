//! Tasks as they stand, and why; and the repair of what was set aside.

use fanout::proto::plan_request::Source;
use fanout::proto::{
    DiscardRecordRequest, Disposition, EndReason, ExplainTaskRequest, GetTaskRequest,
    ListQuarantineRequest, ListTasksRequest, MatchedBy, MissingCause, PlanStatus, QuarantineReason,
    QuarantineResolution, Record, RecordKind, RematchRecordRequest, SealPlanRequest, Task,
    TaskReasonCode, TaskState, TaskStatus, View, WatchPlanRequest,
};
use tonic::Code;

use crate::harness::{TestServer, config_with_group_key, long_ids, record, refusal};

async fn get(server: &mut TestServer, task_id: &str) -> Task {
    let request = GetTaskRequest {
        plan_id: "p".into(),
        task_id: task_id.into(),
        view: View::Full.into(),
    };
    server
        .get_task(request)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap()
}

async fn explain(server: &mut TestServer, task_id: &str) -> Vec<(TaskReasonCode, u64, u64)> {
    let request = ExplainTaskRequest {
        plan_id: "p".into(),
        task_id: task_id.into(),
    };
    let answer = server.explain_task(request).await.unwrap().into_inner();
    answer
        .reasons
        .iter()
        .map(|reason| (reason.code(), reason.sequence, reason.quarantine_id))
        .collect()
}

fn started(task: &str) -> Record {
    Record {
        kind: RecordKind::Started.into(),
        sandbox_session_id: format!("box-{task}"),
        ..record(&format!(r#"{{"id":"task-{task}"}}"#))
    }
}

#[tokio::test]
async fn a_sign_of_life_that_is_set_aside_keeps_the_keys_that_it_came_with() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let lost = Record {
        kind: RecordKind::Progress.into(),
        task_id: "nobody".into(),
        sandbox_session_id: "box-9".into(),
        status: "cloning".into(),
        ..record(r#"{"done":3}"#)
    };
    let receipts = server.submit("p", vec![lost]).await;
    assert_eq!(receipts[0].disposition(), Disposition::Unmatched);
    let request = ListQuarantineRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let listed = server.list_quarantine(request).await.unwrap().into_inner();
    let documents: Vec<_> = listed
        .records
        .iter()
        .map(|record| &*record.record)
        .collect();
    assert_eq!(
        documents,
        [br#"{"task_id":"nobody","sandbox_session_id":"box-9","status":"cloning","done":3}"#]
    );
}

async fn seal(server: &mut TestServer) {
    let request = SealPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    server.seal_plan(request).await.unwrap();
}

#[tokio::test]
async fn a_task_goes_from_pending_to_running_to_recorded() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let task = get(&mut server, "task-a").await;
    assert_eq!(
        (task.state(), task.missing_cause(), task.sequence),
        (TaskState::Pending, MissingCause::NeverStarted, 0)
    );
    assert_eq!(
        task.request,
        r#"{"id":"task-a","group_key":"a","orchestrator":{"group_index":0}}"#
    );
    assert!(task.record.is_empty());

    server.submit("p", vec![started("a")]).await;
    let task = get(&mut server, "task-a").await;
    assert_eq!(
        (task.state(), task.missing_cause()),
        (TaskState::Running, MissingCause::StartedNoResult)
    );
    assert_eq!(
        (task.sandbox_session_id.as_str(), task.sequence),
        ("box-a", 2)
    );

    server
        .submit("p", vec![record(r#"{"id":"task-a","status":"failed"}"#)])
        .await;
    let task = get(&mut server, "task-a").await;
    assert_eq!(
        (task.state(), task.status(), task.successful),
        (TaskState::Recorded, TaskStatus::Failed, false)
    );
    assert_eq!(
        (task.revision, task.matched_by(), task.missing_cause()),
        (1, MatchedBy::Id, MissingCause::Unspecified)
    );
    assert_eq!(task.record, r#"{"id":"task-a","status":"failed"}"#);
}

#[tokio::test]
async fn every_missing_record_has_its_cause() {
    let mut server = TestServer::start().await;
    server
        .register("p", &["silent", "begun", "mixed", "mixed-too", "done"])
        .await;
    // A session that worked on two tasks: the record that names only it may be for either.
    let both = ["mixed", "mixed-too"].map(|task| Record {
        sandbox_session_id: "box".into(),
        ..started(task)
    });
    server.submit("p", both.into()).await;
    let shared = Record {
        sandbox_session_id: "box".into(),
        success: Some(true),
        ..Record::default()
    };
    let done = record(r#"{"id":"task-done","success":true}"#);
    server
        .submit("p", vec![started("begun"), shared, done])
        .await;
    seal(&mut server).await;
    for (task, state, cause) in [
        ("silent", TaskState::Missing, MissingCause::NeverStarted),
        ("begun", TaskState::Missing, MissingCause::StartedNoResult),
        ("mixed", TaskState::Missing, MissingCause::RecordQuarantined),
        (
            "mixed-too",
            TaskState::Missing,
            MissingCause::RecordQuarantined,
        ),
        ("done", TaskState::Recorded, MissingCause::Unspecified),
    ] {
        let found = get(&mut server, &format!("task-{task}")).await;
        assert_eq!(
            (found.state(), found.missing_cause()),
            (state, cause),
            "{task}"
        );
    }
    let ended = (TaskReasonCode::PlanEnded, 10, 0);
    assert_eq!(
        explain(&mut server, "task-mixed").await,
        [
            (TaskReasonCode::RecordQuarantined, 8, 1),
            (TaskReasonCode::StartedNoResult, 2, 0),
            ended
        ]
    );
    assert_eq!(
        explain(&mut server, "task-silent").await,
        [(TaskReasonCode::NeverStarted, 0, 0), ended]
    );
    assert_eq!(
        explain(&mut server, "task-done").await,
        [(TaskReasonCode::RecordedSuccessful, 9, 0), ended]
    );
}

#[tokio::test]
async fn a_superseded_record_is_explained_and_the_next_event_is_the_deadline() {
    let mut server = TestServer::start().await;
    let timeout = Some(prost_types::Duration {
        seconds: 3_600,
        nanos: 0,
    });
    let plan = server
        .register_with("p", &["a", "b"], |request| request.timeout = timeout)
        .await;
    server
        .submit(
            "p",
            vec![
                record(r#"{"id":"task-a","status":"failed"}"#),
                record(r#"{"id":"task-a","n":1}"#),
            ],
        )
        .await;
    assert_eq!(
        explain(&mut server, "task-a").await,
        [
            (TaskReasonCode::RecordedUnsuccessful, 3, 0),
            (TaskReasonCode::SupersededPrevious, 3, 0)
        ]
    );
    let request = ExplainTaskRequest {
        plan_id: "p".into(),
        task_id: "task-b".into(),
    };
    let answer = server.explain_task(request).await.unwrap().into_inner();
    assert_eq!(answer.next_event_time, plan.deadline);
    assert_eq!(answer.reasons[0].description, "nothing was heard of it");
}

#[tokio::test]
async fn tasks_are_listed_in_plan_order_filtered_and_paged() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    server
        .register("p", &keys.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    server
        .submit(
            "p",
            vec![
                started("3"),
                record(r#"{"id":"task-5","success":true}"#),
                record(r#"{"id":"task-7"}"#),
            ],
        )
        .await;
    let list = async |server: &mut TestServer, request: ListTasksRequest| {
        let mut ids = Vec::new();
        let mut pages = 0;
        let mut request = ListTasksRequest {
            plan_id: "p".into(),
            ..request
        };
        loop {
            let page = server
                .list_tasks(request.clone())
                .await
                .unwrap()
                .into_inner();
            ids.extend(page.tasks.into_iter().map(|task| task.task_id));
            pages += 1;
            if page.next_page_token.is_empty() {
                return (ids, pages);
            }
            request.page_token = page.next_page_token;
        }
    };
    let all = list(
        &mut server,
        ListTasksRequest {
            page_size: 10,
            ..Default::default()
        },
    )
    .await;
    assert_eq!(
        all,
        (keys.iter().map(|key| format!("task-{key}")).collect(), 3)
    );
    let states = |states: &[TaskState]| ListTasksRequest {
        states: states.iter().map(|state| (*state).into()).collect(),
        ..Default::default()
    };
    assert_eq!(
        list(&mut server, states(&[TaskState::Running])).await,
        (vec!["task-3".into()], 1)
    );
    let of_two = states(&[TaskState::Running, TaskState::Recorded]);
    assert_eq!(
        list(&mut server, of_two).await.0,
        ["task-3", "task-5", "task-7"]
    );
    let failed = ListTasksRequest {
        statuses: vec![TaskStatus::Failed.into()],
        ..Default::default()
    };
    assert_eq!(list(&mut server, failed).await.0, ["task-7"]);
}

#[tokio::test]
async fn a_page_with_documents_fits_a_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 300_000).await;
    server.register("p", &["a", "b", "c"]).await;
    for key in ["a", "b", "c"] {
        let pad = "x".repeat(100_000);
        server
            .submit(
                "p",
                vec![record(&format!(
                    r#"{{"id":"task-{key}","pad":"{pad}","success":true}}"#
                ))],
            )
            .await;
    }
    let mut request = ListTasksRequest {
        plan_id: "p".into(),
        view: View::Full.into(),
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = server
            .list_tasks(request.clone())
            .await
            .unwrap()
            .into_inner();
        pages.push(page.tasks.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [1, 1, 1]);
}

#[tokio::test]
async fn a_page_of_tasks_with_long_group_keys_fits_a_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 300_000).await;
    let long = config_with_group_key(&"k".repeat(70_000));
    server
        .register_with("p", &["a", "b", "c", "d", "e"], |request| {
            request.config = long;
        })
        .await;
    let mut request = ListTasksRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = server.list_tasks(request.clone()).await.unwrap();
        let page = page.into_inner();
        let ids = page.tasks.into_iter().map(|task| task.task_id);
        pages.push(ids.collect::<Vec<_>>());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected = [
        vec!["task-a", "task-b"],
        vec!["task-c", "task-d"],
        vec!["task-e"],
    ];
    assert_eq!(pages, expected);
}

#[tokio::test]
async fn a_task_that_does_not_fit_a_message_is_refused_and_its_basic_view_is_not() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 300_000).await;
    // In the task and in its request, so twice.
    let long = config_with_group_key(&"k".repeat(140_000));
    server
        .register_with("p", &["a"], |request| request.config = long)
        .await;
    let pad = "x".repeat(30_000);
    let body = format!(r#"{{"id":"task-a","pad":"{pad}","success":true}}"#);
    server.submit("p", vec![record(&body)]).await;
    let list = |view: View| ListTasksRequest {
        plan_id: "p".into(),
        view: view.into(),
        ..Default::default()
    };
    let get = GetTaskRequest {
        plan_id: "p".into(),
        task_id: "task-a".into(),
        view: View::Full.into(),
    };
    let too_large = (
        Code::InvalidArgument,
        "MESSAGE_TOO_LARGE".into(),
        "message".into(),
    );
    let listed = server.list_tasks(list(View::Full)).await.unwrap_err();
    assert_eq!(refusal(&listed), too_large);
    let got = server.get_task(get).await.unwrap_err();
    assert_eq!(refusal(&got), too_large);
    let basic = server.list_tasks(list(View::Basic)).await.unwrap();
    assert_eq!(basic.into_inner().tasks.len(), 1);
}

#[tokio::test]
async fn a_stray_record_is_listed_rematched_and_counts() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    server
        .submit(
            "p",
            vec![
                record(r#"{"id":"task-a","success":true}"#),
                record(r#"{"id":"tsk-b","status":"passed","outcome":1}"#),
            ],
        )
        .await;
    let request = ListQuarantineRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let listed = server
        .list_quarantine(request.clone())
        .await
        .unwrap()
        .into_inner()
        .records;
    assert_eq!(
        (listed[0].quarantine_id, listed[0].reason()),
        (1, QuarantineReason::Unmatched)
    );
    assert_eq!(
        listed[0].record,
        r#"{"id":"tsk-b","status":"completed","outcome":1}"#
    );
    assert_eq!(
        (listed[0].kind(), listed[0].sequence),
        (RecordKind::Result, 3)
    );

    let rematch = RematchRecordRequest {
        plan_id: "p".into(),
        quarantine_id: 1,
        task_id: "task-b".into(),
        reason: "typo".into(),
    };
    let answer = server
        .rematch_record(rematch.clone())
        .await
        .unwrap()
        .into_inner();
    let receipt = answer.receipt.unwrap();
    assert_eq!(
        (receipt.disposition(), receipt.matched_by()),
        (Disposition::Accepted, MatchedBy::Operator)
    );
    assert_eq!(
        (
            receipt.task_id.as_str(),
            receipt.successful,
            receipt.revision
        ),
        ("task-b", true, 1)
    );
    let resolved = answer.record.unwrap();
    assert_eq!(
        (resolved.resolution(), resolved.task_id.as_str()),
        (QuarantineResolution::Rematched, "task-b")
    );
    assert_eq!(resolved.resolution_note, "typo");
    let again = server
        .rematch_record(rematch)
        .await
        .unwrap()
        .into_inner()
        .receipt
        .unwrap();
    assert_eq!(again.disposition(), Disposition::Duplicate);

    assert_eq!(
        server
            .list_quarantine(request.clone())
            .await
            .unwrap()
            .into_inner()
            .records,
        []
    );
    let with_resolved = ListQuarantineRequest {
        include_resolved: true,
        ..request
    };
    assert_eq!(
        server
            .list_quarantine(with_resolved)
            .await
            .unwrap()
            .into_inner()
            .records
            .len(),
        1
    );
    let plan = server
        .get_plan(fanout::proto::GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await;
    let plan = plan.unwrap().into_inner().plan.unwrap();
    assert_eq!(
        (plan.status(), plan.counts.unwrap().quarantined),
        (PlanStatus::Completed, 0)
    );
    // A watcher sees the rematched record as any other.
    let mut frames = server
        .watch_plan(WatchPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let mut kinds = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        kinds.push(match frame.frame.unwrap() {
            fanout::proto::watch_plan_response::Frame::Result(result) => result.task_id,
            other => format!("{other:?}").chars().take(3).collect(),
        });
    }
    assert_eq!(kinds, ["task-a", "task-b", "End"]);
}

#[tokio::test]
async fn the_quarantine_is_paged_oldest_first() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    server
        .submit(
            "p",
            (0..5)
                .map(|n| record(&format!(r#"{{"id":"stray-{n}"}}"#)))
                .collect(),
        )
        .await;
    let mut request = ListQuarantineRequest {
        plan_id: "p".into(),
        page_size: 2,
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = server
            .list_quarantine(request.clone())
            .await
            .unwrap()
            .into_inner();
        pages.push(
            page.records
                .iter()
                .map(|record| record.quarantine_id)
                .collect::<Vec<_>>(),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[tokio::test]
async fn a_page_of_the_quarantine_with_long_task_ids_fits_a_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 100_000).await;
    server.register_alike(&long_ids(16)).await;
    for _ in 0..10 {
        let alike = record(r#"{"group_key":"alike"}"#);
        server.submit("p", vec![alike]).await;
    }
    let mut request = ListQuarantineRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = server.list_quarantine(request.clone()).await.unwrap();
        let page = page.into_inner();
        let ids = page.records.iter().map(|record| record.quarantine_id);
        pages.push(ids.collect::<Vec<_>>());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected = [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9], vec![10]];
    assert_eq!(pages, expected);
}

#[tokio::test]
async fn what_cannot_be_repaired_is_refused_with_its_reason() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let sign = Record {
        kind: RecordKind::Progress.into(),
        ..record(r#"{"id":"stray"}"#)
    };
    server
        .submit(
            "p",
            vec![
                record(r#"{"id":"stray-1"}"#),
                sign,
                record(r#"{"id":"stray-3"}"#),
            ],
        )
        .await;
    let rematch = |quarantine_id, task_id: &str| RematchRecordRequest {
        plan_id: "p".into(),
        quarantine_id,
        task_id: task_id.into(),
        ..Default::default()
    };
    let discard = |quarantine_id| DiscardRecordRequest {
        plan_id: "p".into(),
        quarantine_id,
        ..Default::default()
    };
    let discarded = server
        .discard_record(discard(1))
        .await
        .unwrap()
        .into_inner()
        .record
        .unwrap();
    assert_eq!(discarded.resolution(), QuarantineResolution::Discarded);
    let again = server
        .discard_record(discard(1))
        .await
        .unwrap()
        .into_inner()
        .record
        .unwrap();
    assert_eq!(again, discarded, "discarding again changes nothing");

    let invalid =
        |reason: &str, field: &str| (Code::InvalidArgument, reason.to_owned(), field.to_owned());
    let failed = |code, reason: &str| (code, reason.to_owned(), String::new());
    for (request, expected) in [
        (
            rematch(0, "task-a"),
            invalid("FIELD_REQUIRED", "quarantine_id"),
        ),
        (rematch(3, ""), invalid("FIELD_REQUIRED", "task_id")),
        (
            rematch(3, "task-z"),
            failed(Code::NotFound, "TASK_NOT_FOUND"),
        ),
        (
            rematch(9, "task-a"),
            failed(Code::NotFound, "QUARANTINED_RECORD_NOT_FOUND"),
        ),
        (
            rematch(1, "task-a"),
            failed(Code::FailedPrecondition, "QUARANTINED_RECORD_RESOLVED"),
        ),
        (
            rematch(2, "task-a"),
            failed(Code::FailedPrecondition, "NOT_A_RESULT"),
        ),
        (
            RematchRecordRequest {
                reason: "x".repeat(1_025),
                ..rematch(3, "task-a")
            },
            invalid("TEXT_TOO_LONG", "reason"),
        ),
    ] {
        let status = server.rematch_record(request).await.unwrap_err();
        assert_eq!(refusal(&status), expected);
    }
    for (request, expected) in [
        (discard(0), invalid("FIELD_REQUIRED", "quarantine_id")),
        (
            discard(9),
            failed(Code::NotFound, "QUARANTINED_RECORD_NOT_FOUND"),
        ),
    ] {
        let status = server.discard_record(request).await.unwrap_err();
        assert_eq!(refusal(&status), expected);
    }
    seal(&mut server).await;
    let status = server
        .rematch_record(rematch(3, "task-a"))
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        failed(Code::FailedPrecondition, "PLAN_ENDED")
    );

    let unknown = GetTaskRequest {
        plan_id: "p".into(),
        task_id: "task-z".into(),
        ..Default::default()
    };
    let status = server.get_task(unknown).await.unwrap_err();
    assert_eq!(refusal(&status), failed(Code::NotFound, "TASK_NOT_FOUND"));
    let empty = ExplainTaskRequest {
        plan_id: "p".into(),
        task_id: String::new(),
    };
    let status = server.explain_task(empty).await.unwrap_err();
    assert_eq!(refusal(&status), invalid("FIELD_REQUIRED", "task_id"));
    for (request, expected) in [
        (
            ListTasksRequest {
                states: vec![99],
                ..Default::default()
            },
            invalid("UNKNOWN_ENUM_VALUE", "states"),
        ),
        (
            ListTasksRequest {
                statuses: vec![99],
                ..Default::default()
            },
            invalid("UNKNOWN_ENUM_VALUE", "statuses"),
        ),
        (
            ListTasksRequest {
                page_token: "q.1".into(),
                ..Default::default()
            },
            invalid("INVALID_PAGE_TOKEN", "page_token"),
        ),
        (
            ListTasksRequest {
                page_size: -1,
                ..Default::default()
            },
            invalid("INVALID_PAGE_SIZE", "page_size"),
        ),
    ] {
        let request = ListTasksRequest {
            plan_id: "p".into(),
            ..request
        };
        let status = server.list_tasks(request).await.unwrap_err();
        assert_eq!(refusal(&status), expected);
    }
    let token = ListQuarantineRequest {
        plan_id: "p".into(),
        page_token: "t.1".into(),
        ..Default::default()
    };
    let status = server.list_quarantine(token).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        invalid("INVALID_PAGE_TOKEN", "page_token")
    );
}

#[tokio::test]
async fn a_strict_plan_answers_keys_disagree_with_the_tasks() {
    let mut server = TestServer::start().await;
    let config = r#"{"matching":"strict","group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#;
    server
        .register_with("p", &["a", "b"], |request| request.config = config.into())
        .await;
    let receipts = server
        .submit("p", vec![record(r#"{"id":"task-a","group_key":"b"}"#)])
        .await;
    assert_eq!(receipts[0].disposition(), Disposition::KeysDisagree);
    assert_eq!(
        (receipts[0].code, receipts[0].quarantine_id),
        (Code::InvalidArgument as i32, 1)
    );
    assert_eq!(receipts[0].candidate_task_ids, ["task-a", "task-b"]);
    assert_eq!(
        get(&mut server, "task-b").await.missing_cause(),
        MissingCause::RecordQuarantined
    );
}

#[tokio::test]
async fn a_tolerant_plan_says_why_it_is_completed() {
    let mut server = TestServer::start().await;
    let policy = fanout::proto::CompletionPolicy {
        min_successful: Some(1),
        ..Default::default()
    };
    let groups = r#"[{"key":"a"},{"key":"b"}]"#;
    server
        .register_with("p", &[], |request| {
            request.config = r#"{"task_request_template":{"id":"task-{{group.key}}"}}"#.into();
            request.source = Some(Source::Groups(groups.into()));
            request.completion_policy = Some(policy);
        })
        .await;
    server
        .submit("p", vec![record(r#"{"id":"task-b","success":true}"#)])
        .await;
    let request = fanout::proto::ReconcileRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let response = server.reconcile(request).await.unwrap().into_inner();
    assert_eq!(
        (response.status(), response.end_reason()),
        (PlanStatus::Completed, EndReason::MinimumReached)
    );
    let document = crate::harness::document(&response.document);
    let text = |field| document.get(field).and_then(fanout::json::Value::as_str);
    assert_eq!(
        (text("status"), text("completion_reason")),
        (Some("completed"), Some("minimum_reached"))
    );
}
