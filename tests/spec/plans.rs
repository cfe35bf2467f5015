//! Plans as resources: registered once, listed, sealed, cancelled, deleted; each repeatable without harm.

use fanout::json::Value;
use fanout::proto::plan_request::Source;
use fanout::proto::{
    CancelPlanRequest, CompletionPolicy, DeletePlanRequest, EndReason, FindingPackets,
    GetPlanRequest, ListPlansRequest, PlanRequest, PlanStatus, SealPlanRequest, SealRule, View,
};
use tonic::Code;

use crate::harness::{TestServer, document, plan_request, project, record, refusal};

#[tokio::test]
async fn a_plan_answers_with_its_document_and_its_task_requests() {
    let mut server = TestServer::start().await;
    let response = server
        .plan(plan_request("p", &["a", "b"]))
        .await
        .unwrap()
        .into_inner();
    assert!(response.created);
    let plan = response.plan.unwrap();
    assert_eq!(
        (plan.plan_id.as_str(), plan.status(), plan.sequence),
        ("p", PlanStatus::Incomplete, 1)
    );
    let counts = plan.counts.unwrap();
    assert_eq!(
        (counts.items, counts.groups, counts.tasks, counts.missing),
        (2, 2, 2, 2)
    );
    assert_eq!(
        (
            plan.digest.len(),
            plan.cursor.is_empty(),
            plan.create_time.is_some()
        ),
        (64, false, true)
    );
    let requests: Vec<_> = response
        .task_requests
        .iter()
        .map(|request| {
            (
                request.task_id.as_str(),
                request.group_key.as_str(),
                request.document.clone(),
            )
        })
        .collect();
    assert_eq!(
        requests,
        [
            (
                "task-a",
                "a",
                r#"{"id":"task-a","group_key":"a","orchestrator":{"group_index":0}}"#.into()
            ),
            (
                "task-b",
                "b",
                r#"{"id":"task-b","group_key":"b","orchestrator":{"group_index":1}}"#.into()
            ),
        ]
    );
    let document = document(&response.document);
    assert_eq!(
        document
            .get("task_requests")
            .and_then(Value::as_array)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(response.next_page_token, "");
}

#[tokio::test]
async fn a_plan_without_a_name_is_called_by_its_orchestrator_or_gets_a_new_name() {
    let mut server = TestServer::start().await;
    let config = r#"{"orchestrator":{"run_id":"run","plan_id":7}}"#;
    let named = PlanRequest {
        config: config.into(),
        ..Default::default()
    };
    let plan = server.plan(named).await.unwrap().into_inner().plan.unwrap();
    assert_eq!(plan.plan_id, "run:7");
    let first = server
        .plan(PlanRequest::default())
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    let second = server
        .plan(PlanRequest::default())
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_ne!(first.plan_id, second.plan_id);
    assert_eq!(first.plan_id.len(), 36);
}

#[tokio::test]
async fn the_same_plan_again_is_the_same_plan_and_another_of_its_name_is_refused() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    server
        .submit("p", vec![record(r#"{"id":"task-a","success":true}"#)])
        .await;
    let again = server
        .plan(plan_request("p", &["a"]))
        .await
        .unwrap()
        .into_inner();
    assert!(!again.created);
    assert_eq!(
        again.plan.unwrap().status(),
        PlanStatus::Completed,
        "as it stands, not as it was"
    );
    let status = server
        .plan(plan_request("p", &["a", "b"]))
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::AlreadyExists, "PLAN_EXISTS".into(), String::new())
    );
    let labels = [("team".to_owned(), "x".to_owned())].into();
    let relabelled = PlanRequest {
        labels,
        ..plan_request("p", &["a"])
    };
    assert!(
        !server.plan(relabelled).await.unwrap().into_inner().created,
        "labels are no content"
    );
}

#[tokio::test]
async fn a_request_id_makes_one_plan_however_often_it_is_sent() {
    let mut server = TestServer::start().await;
    let request = PlanRequest {
        request_id: "r-1".into(),
        ..plan_request("", &["a"])
    };
    let (one, two) = {
        let mut other = server.connect().await;
        tokio::join!(other.plan(request.clone()), server.plan(request.clone()))
    };
    let (one, two) = (one.unwrap().into_inner(), two.unwrap().into_inner());
    assert_eq!(
        [one.created, two.created]
            .iter()
            .filter(|created| **created)
            .count(),
        1
    );
    assert_eq!(one.plan.unwrap().plan_id, two.plan.unwrap().plan_id);
    let other = PlanRequest {
        request_id: "r-1".into(),
        ..plan_request("", &["b"])
    };
    let status = server.plan(other).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::AlreadyExists,
            "REQUEST_ID_REUSED".into(),
            String::new()
        )
    );
}

#[tokio::test]
async fn a_request_id_that_found_its_plan_there_is_not_used_for_another() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let with_id = |plan_id: &str, group_keys: &[&str]| PlanRequest {
        request_id: "r".into(),
        ..plan_request(plan_id, group_keys)
    };
    let found = server.plan(with_id("p", &["a"])).await.unwrap();
    assert!(!found.into_inner().created);
    let status = server.plan(with_id("q", &["b"])).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::AlreadyExists,
            "REQUEST_ID_REUSED".into(),
            String::new()
        )
    );
}

#[tokio::test]
async fn validating_is_refused_as_the_real_call_would_be() {
    let mut server = TestServer::start().await;
    let plan = |plan_id: &str, group_key: &str, request_id: &str, validate_only| PlanRequest {
        request_id: request_id.into(),
        validate_only,
        ..plan_request(plan_id, &[group_key])
    };
    let created = server.plan(plan("p", "a", "r", false)).await.unwrap();
    assert!(created.into_inner().created);
    for (plan_id, group_key, request_id, reason) in [
        ("p", "b", "", "PLAN_EXISTS"),
        ("p", "b", "s", "PLAN_EXISTS"),
        ("q", "a", "r", "REQUEST_ID_REUSED"),
    ] {
        for validate_only in [true, false] {
            let request = plan(plan_id, group_key, request_id, validate_only);
            let status = server.plan(request).await.unwrap_err();
            assert_eq!(
                refusal(&status),
                (Code::AlreadyExists, reason.into(), String::new())
            );
        }
    }
    // Neither the name nor the request id was used by asking.
    for (validate_only, is_created) in [(true, false), (true, false), (false, true)] {
        let validated = server.plan(plan("q", "b", "s", validate_only)).await;
        assert_eq!(validated.unwrap().into_inner().created, is_created);
    }
    // What is there already is no mistake.
    let again = server.plan(plan("p", "a", "r", true)).await.unwrap();
    assert!(!again.into_inner().created);
}

#[tokio::test]
async fn validating_checks_everything_and_registers_nothing() {
    let mut server = TestServer::start().await;
    let request = PlanRequest {
        validate_only: true,
        ..plan_request("p", &["a"])
    };
    let response = server.plan(request).await.unwrap().into_inner();
    let plan = response.plan.unwrap();
    assert_eq!(
        (response.created, plan.cursor, plan.create_time),
        (false, String::new(), None)
    );
    assert_eq!(response.task_requests[0].task_id, "task-a");
    let status = server
        .get_plan(GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let twins = PlanRequest {
        validate_only: true,
        ..plan_request("p", &["a", "a "])
    };
    let response = server.plan(twins).await.unwrap().into_inner();
    assert_eq!(
        response.plan.unwrap().counts.unwrap().groups,
        1,
        "keys are trimmed"
    );
}

#[tokio::test]
async fn packets_items_groups_and_the_configs_own_are_all_planned() {
    let mut server = TestServer::start().await;
    let file = |name: &str| std::fs::read(project("examples/lint-triage").join(name)).unwrap();
    let packets = FindingPackets {
        packets: file("packets.json").into(),
        policy: file("policy.json").into(),
    };
    let tasks_of = async |server: &mut TestServer, request: PlanRequest| {
        let counts = server
            .plan(request)
            .await
            .unwrap()
            .into_inner()
            .plan
            .unwrap()
            .counts
            .unwrap();
        (counts.items, counts.tasks)
    };
    let findings = PlanRequest {
        config: file("config.json").into(),
        source: Some(Source::FindingPackets(packets)),
        ..Default::default()
    };
    assert_eq!(tasks_of(&mut server, findings).await, (173, 14));
    let groups = PlanRequest {
        source: Some(Source::Groups(
            r#"[{"key":"a","items":[1,2]},{"key":"b"}]"#.into(),
        )),
        ..Default::default()
    };
    assert_eq!(tasks_of(&mut server, groups).await, (2, 2));
    let own = PlanRequest {
        config: r#"{"items":[{"group_key":"x"},{"group_key":"x"}]}"#.into(),
        ..Default::default()
    };
    assert_eq!(tasks_of(&mut server, own).await, (2, 1));
}

#[tokio::test]
async fn a_plan_without_tasks_is_complete_at_once_unless_somebody_must_seal_it() {
    let mut server = TestServer::start().await;
    let plan = server.register("empty", &[]).await;
    assert_eq!(
        (plan.status(), plan.end_reason()),
        (PlanStatus::Completed, EndReason::AllRecorded)
    );
    let explicit = Some(CompletionPolicy {
        seal_rule: SealRule::Explicit.into(),
        ..Default::default()
    });
    let plan = server
        .register_with("open", &[], |request| request.completion_policy = explicit)
        .await;
    assert_eq!(plan.status(), PlanStatus::Incomplete);
}

#[tokio::test]
async fn task_requests_are_paged_in_plan_order_without_gap_or_repetition() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..250).map(|n| n.to_string()).collect();
    let mut request = plan_request("p", &keys.iter().map(String::as_str).collect::<Vec<_>>());
    request.page_size = 7;
    let first = server.plan(request).await.unwrap().into_inner();
    assert_eq!(first.task_requests.len(), 7);
    let mut ids: Vec<String> = first
        .task_requests
        .into_iter()
        .map(|request| request.task_id)
        .collect();
    let mut page_token = first.next_page_token;
    let mut pages = 1;
    while !page_token.is_empty() {
        let request = GetPlanRequest {
            plan_id: "p".into(),
            view: View::Full.into(),
            page_size: 0,
            page_token,
        };
        let page = server.get_plan(request).await.unwrap().into_inner();
        assert!(
            page.document.is_empty(),
            "the document comes with the first page only"
        );
        ids.extend(
            page.task_requests
                .into_iter()
                .map(|request| request.task_id),
        );
        page_token = page.next_page_token;
        pages += 1;
    }
    let expected: Vec<String> = keys.iter().map(|key| format!("task-{key}")).collect();
    assert_eq!((ids, pages), (expected, 4), "7, then 100 a page by default");
}

#[tokio::test]
async fn a_basic_view_has_no_documents() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let get = |view: View| GetPlanRequest {
        plan_id: "p".into(),
        view: view.into(),
        ..Default::default()
    };
    let basic = server
        .get_plan(get(View::Unspecified))
        .await
        .unwrap()
        .into_inner();
    assert!(basic.document.is_empty() && basic.task_requests.is_empty());
    let full = server.get_plan(get(View::Full)).await.unwrap().into_inner();
    assert_eq!(full.task_requests.len(), 1);
    let head = document(&full.document);
    assert_eq!(
        head.get("summary")
            .and_then(|summary| summary.get("task_count")),
        Some(&1_usize.into())
    );
}

#[tokio::test]
async fn plans_are_listed_oldest_first_and_filtered_by_status_and_labels() {
    let mut server = TestServer::start().await;
    for (name, team) in [("one", "x"), ("two", "y"), ("three", "x"), ("four", "x")] {
        let labels = [("team".to_owned(), team.to_owned())].into();
        server
            .register_with(name, &["a"], |request| request.labels = labels)
            .await;
    }
    server
        .submit("three", vec![record(r#"{"id":"task-a","success":true}"#)])
        .await;
    let list = async |server: &mut TestServer, request: ListPlansRequest| {
        let response = server.list_plans(request).await.unwrap().into_inner();
        let names: Vec<String> = response
            .plans
            .into_iter()
            .map(|plan| plan.plan_id)
            .collect();
        (names, response.next_page_token)
    };
    let all = list(&mut server, ListPlansRequest::default()).await;
    // Registered in one millisecond, plans are listed by name; else by time.
    let mut names = all.0.clone();
    names.sort();
    assert_eq!(
        (names, all.1),
        (
            ["four", "one", "three", "two"].map(str::to_owned).to_vec(),
            String::new()
        )
    );
    let team_x = [("team".to_owned(), "x".to_owned())];
    let of_x = ListPlansRequest {
        labels: team_x.clone().into(),
        status: PlanStatus::Incomplete.into(),
        ..Default::default()
    };
    let mut of_x = list(&mut server, of_x).await.0;
    of_x.sort();
    assert_eq!(of_x, ["four", "one"]);
    // Pages, put together, are the whole list.
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let (names, next) = list(
            &mut server,
            ListPlansRequest {
                page_size: 3,
                page_token,
                ..Default::default()
            },
        )
        .await;
        paged.extend(names);
        page_token = next;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.0);
}

#[tokio::test]
async fn a_page_of_plans_with_long_labels_fits_a_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 100_000).await;
    let long = || (0..40).map(|n| (format!("{n:0>256}"), "x".repeat(256)));
    for plan_id in ["a", "b", "c", "d", "e"] {
        server
            .register_with(plan_id, &["k"], |request| request.labels = long().collect())
            .await;
    }
    let mut request = ListPlansRequest::default();
    let mut pages = Vec::new();
    loop {
        let page = server.list_plans(request.clone()).await.unwrap();
        let page = page.into_inner();
        let ids = page.plans.into_iter().map(|plan| plan.plan_id);
        pages.push(ids.collect::<Vec<_>>());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

#[tokio::test]
async fn sealing_and_cancelling_are_final_and_repeating_them_changes_nothing() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let seal = SealPlanRequest {
        plan_id: "p".into(),
        reason: "enough".into(),
        ..Default::default()
    };
    let sealed = server
        .seal_plan(seal.clone())
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(
        (sealed.status(), sealed.end_reason()),
        (PlanStatus::Failed, EndReason::Sealed)
    );
    assert!(sealed.end_time.is_some() && sealed.expire_time.is_some());
    let again = SealPlanRequest {
        reason: "other words".into(),
        ..seal
    };
    assert_eq!(
        server
            .seal_plan(again)
            .await
            .unwrap()
            .into_inner()
            .plan
            .unwrap(),
        sealed
    );
    let cancel = CancelPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    assert_eq!(
        server
            .cancel_plan(cancel.clone())
            .await
            .unwrap()
            .into_inner()
            .plan
            .unwrap(),
        sealed
    );
    server.register("q", &["a"]).await;
    let cancel = CancelPlanRequest {
        plan_id: "q".into(),
        reason: "no more".into(),
        ..Default::default()
    };
    let cancelled = server
        .cancel_plan(cancel)
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(
        (cancelled.end_reason(), cancelled.end_note.as_str()),
        (EndReason::Cancelled, "no more")
    );
}

#[tokio::test]
async fn a_repeated_end_is_never_that_of_a_later_plan_of_the_name() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let seal = SealPlanRequest {
        plan_id: "p".into(),
        request_id: "seal".into(),
        ..Default::default()
    };
    let cancel = CancelPlanRequest {
        plan_id: "p".into(),
        request_id: "cancel".into(),
        ..Default::default()
    };
    let sealed = server.seal_plan(seal.clone()).await.unwrap().into_inner();
    let repeated = server.seal_plan(seal.clone()).await.unwrap().into_inner();
    assert_eq!(repeated, sealed);
    server.cancel_plan(cancel.clone()).await.unwrap();
    let delete = DeletePlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    server.delete_plan(delete).await.unwrap();
    server.register("p", &["b"]).await;
    for status in [
        server.seal_plan(seal.clone()).await.unwrap_err(),
        server.cancel_plan(cancel).await.unwrap_err(),
    ] {
        assert_eq!(
            refusal(&status),
            (Code::NotFound, "PLAN_REMOVED".into(), String::new())
        );
    }
    let get = GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let plan = server.get_plan(get).await.unwrap().into_inner().plan;
    assert_eq!(plan.unwrap().status(), PlanStatus::Incomplete);
    let anew = SealPlanRequest {
        request_id: "another".into(),
        ..seal
    };
    let sealed = server.seal_plan(anew).await.unwrap().into_inner().plan;
    assert_eq!(sealed.unwrap().end_reason(), EndReason::Sealed);
}

#[tokio::test]
async fn a_deleted_plan_is_gone_and_its_name_is_free() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let delete = DeletePlanRequest {
        plan_id: "p".into(),
        request_id: "r".into(),
    };
    let deleted = server
        .delete_plan(delete.clone())
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(deleted.plan_id, "p");
    let repeated = server
        .delete_plan(delete)
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(repeated, deleted, "the same request gets the same answer");
    let status = server
        .delete_plan(DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::NotFound, "PLAN_NOT_FOUND".into(), String::new())
    );
    assert!(
        server
            .plan(plan_request("p", &["b"]))
            .await
            .unwrap()
            .into_inner()
            .created
    );
}

#[tokio::test]
async fn one_plan_past_the_limit_is_refused_until_another_is_deleted() {
    let mut server = TestServer::with(|config| config.limits.plans_max = 1).await;
    server.register("p", &["a"]).await;
    let status = server.plan(plan_request("q", &["a"])).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED".into(),
            String::new()
        )
    );
    server
        .delete_plan(DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    server.register("q", &["a"]).await;
}
