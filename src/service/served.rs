//! The service as it is served: the generated one, but for streams of records and of results. Those take and give data as
//! it is on the wire, unless it is compressed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Frame;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service};
use tonic::server::NamedService;

use super::admission::caller;
use super::framing::{FramedStream, Messages};
use super::tenants::Tenants;
use super::{Fanout, closing, status, submit_record, watch_plan};
use crate::proto::WatchPlanRequest;
use crate::proto::fanout_service_server::FanoutServiceServer;
use crate::proto::records::RecordsMessage;

/// The service.
#[derive(Clone)]
pub struct Served {
    fanout: Fanout,
    generated: FanoutServiceServer<Fanout>,
}

impl Served {
    /// The service beside the generated one, which has its settings already.
    #[must_use]
    pub fn beside(generated: FanoutServiceServer<Fanout>, fanout: Fanout) -> Self {
        Self { fanout, generated }
    }

    /// What each tenant does at the moment.
    pub(super) fn tenants(&self) -> &Tenants {
        &self.fanout.tenants
    }
}

impl NamedService for Served {
    const NAME: &'static str = FanoutServiceServer::<Fanout>::NAME;
}

impl Service<Request<Body>> for Served {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let encoding = request.headers().get("grpc-encoding");
        let is_plain = encoding.is_none_or(|name| name == "identity");
        match request.uri().path() {
            "/fanout.v1.FanoutService/SubmitRecord" if is_plain => {
                answer(submit_record(self.fanout.clone(), request))
            }
            "/fanout.v1.FanoutService/WatchPlan" if is_plain => {
                answer(watch_plan(self.fanout.clone(), request))
            }
            _ => self.generated.call(request),
        }
    }
}

async fn submit_record(fanout: Fanout, request: Request<Body>) -> Result<FramedStream, Status> {
    let closing = closing(request.extensions());
    let caller = caller(request.extensions());
    let messages = Messages::of(request.into_body(), fanout.config.limits.message_bytes_max);
    let messages = messages.map(|message| message.map(RecordsMessage::of));
    Ok(submit_record::serve(fanout, caller, messages, closing))
}

async fn watch_plan(fanout: Fanout, request: Request<Body>) -> Result<FramedStream, Status> {
    let closing = closing(request.extensions());
    let caller = caller(request.extensions());
    let mut messages = Messages::of(request.into_body(), fanout.config.limits.message_bytes_max);
    let message = messages.next().await;
    let message = message.ok_or_else(|| Status::internal("there is no request message"))??;
    let request = WatchPlanRequest::decode(message);
    let request = request.map_err(|error| Status::internal(error.to_string()))?;
    watch_plan::serve(&fanout, &caller, &request, closing).await
}

fn answer(
    stream: impl Future<Output = Result<FramedStream, Status>> + Send + 'static,
) -> BoxFuture<Response<Body>, Infallible> {
    Box::pin(async {
        let stream = match stream.await {
            Ok(stream) => stream,
            Err(status) => return Ok(status.into_http()),
        };
        let mut response = Response::new(Body::new(Answer(Some(stream))));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Ok(response)
    })
}

/// What a stream answers, then how it ended.
struct Answer(Option<FramedStream>);

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(stream) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let status = match stream.as_mut().poll_next(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(framed))) => {
                return Poll::Ready(Some(Ok(Frame::data(framed.into_bytes()))));
            }
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(None) => Status::ok(""),
        };
        self.0 = None;
        Poll::Ready(Some(status::trailers(&status)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
