//! A server that starts over a journal with plans serves them as they were, and until it can, says so.

use std::sync::Arc;

use fanout::engine::{Entry, Event, RecordKind, SignOfLife, Timestamp};
use fanout::journal::{Answer, Error, History, Journal, Memory};
use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    DeletePlanRequest, GetPlanRequest, ListPlansRequest, ListQuarantineRequest, ListTasksRequest,
    PlanRequest, PlanStatus, ReconcileRequest, Record, SealPlanRequest, SubmitRecordsRequest, View,
    WatchPlanRequest,
};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{TestServer, plan_request, record, refusal};

fn plan(plan_id: &str) -> GetPlanRequest {
    GetPlanRequest {
        plan_id: plan_id.into(),
        view: View::Full.into(),
        ..Default::default()
    }
}

fn numbered(records: Vec<Record>) -> SubmitRecordsRequest {
    SubmitRecordsRequest {
        plan_id: "p".into(),
        records,
        producer_id: "sandbox".into(),
        first_offset: Some(0),
        ..Default::default()
    }
}

fn records() -> Vec<Record> {
    vec![
        record(r#"{"id":"task-a","status":"completed","sandbox_session_id":"box"}"#),
        record(r#"{"id":"task-a","status":"failed"}"#),
        record(r#"{"id":"nobody"}"#),
    ]
}

/// Everything that can be asked about the plan.
async fn everything(server: &mut TestServer) -> Vec<String> {
    let whole = ReconcileRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let tasks = ListTasksRequest {
        plan_id: "p".into(),
        view: View::Full.into(),
        ..Default::default()
    };
    let quarantine = ListQuarantineRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    vec![
        format!(
            "{:?}",
            server.get_plan(plan("p")).await.unwrap().into_inner()
        ),
        format!("{:?}", server.reconcile(whole).await.unwrap().into_inner()),
        format!("{:?}", server.list_tasks(tasks).await.unwrap().into_inner()),
        format!(
            "{:?}",
            server
                .list_quarantine(quarantine)
                .await
                .unwrap()
                .into_inner()
        ),
        format!(
            "{:?}",
            server
                .submit_records(numbered(records()))
                .await
                .unwrap()
                .into_inner()
        ),
    ]
}

/// The frames after a cursor, up to the plan's present.
async fn frames(server: &mut TestServer, after: &str, count: usize) -> Vec<(String, Frame)> {
    let request = WatchPlanRequest {
        plan_id: "p".into(),
        after: after.into(),
        include_payload: true,
        ..Default::default()
    };
    let mut stream = server.watch_plan(request).await.unwrap().into_inner();
    let mut frames = Vec::new();
    while frames.len() < count {
        let response = stream.message().await.unwrap().unwrap();
        frames.push((response.cursor, response.frame.unwrap()));
    }
    frames
}

#[tokio::test]
async fn a_plan_is_after_a_restart_as_it_was_and_so_are_cursors_and_offsets() {
    let journal = Arc::new(Memory::default());
    let mut before = TestServer::over(Arc::clone(&journal) as _, |_| {}).await;
    before.register("p", &["a", "b"]).await;
    before.submit_records(numbered(records())).await.unwrap();
    let known = everything(&mut before).await;
    let seen = frames(&mut before, "", 2).await;
    before.begin_to_stop();

    let mut after = TestServer::over(journal, |_| {}).await;
    until_ready(&after).await;
    assert_eq!(everything(&mut after).await, known);
    assert_eq!(frames(&mut after, "", 2).await, seen);
    assert_eq!(frames(&mut after, &seen[0].0, 1).await, seen[1..]);
    // It goes on: the session was learnt.
    let by_session = record(r#"{"sandbox_session_id":"box","status":"completed"}"#);
    let receipts = after.submit("p", vec![by_session]).await;
    assert_eq!((&*receipts[0].task_id, receipts[0].revision), ("task-a", 3));
}

#[tokio::test]
async fn ended_and_deleted_plans_are_after_a_restart_what_they_were() {
    let journal = Arc::new(Memory::default());
    let mut before = TestServer::over(Arc::clone(&journal) as _, |_| {}).await;
    for plan_id in ["sealed", "deleted"] {
        before.register(plan_id, &["a"]).await;
    }
    let seal = SealPlanRequest {
        plan_id: "sealed".into(),
        ..Default::default()
    };
    before.seal_plan(seal).await.unwrap();
    let delete = DeletePlanRequest {
        plan_id: "deleted".into(),
        ..Default::default()
    };
    before.delete_plan(delete).await.unwrap();
    before.begin_to_stop();

    let mut after = TestServer::over(journal, |_| {}).await;
    until_ready(&after).await;
    let listed = after.list_plans(ListPlansRequest::default()).await.unwrap();
    let listed: Vec<_> = listed
        .into_inner()
        .plans
        .into_iter()
        .map(|plan| (plan.plan_id.clone(), plan.status()))
        .collect();
    assert_eq!(listed, [("sealed".to_owned(), PlanStatus::Failed)]);
}

/// A journal that opens plans when it is allowed to, and has one that it cannot read.
struct Late {
    memory: Arc<Memory>,
    allowed: Arc<Semaphore>,
}

impl Journal for Late {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        self.memory.create(plan_id)
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let (opened, allowed) = (self.memory.open(plan_id), Arc::clone(&self.allowed));
        let damaged = plan_id == "damaged";
        Answer::Pending(Box::pin(async move {
            allowed.acquire().await.unwrap().forget();
            if damaged {
                return Err(Error::Damaged("it was written on".into()));
            }
            opened.wait().await
        }))
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        self.memory.plans()
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        self.memory.delete(plan_id)
    }
}

async fn readiness(server: &TestServer) -> [ServingStatus; 2] {
    let address = format!("http://{}", server.address);
    let mut health = HealthClient::connect(address).await.unwrap();
    let mut found = Vec::new();
    for service in ["readiness", "liveness"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        found.push(answer.into_inner().status());
    }
    [found[0], found[1]]
}

async fn until_ready(server: &TestServer) {
    while readiness(server).await[0] != ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_plan_whose_events_cannot_be_is_not_served_and_the_others_are() {
    let journal = Arc::new(Memory::default());
    let mut before = TestServer::over(Arc::clone(&journal) as _, |_| {}).await;
    for plan_id in ["p", "impossible"] {
        before.register(plan_id, &["a"]).await;
    }
    before.begin_to_stop();
    let history = journal.open("impossible").wait().await.unwrap();
    let impossible = Entry {
        sequence: 2,
        at: Timestamp(1_000),
        event: Event::TaskProgressed(Arc::new(SignOfLife {
            task: 1,
            sequence: 2,
            at: Timestamp(1_000),
            kind: RecordKind::Started,
            session: "".into(),
            document: "{}".into(),
        })),
    };
    let appended = history.append(1, &[Arc::new(impossible)]);
    appended.wait().await.unwrap();
    let mut after = TestServer::over(journal, |_| {}).await;
    until_ready(&after).await;
    after.get_plan(plan("p")).await.unwrap();
    let impossible = after.get_plan(plan("impossible")).await.unwrap_err();
    assert_eq!(refusal(&impossible).1, "PLAN_NOT_FOUND");
}

fn assert_recovering(status: &Status) {
    let expected = (Code::Unavailable, "RECOVERING".into(), String::new());
    assert_eq!(refusal(status), expected);
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn until_all_plans_are_back_nobody_is_told_that_one_does_not_exist() {
    let memory = Arc::new(Memory::default());
    let mut before = TestServer::over(Arc::clone(&memory) as _, |_| {}).await;
    for plan_id in ["p", "damaged"] {
        before.register(plan_id, &["a"]).await;
    }
    before.begin_to_stop();

    let allowed = Arc::new(Semaphore::new(0));
    let journal = Late {
        memory,
        allowed: Arc::clone(&allowed),
    };
    let mut after = TestServer::over(Arc::new(journal), |_| {}).await;
    assert_eq!(
        readiness(&after).await,
        [ServingStatus::NotServing, ServingStatus::Serving]
    );
    assert_recovering(&after.get_plan(plan("p")).await.unwrap_err());
    assert_recovering(&after.get_plan(plan("other")).await.unwrap_err());
    let listed = after.list_plans(ListPlansRequest::default()).await;
    assert_recovering(&listed.unwrap_err());
    let request: PlanRequest = plan_request("p", &["a"]);
    assert_recovering(&after.plan(request.clone()).await.unwrap_err());

    allowed.add_permits(2);
    until_ready(&after).await;
    after.get_plan(plan("p")).await.unwrap();
    let again = after.plan(request).await.unwrap().into_inner();
    assert!(!again.created);
    // The one that cannot be read is not served, and holds up nobody.
    let damaged = after.get_plan(plan("damaged")).await.unwrap_err();
    assert_eq!(refusal(&damaged).1, "PLAN_NOT_FOUND");
}

/// A journal without room, once it has a plan.
#[derive(Default)]
struct Full(Memory);

struct FullHistory(Arc<dyn History>);

impl Journal for Full {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let Answer::Ready(Ok(history)) = self.0.create(plan_id) else {
            panic!("memory has room");
        };
        if plan_id == "refused" {
            return Answer::Ready(Ok(Arc::new(FullHistory(history))));
        }
        Answer::Ready(Ok(history))
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

impl History for FullHistory {
    fn append(&self, _: u64, _: &[Arc<Entry>]) -> Answer<()> {
        Answer::Ready(Err(Error::Full("no space left".into())))
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        self.0.replay(after, limit)
    }

    fn latest(&self) -> Answer<u64> {
        self.0.latest()
    }
}

#[tokio::test]
async fn a_plan_for_which_there_is_no_room_is_refused_and_leaves_nothing_behind() {
    let mut server = TestServer::over(Arc::new(Full::default()), |_| {}).await;
    let mut request = plan_request("refused", &["a"]);
    request.request_id = "once".into();
    for _ in 0..2 {
        let status = server.plan(request.clone()).await.unwrap_err();
        let expected = (
            Code::ResourceExhausted,
            "STORAGE_FULL".into(),
            String::new(),
        );
        assert_eq!(refusal(&status), expected);
        assert!(status.get_details_retry_info().is_some());
    }
    server.register("p", &["a"]).await;
    let listed = server.list_plans(ListPlansRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().plans.len(), 1);
}
