//! Trace context of commands: TRACEPARENT in the environment, as tools around traced builds and scripts hand it on.

use tonic::Request;

use crate::telemetry::TraceContext;

/// The variable, for commands and executors alike.
pub(super) const TRACEPARENT: &str = "TRACEPARENT";

/// A call that follows from what the environment says this command does. What is no `traceparent` is not sent.
pub(super) fn carrying<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let context = std::env::var(TRACEPARENT).ok();
    let context = context.and_then(|text| text.parse::<TraceContext>().ok());
    if let Some(value) = context.and_then(|context| context.to_string().parse().ok()) {
        request.metadata_mut().insert("traceparent", value);
    }
    request
}
