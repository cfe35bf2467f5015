//! What a defect costs: the plan that it happened to, and nothing else.

use std::sync::Arc;

use fanout::engine::Entry;
use fanout::journal::{Answer, History, Journal, Memory};
use fanout::proto::{
    CancelPlanRequest, DeletePlanRequest, GetPlanRequest, ListPlansRequest, ReconcileRequest,
    SubmitRecordsRequest, WatchPlanRequest,
};
use tonic::{Code, Status};

use crate::harness::{PATIENCE, TestServer, record, refusal};

/// A journal that panics as soon as a plan whose name begins with `doomed` is to be changed: before it has answered, or
/// while it is waited for.
#[derive(Default)]
struct Doomed(Memory);

impl Journal for Doomed {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        match self.0.create(plan_id) {
            Answer::Ready(Ok(history)) if plan_id.starts_with("doomed") => {
                let late = plan_id.ends_with("later");
                Answer::Ready(Ok(Arc::new(DoomedHistory { history, late })))
            }
            created => created,
        }
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        self.0.open(plan_id)
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        self.0.plans()
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        self.0.delete(plan_id)
    }
}

struct DoomedHistory {
    history: Arc<dyn History>,
    late: bool,
}

impl History for DoomedHistory {
    fn append(&self, after: u64, entries: &[Arc<Entry>]) -> Answer<()> {
        if after == 0 {
            return self.history.append(after, entries);
        }
        if self.late {
            return Answer::Pending(Box::pin(async { panic!("a defect, later") }));
        }
        panic!("a defect")
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        self.history.replay(after, limit)
    }

    fn latest(&self) -> Answer<u64> {
        self.history.latest()
    }
}

async fn server() -> TestServer {
    let mut server = TestServer::over(Arc::new(Doomed::default()), |_| {}).await;
    for plan_id in ["doomed", "doomed later", "well"] {
        server.register(plan_id, &["a", "b"]).await;
    }
    server
}

fn internal(reason: &str) -> (Code, String, String) {
    (Code::Internal, reason.into(), String::new())
}

async fn submit(server: &mut TestServer, plan_id: &str) -> Result<(), Status> {
    let request = SubmitRecordsRequest {
        plan_id: plan_id.into(),
        records: vec![record(r#"{"id":"task-a","status":"completed"}"#)],
        ..Default::default()
    };
    server.submit_records(request).await.map(drop)
}

#[tokio::test]
async fn a_call_that_panics_is_internal_and_its_plan_is_unusable_but_no_other() {
    let mut server = server().await;
    for (plan_id, first) in [("doomed", "INTERNAL"), ("doomed later", "PLAN_POISONED")] {
        let status = submit(&mut server, plan_id).await.unwrap_err();
        assert_eq!(refusal(&status), internal(first), "{plan_id}");
        assert!(!status.message().contains("defect"), "{status:?}");

        let status = submit(&mut server, plan_id).await.unwrap_err();
        assert_eq!(refusal(&status), internal("PLAN_POISONED"), "{plan_id}");
        let request = GetPlanRequest {
            plan_id: plan_id.into(),
            ..Default::default()
        };
        let status = server.get_plan(request).await.unwrap_err();
        assert_eq!(refusal(&status), internal("PLAN_POISONED"), "{plan_id}");
    }
    submit(&mut server, "well").await.unwrap();
    let listed = server
        .list_plans(ListPlansRequest::default())
        .await
        .unwrap();
    let listed = listed.into_inner().plans.into_iter();
    let listed: Vec<_> = listed.map(|plan| plan.plan_id).collect();
    assert_eq!(listed, ["well"]);
}

#[tokio::test]
async fn a_record_stream_that_panics_ends_with_internal_and_its_connection_lives() {
    let mut server = server().await;
    let mut stream = server.open().await;
    let body = r#"{"id":"task-a","status":"completed"}"#;
    stream.send("doomed", vec![record(body)]).await;
    let status = stream.next().await.unwrap_err();
    assert_eq!(refusal(&status), internal("INTERNAL"));

    let mut stream = server.open().await;
    stream.send("doomed", vec![record(body)]).await;
    let status = stream.next().await.unwrap_err();
    assert_eq!(refusal(&status), internal("PLAN_POISONED"));

    let mut stream = server.open().await;
    stream.send("well", vec![record(body)]).await;
    assert_eq!(stream.next().await.unwrap().unwrap().receipts.len(), 1);
}

#[tokio::test]
async fn whoever_waits_for_a_plan_learns_that_it_became_unusable() {
    let mut server = server().await;
    let request = WatchPlanRequest {
        plan_id: "doomed".into(),
        include_snapshot: true,
        ..Default::default()
    };
    let mut frames = server.watch_plan(request).await.unwrap().into_inner();
    frames.message().await.unwrap().unwrap();
    let mut waiter = server.connect().await;
    let waiting = tokio::spawn(async move {
        let request = ReconcileRequest {
            plan_id: "doomed".into(),
            wait: Some(prost_types::Duration {
                seconds: 300,
                nanos: 0,
            }),
            ..Default::default()
        };
        waiter.reconcile(request).await.unwrap_err()
    });
    submit(&mut server, "doomed").await.unwrap_err();
    let watched = tokio::time::timeout(PATIENCE, frames.message()).await;
    let status = watched.unwrap().unwrap_err();
    assert_eq!(refusal(&status), internal("PLAN_POISONED"));
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    let status = waited.unwrap().unwrap();
    assert_eq!(refusal(&status), internal("PLAN_POISONED"));
}

#[tokio::test]
async fn an_unusable_plan_cannot_be_ended_but_deleted_and_its_name_used_again() {
    let mut server = server().await;
    let cancel = CancelPlanRequest {
        plan_id: "doomed".into(),
        ..Default::default()
    };
    let status = server.cancel_plan(cancel.clone()).await.unwrap_err();
    assert_eq!(refusal(&status), internal("INTERNAL"));
    let status = server.cancel_plan(cancel).await.unwrap_err();
    assert_eq!(refusal(&status), internal("PLAN_POISONED"));
    let delete = DeletePlanRequest {
        plan_id: "doomed".into(),
        ..Default::default()
    };
    let deleted = server.delete_plan(delete).await.unwrap().into_inner();
    assert_eq!(deleted.plan, None);
    assert_eq!(server.register("doomed", &["a"]).await.plan_id, "doomed");
}

#[tokio::test]
async fn a_deadline_that_panics_does_not_stop_the_other_plans_time() {
    let mut server = TestServer::over(Arc::new(Doomed::default()), |_| {}).await;
    for (plan_id, millis) in [("doomed", 20), ("well", 60)] {
        let deadline = prost_types::Duration {
            seconds: 0,
            nanos: millis * 1_000_000,
        };
        let with = |request: &mut fanout::proto::PlanRequest| request.timeout = Some(deadline);
        server.register_with(plan_id, &["a"], with).await;
    }
    let request = ReconcileRequest {
        plan_id: "well".into(),
        wait: Some(prost_types::Duration {
            seconds: 300,
            nanos: 0,
        }),
        ..Default::default()
    };
    let ended = tokio::time::timeout(PATIENCE, server.reconcile(request)).await;
    let ended = ended.unwrap().unwrap().into_inner();
    assert_eq!(ended.end_reason(), fanout::proto::EndReason::Deadline);
}
