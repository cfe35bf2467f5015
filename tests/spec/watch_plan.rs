//! Watching: every result once, in sequence, whenever one joins and however often one is cut off; then `End`.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    DeletePlanRequest, EndReason, PlanStatus, Record, RecordKind, Result as TaskResult,
    SealPlanRequest, TaskStatus, WatchPlanRequest, WatchPlanResponse,
};
use tonic::{Code, Status, Streaming};

use crate::harness::{Client, TestServer, config_with_group_key, record, refusal};

/// A frame that does not come in this time will not come.
const SOON: Duration = Duration::from_secs(20);

struct Watcher {
    frames: Streaming<WatchPlanResponse>,
    cursor: String,
}

impl Watcher {
    async fn of(client: &mut Client, request: WatchPlanRequest) -> Self {
        let cursor = request.after.clone();
        let frames = client.watch_plan(request).await.unwrap().into_inner();
        Self { frames, cursor }
    }

    async fn next(&mut self) -> Result<Option<Frame>, Status> {
        let frame = tokio::time::timeout(SOON, self.frames.message())
            .await
            .expect("a frame comes soon");
        Ok(frame?.map(|response| {
            self.cursor = response.cursor;
            response.frame.unwrap()
        }))
    }

    async fn result(&mut self) -> TaskResult {
        match self.next().await.unwrap() {
            Some(Frame::Result(result)) => result,
            other => panic!("expected a result, found {other:?}"),
        }
    }
}

fn watch(plan_id: &str) -> WatchPlanRequest {
    WatchPlanRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    }
}

fn success(task: &str) -> Record {
    record(&format!(r#"{{"id":"{task}","success":true}}"#))
}

#[tokio::test]
async fn a_watcher_sees_every_result_in_sequence_and_then_the_end() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let mut watcher = Watcher::of(&mut server, watch("p")).await;
    server
        .submit("p", vec![record(r#"{"id":"task-b","status":"failed"}"#)])
        .await;
    let first = watcher.result().await;
    assert_eq!(
        (
            first.sequence,
            first.task_id.as_str(),
            first.group_key.as_str()
        ),
        (2, "task-b", "b")
    );
    assert_eq!(
        (first.status(), first.successful, first.revision),
        (TaskStatus::Failed, false, 1)
    );
    assert!(
        first.record.is_empty(),
        "documents are sent only if asked for"
    );
    assert!(first.accept_time.is_some());
    server
        .submit("p", vec![success("task-b"), success("task-a")])
        .await;
    let second = watcher.result().await;
    assert_eq!(
        (second.sequence, second.task_id.as_str(), second.revision),
        (3, "task-b", 2)
    );
    assert_eq!(watcher.result().await.task_id, "task-a");
    let Some(Frame::End(end)) = watcher.next().await.unwrap() else {
        panic!("expected the end")
    };
    assert_eq!(
        (end.status(), end.end_reason()),
        (PlanStatus::Completed, EndReason::AllRecorded)
    );
    assert_eq!(end.counts.unwrap().successful, 2);
    assert_eq!(
        watcher.next().await.unwrap(),
        None,
        "the stream ends with OK"
    );
}

#[tokio::test]
async fn one_who_comes_late_sees_the_whole_history_and_the_end_at_once() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let started = Record {
        kind: RecordKind::Started.into(),
        sandbox_session_id: "box".into(),
        ..record(r#"{"id":"task-a"}"#)
    };
    server.submit("p", vec![started, success("task-a")]).await;
    let mut watcher = Watcher::of(
        &mut server,
        WatchPlanRequest {
            include_payload: true,
            ..watch("p")
        },
    )
    .await;
    let Some(Frame::Progress(progress)) = watcher.next().await.unwrap() else {
        panic!("expected progress")
    };
    assert_eq!(
        (progress.kind(), progress.sandbox_session_id.as_str()),
        (RecordKind::Started, "box")
    );
    assert_eq!(progress.body, r#"{"id":"task-a"}"#);
    let result = watcher.result().await;
    assert_eq!(
        result.record,
        r#"{"id":"task-a","success":true,"status":"completed"}"#
    );
    assert!(matches!(watcher.next().await.unwrap(), Some(Frame::End(_))));
}

#[tokio::test]
async fn a_snapshot_shows_what_there_is_and_the_tail_what_comes_after() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b", "c"]).await;
    server
        .submit(
            "p",
            vec![
                record(r#"{"id":"task-c","status":"failed"}"#),
                success("task-c"),
                success("task-a"),
            ],
        )
        .await;
    let mut watcher = Watcher::of(
        &mut server,
        WatchPlanRequest {
            include_snapshot: true,
            ..watch("p")
        },
    )
    .await;
    let Some(Frame::Snapshot(snapshot)) = watcher.next().await.unwrap() else {
        panic!("expected a snapshot")
    };
    let results: Vec<_> = snapshot
        .results
        .iter()
        .map(|result| (result.task_id.as_str(), result.revision))
        .collect();
    assert_eq!(
        results,
        [("task-a", 1), ("task-c", 2)],
        "only what holds, in plan order"
    );
    let plan = snapshot.plan.unwrap();
    assert_eq!(
        (plan.sequence, plan.cursor, snapshot.last),
        (4, watcher.cursor.clone(), true)
    );
    server.submit("p", vec![success("task-b")]).await;
    assert_eq!(watcher.result().await.sequence, 5);
    assert!(matches!(watcher.next().await.unwrap(), Some(Frame::End(_))));
}

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_and_only_the_last_has_a_cursor() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..2_500).map(|n| n.to_string()).collect();
    server
        .register("p", &keys.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    for chunk in keys.chunks(1_000) {
        server
            .submit(
                "p",
                chunk
                    .iter()
                    .map(|key| success(&format!("task-{key}")))
                    .collect(),
            )
            .await;
    }
    let mut watcher = Watcher::of(
        &mut server,
        WatchPlanRequest {
            include_snapshot: true,
            ..watch("p")
        },
    )
    .await;
    let mut parts = Vec::new();
    while let Some(Frame::Snapshot(part)) = watcher.next().await.unwrap() {
        parts.push((part.results.len(), part.last, watcher.cursor.is_empty()));
    }
    assert_eq!(
        parts,
        [
            (1_000, false, true),
            (1_000, false, true),
            (500, true, false)
        ]
    );
}

#[tokio::test]
async fn one_who_is_cut_off_again_and_again_sees_every_result_once() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    server
        .register("p", &keys.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let mut client = server.connect().await;
    let watching = tokio::spawn(async move {
        let mut seen = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let mut watcher = Watcher::of(
                &mut client,
                WatchPlanRequest {
                    after: cursor,
                    ..watch("p")
                },
            )
            .await;
            // Cut off after seven frames.
            for _ in 0..7 {
                match watcher.next().await.unwrap().unwrap() {
                    Frame::Result(result) => {
                        assert_eq!(
                            seen.insert(result.sequence, result.task_id),
                            None,
                            "seen twice"
                        );
                    }
                    Frame::End(_) => return seen,
                    other => panic!("unexpected {other:?}"),
                }
            }
            cursor = watcher.cursor;
        }
    });
    for key in &keys {
        server
            .submit("p", vec![success(&format!("task-{key}"))])
            .await;
    }
    let seen = watching.await.unwrap();
    let expected: BTreeMap<_, _> = (2..)
        .zip(keys.iter().map(|key| format!("task-{key}")))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_part_of_a_snapshot_ends_after_1_mib_of_group_keys() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    let few: Vec<&str> = keys.iter().map(String::as_str).collect();
    let long = config_with_group_key(&"k".repeat(100_000));
    server
        .register_with("p", &few, |request| request.config = long)
        .await;
    let records = keys.iter().map(|key| success(&format!("task-{key}")));
    server.submit("p", records.collect()).await;
    let request = WatchPlanRequest {
        include_snapshot: true,
        ..watch("p")
    };
    let mut watcher = Watcher::of(&mut server, request).await;
    let mut parts = Vec::new();
    while let Some(Frame::Snapshot(part)) = watcher.next().await.unwrap() {
        parts.push((part.results.len(), part.last));
    }
    assert_eq!(parts, [(11, false), (11, false), (3, true)]);
}

#[tokio::test]
async fn a_quiet_plan_sends_heartbeats_with_its_counts() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let interval = Some(prost_types::Duration {
        seconds: 0,
        nanos: 100_000_000,
    });
    let mut watcher = Watcher::of(
        &mut server,
        WatchPlanRequest {
            heartbeat_interval: interval,
            ..watch("p")
        },
    )
    .await;
    for _ in 0..2 {
        let Some(Frame::Heartbeat(heartbeat)) = watcher.next().await.unwrap() else {
            panic!("expected a heartbeat")
        };
        assert_eq!(heartbeat.counts.unwrap().missing, 2);
    }
    let after_heartbeat = WatchPlanRequest {
        after: watcher.cursor.clone(),
        ..watch("p")
    };
    server.submit("p", vec![success("task-a")]).await;
    let mut again = Watcher::of(&mut server, after_heartbeat).await;
    assert_eq!(again.result().await.task_id, "task-a");
}

#[tokio::test]
async fn what_is_set_aside_is_not_for_watchers_and_breaks_no_cursor() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    server
        .submit(
            "p",
            vec![
                record(r#"{"id":"stray"}"#),
                success("task-a"),
                record(r#"{"id":"stray2"}"#),
            ],
        )
        .await;
    let mut watcher = Watcher::of(&mut server, watch("p")).await;
    assert_eq!(watcher.result().await.sequence, 3);
    let mut resumed = Watcher::of(
        &mut server,
        WatchPlanRequest {
            after: watcher.cursor,
            ..watch("p")
        },
    )
    .await;
    server.submit("p", vec![success("task-b")]).await;
    assert_eq!(resumed.result().await.task_id, "task-b");
}

#[tokio::test]
async fn watchers_of_a_deleted_plan_end_with_not_found() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let mut watcher = Watcher::of(&mut server, watch("p")).await;
    server
        .delete_plan(DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let status = watcher.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::NotFound, "PLAN_REMOVED".into(), String::new())
    );
}

#[tokio::test]
async fn a_cursor_of_an_earlier_plan_of_the_same_name_is_refused() {
    let mut server = TestServer::start().await;
    let old = server.register("p", &["a"]).await.cursor;
    server
        .delete_plan(DeletePlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    server.register("p", &["a", "b"]).await;
    let status = server
        .watch_plan(WatchPlanRequest {
            after: old,
            ..watch("p")
        })
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "INVALID_CURSOR".into(),
            "after".into()
        )
    );
}

#[tokio::test]
async fn one_watcher_past_the_limit_is_refused_until_another_leaves() {
    let mut server = TestServer::with(|config| config.limits.watchers_per_plan_max = 1).await;
    server.register("p", &["a"]).await;
    let interval = Some(prost_types::Duration {
        seconds: 0,
        nanos: 100_000_000,
    });
    let first = Watcher::of(
        &mut server,
        WatchPlanRequest {
            heartbeat_interval: interval,
            ..watch("p")
        },
    )
    .await;
    let status = server.watch_plan(watch("p")).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED".into(),
            String::new()
        )
    );
    drop(first);
    let freed = async {
        while server.watch_plan(watch("p")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, freed)
        .await
        .expect("a place that was left is free");
}

#[tokio::test]
async fn a_stalled_watcher_delays_nobody_and_reads_on_where_it_was() {
    let mut server = TestServer::start().await;
    let keys: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    server
        .register("p", &keys.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let mut stalled = Watcher::of(
        &mut server.connect().await,
        WatchPlanRequest {
            include_payload: true,
            ..watch("p")
        },
    )
    .await;
    let pad = "x".repeat(100_000);
    for key in &keys {
        // 40 MB, more than any window holds, while the watcher reads nothing.
        let body = format!(r#"{{"id":"task-{key}","success":true,"pad":"{pad}"}}"#);
        server.submit("p", vec![record(&body)]).await;
    }
    for key in &keys {
        assert_eq!(stalled.result().await.task_id, format!("task-{key}"));
    }
    assert!(matches!(stalled.next().await.unwrap(), Some(Frame::End(_))));
}

#[tokio::test]
async fn a_server_that_drains_ends_watches_with_unavailable_and_a_cursor_to_go_on_from() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let mut watcher = Watcher::of(&mut server.connect().await, watch("p")).await;
    server.submit("p", vec![success("task-a")]).await;
    watcher.result().await;
    assert!(!watcher.cursor.is_empty());
    server.begin_to_stop();
    let status = watcher.next().await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::Unavailable, "DRAINING".into(), String::new())
    );
}

#[tokio::test]
async fn the_end_says_why_the_plan_ended() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let sealed = SealPlanRequest {
        plan_id: "p".into(),
        reason: "enough".into(),
        ..Default::default()
    };
    let plan = server
        .seal_plan(sealed)
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap();
    assert_eq!(plan.end_note, "enough");
    let mut watcher = Watcher::of(&mut server, watch("p")).await;
    let Some(Frame::End(end)) = watcher.next().await.unwrap() else {
        panic!("expected the end")
    };
    assert_eq!(
        (end.status(), end.end_reason()),
        (PlanStatus::Failed, EndReason::Sealed)
    );
    assert_eq!(end.counts.unwrap().missing, 1);
}
