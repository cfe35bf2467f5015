//! What must hold of any bytes: one function for each place where bytes of others come in. `fuzz_targets` run them with
//! coverage, `tests/spec/fuzz.rs` over the committed corpus, mutated for a bounded time.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use fanout::config::Config;
use fanout::coordinator::{self, Clock, Coordinator};
use fanout::json::{self, Limits, Value};
use fanout::plan::{self, Input};
use fanout::proto::fanout_service_server::FanoutService;
use fanout::proto::records::{Known, RecordsMessage};
use fanout::proto::{
    CancelPlanRequest, DiscardRecordRequest, ExplainTaskRequest, GetPlanRequest, GetTaskRequest,
    ListPlansRequest, ListQuarantineRequest, ListTasksRequest, PlanRequest, ReconcileRequest,
    RematchRecordRequest, SubmitRecordRequest, WatchPlanRequest,
};
use fanout::reconcile::record::{self, Form, ReadRecord, Rewrite, TypedFields};
use fanout::reconcile::{self, Settings};
use fanout::service::Fanout;
use fanout::{engine, journal};
use prost::Message;
use tonic::{Code, Request, Status};

/// What must hold of some bytes.
pub type Check = fn(&[u8]);

/// Every check, by its name.
pub const ALL: [(&str, Check); 7] = [
    ("config", config),
    ("template", template),
    ("record", record),
    ("message", message),
    ("request", request),
    ("cursor", cursor),
    ("page_token", page_token),
];

fn small() -> plan::Limits {
    plan::Limits {
        items: 1_000,
        tasks: 1_000,
        template_text_bytes: 1 << 20,
    }
}

/// A config plans or is refused; what it plans prints as a document that reads as the same, written either way.
pub fn config(data: &[u8]) {
    let Ok(Value::Object(config)) = json::parse(data, Limits::default()) else {
        return;
    };
    let input = || Input {
        config: config.clone(),
        items: None,
        groups: None,
    };
    let Ok(planned) = plan::plan(input(), &small()) else {
        return;
    };
    let document = planned.document();
    let text = json::pretty(&document);
    let read = json::parse(
        text.as_bytes(),
        Limits {
            depth: 4_096,
            number_bytes: usize::MAX,
        },
    );
    assert_eq!(
        read.as_ref().map(json::compact),
        Ok(json::compact(&document))
    );
    // Or is refused: what is said about matching is read then.
    drop(reconcile::reconcile(&config, &document, Vec::new()));
}

/// A template and an item, on a line each: rendered or refused, and never longer than it may be.
pub fn template(data: &[u8]) {
    let middle = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (template, item) = data.split_at(middle);
    let parse = |text: &[u8]| match json::parse(text, Limits::default()) {
        Ok(value) => Some(value),
        Err(_) => std::str::from_utf8(text).ok().map(Value::string),
    };
    let (Some(template), Some(item)) = (parse(template), parse(item)) else {
        return;
    };
    let mut config = json::Object::default();
    config.set("task_request_template", template);
    let input = Input {
        config,
        items: Some(Value::array(vec![item.clone(), item])),
        groups: None,
    };
    let limits = plan::Limits {
        template_text_bytes: 10_000,
        ..small()
    };
    if let Ok(planned) = plan::plan(input, &limits) {
        let text = json::compact(&planned.document());
        assert!(text.len() < 10_000_000, "{} bytes", text.len());
    }
}

/// A record's body is refused, or becomes a document that is one. The lines of the data, one record after the other, are read
/// as each is alone.
pub fn record(data: &[u8]) {
    let settings = Settings::read(&json::Object::default()).expect("an empty config is one");
    let (typed, limits) = (TypedFields::default(), Limits::default());
    let mut form = Form::default();
    let whole_and_lines = std::iter::once(data).chain(data.split(|byte| *byte == b'\n'));
    for body in whole_and_lines {
        let alone = record::read(typed, body, Rewrite::Reconciled, limits, &settings);
        check_document(body, &alone);
        let mut document = String::new();
        let after = record::read_into(
            &mut document,
            &mut form,
            typed,
            body,
            Rewrite::Reconciled,
            limits,
            &settings,
        );
        let after = after.map(|read| ReadRecord {
            document: document.into_bytes().into(),
            ..read
        });
        assert_eq!(after, alone);
    }
}

fn check_document(body: &[u8], read: &Result<ReadRecord<'_>, json::Error>) {
    match (json::parse(body, Limits::default()), read) {
        (Ok(Value::Object(_)), Ok(read)) => {
            let limits = Limits {
                depth: 1_024,
                ..Limits::default()
            };
            let document = &read.document;
            let reread = json::parse(document, limits);
            assert!(matches!(reread, Ok(Value::Object(_))), "{document:?}");
        }
        (Ok(Value::Object(_)), Err(error)) => panic!("refused: {error}"),
        (Ok(_), Ok(_)) if !body.is_empty() => panic!("only an object is a record"),
        (Err(_), Ok(_)) if !body.is_empty() => panic!("what is no document is no record"),
        _ => {}
    }
}

/// A message of records reads as the generated code reads it, or is refused.
pub fn message(data: &[u8]) {
    let message = RecordsMessage::of(Bytes::copy_from_slice(data));
    let mut records = Vec::new();
    let read = message.read(Known::default(), &mut records);
    if let Ok(decoded) = SubmitRecordRequest::decode(data)
        && let Ok(header) = read
    {
        assert_eq!(header.plan_id, decoded.plan_id);
        assert_eq!(header.producer_id, decoded.producer_id);
        assert_eq!(header.first_offset, decoded.first_offset);
        let bodies = records.iter().map(|record| record.body);
        assert!(bodies.eq(decoded.records.iter().map(|record| &record.body[..])));
    }
}

/// A service with a plan `p` of the tasks `task-a` and `task-b`, in a runtime of its own.
struct Served {
    service: Fanout,
    runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new() -> Self {
        let mut config = Config::default();
        config.limits.message_bytes_max = 1 << 20;
        let limits = coordinator::Limits {
            plan: small(),
            engine: engine::Limits::default(),
            task_request_bytes: 1 << 20,
            one_task_request_bytes: 1 << 20,
            id_bytes: 1_024,
            plans: 100,
            tenant_plans: u64::MAX,
            tenant_tasks: u64::MAX,
            tenant_bytes: u64::MAX,
            memory_bytes: u64::MAX,
            watchers_per_plan: 10,
            request_ids: 100,
            tenant_request_ids: usize::MAX,
            request_id_life: std::time::Duration::from_secs(1),
            deadline: std::time::Duration::MAX,
            retention: std::time::Duration::from_secs(1),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("there is a runtime");
        let service = runtime.block_on(async {
            let journal = Arc::new(journal::Memory::default());
            let coordinator = Coordinator::new(journal, Clock::system(), limits);
            let service = Fanout::new(Arc::new(coordinator), Arc::new(config));
            let config = br#"{"items":[{"k":"a"},{"k":"b"}],"group_by":["k"],"task_request_template":{"id":"task-{{group.key}}"}}"#;
            let request = PlanRequest {
                plan_id: "p".into(),
                config: Bytes::from_static(config),
                ..Default::default()
            };
            service.plan(Request::new(request)).await.expect("it is planned");
            service
        });
        Self { service, runtime }
    }
}

/// Asks the service of this thread; what it answers is an answer, or a refusal that says why.
fn ask<T>(ask: impl AsyncFnOnce(&Fanout) -> Result<T, Status>) {
    thread_local! {
        static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
    }
    SERVED.with_borrow_mut(|served| {
        let Served { service, runtime } = served.get_or_insert_with(Served::new);
        if let Err(refused) = runtime.block_on(ask(service)) {
            assert!(
                !matches!(
                    refused.code(),
                    Code::Internal | Code::Unknown | Code::DataLoss
                ),
                "{refused}"
            );
            assert!(
                refused.message().len() <= 1_100,
                "{} bytes",
                refused.message().len()
            );
        }
    });
}

/// A request of any method is answered, or refused with a reason.
pub fn request(data: &[u8]) {
    let Some((method, message)) = data.split_first() else {
        return;
    };
    macro_rules! methods {
        ($($nth:literal => $method:ident($request:ty)),* $(,)?) => {
            match method % 12 {
                $($nth => if let Ok(request) = <$request>::decode(message) {
                    ask(async |service| service.$method(Request::new(request)).await.map(drop));
                })*
                _ => {
                    let message = RecordsMessage::of(Bytes::copy_from_slice(message));
                    ask(async |service| service.submit_records(Request::new(message)).await.map(drop));
                }
            }
        };
    }
    methods! {
        0 => plan(PlanRequest),
        1 => get_plan(GetPlanRequest),
        2 => list_plans(ListPlansRequest),
        3 => get_task(GetTaskRequest),
        4 => list_tasks(ListTasksRequest),
        5 => explain_task(ExplainTaskRequest),
        6 => list_quarantine(ListQuarantineRequest),
        7 => rematch_record(RematchRecordRequest),
        8 => discard_record(DiscardRecordRequest),
        9 => cancel_plan(CancelPlanRequest),
        10 => watch_plan(WatchPlanRequest),
    }
}

/// A cursor is one of the plan, or is refused.
pub fn cursor(data: &[u8]) {
    let Ok(after) = std::str::from_utf8(data) else {
        return;
    };
    let request = WatchPlanRequest {
        plan_id: "p".into(),
        after: after.into(),
        ..Default::default()
    };
    ask(async |service| service.watch_plan(Request::new(request)).await.map(drop));
}

/// A page token begins a page, or is refused.
pub fn page_token(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else {
        return;
    };
    let (plan_id, page_token) = ("p".to_owned(), token.to_owned());
    ask(async |service| {
        let list = ListPlansRequest {
            page_token: page_token.clone(),
            ..Default::default()
        };
        drop(service.list_plans(Request::new(list)).await);
        let tasks = ListTasksRequest {
            plan_id: plan_id.clone(),
            page_token: page_token.clone(),
            ..Default::default()
        };
        drop(service.list_tasks(Request::new(tasks)).await);
        let quarantine = ListQuarantineRequest {
            plan_id: plan_id.clone(),
            page_token: page_token.clone(),
            ..Default::default()
        };
        drop(service.list_quarantine(Request::new(quarantine)).await);
        let get = GetPlanRequest {
            plan_id: plan_id.clone(),
            page_token: page_token.clone(),
            ..Default::default()
        };
        drop(service.get_plan(Request::new(get)).await);
        let page = ReconcileRequest {
            plan_id,
            page_token,
            page_size: 1,
            ..Default::default()
        };
        service.reconcile(Request::new(page)).await.map(drop)
    });
}
