//! The service as it is served: the generated one, but for record streams that are not compressed. Those take and give
//! data as it is on the wire.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use hyper::body::Frame;
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service};
use tonic::server::NamedService;

use super::framing::Messages;
use super::submit_record::{self, Answers};
use super::{Closing, Fanout};
use crate::proto::fanout_service_server::FanoutServiceServer;

const SUBMIT_RECORD: &str = "/fanout.v1.FanoutService/SubmitRecord";

/// The service.
#[derive(Clone)]
pub struct RecordPath {
    fanout: Fanout,
    generated: FanoutServiceServer<Fanout>,
}

impl RecordPath {
    /// The service beside the generated one, which has its settings already.
    #[must_use]
    pub fn beside(generated: FanoutServiceServer<Fanout>, fanout: Fanout) -> Self {
        Self { fanout, generated }
    }
}

impl NamedService for RecordPath {
    const NAME: &'static str = FanoutServiceServer::<Fanout>::NAME;
}

impl Service<Request<Body>> for RecordPath {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        Either<Ready<Result<Response<Body>, Infallible>>, BoxFuture<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let encoding = request.headers().get("grpc-encoding");
        if request.uri().path() != SUBMIT_RECORD || encoding.is_some_and(|name| name != "identity")
        {
            return Either::Right(self.generated.call(request));
        }
        let closing = request.extensions().get::<Closing>();
        let closing = closing.map(|closing| closing.0.clone()).unwrap_or_default();
        let most = self.fanout.config.limits.message_bytes_max;
        let messages = Messages::of(request.into_body(), most);
        let answers = submit_record::serve(self.fanout.clone(), messages, closing);
        let mut response = Response::new(Body::new(AnswerBody(Some(answers))));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Either::Left(ready(Ok(response)))
    }
}

/// Answers, then how the stream ended.
struct AnswerBody(Option<Answers>);

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(answers) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let status = match answers.as_mut().poll_next(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(answered))) => {
                return Poll::Ready(Some(Ok(Frame::data(answered.framed))));
            }
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(None) => Status::ok(""),
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        let trailers = status
            .add_header(&mut trailers)
            .map(|()| Frame::trailers(trailers));
        Poll::Ready(Some(trailers))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
