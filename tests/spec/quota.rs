//! What tenants may have, and all together: one past it is refused with the limit's name and value, and nothing is lost.

use std::time::{Duration, Instant};

use fanout::config::MemoryMax;
use fanout::proto::{
    DeletePlanRequest, Disposition, GetPlanRequest, ReconcileRequest, SealPlanRequest,
    SubmitRecordsRequest, WatchPlanRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{TestServer, plan_request, record, refusal};

/// Checks that a limit was named, and its value.
fn assert_names(status: &Status, setting: &str, value: &str) {
    assert_refuses(status, "QUOTA_EXCEEDED", setting, value);
}

fn assert_refuses(status: &Status, reason: &str, setting: &str, value: &str) {
    let expected = (Code::ResourceExhausted, reason.into(), String::new());
    assert_eq!(refusal(status), expected);
    let details = status.get_error_details();
    let quota = details.quota_failure().unwrap();
    assert_eq!(quota.violations[0].subject, setting);
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["limit"], setting);
    assert_eq!(info.metadata["value"], value);
}

async fn delete(server: &mut TestServer, plan_id: &str) {
    let request = DeletePlanRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    };
    server.delete_plan(request).await.unwrap();
}

#[tokio::test]
async fn a_tenant_has_so_many_plans_and_one_more_when_one_is_deleted() {
    let mut server = TestServer::with(|config| config.limits.tenant_plans_max = 2).await;
    for plan_id in ["a", "b"] {
        server.register(plan_id, &["x"]).await;
    }
    let refused = server.plan(plan_request("c", &["x"])).await.unwrap_err();
    assert_names(&refused, "tenant_plans_max", "2");
    assert!(
        server.plan(plan_request("a", &["x"])).await.is_ok(),
        "it is there already"
    );
    delete(&mut server, "a").await;
    server.register("c", &["x"]).await;
}

#[tokio::test]
async fn a_tenant_has_so_many_tasks() {
    let mut server = TestServer::with(|config| config.limits.tenant_tasks_max = 3).await;
    server.register("a", &["x", "y"]).await;
    let refused = server
        .plan(plan_request("b", &["x", "y"]))
        .await
        .unwrap_err();
    assert_names(&refused, "tenant_tasks_max", "3");
    server.register("b", &["x"]).await;
}

#[tokio::test]
async fn records_are_refused_when_plans_hold_what_they_may_and_taken_when_there_is_room() {
    for (change, setting) in [
        (
            (|config| config.limits.tenant_bytes_max = 50_000) as fn(&mut fanout::config::Config),
            "tenant_bytes_max",
        ),
        (
            |config| config.limits.memory_bytes_max = MemoryMax::Bytes(50_000),
            "memory_bytes_max",
        ),
    ] {
        let mut server = TestServer::with(change).await;
        server.register("p", &["a", "b", "c"]).await;
        server.register("q", &["a"]).await;
        let submit = |plan_id: &str, task: &str, padding: usize| SubmitRecordsRequest {
            plan_id: plan_id.into(),
            records: vec![record(&format!(
                r#"{{"id":"task-{task}","status":"completed","padding":"{}"}}"#,
                "x".repeat(padding)
            ))],
            ..Default::default()
        };
        server
            .submit_records(submit("p", "a", 60_000))
            .await
            .unwrap();
        for (plan_id, task) in [("p", "b"), ("q", "a")] {
            let refused = server
                .submit_records(submit(plan_id, task, 1))
                .await
                .unwrap_err();
            assert_names(&refused, setting, "50000");
        }
        let refused = server.plan(plan_request("r", &["a"])).await.unwrap_err();
        assert_names(&refused, setting, "50000");
        // What is there can be read, and room can be made.
        let get = GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        let plan = server
            .get_plan(get)
            .await
            .unwrap()
            .into_inner()
            .plan
            .unwrap();
        assert_eq!(plan.counts.unwrap().recorded, 1);
        delete(&mut server, "p").await;
        server.submit_records(submit("q", "a", 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_tenant_has_so_many_streams_and_one_more_when_one_is_over() {
    let mut server = TestServer::with(|config| config.limits.tenant_streams_max = 2).await;
    server.register("p", &["a"]).await;
    let watch = || WatchPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let watched = server.watch_plan(watch()).await.unwrap();
    let mut records = server.open().await;
    for refused in [
        server.watch_plan(watch()).await.map(drop),
        server.submit_record(tokio_stream::empty()).await.map(drop),
        server.plan_stream(tokio_stream::empty()).await.map(drop),
    ] {
        assert_names(&refused.unwrap_err(), "tenant_streams_max", "2");
    }
    // A call that waits is as a stream.
    let reconcile = |wait: i64| ReconcileRequest {
        plan_id: "p".into(),
        wait: Some(prost_types::Duration {
            seconds: wait,
            nanos: 0,
        }),
        ..Default::default()
    };
    let refused = server.reconcile(reconcile(1)).await.unwrap_err();
    assert_names(&refused, "tenant_streams_max", "2");
    // What is no stream is answered.
    server.reconcile(reconcile(0)).await.unwrap();
    server.register("q", &["a"]).await;
    records.half_close();
    assert!(records.next().await.unwrap().is_none());
    while server.watch_plan(watch()).await.is_err() {
        tokio::task::yield_now().await;
    }
    drop(watched);
}

fn send(plan_id: &str, records: usize) -> SubmitRecordsRequest {
    SubmitRecordsRequest {
        plan_id: plan_id.into(),
        records: vec![record(r#"{"id":"task-a"}"#); records],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_message_of_a_tenant_that_sends_too_fast_is_refused_and_told_when_to_come_again() {
    let one_a_second = |config: &mut fanout::config::Config| {
        config.limits.tenant_records_per_second_max = 1;
    };
    let mut server = TestServer::with(one_a_second).await;
    server.register("p", &["a"]).await;
    server.submit_records(send("p", 60)).await.unwrap();
    let refused = server.submit_records(send("p", 1)).await.unwrap_err();
    assert_refuses(
        &refused,
        "RATE_EXCEEDED",
        "tenant_records_per_second_max",
        "1",
    );
    let details = refused.get_error_details();
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(
        wait > Duration::from_secs(30) && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
}

#[tokio::test]
async fn a_stream_of_a_tenant_that_sends_too_fast_is_read_slower_and_loses_nothing() {
    const A_SECOND: usize = 5_000;
    const EACH: usize = 500;
    let slowed = |config: &mut fanout::config::Config| {
        config.limits.tenant_records_per_second_max = A_SECOND as u32;
    };
    let mut server = TestServer::with(slowed).await;
    server.register("p", &["a", "b"]).await;
    let began = Instant::now();
    let mut records = server.open().await;
    // What may come at once, and what takes 0.2 s to be due.
    let messages = 2 + A_SECOND / EACH + A_SECOND / 5 / EACH;
    let mut receipts = 0;
    for _ in 0..messages {
        records.send("p", send("p", EACH).records).await;
        let answer = records.next().await.unwrap().unwrap();
        receipts += answer.receipts.len();
        assert!(answer.receipts.iter().all(|receipt| {
            matches!(
                receipt.disposition(),
                Disposition::Accepted | Disposition::Duplicate
            )
        }));
    }
    assert_eq!(receipts, messages * EACH);
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn streams_that_send_too_fast_together_have_nobody_wait_longer_than_a_message_takes() {
    let slowed = |config: &mut fanout::config::Config| {
        config.limits.tenant_records_per_second_max = 10;
        config.limits.records_per_message_max = 100;
    };
    let mut server = TestServer::with(slowed).await;
    server.register("p", &["a"]).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(server.open().await);
    }
    for records in &streams {
        records.send("p", send("p", 100).records).await;
        records.send("p", send("p", 100).records).await;
    }
    let answers = streams.iter_mut().map(|records| Box::pin(records.next()));
    let (first, _, _) = futures_util::future::select_all(answers).await;
    assert_eq!(first.unwrap().unwrap().receipts.len(), 100);
    let refused = server.submit_records(send("p", 1)).await.unwrap_err();
    let details = refused.get_error_details();
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(
        wait > Duration::from_secs(5) && wait <= Duration::from_secs(10),
        "{wait:?}"
    );
    // Those who wait are told that the server ends.
    server.begin_to_stop();
    for mut records in streams {
        let end = loop {
            match records.next().await {
                Ok(answer) => assert_eq!(answer.unwrap().receipts.len(), 100),
                Err(end) => break end,
            }
        };
        assert_eq!(
            refusal(&end),
            (Code::Unavailable, "DRAINING".into(), String::new())
        );
    }
}

#[tokio::test]
async fn records_that_are_refused_with_their_message_count_as_well() {
    let slowed = |config: &mut fanout::config::Config| {
        config.limits.tenant_records_per_second_max = 1;
        config.limits.records_per_message_max = 60;
    };
    let ahead = |records| SubmitRecordsRequest {
        producer_id: "e".into(),
        first_offset: Some(1),
        ..send("p", records)
    };
    for (refused, reason) in [
        (ahead(60), "OFFSET_AHEAD"),
        (send("q", 60), "PLAN_NOT_FOUND"),
        (send("p", 1_000), "TOO_MANY_RECORDS"),
    ] {
        let mut server = TestServer::with(slowed).await;
        server.register("p", &["a"]).await;
        let refused = server.submit_records(refused).await.unwrap_err();
        assert_eq!(refusal(&refused).1, reason);
        let refused = server.submit_records(send("p", 1)).await.unwrap_err();
        assert_eq!(refusal(&refused).1, "RATE_EXCEEDED");
        let details = refused.get_error_details();
        let wait = details.retry_info().unwrap().retry_delay.unwrap();
        assert!(
            wait > Duration::from_secs(30) && wait <= Duration::from_secs(60),
            "{wait:?}"
        );
    }
}

#[tokio::test]
async fn the_labels_that_a_repeated_deletion_answers_count_among_the_tenants_request_ids() {
    let limited = |config: &mut fanout::config::Config| config.limits.tenant_request_ids_max = 4;
    let mut server = TestServer::with(limited).await;
    server.register("q", &["a"]).await;
    let labels = |kibibytes: usize| {
        // The key has 8 bytes, the value 248.
        let label = |nth| (format!("label-{nth:02}"), "x".repeat(248));
        (0..kibibytes * 4).map(label).collect()
    };
    let delete = |plan_id: &str| DeletePlanRequest {
        plan_id: plan_id.into(),
        request_id: plan_id.into(),
    };
    server
        .register_with("4", &["a"], |request| request.labels = labels(4))
        .await;
    let refused = server.delete_plan(delete("4")).await.unwrap_err();
    assert_names(&refused, "tenant_request_ids_max", "4");
    server
        .register_with("3", &["a"], |request| request.labels = labels(3))
        .await;
    for _ in 0..2 {
        let deleted = server.delete_plan(delete("3")).await.unwrap().into_inner();
        assert_eq!(deleted.plan.unwrap().labels, labels(3));
    }
    let seal = SealPlanRequest {
        plan_id: "q".into(),
        request_id: "r".into(),
        ..Default::default()
    };
    let refused = server.seal_plan(seal).await.unwrap_err();
    assert_names(&refused, "tenant_request_ids_max", "4");
}
