//! Traces, with a collector of the test's own: one record is followed from an executor's span through its submit to a
//! watcher, and a plan's trace reaches whoever runs its tasks.

use std::collections::BTreeMap;

use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{GetPlanRequest, PlanRequest, SubmitRecordsRequest, WatchPlanRequest};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::harness::{
    Authority, Certified, PATIENCE, Program, Served, TestServer, directory, fanout, plan_request,
    record,
};

/// Spans of callers: who plans, who executes, who watches; each in a trace of its own.
const PLANNER: &str = "00-11111111111111111111111111111111-aaaaaaaaaaaaaaaa-01";
const EXECUTOR: &str = "00-22222222222222222222222222222222-bbbbbbbbbbbbbbbb-01";
const WATCHER: &str = "00-33333333333333333333333333333333-cccccccccccccccc-01";

/// A collector.
struct Collector {
    runtime: Runtime,
    endpoint: String,
    spans: mpsc::Receiver<Span>,
}

struct Receiver(mpsc::Sender<Span>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|pair| pair.key == "service.name");
            let name = name.unwrap().value.clone().unwrap().value;
            assert_eq!(name, Some(Value::StringValue("fanout".into())));
            for span in of_resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                let _ = self.0.send(span).await;
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn start() -> Self {
        Self::with(None)
    }

    /// One that shows this certificate, if it shows any.
    fn with(certified: Option<&Certified>) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let scheme = certified.map_or("http", |_| "https");
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (sender, spans) = mpsc::channel(1_024);
        let service = TraceServiceServer::new(Receiver(sender));
        let mut server = tonic::transport::Server::builder();
        if let Some(Certified { certificate, key }) = certified {
            let identity = Identity::from_pem(certificate, key);
            let tls = ServerTlsConfig::new().identity(identity);
            server = server.tls_config(tls).unwrap();
        }
        runtime.spawn(
            server
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            runtime,
            endpoint,
            spans,
        }
    }

    /// The next spans, by name, until all of these have come.
    fn spans(&mut self, names: &[&str]) -> BTreeMap<String, Span> {
        let mut found = BTreeMap::new();
        self.runtime.block_on(async {
            while !names.iter().all(|name| found.contains_key(*name)) {
                let next = tokio::time::timeout(PATIENCE, self.spans.recv()).await;
                let Ok(Some(span)) = next else {
                    panic!("{names:?} have not all come, but {:?}", found.keys());
                };
                found.insert(span.name.clone(), span);
            }
        });
        found
    }
}

fn with<T>(traceparent: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = traceparent.parse().unwrap();
    request.metadata_mut().insert("traceparent", value);
    request
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span as others name it.
fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

/// What a span follows from, as others name it.
fn parent(span: &Span) -> String {
    format!(
        "00-{}-{}-01",
        hex(&span.trace_id),
        hex(&span.parent_span_id)
    )
}

const PLAN: &str = "fanout.v1.FanoutService/Plan";
const SUBMIT: &str = "fanout.v1.FanoutService/SubmitRecords";
const WATCH: &str = "fanout.v1.FanoutService/WatchPlan";
const APPLY: &str = "apply records";
const SHOW: &str = "show results";

#[test]
fn one_record_is_followed_from_its_executor_to_a_watcher() {
    let mut collector = Collector::start();
    let server = Served::start(&["--otlp-endpoint", &collector.endpoint]);
    let plan = server.call(async |mut client| {
        let planned = client.plan(with(PLANNER, plan_request("p", &["a"]))).await;
        let plan = planned.unwrap().into_inner().plan.unwrap();
        let watch = WatchPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        let watched = client.watch_plan(with(WATCHER, watch)).await;
        let mut frames = watched.unwrap().into_inner();
        let submit = SubmitRecordsRequest {
            plan_id: "p".into(),
            records: vec![record(r#"{"id":"task-a"}"#)],
            ..Default::default()
        };
        client.submit_records(with(EXECUTOR, submit)).await.unwrap();
        while let Some(frame) = frames.message().await.unwrap() {
            if let Some(Frame::End(_)) = frame.frame {
                break;
            }
        }
        assert!(frames.message().await.unwrap().is_none());
        plan
    });
    server.stop();
    let spans = collector.spans(&[PLAN, SUBMIT, WATCH, APPLY, SHOW]);

    // The executor's span, the call, the change, and what the watcher was shown are one trace.
    assert_eq!(parent(&spans[SUBMIT]), EXECUTOR);
    assert_eq!(parent(&spans[APPLY]), traceparent(&spans[SUBMIT]));
    assert_eq!(parent(&spans[SHOW]), traceparent(&spans[APPLY]));
    // It leads to the watcher's.
    assert_eq!(parent(&spans[WATCH]), WATCHER);
    let [link] = &spans[SHOW].links[..] else {
        panic!("{:?}", spans[SHOW].links);
    };
    assert_eq!(link.trace_id, spans[WATCH].trace_id);
    assert_eq!(link.span_id, spans[WATCH].span_id);
    // What the plan hands on is the call that made it.
    assert_eq!(parent(&spans[PLAN]), PLANNER);
    assert_eq!(plan.traceparent, traceparent(&spans[PLAN]));
}

#[test]
fn spans_go_over_tls_to_a_collector_that_the_authority_vouches_for() {
    let authority = Authority::new("telemetry");
    let mut collector = Collector::with(Some(&authority.server()));
    let files = directory(&[("ca.pem", &authority.pem())]);
    let ca = files.path().join("ca.pem");
    let sends = [
        "--otlp-endpoint",
        &collector.endpoint,
        "--otlp-ca",
        ca.to_str().unwrap(),
    ];
    let server = Served::start(&sends);
    server.plan(plan_request("p", &["a"]));
    server.stop();
    collector.spans(&[PLAN]);
}

#[test]
fn a_record_stream_is_a_span_with_one_for_each_change() {
    let mut collector = Collector::start();
    let server = Served::start(&["--otlp-endpoint", &collector.endpoint]);
    server.plan(plan_request("p", &["a", "b"]));
    let files = directory(&[("r.jsonl", "{\"id\":\"task-a\"}\n")]);
    let mut submit = server.client(&["submit", "--plan-id", "p", "r.jsonl"]);
    let submit = submit
        .current_dir(files.path())
        .env("TRACEPARENT", EXECUTOR);
    assert_eq!(Program::start(submit).finish().code, 0);
    server.stop();
    let stream = "fanout.v1.FanoutService/SubmitRecord";
    let spans = collector.spans(&[stream, APPLY]);
    assert_eq!(parent(&spans[stream]), EXECUTOR);
    assert_eq!(parent(&spans[APPLY]), traceparent(&spans[stream]));
}

#[tokio::test]
async fn a_server_that_sends_no_spans_hands_on_what_the_plans_caller_said() {
    let mut server = TestServer::start().await;
    for (plan_id, said, handed_on) in [
        ("traced", PLANNER, PLANNER),
        ("nonsense", "00-nonsense", ""),
    ] {
        let request: PlanRequest = plan_request(plan_id, &["a"]);
        let planned = server.plan(with(said, request)).await;
        let plan = planned.unwrap().into_inner().plan.unwrap();
        assert_eq!(plan.traceparent, handed_on);
        let request = GetPlanRequest {
            plan_id: plan_id.into(),
            ..Default::default()
        };
        let plan = server.get_plan(request).await.unwrap().into_inner().plan;
        assert_eq!(plan.unwrap().traceparent, handed_on);
    }
    assert_eq!(server.register("untraced", &["a"]).await.traceparent, "");
}

#[test]
fn a_plan_on_disk_keeps_what_it_hands_on() {
    let directory = tempfile::tempdir().unwrap();
    let data = ["--data-dir", directory.path().to_str().unwrap()];
    let server = Served::start(&data);
    server.call(async |mut client| {
        let planned = client.plan(with(PLANNER, plan_request("p", &["a"]))).await;
        planned.unwrap();
    });
    server.stop();
    let server = Served::start(&data);
    let said = server.call(async |mut client| {
        let request = GetPlanRequest {
            plan_id: "p".into(),
            ..Default::default()
        };
        loop {
            match client.get_plan(request.clone()).await {
                Ok(answer) => break answer.into_inner().plan.unwrap().traceparent,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    });
    assert_eq!(said, PLANNER);
}

#[test]
fn run_hands_the_plans_trace_on_to_its_executors() {
    let files = directory(&[
        (
            "c.json",
            r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#,
        ),
        ("i.json", r#"[{"k":"a"}]"#),
    ]);
    let mut run = fanout();
    run.args([
        "run", "--config", "c.json", "--items", "i.json", "--output", "out.json", "--",
    ]);
    run.args([
        "sh",
        "-c",
        r#"echo "{\"success\":true,\"traceparent\":\"$TRACEPARENT\"}""#,
    ]);
    let run = run.current_dir(files.path()).env("TRACEPARENT", PLANNER);
    let said = Program::start(run).finish();
    assert_eq!(said.code, 0, "{}", said.stderr);
    let result = std::fs::read_to_string(files.path().join("out.json")).unwrap();
    assert!(
        result.contains(&format!("\"traceparent\": \"{PLANNER}\"")),
        "{result}"
    );
}
