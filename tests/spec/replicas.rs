//! Replicas: processes that share a journal, and serve the same plans.

use std::sync::Arc;
use std::time::Duration;

use fanout::coordinator::{Clock, Coordinator};
use fanout::engine::{Completion, EndReason};
use fanout::journal::Journal;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    CancelPlanRequest, DeletePlanRequest, Disposition, GetPlanRequest, ListPlansRequest,
    PlanRequest, ReconcileRequest, Record, SealPlanRequest, SubmitRecordsRequest, WatchPlanRequest,
};
use tonic::Code;

use crate::harness::{
    NatsServer, TestServer, coordinator_limits, parse, plan_command, plan_request, record, refusal,
};
use crate::journal::connect;
use crate::nats::simulated::Simulated;

/// Two servers that share a stream.
async fn replicas() -> [TestServer; 2] {
    let stream = Arc::new(Simulated::default());
    [
        TestServer::over(stream.journal(), |_| {}).await,
        TestServer::over(stream.journal(), |_| {}).await,
    ]
}

fn completed(task: &str) -> Record {
    record(&format!(r#"{{"id":"task-{task}","status":"completed"}}"#))
}

async fn submit(server: &mut TestServer, records: Vec<Record>) -> Vec<(Disposition, u64)> {
    let request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records,
        ..Default::default()
    };
    let answer = server.submit_records(request).await.unwrap().into_inner();
    let receipts = answer.receipts.iter();
    receipts
        .map(|receipt| (receipt.disposition(), receipt.sequence))
        .collect()
}

async fn result(server: &mut TestServer) -> (String, u64, String) {
    let request = ReconcileRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let answer = server.reconcile(request).await.unwrap().into_inner();
    let document = String::from_utf8(answer.document.to_vec()).unwrap();
    (document, answer.sequence, answer.cursor)
}

/// What a watcher sees from the beginning to the end: sequences, tasks and cursors.
async fn watched(server: &mut TestServer, after: &str, most: usize) -> Vec<(u64, String, String)> {
    let request = WatchPlanRequest {
        plan_id: "p".into(),
        after: after.into(),
        ..Default::default()
    };
    let mut frames = server.watch_plan(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < most
        && let Some(frame) = frames.message().await.unwrap()
    {
        match frame.frame.unwrap() {
            Frame::Result(result) => seen.push((result.sequence, result.task_id, frame.cursor)),
            Frame::End(_) => break,
            _ => {}
        }
    }
    seen
}

async fn a_plan_is_served_by_each_replica([mut one, mut other]: [TestServer; 2]) {
    one.register("p", &["a", "b", "c"]).await;
    assert_eq!(
        submit(&mut other, vec![completed("a")]).await,
        [(Disposition::Accepted, 2)]
    );
    assert_eq!(
        submit(&mut one, vec![completed("a"), completed("b")]).await,
        [(Disposition::Duplicate, 2), (Disposition::Accepted, 3)]
    );
    assert_eq!(
        submit(&mut other, vec![completed("b")]).await,
        [(Disposition::Duplicate, 3)]
    );
    let both = (result(&mut one).await, result(&mut other).await);
    assert_eq!(both.0, both.1);
    assert_eq!(both.0.1, 3);

    // A watcher at one replica sees what comes to the other, and goes on there.
    let begin = watched(&mut other, "", 2).await;
    assert_eq!(
        submit(&mut one, vec![completed("c")]).await,
        [(Disposition::Accepted, 4)]
    );
    let rest = watched(&mut one, &begin[1].2, 10).await;
    let whole = watched(&mut other, "", 10).await;
    assert_eq!([begin, rest].concat(), whole);
    assert_eq!(
        whole
            .iter()
            .map(|(sequence, task, _)| (*sequence, &**task))
            .collect::<Vec<_>>(),
        [(2, "task-a"), (3, "task-b"), (4, "task-c")]
    );
    assert_eq!(result(&mut one).await, result(&mut other).await);
}

#[tokio::test]
async fn each_replica_serves_a_plan_as_if_it_were_alone() {
    a_plan_is_served_by_each_replica(replicas().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_on_a_real_stream_serves_a_plan_as_if_it_were_alone() {
    let Some(server) = NatsServer::start() else {
        return;
    };
    let one: Arc<dyn Journal> = Arc::new(connect(&server, "s").await);
    let other: Arc<dyn Journal> = Arc::new(connect(&server, "s").await);
    let servers = [
        TestServer::over(one, |_| {}).await,
        TestServer::over(other, |_| {}).await,
    ];
    a_plan_is_served_by_each_replica(servers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_come_to_both_at_the_same_time_are_all_applied_once() {
    let [mut one, mut other] = replicas().await;
    let keys: Vec<String> = (0..100).map(|key| format!("{key:03}")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    one.register("p", &names).await;
    let everything = async |server: &mut TestServer| {
        let mut receipts = Vec::new();
        for key in &names {
            receipts.extend(submit(server, vec![completed(key)]).await);
        }
        receipts
    };
    let (ones, others) = tokio::join!(everything(&mut one), everything(&mut other));
    let mut accepted: Vec<u64> = Vec::new();
    for (first, second) in ones.iter().zip(&others) {
        assert_eq!(first.1, second.1, "both name the event that brought it");
        let mut both = [first.0, second.0];
        both.sort();
        assert_eq!(both, [Disposition::Accepted, Disposition::Duplicate]);
        accepted.push(first.1);
    }
    accepted.sort_unstable();
    assert_eq!(accepted, (2..102).collect::<Vec<u64>>());
    assert_eq!(result(&mut one).await, result(&mut other).await);
}

#[tokio::test]
async fn a_plan_has_one_name_at_all_replicas() {
    let [mut one, mut other] = replicas().await;
    let request = |plan_id: &str, keys: &[&str]| PlanRequest {
        request_id: format!("request {plan_id}"),
        ..plan_request(plan_id, keys)
    };
    for plan_id in ["p", ""] {
        let first = one
            .plan(request(plan_id, &["a"]))
            .await
            .unwrap()
            .into_inner();
        assert!(first.created);
        let different = other.plan(request(plan_id, &["b"])).await.unwrap_err();
        let expected = (Code::AlreadyExists, "PLAN_EXISTS".into(), String::new());
        assert_eq!(refusal(&different), expected);
        let again = other
            .plan(request(plan_id, &["a"]))
            .await
            .unwrap()
            .into_inner();
        assert!(!again.created);
        assert_eq!(first.plan.unwrap(), again.plan.unwrap());
        // From then on the request id is known here, too.
        let different = other.plan(request(plan_id, &["b"])).await.unwrap_err();
        let reused = "REQUEST_ID_REUSED".into();
        let expected = (Code::AlreadyExists, reused, String::new());
        assert_eq!(refusal(&different), expected);
    }
    let mut listed = Vec::new();
    for server in [&mut one, &mut other] {
        let plans = server
            .list_plans(ListPlansRequest::default())
            .await
            .unwrap();
        listed.push(plans.into_inner().plans);
    }
    assert_eq!(listed[0].len(), 2);
    assert_eq!(listed[0], listed[1]);
}

#[tokio::test]
async fn a_plan_that_ends_at_one_replica_has_ended_at_the_other() {
    let [mut one, mut other] = replicas().await;
    one.register("p", &["a", "b"]).await;
    assert_eq!(result(&mut other).await.1, 1);
    let seal = SealPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    one.seal_plan(seal).await.unwrap();
    assert_eq!(
        submit(&mut other, vec![completed("a")]).await,
        [(Disposition::Late, 3)]
    );
    let cancel = CancelPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let cancelled = other.cancel_plan(cancel).await.unwrap().into_inner();
    let sealed = one.get_plan(GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    });
    let sealed = sealed.await.unwrap().into_inner();
    assert_eq!(cancelled.plan, sealed.plan, "an ended plan stays as it is");
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_nobody_calls_any_more_is_counted_where_it_was_until_it_changes_elsewhere() {
    const LONG: Duration = Duration::from_secs(3_600);
    let stream = Arc::new(Simulated::default());
    let replica = || {
        let (journal, limits) = (stream.journal(), coordinator_limits());
        let replica = Arc::new(Coordinator::new(journal, Clock::system(), limits));
        let follower = Arc::clone(&replica);
        tokio::spawn(async move { follower.run_shared().await });
        replica
    };
    let (one, other) = (replica(), replica());
    let counted = || {
        [&one, &other].map(|replica| {
            let census = replica.census();
            let plans = [census.incomplete_plans, census.failed_plans];
            (plans, census.waiting_tasks)
        })
    };
    let config = r#"{"groups":[{"key":"a"},{"key":"b"},{"key":"c"}],"task_request_template":{"id":"{{group.key}}"}}"#;
    let command = plan_command("p", &parse(config), Completion::default());
    one.register(command).await.unwrap();
    let in_memory = Arc::downgrade(&one.plan("p").await.unwrap());
    assert_eq!(counted(), [([1, 0], 3), ([0, 0], 0)]);

    tokio::time::sleep(LONG).await;
    assert!(in_memory.upgrade().is_none(), "it was let go");
    // The other has found it when it looked for plans that it does not know.
    assert_eq!(counted(), [([1, 0], 3), ([1, 0], 3)]);

    other.end("p", "", EndReason::Cancelled, "").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(), [([0, 0], 0), ([0, 1], 0)]);

    // Called again it is counted once, and let go again it still is, at both.
    one.view("p").await.unwrap();
    assert_eq!(counted(), [([0, 1], 0), ([0, 1], 0)]);
    tokio::time::sleep(LONG).await;
    assert_eq!(counted(), [([0, 1], 0), ([0, 1], 0)]);

    other.delete("p", "").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(), [([0, 0], 0), ([0, 0], 0)]);
}

#[tokio::test]
async fn a_plan_that_is_deleted_at_one_replica_is_gone_at_the_other() {
    let [mut one, mut other] = replicas().await;
    for round in 0..2 {
        one.register("p", &["a"]).await;
        assert_eq!(result(&mut other).await.1, 1, "round {round}");
        let watch = WatchPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        let mut frames = other.watch_plan(watch).await.unwrap().into_inner();
        let delete = DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        one.delete_plan(delete).await.unwrap();
        let ended = loop {
            match frames.message().await {
                Ok(Some(_)) => {}
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(ended.code(), Code::NotFound);
        let request = SubmitRecordsRequest {
            plan_id: "p".into(),
            records: vec![completed("a")],
            ..Default::default()
        };
        let refused = other.submit_records(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_plan_that_has_the_name_of_a_deleted_one_is_found_at_the_other() {
    let [mut one, mut other] = replicas().await;
    one.register("p", &["a"]).await;
    for keys in [["b"], ["c"], ["d"], ["e"]] {
        assert_eq!(result(&mut other).await.1, 1);
        let delete = DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        one.delete_plan(delete).await.unwrap();
        one.register("p", &keys).await;
        let (document, ..) = result(&mut other).await;
        assert!(
            document.contains(&format!("task-{}", keys[0])),
            "{document}"
        );
    }
}
