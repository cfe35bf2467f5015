//! Traces: a span for each call of the service, one for each change that records make, and one for each time that what a
//! change brought is shown to a watcher. They go to an OTLP collector over gRPC; without one there are none, and a call
//! only carries what its caller said.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::future::Either;
use opentelemetry::trace::{
    FutureExt, Link, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider, WithContext,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tonic::codegen::http::{HeaderMap, Uri};

use super::TraceContext;
use crate::engine::{Disposition, Receipt};

/// Longest `traceparent` that is looked at, in bytes: that of a later version may be longer than ours.
const TRACEPARENT_BYTES_MAX: usize = 128;
/// Changes that are remembered for watchers; of those before, nothing is told of who was shown them.
const CHANGES_MAX: usize = 1_024;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static CHANGES: Mutex<VecDeque<Noted>> = Mutex::new(VecDeque::new());

/// A change that brought events which watchers will be shown.
struct Noted {
    plan_id: Arc<str>,
    first: u64,
    last: u64,
    context: TraceContext,
}

/// What sends spans.
pub struct Sending(SdkTracerProvider);

impl Sending {
    /// Sends what is there, and ends. Blocks for a few seconds at most.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Looks whether this can be a collector's URL.
///
/// # Errors
/// It cannot. The error does not say the URL: there may be a password in it.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let url = endpoint.parse::<Uri>().ok();
    let url = url.filter(|url| url.host().is_some());
    match url.as_ref().and_then(Uri::scheme_str) {
        Some("http" | "https") => Ok(()),
        _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

/// Begins to send spans to the collector at this URL; over TLS, one of these authorities (PEM; without any, one of the
/// system's) has to vouch for it. How many are kept of those that nobody else began is for
/// `OTEL_TRACES_SAMPLER` to say (default: all), as the other standard variables are heard.
///
/// # Errors
/// The URL cannot be used, or spans are sent already.
pub fn start(endpoint: &str, authorities: Option<&str>) -> Result<Sending, String> {
    check_endpoint(endpoint)?;
    let url = endpoint.parse::<Uri>().ok();
    let is_private = url.as_ref().and_then(Uri::scheme_str) == Some("https");
    let exporter = SpanExporter::builder().with_tonic();
    let exporter = match authorities {
        _ if !is_private => exporter,
        None => exporter.with_tls_config(ClientTlsConfig::new().with_native_roots()),
        Some(authorities) => {
            let trusted = Certificate::from_pem(authorities);
            exporter.with_tls_config(ClientTlsConfig::new().ca_certificate(trusted))
        }
    };
    let exporter = exporter.with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("fanout");
    }
    let version = KeyValue::new("service.version", super::VERSION_AND_COMMIT);
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.with_attribute(version).build())
        .build();
    let tracer = provider.tracer("fanout");
    TRACER
        .set(tracer)
        .map_err(|_| "spans are sent already".to_owned())?;
    Ok(Sending(provider))
}

/// What a call carries: its span, or what its caller said if no spans are sent, or nothing.
pub(super) fn begin_call(method: &'static str, metadata: &HeaderMap) -> Option<Context> {
    let caller = caller(metadata);
    let parent = || match caller {
        Some(caller) => Context::new().with_remote_span_context(caller.remote()),
        None => Context::new(),
    };
    let Some(tracer) = TRACER.get() else {
        return caller.map(|_| parent());
    };
    let parent = parent();
    let name = Cow::Owned(format!("fanout.v1.FanoutService/{method}"));
    let attributes = [
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", "fanout.v1.FanoutService"),
        KeyValue::new("rpc.method", method),
    ];
    let span = SpanBuilder::from_name(name)
        .with_kind(SpanKind::Server)
        .with_attributes(attributes)
        .start_with_context(tracer, &parent);
    Some(parent.with_span(span))
}

/// The caller's span, if it says one that can be understood.
fn caller(metadata: &HeaderMap) -> Option<TraceContext> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    if text.len() > TRACEPARENT_BYTES_MAX {
        return None;
    }
    text.parse().ok()
}

pub(super) fn end_call(context: &Context, code: &'static str, number: usize) {
    let span = context.span();
    let number = i64::try_from(number).unwrap_or_default();
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", number));
    // What the server is to blame for; the rest is for the caller to judge.
    if matches!(
        code,
        "UNKNOWN"
            | "DEADLINE_EXCEEDED"
            | "UNIMPLEMENTED"
            | "INTERNAL"
            | "UNAVAILABLE"
            | "DATA_LOSS"
    ) {
        span.set_status(Status::error(code));
    }
    span.end();
}

/// What is done now, is done on behalf of this.
fn current() -> Option<Context> {
    let context = Context::current();
    context.has_active_span().then_some(context)
}

/// Does on behalf of `context` what the future does.
pub fn within<F: Future>(context: Option<&Context>, future: F) -> Either<WithContext<F>, F> {
    match context {
        Some(context) => Either::Left(future.with_context(context.clone())),
        None => Either::Right(future),
    }
}

/// Does what the future does on behalf of the call that this is done for, also on a task of its own.
pub fn carried<F: Future>(future: F) -> Either<WithContext<F>, F> {
    within(current().as_ref(), future)
}

/// The `traceparent` for what follows from what is done now; empty if there is none.
#[must_use]
pub fn traceparent() -> String {
    let context = current();
    let context = context.and_then(|context| TraceContext::of(context.span().span_context()));
    context
        .map(|context| context.to_string())
        .unwrap_or_default()
}

/// Begins to apply records to a plan; nothing if no spans are sent, or not of the call that this is done for.
#[must_use]
pub fn begin_change(plan_id: &str) -> Option<Context> {
    let tracer = TRACER.get()?;
    let parent = current().filter(|parent| parent.span().is_recording())?;
    let span = SpanBuilder::from_name("apply records")
        .with_attributes([KeyValue::new("fanout.plan_id", plan_id.to_owned())])
        .start_with_context(tracer, &parent);
    Some(parent.with_span(span))
}

/// The records have these receipts.
pub fn end_change(change: &Context, receipts: &[Receipt]) {
    let is_applied = |receipt: &&Receipt| {
        matches!(
            receipt.disposition,
            Disposition::Accepted | Disposition::SupersededPrevious
        )
    };
    let applied = receipts.iter().filter(is_applied).count();
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let span = change.span();
    span.set_attribute(KeyValue::new("fanout.records", number(receipts.len())));
    span.set_attribute(KeyValue::new("fanout.records_applied", number(applied)));
    span.end();
}

/// What is done now brings a plan the events from `first` to `last`. Said before anybody is shown them.
pub fn brings(plan_id: &Arc<str>, first: u64, last: u64) {
    if TRACER.get().is_none() {
        return;
    }
    let context = current().filter(|context| context.span().is_recording());
    let context = context.and_then(|context| TraceContext::of(context.span().span_context()));
    let mut changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    // What the journal did not take, or of an earlier plan of the same name, was not brought.
    changes.retain(|change| change.last < first || change.plan_id != *plan_id);
    let Some(context) = context else { return };
    if changes.len() >= CHANGES_MAX {
        changes.pop_front();
    }
    changes.push_back(Noted {
        plan_id: Arc::clone(plan_id),
        first,
        last,
        context,
    });
}

/// A watcher is shown the events after `after` up to `last`: a span in the trace of each change that brought one of them,
/// with a link to the watcher's call.
pub fn shown(plan_id: &str, after: u64, last: u64) {
    let Some(tracer) = TRACER.get() else {
        return;
    };
    let brought: Vec<TraceContext> = {
        let changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let brought = changes.iter().filter(|change| {
            change.first <= last && change.last > after && *change.plan_id == *plan_id
        });
        brought.map(|change| change.context).collect()
    };
    let watcher = current().map(|context| context.span().span_context().clone());
    for change in brought {
        let parent = Context::new().with_remote_span_context(change.remote());
        let links = watcher
            .iter()
            .map(|watcher| Link::with_context(watcher.clone()));
        SpanBuilder::from_name("show results")
            .with_kind(SpanKind::Producer)
            .with_attributes([KeyValue::new("fanout.plan_id", plan_id.to_owned())])
            .with_links(links.collect())
            .start_with_context(tracer, &parent);
    }
}
