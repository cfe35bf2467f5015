//! What every call gets, whatever the method: its deadline is kept, a panic is an answer, and what the transport says
//! is said as this service says it; what became of it is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Frame;
use prost::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, Service, StdError};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::status;
use crate::telemetry::{self, traces};

/// The connection of a call is about to be closed: streams end, and say so.
#[derive(Clone, Debug)]
pub struct Closing(pub CancellationToken);

/// Longest deadline that is taken seriously: 99,999,999 hours are more than a timer holds.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Answers one call.
pub async fn call<B>(
    mut routes: Routes,
    mut request: Request<B>,
    closing: Closing,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let deadline = deadline(request.headers());
    let mut traced = telemetry::Call::begin(request.uri().path(), request.headers());
    request.extensions_mut().insert(closing);
    let answer = async move { routes.call(request.map(Body::new)).await };
    // What a panic leaves behind in a plan is the plan's to tell; nothing else is shared.
    let answer = AssertUnwindSafe(answer).catch_unwind();
    let answer = traces::within(traced.context(), answer);
    let answer = match deadline {
        // A stream is ended by its client; what is awaited here is the answer, or a stream's beginning.
        Some(deadline) => match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = status::deadline_exceeded(deadline);
                traced.end(late.code().into());
                return late.into_http();
            }
        },
        None => answer.await,
    };
    match answer {
        Ok(Ok(response)) => {
            let response = in_our_words(response);
            if let Some(code) = code_in(response.headers()) {
                traced.end(code);
            }
            response.map(|body| {
                Body::new(Guarded {
                    body: Some(body),
                    call: traced,
                })
            })
        }
        Err(_) => {
            let panicked = status::panicked();
            traced.end(panicked.code().into());
            panicked.into_http()
        }
    }
}

/// The code that a call ends with, if these headers or trailers say it.
fn code_in(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A response that ends with INTERNAL, and is over, when making it panics. Left to itself, a panic would reset the
/// stream, and its caller would take that for a broken connection.
struct Guarded {
    body: Option<Body>,
    call: telemetry::Call,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, call } = &mut *self;
        let Some(streaming) = body else {
            return Poll::Ready(None);
        };
        let _on_its_behalf = call.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(streaming).poll_frame(context)));
        let polled = polled.unwrap_or_else(|_| {
            *body = None;
            Poll::Ready(Some(status::trailers(&status::panicked())))
        });
        let polled = polled.map(|frame| frame.map(|frame| frame.and_then(trailers_in_our_words)));
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(code) = frame.trailers_ref().and_then(code_in)
        {
            call.end(code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

/// The `grpc-timeout` header, as gRPC writes it: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    let sound =
        (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| sound)?;
    let time = match unit {
        'H' => Duration::from_secs(number.saturating_mul(3_600)),
        'M' => Duration::from_secs(number.saturating_mul(60)),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    };
    Some(time.min(DEADLINE_MAX))
}

/// A call that never got to its method was refused without details; this adds them. A message that is too large is not
/// worth retrying, so not OUT_OF_RANGE.
fn in_our_words(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return response;
    }
    status::of_transport(&status).map_or(response, Status::into_http)
}

/// A message that is larger than one may be is refused without details when it is sent; this adds them.
fn trailers_in_our_words(frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
    let status = frame.trailers_ref().and_then(Status::from_header_map);
    match status {
        Some(status) if status.code() == Code::OutOfRange && status.details().is_empty() => {
            let mended = status::of_transport(&status);
            status::trailers(&mended.unwrap_or(status))
        }
        _ => Ok(frame),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, HeaderMap, deadline};

    #[test]
    fn a_timeout_header_is_read_with_its_unit_and_nonsense_is_no_deadline() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            deadline(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(read("99999999H"), Some(super::DEADLINE_MAX));
        for nonsense in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
