//! Who may do what: a line of the threat model each. Nobody learns of what is not theirs, neither from an answer nor from a
//! refusal.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanout::config::KeySet;
use fanout::identity::{self, Audience, Claims, Grant, Role};
use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::plan_stream_request::Part;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    CancelPlanRequest, DeletePlanRequest, DiscardRecordRequest, Disposition, ExplainTaskRequest,
    GetPlanRequest, GetTaskRequest, ListPlansRequest, ListQuarantineRequest, ListTasksRequest,
    PlanCommit, PlanRequest, PlanStreamRequest, Receipt, ReconcileDocuments, ReconcileRequest,
    Record, RecordKind, RematchRecordRequest, SealPlanRequest, SubmitRecordsRequest,
    SubmitRecordsResponse, WatchPlanRequest, WatchPlanResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use crate::harness::{TestServer, plan_request, record, refusal};

const ISSUER: &str = "https://ci.example.org";

/// A server that believes a key and a list of tokens.
struct Guarded {
    server: TestServer,
    files: tempfile::TempDir,
    key: String,
}

/// Puts a token into requests.
type Bring = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send + Sync>;
type Client = FanoutServiceClient<InterceptedService<Channel, Bring>>;

impl Guarded {
    async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let (key, keys) = identity::new_key("1").unwrap();
        std::fs::write(files.path().join("keys"), keys).unwrap();
        std::fs::write(files.path().join("tokens"), "").unwrap();
        let path = |name: &str| Some(files.path().join(name));
        let (tokens, jwks) = (path("tokens"), path("keys"));
        let server = TestServer::with(|config| {
            config.auth.tokens = tokens;
            config.auth.jwks = jwks.map(KeySet::In);
            config.auth.jwt_issuer = Some(ISSUER.into());
            config.auth.auth_reload_interval = Duration::from_millis(20);
        })
        .await;
        Self { server, files, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A client that brings this token, or whatever else.
    async fn with(&self, token: &str) -> Client {
        let address = format!("http://{}", self.server.address);
        let channel = Channel::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let header: Option<MetadataValue<Ascii>> =
            (!token.is_empty()).then(|| format!("Bearer {token}").parse().unwrap());
        let bring: Bring = Box::new(move |mut request| {
            if let Some(header) = &header {
                request
                    .metadata_mut()
                    .insert("authorization", header.clone());
            }
            Ok(request)
        });
        FanoutServiceClient::with_interceptor(channel, bring)
    }

    /// A client of whoever is granted this.
    async fn granted(&self, grant: Grant) -> Client {
        let token = identity::issue(&claims(grant), Some("1"), self.key.as_bytes()).unwrap();
        self.with(&token).await
    }

    async fn owner(&self, tenant: &str) -> Client {
        self.granted(Grant {
            tenant: tenant.into(),
            roles: Role::ALL.into(),
            ..Grant::default()
        })
        .await
    }

    /// A client of tenant `t` that may do everything, to this plan.
    async fn bound(&self, plan: &str) -> Client {
        self.granted(Grant {
            tenant: "t".into(),
            roles: Role::ALL.into(),
            plan: Some(plan.into()),
            ..Grant::default()
        })
        .await
    }

    /// What a sandbox should get.
    async fn sandbox(&self, task: &str) -> Client {
        self.granted(Grant {
            tenant: "t".into(),
            roles: vec![Role::Submit],
            plan: Some("p".into()),
            task: Some(task.into()),
            session: None,
        })
        .await
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn claims(grant: Grant) -> Claims {
    Claims {
        iss: ISSUER.into(),
        aud: Audience::Several(vec!["others".into(), "fanout".into()]),
        sub: "test".into(),
        exp: now() + 3_600,
        nbf: None,
        fanout: grant,
    }
}

async fn submit(
    client: &mut Client,
    plan_id: &str,
    body: &str,
) -> Result<SubmitRecordsResponse, Status> {
    let request = SubmitRecordsRequest {
        plan_id: plan_id.into(),
        records: vec![record(body)],
        ..Default::default()
    };
    client
        .submit_records(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Each method, asked about this plan.
async fn every_method(
    client: &mut Client,
    plan_id: &str,
) -> Vec<(&'static str, Result<(), Status>)> {
    let plan_id = || plan_id.to_owned();
    let mut answers = Vec::new();
    macro_rules! ask {
        ($method:ident, $request:expr) => {
            answers.push((
                stringify!($method),
                client.$method($request).await.map(drop),
            ))
        };
    }
    ask!(
        get_plan,
        GetPlanRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        list_tasks,
        ListTasksRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        get_task,
        GetTaskRequest {
            plan_id: plan_id(),
            task_id: "task-a".into(),
            ..Default::default()
        }
    );
    ask!(
        explain_task,
        ExplainTaskRequest {
            plan_id: plan_id(),
            task_id: "task-a".into()
        }
    );
    ask!(
        reconcile,
        ReconcileRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        watch_plan,
        WatchPlanRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        list_quarantine,
        ListQuarantineRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        rematch_record,
        RematchRecordRequest {
            plan_id: plan_id(),
            quarantine_id: 1,
            task_id: "task-a".into(),
            ..Default::default()
        }
    );
    ask!(
        discard_record,
        DiscardRecordRequest {
            plan_id: plan_id(),
            quarantine_id: 1,
            ..Default::default()
        }
    );
    ask!(
        submit_records,
        SubmitRecordsRequest {
            plan_id: plan_id(),
            records: vec![record(r#"{"id":"task-a"}"#)],
            ..Default::default()
        }
    );
    ask!(
        seal_plan,
        SealPlanRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        cancel_plan,
        CancelPlanRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    ask!(
        delete_plan,
        DeletePlanRequest {
            plan_id: plan_id(),
            ..Default::default()
        }
    );
    answers
}

/// What a refusal tells, with this plan's id made unreadable.
fn told(answers: &[(&str, Result<(), Status>)], plan_id: &str) -> Vec<String> {
    let told = answers.iter().map(|(method, answer)| {
        let status = answer.as_ref().unwrap_err();
        let details = String::from_utf8_lossy(status.details()).into_owned();
        format!(
            "{method}: {:?} {} {details}",
            status.code(),
            status.message()
        )
    });
    told.map(|told| told.replace(plan_id, "…")).collect()
}

#[tokio::test]
async fn without_a_token_that_is_believed_nothing_is_answered_but_health() {
    let guarded = Guarded::start().await;
    guarded
        .owner("")
        .await
        .plan(plan_request("p", &["a"]))
        .await
        .unwrap();
    let all = || Grant {
        roles: Role::ALL.into(),
        ..Grant::default()
    };
    let issue =
        |claims: &Claims| identity::issue(claims, Some("1"), guarded.key.as_bytes()).unwrap();
    let (foreign, _) = identity::new_key("1").unwrap();
    let whole = issue(&claims(all()));
    let (head, signature) = whole.rsplit_once('.').unwrap();
    let payload = head.split_once('.').unwrap().1;
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
    // {"alg":"HS256","kid":"1"}, as if the public key were a secret.
    let symmetric = format!("eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.{payload}.{signature}");
    let critical = {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some("1".into());
        header.crit = Some(vec!["exp".into()]);
        let key = jsonwebtoken::EncodingKey::from_ed_pem(guarded.key.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims(all()), &key).unwrap()
    };
    let tokens = [
        String::new(),
        "nonsense".into(),
        critical,
        "x".repeat(10_000),
        unsigned,
        symmetric,
        format!("{head}.{}", signature.replace(&signature[..4], "AAAA")),
        identity::issue(&claims(all()), Some("1"), foreign.as_bytes()).unwrap(),
        identity::issue(&claims(all()), Some("2"), guarded.key.as_bytes()).unwrap(),
        issue(&Claims {
            exp: now() - 1,
            ..claims(all())
        }),
        issue(&Claims {
            nbf: Some(now() + 60),
            ..claims(all())
        }),
        issue(&Claims {
            iss: "https://other.example.org".into(),
            ..claims(all())
        }),
        issue(&Claims {
            aud: Audience::One("others".into()),
            ..claims(all())
        }),
    ];
    let mut first = None;
    for token in &tokens {
        let mut client = guarded.with(token).await;
        let mut answers = every_method(&mut client, "p").await;
        answers.push((
            "plan",
            client.plan(plan_request("q", &["a"])).await.map(drop),
        ));
        answers.push((
            "list_plans",
            client
                .list_plans(ListPlansRequest::default())
                .await
                .map(drop),
        ));
        let documents = ReconcileRequest {
            documents: Some(ReconcileDocuments::default()),
            ..Default::default()
        };
        answers.push(("reconcile", client.reconcile(documents).await.map(drop)));
        for (method, answer) in &answers {
            let expected = (
                Code::Unauthenticated,
                "UNAUTHENTICATED".into(),
                String::new(),
            );
            assert_eq!(refusal(answer.as_ref().unwrap_err()), expected, "{method}");
        }
        // Why is not said.
        let told = told(&answers, "p");
        assert_eq!(*first.get_or_insert_with(|| told.clone()), told);
    }
    let channel = Channel::from_shared(format!("http://{}", guarded.server.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    health.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_and_nothing_else() {
    let guarded = Guarded::start().await;
    guarded
        .owner("t")
        .await
        .plan(plan_request("p", &["a"]))
        .await
        .unwrap();
    let may = [
        (Role::Lease, &[][..]),
        (
            Role::Watch,
            &[
                "get_plan",
                "list_tasks",
                "get_task",
                "explain_task",
                "reconcile",
                "watch_plan",
            ],
        ),
        (Role::Submit, &["submit_records"]),
        (
            Role::Operate,
            &["list_quarantine", "rematch_record", "discard_record"],
        ),
        (Role::Plan, &["seal_plan", "cancel_plan", "delete_plan"]),
    ];
    for (role, methods) in may {
        let mut client = guarded
            .granted(Grant {
                tenant: "t".into(),
                roles: vec![role],
                ..Grant::default()
            })
            .await;
        for (method, answer) in every_method(&mut client, "p").await {
            let denied = answer
                .err()
                .is_some_and(|status| status.code() == Code::PermissionDenied);
            assert_eq!(denied, !methods.contains(&method), "{role:?} {method}");
        }
        let planned = client.plan(plan_request("q", &["a"])).await;
        assert_eq!(planned.is_ok(), role == Role::Plan, "{role:?}");
        let listed = client.list_plans(ListPlansRequest::default()).await;
        assert_eq!(listed.is_ok(), role == Role::Watch, "{role:?}");
        let documents = ReconcileRequest {
            documents: Some(ReconcileDocuments::default()),
            ..Default::default()
        };
        let reconciled = client.reconcile(documents).await;
        let may = matches!(role, Role::Watch | Role::Plan);
        assert_eq!(reconciled.is_ok(), may, "{role:?}");
        if let Err(refused) = reconciled {
            let expected = (
                Code::PermissionDenied,
                "ROLE_REQUIRED".into(),
                String::new(),
            );
            assert_eq!(refusal(&refused), expected, "{role:?}");
        }
    }
}

#[tokio::test]
async fn tenants_do_not_learn_of_each_other() {
    let guarded = Guarded::start().await;
    let (mut one, mut other) = (guarded.owner("one").await, guarded.owner("other").await);
    let planned = one
        .plan(PlanRequest {
            request_id: "r".into(),
            ..plan_request("plan-1", &["a"])
        })
        .await;
    let planned = planned.unwrap().into_inner().plan.unwrap();
    assert_eq!(planned.plan_id, "plan-1");
    // What the other is told about a plan that is there is what it is told about one that is not.
    let there = every_method(&mut other, "plan-1").await;
    let nowhere = every_method(&mut other, "plan-2").await;
    assert_eq!(told(&there, "plan-1"), told(&nowhere, "plan-2"));
    assert!(
        there
            .iter()
            .all(|(_, answer)| answer.as_ref().unwrap_err().code() == Code::NotFound)
    );
    let list = async |client: &mut Client| {
        let plans = client
            .list_plans(ListPlansRequest::default())
            .await
            .unwrap();
        plans
            .into_inner()
            .plans
            .into_iter()
            .map(|plan| plan.plan_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&mut other).await, Vec::<String>::new());
    // Names and request ids are each tenant's own.
    let same = PlanRequest {
        request_id: "r".into(),
        ..plan_request("plan-1", &["b", "c"])
    };
    assert!(other.plan(same).await.unwrap().into_inner().created);
    submit(
        &mut other,
        "plan-1",
        r#"{"id":"task-b","status":"completed"}"#,
    )
    .await
    .unwrap();
    let mine = one
        .get_plan(GetPlanRequest {
            plan_id: "plan-1".into(),
            ..Default::default()
        })
        .await;
    let mine = mine.unwrap().into_inner().plan.unwrap();
    assert_eq!(
        (mine.counts.unwrap().tasks, mine.counts.unwrap().recorded),
        (1, 0)
    );
    assert_eq!(list(&mut one).await, ["plan-1"]);
    one.delete_plan(DeletePlanRequest {
        plan_id: "plan-1".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    assert_eq!(list(&mut other).await, ["plan-1"]);
    // A name that spells another tenant's is no way in.
    let spelt = other
        .get_plan(GetPlanRequest {
            plan_id: "one\0plan-1".into(),
            ..Default::default()
        })
        .await;
    assert_eq!(spelt.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_token_for_a_plan_is_for_no_other() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    for plan_id in ["p", "plan-1"] {
        owner.plan(plan_request(plan_id, &["a"])).await.unwrap();
    }
    let mut bound = guarded.bound("p").await;
    let there = every_method(&mut bound, "plan-1").await;
    let nowhere = every_method(&mut bound, "plan-2").await;
    assert_eq!(told(&there, "plan-1"), told(&nowhere, "plan-2"));
    let listed = bound
        .list_plans(ListPlansRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.plans.len(), 1);
    for plan_id in ["plan-1", "new", ""] {
        let refused = bound.plan(plan_request(plan_id, &["b"])).await.unwrap_err();
        let expected = (
            Code::PermissionDenied,
            "BOUND_TO_PLAN".into(),
            String::new(),
        );
        assert_eq!(refusal(&refused), expected, "{plan_id}");
    }
    assert!(bound.plan(plan_request("p", &["a"])).await.is_ok());
    assert!(submit(&mut bound, "p", r#"{"id":"task-a"}"#).await.is_ok());
}

fn without_its_place(mut receipt: Receipt) -> Receipt {
    if let Some(violation) = &mut receipt.violation {
        violation.field.clear();
    }
    receipt
}

#[tokio::test]
async fn a_sandbox_may_submit_for_its_own_task_and_nothing_else() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    owner
        .plan(plan_request("p", &["a", "b", "c"]))
        .await
        .unwrap();
    owner
        .plan(plan_request("other", &["a", "b"]))
        .await
        .unwrap();
    submit(
        &mut owner,
        "p",
        r#"{"id":"task-b","status":"completed","sandbox_session_id":"box-b"}"#,
    )
    .await
    .unwrap();
    let mut sandbox = guarded.sandbox("task-a").await;

    // Its own task, and no word about the plan.
    let answer = submit(&mut sandbox, "p", r#"{"id":"task-a","status":"completed"}"#)
        .await
        .unwrap();
    let receipt = &answer.receipts[0];
    assert_eq!(receipt.disposition(), Disposition::Accepted);
    assert_eq!((receipt.task_id.as_str(), receipt.sequence), ("task-a", 0));
    assert_eq!(
        (answer.counts, answer.sequence, answer.status),
        (None, 0, 0)
    );

    // Another's task, however it is named, is refused as one that is not there.
    let mut refused: Vec<Receipt> = Vec::new();
    for body in [
        r#"{"id":"nobody"}"#,
        r#"{"id":"task-b"}"#,
        r#"{"task_id":"task-b"}"#,
        r#"{"id":"task-a","task_id":"task-b"}"#,
        r#"{"group_key":"b"}"#,
        r#"{"group_key":"a"}"#,
        r#"{"id":"task-a","group_key":"b"}"#,
        r#"{"id":"task-a","group_key":"nobody"}"#,
        r#"{"sandbox_session_id":"box-b"}"#,
        r#"{"id":"task-a","sandbox_session_id":"box-b"}"#,
        r#"{"id":"task-a","sandbox_session_id":"nobody"}"#,
        "{}",
    ] {
        let answer = submit(&mut sandbox, "p", body).await.unwrap();
        let receipt = without_its_place(answer.receipts[0].clone());
        assert_eq!(receipt.disposition(), Disposition::Invalid, "{body}");
        assert_eq!(receipt.violation.as_ref().unwrap().reason, "NOT_PERMITTED");
        refused.push(receipt);
    }
    assert!(refused.windows(2).all(|pair| pair[0] == pair[1]));

    // Every other method, and every other plan.
    for (method, answer) in every_method(&mut sandbox, "p").await {
        if method != "submit_records" {
            assert_eq!(
                answer.unwrap_err().code(),
                Code::PermissionDenied,
                "{method}"
            );
        }
    }
    let there = submit(&mut sandbox, "other", r#"{"id":"task-a"}"#)
        .await
        .unwrap_err();
    let nowhere = submit(&mut sandbox, "nowhere", r#"{"id":"task-a"}"#)
        .await
        .unwrap_err();
    assert_eq!(there.code(), Code::NotFound);
    assert_eq!(
        there.message().replace("other", "nowhere"),
        nowhere.message()
    );
    let documents = ReconcileRequest {
        documents: Some(ReconcileDocuments::default()),
        ..Default::default()
    };
    assert_eq!(
        sandbox.reconcile(documents).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    // Nothing of all this has left anything behind.
    let plan = owner
        .get_plan(GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await;
    let counts = plan.unwrap().into_inner().plan.unwrap().counts.unwrap();
    assert_eq!((counts.recorded, counts.quarantined), (2, 0));
}

#[tokio::test]
async fn a_quota_does_not_tell_a_sandbox_how_many_tasks_its_plan_has() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    owner.plan(plan_request("p", &["a", "b"])).await.unwrap();
    // 64 for each of two tasks, and one more.
    let records = (0..129).map(|n| Record {
        kind: RecordKind::Progress.into(),
        ..record(&format!(r#"{{"id":"task-a","n":{n}}}"#))
    });
    let mut request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: records.collect(),
        ..Default::default()
    };
    let mut sandbox = guarded.sandbox("task-a").await;
    let sent = sandbox.submit_records(request.clone()).await.unwrap();
    let receipts = sent.into_inner().receipts;
    assert_eq!(receipts[127].disposition(), Disposition::Accepted);
    let past = |receipt: &Receipt| {
        let violation = receipt.violation.clone().unwrap();
        (receipt.code, violation.description, violation.limit)
    };
    let exhausted = Code::ResourceExhausted as i32;
    assert_eq!(
        past(&receipts[128]),
        (exhausted, "a quota of the plan is used up".into(), 0)
    );

    request.records.drain(..128);
    let sent = owner.submit_records(request).await.unwrap();
    let said = "the plan already has 128 STARTED and PROGRESS records in one plan";
    assert_eq!(
        past(&sent.into_inner().receipts[0]),
        (exhausted, said.into(), 128)
    );
}

#[tokio::test]
async fn nobody_but_a_sandbox_has_the_producers_of_one() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    owner.plan(plan_request("p", &["a"])).await.unwrap();
    let asked = owner
        .submit_records(SubmitRecordsRequest {
            plan_id: "p".into(),
            producer_id: "task-a\0producer".into(),
            ..Default::default()
        })
        .await;
    assert_eq!(
        refusal(&asked.unwrap_err()),
        (
            Code::InvalidArgument,
            "INVALID_TEXT".into(),
            "producer_id".into()
        )
    );
}

#[tokio::test]
async fn a_sandbox_does_not_get_receipts_of_other_producers() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    owner.plan(plan_request("p", &["a", "b"])).await.unwrap();
    let numbered = |records: Vec<Record>, first_offset: Option<u64>| SubmitRecordsRequest {
        plan_id: "p".into(),
        records,
        producer_id: "producer".into(),
        first_offset,
        ..Default::default()
    };
    let secret = record(r#"{"id":"task-b","status":"completed","note":"secret"}"#);
    owner
        .submit_records(numbered(vec![secret], Some(0)))
        .await
        .unwrap();
    let mut sandbox = guarded.sandbox("task-a").await;
    let asked = sandbox
        .submit_records(numbered(vec![], None))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(asked.committed_offset, Some(0));
    let own = record(r#"{"id":"task-a","status":"completed"}"#);
    let sent = sandbox
        .submit_records(numbered(vec![own], Some(0)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(sent.receipts[0].task_id, "task-a");
    assert_eq!(sent.committed_offset, Some(1));
}

#[tokio::test]
async fn a_session_is_named_only_by_whom_it_is_bound_to() {
    let guarded = Guarded::start().await;
    guarded
        .owner("t")
        .await
        .plan(plan_request("p", &["a", "b"]))
        .await
        .unwrap();
    let mut bound = guarded
        .granted(Grant {
            tenant: "t".into(),
            roles: vec![Role::Submit],
            plan: Some("p".into()),
            task: Some("task-a".into()),
            session: Some("box-a".into()),
        })
        .await;
    for (session, expected) in [
        ("box-a", Disposition::Accepted),
        ("box-b", Disposition::Invalid),
    ] {
        let body =
            format!(r#"{{"id":"task-a","status":"completed","sandbox_session_id":"{session}"}}"#);
        let answer = submit(&mut bound, "p", &body).await.unwrap();
        assert_eq!(answer.receipts[0].disposition(), expected, "{session}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("").await;
    owner.plan(plan_request("p", &["a"])).await.unwrap();
    let grant = Grant {
        roles: Role::ALL.into(),
        ..Grant::default()
    };
    let short = Claims {
        exp: now() + 2,
        ..claims(grant)
    };
    let token = identity::issue(&short, Some("1"), guarded.key.as_bytes()).unwrap();
    let mut client = guarded.with(&token).await;
    let mut frames = watch(&mut client).await.unwrap();
    assert_eq!(end_of(&mut frames).await.code(), Code::Unauthenticated);
    let refused = client
        .get_plan(GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

/// A line of the list: this token, for one who has these roles.
fn listed_for(token: &str, roles: &str) -> String {
    let hash: String = identity::digest(token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("[[token]]\nname = \"n\"\nsha256 = \"{hash}\"\nroles = [{roles}]\n")
}

fn listed(token: &str) -> String {
    listed_for(token, "\"watch\"")
}

async fn watch(client: &mut Client) -> Result<Streaming<WatchPlanResponse>, Status> {
    let watch = WatchPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    client.watch_plan(watch).await.map(Response::into_inner)
}

/// What a stream ends with that is ended.
async fn end_of(frames: &mut Streaming<WatchPlanResponse>) -> Status {
    loop {
        match frames.message().await {
            Ok(Some(_)) => {}
            other => break other.unwrap_err(),
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_struck_off_and_those_of_others_go_on() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("").await;
    owner.plan(plan_request("p", &["a"])).await.unwrap();
    let both = listed("one") + &listed("two");
    std::fs::write(guarded.path("tokens"), both).unwrap();
    let (mut one, mut two) = (guarded.with("one").await, guarded.with("two").await);
    let mut struck = loop {
        if let Ok(frames) = watch(&mut one).await {
            break frames;
        }
        tokio::task::yield_now().await;
    };
    let mut other = watch(&mut two).await.unwrap();
    let mut signed = watch(&mut owner).await.unwrap();
    std::fs::write(guarded.path("tokens"), listed("two")).unwrap();
    assert_eq!(end_of(&mut struck).await.code(), Code::Unauthenticated);
    // The others are told of what happens after that.
    owner
        .submit_records(SubmitRecordsRequest {
            plan_id: "p".into(),
            records: vec![record(r#"{"id":"task-a","status":"completed"}"#)],
            ..Default::default()
        })
        .await
        .unwrap();
    for frames in [&mut other, &mut signed] {
        loop {
            let frame = frames.message().await.unwrap().unwrap().frame;
            if matches!(frame, Some(Frame::Result(_))) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_call_ends_when_its_caller_may_not_do_it_any_more_or_is_somebody_else() {
    let lesser = listed_for("one", "\"submit\"");
    let narrower = listed("one") + "plan = \"other\"\n";
    let moved = listed("one") + "tenant = \"t\"\n";
    let ends = [
        (lesser, Code::PermissionDenied),
        (narrower, Code::Unauthenticated),
        (moved, Code::Unauthenticated),
    ];
    for (later, code) in ends {
        let guarded = Guarded::start().await;
        let mut owner = guarded.owner("").await;
        owner.plan(plan_request("p", &["a"])).await.unwrap();
        std::fs::write(guarded.path("tokens"), listed("one")).unwrap();
        let (mut watching, mut waiting) = (guarded.with("one").await, guarded.with("one").await);
        let mut frames = loop {
            if let Ok(frames) = watch(&mut watching).await {
                break frames;
            }
            tokio::task::yield_now().await;
        };
        let waits = tokio::spawn(async move {
            let minute = prost_types::Duration {
                seconds: 60,
                nanos: 0,
            };
            let reconcile = ReconcileRequest {
                plan_id: "p".into(),
                wait: Some(minute),
                ..Default::default()
            };
            waiting.reconcile(reconcile).await
        });
        // A role more, and another name, end nothing.
        let more = listed_for("one", "\"watch\", \"plan\"").replace("\"n\"", "\"m\"");
        std::fs::write(guarded.path("tokens"), more).unwrap();
        let mut sealing = guarded.with("one").await;
        let seal = |plan_id: &str| SealPlanRequest {
            plan_id: plan_id.into(),
            ..Default::default()
        };
        while sealing.seal_plan(seal("gone")).await.unwrap_err().code() != Code::NotFound {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        std::fs::write(guarded.path("tokens"), later).unwrap();
        assert_eq!(end_of(&mut frames).await.code(), code);
        let ended = waits.await.unwrap().unwrap_err().code();
        // One for another plan finds none of this name, if it is only let in now.
        assert!([code, Code::NotFound].contains(&ended), "{ended:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_key_is_taken_back_that_its_token_was_signed_with() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("").await;
    owner.plan(plan_request("p", &["a"])).await.unwrap();
    let mut frames = watch(&mut owner).await.unwrap();
    let (_, others) = identity::new_key("2").unwrap();
    std::fs::write(guarded.path("keys"), others).unwrap();
    assert_eq!(end_of(&mut frames).await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn who_is_listed_changes_without_a_restart_and_a_broken_list_changes_nothing() {
    let guarded = Guarded::start().await;
    let (mut one, mut two) = (guarded.with("one").await, guarded.with("two").await);
    let lets_in =
        async |client: &mut Client| client.list_plans(ListPlansRequest::default()).await.is_ok();
    assert!(!lets_in(&mut one).await);
    std::fs::write(guarded.path("tokens"), listed("one")).unwrap();
    while !lets_in(&mut one).await {
        tokio::task::yield_now().await;
    }
    std::fs::write(guarded.path("tokens"), "[[token").unwrap();
    assert!(lets_in(&mut one).await);
    std::fs::write(guarded.path("tokens"), listed("two")).unwrap();
    while !lets_in(&mut two).await {
        tokio::task::yield_now().await;
    }
    assert!(!lets_in(&mut one).await);
}

/// A plan stream that never comes to its commit, for as long as the sender is kept.
fn endless(
    plan_id: &str,
) -> (
    mpsc::Sender<PlanStreamRequest>,
    ReceiverStream<PlanStreamRequest>,
) {
    let header = PlanRequest {
        source: None,
        ..plan_request(plan_id, &[])
    };
    let (sender, stream) = mpsc::channel(4);
    for part in [Part::Header(header), Part::Items("[]".into())] {
        let part = Some(part);
        sender.try_send(PlanStreamRequest { part }).unwrap();
    }
    (sender, ReceiverStream::new(stream))
}

#[tokio::test]
async fn a_call_that_waits_ends_when_its_token_does_and_plans_nothing() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("").await;
    owner.plan(plan_request("p", &["a"])).await.unwrap();
    let grant = Grant {
        roles: Role::ALL.into(),
        ..Grant::default()
    };
    let short = Claims {
        exp: now() + 2,
        ..claims(grant)
    };
    let token = identity::issue(&short, Some("1"), guarded.key.as_bytes()).unwrap();
    let (mut planning, mut waiting) = (guarded.with(&token).await, guarded.with(&token).await);
    let (sender, parts) = endless("late");
    let wait = ReconcileRequest {
        plan_id: "p".into(),
        wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    let (planned, reconciled) = tokio::join!(planning.plan_stream(parts), waiting.reconcile(wait));
    for ended in [planned.map(drop), reconciled.map(drop)] {
        let expected = (
            Code::Unauthenticated,
            "UNAUTHENTICATED".into(),
            String::new(),
        );
        assert_eq!(refusal(&ended.unwrap_err()), expected);
    }
    drop(sender);
    let late = GetPlanRequest {
        plan_id: "late".into(),
        ..Default::default()
    };
    assert_eq!(
        owner.get_plan(late).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_tenant_has_its_share_of_plan_streams_and_leaves_places_to_others() {
    let guarded = Guarded::start().await;
    let (mut senders, mut answers) = (Vec::new(), Vec::new());
    // The default is 8.
    for _ in 0..9 {
        let (sender, parts) = endless("p");
        let mut client = guarded.owner("one").await;
        senders.push(sender);
        answers.push(Box::pin(async move { client.plan_stream(parts).await }));
    }
    let (refused, _, _others) = futures_util::future::select_all(answers).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "QUOTA_EXCEEDED");
    assert_eq!(info.metadata["limit"], "tenant_plan_streams_max");
    assert_eq!(info.metadata["value"], "8");
    let mut other = guarded.owner("other").await;
    let (sender, parts) = endless("p");
    // Of no item at all: the digest is that of the chunk.
    let part = Some(Part::Commit(PlanCommit {
        item_count: 0,
        digest: "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945".into(),
    }));
    sender.send(PlanStreamRequest { part }).await.unwrap();
    assert!(other.plan_stream(parts).await.unwrap().into_inner().created);
}

#[tokio::test]
async fn request_ids_of_a_token_for_a_plan_are_its_own() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    for plan_id in ["p", "secret"] {
        owner.plan(plan_request(plan_id, &["a"])).await.unwrap();
    }
    let mut bound = guarded.bound("p").await;
    let seal = |plan_id: &str, request_id: &str| SealPlanRequest {
        plan_id: plan_id.into(),
        request_id: request_id.into(),
        ..Default::default()
    };
    owner.seal_plan(seal("secret", "r")).await.unwrap();
    bound.seal_plan(seal("p", "r")).await.unwrap();
    bound.seal_plan(seal("p", "s")).await.unwrap();
    owner.seal_plan(seal("secret", "s")).await.unwrap();
    let other = CancelPlanRequest {
        plan_id: "p".into(),
        request_id: "r".into(),
        ..Default::default()
    };
    let reused = bound.cancel_plan(other).await.unwrap_err();
    assert_eq!(
        (refusal(&reused).1.as_str(), reused.message()),
        (
            "REQUEST_ID_REUSED",
            r#"request id "r" was used for another request"#
        )
    );
}

#[tokio::test]
async fn a_sandbox_has_so_many_producers_and_leaves_room_for_those_of_others() {
    let guarded = Guarded::start().await;
    let mut owner = guarded.owner("t").await;
    owner.plan(plan_request("p", &["a", "b"])).await.unwrap();
    let send = |task: &str, producer: &str| SubmitRecordsRequest {
        plan_id: "p".into(),
        records: vec![record(&format!(
            r#"{{"id":"{task}","status":"completed"}}"#
        ))],
        producer_id: producer.into(),
        first_offset: Some(0),
        ..Default::default()
    };
    let mut sandbox = guarded.sandbox("task-a").await;
    for nth in 1..=100 {
        let sent = sandbox.submit_records(send("task-a", &format!("{nth}")));
        assert_eq!(sent.await.unwrap().into_inner().committed_offset, Some(1));
    }
    let refused = sandbox.submit_records(send("task-a", "101")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["limit"], "producers_per_task_max");
    assert_eq!(info.metadata["value"], "100");
    // What is known goes on, and so do all others.
    let again = sandbox.submit_records(send("task-a", "100")).await;
    assert!(again.is_ok());
    let mut sibling = guarded.sandbox("task-b").await;
    assert!(sibling.submit_records(send("task-b", "101")).await.is_ok());
    assert!(owner.submit_records(send("task-a", "101")).await.is_ok());
}
