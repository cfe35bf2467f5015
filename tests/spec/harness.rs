//! A server for a test: the real one, in this process, on a free port; and the real program for the others.

mod certificates;
mod nats_server;
mod program;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use fanout::config::Config;
use fanout::coordinator::PlanCommand;
use fanout::engine::Completion;
use fanout::journal::{self, Journal};
use fanout::json::{self, Value};
use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::plan_request::Source;
use fanout::proto::{
    Plan, PlanRequest, Receipt, Record, SubmitRecordRequest, SubmitRecordResponse,
    SubmitRecordsRequest,
};
use fanout::{coordinator, engine, plan, server};
use prost::bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

pub use certificates::{Authority, Certified, https};
pub use nats_server::NatsServer;
pub use program::*;

pub type Client = FanoutServiceClient<Channel>;

/// A running server and a client of it.
pub struct TestServer {
    pub address: String,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with other settings than the defaults.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(Arc::new(journal::Memory::default()), change).await
    }

    /// Starts a server that keeps its plans in this journal.
    pub async fn over(journal: Arc<dyn Journal>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            let run = server::run_with(journal, listener, config, shutdown);
            run.await.unwrap();
        });
        let client = Client::connect(format!("http://{address}")).await.unwrap();
        let client = client
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        Self {
            address,
            client,
            stop: Some(stop),
        }
    }

    /// A client on a connection of its own.
    pub async fn connect(&self) -> Client {
        Client::connect(format!("http://{}", self.address))
            .await
            .unwrap()
    }

    /// Plans one task for each group key, `task-<key>`.
    pub async fn register(&mut self, plan_id: &str, group_keys: &[&str]) -> Plan {
        self.register_with(plan_id, group_keys, |_| {}).await
    }

    pub async fn register_with(
        &mut self,
        plan_id: &str,
        group_keys: &[&str],
        change: impl FnOnce(&mut PlanRequest),
    ) -> Plan {
        let mut request = plan_request(plan_id, group_keys);
        change(&mut request);
        self.client
            .plan(request)
            .await
            .unwrap()
            .into_inner()
            .plan
            .unwrap()
    }

    /// Registers the plan `p` of tasks with these ids, `task-<key>`, whose group key is `alike`.
    pub async fn register_alike(&mut self, ids: &[String]) {
        let keys: Vec<_> = ids.iter().map(|id| &id["task-".len()..]).collect();
        let config = config_with_group_key("alike");
        self.register_with("p", &keys, |request| request.config = config)
            .await;
    }

    /// Submits records in one call.
    pub async fn submit(&mut self, plan_id: &str, records: Vec<Record>) -> Vec<Receipt> {
        let request = SubmitRecordsRequest {
            plan_id: plan_id.into(),
            records,
            ..Default::default()
        };
        self.client
            .submit_records(request)
            .await
            .unwrap()
            .into_inner()
            .receipts
    }

    /// Opens a record stream.
    pub async fn open(&mut self) -> RecordStream {
        let (requests, stream) = mpsc::channel(16);
        let responses = self
            .client
            .submit_record(ReceiverStream::new(stream))
            .await
            .unwrap()
            .into_inner();
        RecordStream {
            requests: Some(requests),
            responses,
        }
    }

    /// Asks the server to end.
    pub fn begin_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Deref for TestServer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for TestServer {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Both ends of a record stream.
pub struct RecordStream {
    pub requests: Option<mpsc::Sender<SubmitRecordRequest>>,
    pub responses: Streaming<SubmitRecordResponse>,
}

impl RecordStream {
    pub async fn send(&self, plan_id: &str, records: Vec<Record>) {
        let request = SubmitRecordRequest {
            plan_id: plan_id.into(),
            records,
            ..Default::default()
        };
        self.send_request(request).await;
    }

    pub async fn send_request(&self, request: SubmitRecordRequest) {
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Option<SubmitRecordResponse>, Status> {
        self.responses.message().await
    }

    pub fn half_close(&mut self) {
        self.requests = None;
    }
}

/// What a coordinator without a server is held to: nothing but one plan with one watcher.
pub fn coordinator_limits() -> coordinator::Limits {
    coordinator::Limits {
        plan: plan::Limits::default(),
        engine: engine::Limits::default(),
        task_request_bytes: usize::MAX,
        one_task_request_bytes: usize::MAX,
        id_bytes: usize::MAX,
        plans: 1,
        tenant_plans: u64::MAX,
        tenant_tasks: u64::MAX,
        tenant_bytes: u64::MAX,
        memory_bytes: u64::MAX,
        watchers_per_plan: 1,
        request_ids: 1,
        tenant_request_ids: usize::MAX,
        request_id_life: Duration::from_secs(1),
        deadline: Duration::MAX,
        retention: Duration::from_secs(60),
    }
}

/// Registers a plan of this config, for a coordinator without a server.
pub fn plan_command(plan_id: &str, config: &Value, completion: Completion) -> PlanCommand {
    PlanCommand {
        tenant: Arc::default(),
        request_id: String::new(),
        plan_id: plan_id.into(),
        config: config.as_object().unwrap().clone(),
        source: coordinator::Source::Config,
        completion,
        deadline: None,
        retention: None,
        labels: BTreeMap::new(),
        validate_only: false,
        document_bytes_max: 0,
    }
}

pub fn plan_request(plan_id: &str, group_keys: &[&str]) -> PlanRequest {
    let items: Vec<Value> = group_keys
        .iter()
        .map(|key| parse(&format!("{{\"k\":{}}}", json::compact(&(*key).into()))))
        .collect();
    let config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#;
    PlanRequest {
        plan_id: plan_id.into(),
        config: config.into(),
        source: Some(Source::Items(json::compact(&Value::array(items)).into())),
        ..Default::default()
    }
}

/// A config of tasks `task-<key>` with another group key.
pub fn config_with_group_key(group_key: &str) -> Bytes {
    let template = r#"{"id":"task-{{group.key}}","group_key":"{{config.other}}"}"#;
    let config = format!(
        r#"{{"group_key_path":"k","other":"{group_key}","task_request_template":{template}}}"#
    );
    config.into()
}

/// The ids of so many tasks, `task-<number>`, of 1,000 bytes each.
pub fn long_ids(tasks: usize) -> Vec<String> {
    let ids = (0..tasks).map(|n| format!("task-{n:0>995}"));
    ids.collect()
}

/// A result record with only a body.
pub fn record(body: &str) -> Record {
    Record {
        body: body.to_owned().into(),
        ..Default::default()
    }
}

pub fn parse(text: &str) -> Value {
    json::parse(text.as_bytes(), json::Limits::default()).unwrap()
}

pub fn document(bytes: &[u8]) -> Value {
    parse(std::str::from_utf8(bytes).unwrap())
}

/// What a caller reads of a refusal: code, reason, field.
pub fn refusal(status: &Status) -> (Code, String, String) {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no error info: {status:?}"));
    assert_eq!(info.domain, "fanout.v1", "{status:?}");
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    let field = violations
        .first()
        .map(|violation| violation.field.clone())
        .unwrap_or_default();
    (status.code(), info.reason.clone(), field)
}
