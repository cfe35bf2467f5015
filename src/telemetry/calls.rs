//! One call, from its beginning to its end: counted by method and code, its stream counted while it is open, its span.

use opentelemetry::{Context, ContextGuard};
use tonic::codegen::http::HeaderMap;

use super::metrics::Counter;
use super::traces;

/// The methods that are counted by name. What else was asked for is counted together.
pub(super) const METHODS: [&str; 23] = [
    "Plan",
    "PlanStream",
    "SubmitRecord",
    "SubmitRecords",
    "Reconcile",
    "WatchPlan",
    "GetPlan",
    "ListPlans",
    "GetTask",
    "ListTasks",
    "ExplainTask",
    "ListQuarantine",
    "RematchRecord",
    "DiscardRecord",
    "SealPlan",
    "CancelPlan",
    "DeletePlan",
    "Health/Check",
    "Health/List",
    "Health/Watch",
    "ServerReflection/v1",
    "ServerReflection/v1alpha",
    "other",
];
const SERVICE: &str = "/fanout.v1.FanoutService/";
/// How many of the methods are of the service.
const OWN: usize = 17;
const OTHER: usize = METHODS.len() - 1;

/// gRPC's codes; the position of one is its number.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const CANCELLED: usize = 1;
const UNKNOWN: usize = 2;

/// Kinds of streams, each with its method.
pub(super) const STREAMS: [(&str, &str); 4] = [
    ("record", "SubmitRecord"),
    ("watch", "WatchPlan"),
    ("plan", "PlanStream"),
    ("health", "Health/Watch"),
];

pub(super) static ENDED: [[Counter; CODES.len()]; METHODS.len()] =
    [const { [const { Counter::new() }; CODES.len()] }; METHODS.len()];
pub(super) static OPEN: [Gauge; STREAMS.len()] = [const { Gauge::new() }; STREAMS.len()];

/// How many there are now.
pub(super) struct Gauge {
    begun: Counter,
    ended: Counter,
}

impl Gauge {
    const fn new() -> Self {
        Self {
            begun: Counter::new(),
            ended: Counter::new(),
        }
    }

    pub(super) fn get(&self) -> u64 {
        // In this order what ends meanwhile is still there.
        let ended = self.ended.get();
        self.begun.get().saturating_sub(ended)
    }
}

/// A call. Dropped before its end is known, it counts as cancelled: its client has gone away.
pub struct Call {
    method: usize,
    stream: Option<usize>,
    /// Its span, or what it was told of its caller's.
    context: Option<Context>,
    is_over: bool,
}

impl Call {
    /// A call of the method at this path begins, with this metadata.
    #[must_use]
    pub fn begin(path: &str, metadata: &HeaderMap) -> Self {
        let method = method(path);
        let name = METHODS[method];
        let stream = STREAMS.iter().position(|(_, streaming)| *streaming == name);
        if let Some(stream) = stream {
            OPEN[stream].begun.add(1);
        }
        let context = (method < OWN).then(|| traces::begin_call(name, metadata));
        Self {
            method,
            stream,
            context: context.flatten(),
            is_over: false,
        }
    }

    /// What is done on behalf of the call happens in this.
    #[must_use]
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// Has what is done until the answer is dropped happen on behalf of the call.
    #[must_use]
    pub fn enter(&self) -> Option<ContextGuard> {
        self.context.clone().map(Context::attach)
    }

    /// The call has ended with this code of gRPC. What comes after the first end is not heard.
    pub fn end(&mut self, code: i32) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let code = usize::try_from(code)
            .ok()
            .filter(|code| *code < CODES.len());
        let code = code.unwrap_or(UNKNOWN);
        ENDED[self.method][code].add(1);
        if let Some(stream) = self.stream {
            OPEN[stream].ended.add(1);
        }
        if let Some(context) = self.context.take() {
            traces::end_call(&context, CODES[code], code);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(i32::try_from(CANCELLED).unwrap_or_default());
    }
}

fn method(path: &str) -> usize {
    let named = |name: &str| METHODS.iter().position(|method| *method == name);
    if let Some(name) = path.strip_prefix(SERVICE) {
        let own = METHODS[..OWN].iter().position(|method| *method == name);
        return own.unwrap_or(OTHER);
    }
    let other = match path {
        "/grpc.health.v1.Health/Check" => named("Health/Check"),
        "/grpc.health.v1.Health/List" => named("Health/List"),
        "/grpc.health.v1.Health/Watch" => named("Health/Watch"),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => named("ServerReflection/v1"),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
            named("ServerReflection/v1alpha")
        }
        _ => None,
    };
    other.unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::{METHODS, method};

    #[test]
    fn a_path_is_counted_by_a_name_of_ours_whatever_it_is() {
        let name = |path: &str| METHODS[method(path)];
        assert_eq!(name("/fanout.v1.FanoutService/Plan"), "Plan");
        assert_eq!(name("/fanout.v1.FanoutService/DeletePlan"), "DeletePlan");
        assert_eq!(name("/grpc.health.v1.Health/Watch"), "Health/Watch");
        assert_eq!(name("/fanout.v1.FanoutService/Health/Watch"), "other");
        assert_eq!(name("/fanout.v1.FanoutService/"), "other");
        assert_eq!(name("/fanout.v2.FanoutService/Plan"), "other");
        assert_eq!(name(""), "other");
    }
}
