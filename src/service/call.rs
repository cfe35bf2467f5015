//! What every call gets, whatever the method: its deadline is kept, a panic is an answer, and what the transport says
//! is said as this service says it; what became of it is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, Service, StdError};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::status;
use crate::config::REQUEST_MESSAGE_TIME;
use crate::telemetry::{self, traces};

/// The connection of a call is about to be closed: streams end, and say so.
#[derive(Clone, Debug)]
pub struct Closing(pub CancellationToken);

/// Longest deadline that is taken seriously: 99,999,999 hours are more than a timer holds.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Methods whose requests are streams: each may last.
const STREAMED: [&str; 3] = ["SubmitRecord", "PlanStream", "ServerReflectionInfo"];

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
    let request = in_time(request);
    let answer = async move { routes.call(request).await };
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

/// The request, whose message has to be whole in time if it has one: what came of it is kept until then.
fn in_time<B>(request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let method = request.uri().path().rsplit('/').next();
    if method.is_some_and(|method| STREAMED.contains(&method)) {
        return request.map(Body::new);
    }
    request.map(|body| {
        Body::new(InTime {
            body: Body::new(body),
            late: None,
        })
    })
}

/// The body of a request that has one message.
struct InTime {
    body: Body,
    /// When it is too late, from when it was first waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for InTime {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, late } = &mut *self;
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_pending() {
            let sleep = || Box::pin(tokio::time::sleep(REQUEST_MESSAGE_TIME));
            let late = late.get_or_insert_with(sleep).as_mut();
            if late.poll(context).is_ready() {
                return Poll::Ready(Some(Err(status::message_late(REQUEST_MESSAGE_TIME))));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_util::future::poll_fn;
    use hyper::body::Frame;
    use prost::bytes::Bytes;
    use tokio::sync::watch;
    use tokio::time::{Instant, timeout};
    use tonic::body::Body;
    use tonic::codegen::Body as HttpBody;
    use tonic::codegen::http::Request;
    use tonic::service::Routes;
    use tonic::{Code, Status};
    use tonic_types::StatusExt;

    use super::{Closing, Duration, HeaderMap, call, deadline, in_time};
    use crate::proto::health::health_server::HealthServer;
    use crate::service::HealthOf;

    /// The beginning of a message, of which no more comes.
    struct Unfinished(Option<&'static [u8]>);

    impl HttpBody for Unfinished {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.take() {
                Some(begun) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(begun))))),
                None => Poll::Pending,
            }
        }
    }

    fn unfinished(path: &str) -> Request<Unfinished> {
        let request = Request::builder().uri(path);
        // A message of nine bytes, and three of them.
        let begun = &[0, 0, 0, 0, 9, 10, 7, b'r'];
        request.body(Unfinished(Some(begun))).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_message_is_not_whole_after_60_seconds_is_ended_and_says_so() {
        let (_ready, readiness) = watch::channel(true);
        let routes = Routes::new(HealthServer::new(HealthOf::new(readiness)));
        let began = Instant::now();
        let request = unfinished("/grpc.health.v1.Health/Check");
        let answer = call(routes, request, Closing(Default::default())).await;
        assert_eq!(began.elapsed().as_secs(), 60);
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "the request was not whole after 60s");
        let info = status.get_details_error_info().expect("its reason");
        assert_eq!(info.reason, "MESSAGE_LATE");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_requests_may_say_nothing_for_longer_and_any_other_request_may_not() {
        let day = Duration::from_secs(24 * 3_600);
        for (path, expected) in [
            ("/fanout.v1.FanoutService/SubmitRecord", false),
            ("/fanout.v1.FanoutService/PlanStream", false),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                false,
            ),
            ("/fanout.v1.FanoutService/SubmitRecords", true),
            ("/fanout.v1.FanoutService/WatchPlan", true),
            ("/grpc.health.v1.Health/Watch", true),
        ] {
            let mut body: Body = in_time(unfinished(path)).into_body();
            let mut next =
                async || poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(matches!(next().await, Some(Ok(_))), "{path}");
            let is_ended = matches!(timeout(day, next()).await, Ok(Some(Err(_))));
            assert_eq!(is_ended, expected, "{path}");
        }
    }

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
