//! The least that tonic can do with a record stream: decode a message, encode it, send it back.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use fanout::proto::SubmitRecordRequest;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

const PATH: &str = "/fanout.bench.v1.EchoService/Echo";

type Codec = ProstCodec<SubmitRecordRequest, SubmitRecordRequest>;
type Responses = Pin<Box<dyn Stream<Item = Result<SubmitRecordRequest, Status>> + Send>>;

/// Serves for ever, with the settings the coordinator serves with.
pub async fn serve(listener: TcpListener) {
    tonic::transport::Server::builder()
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(16 << 20)
        .add_service(EchoService)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .expect("serves");
}

/// Calls it.
pub async fn call(
    channel: Channel,
    requests: ReceiverStream<SubmitRecordRequest>,
) -> Streaming<SubmitRecordRequest> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static(PATH);
    grpc.streaming(Request::new(requests), path, Codec::default())
        .await
        .expect("a stream")
        .into_inner()
}

#[derive(Clone)]
struct EchoService;

impl NamedService for EchoService {
    const NAME: &'static str = "fanout.bench.v1.EchoService";
}

struct Echo;

impl StreamingService<SubmitRecordRequest> for Echo {
    type Response = SubmitRecordRequest;
    type ResponseStream = Responses;
    type Future = BoxFuture<Response<Responses>, Status>;

    fn call(&mut self, request: Request<Streaming<SubmitRecordRequest>>) -> Self::Future {
        let echoed: Responses = Box::pin(request.into_inner().map(|message| message));
        Box::pin(async move { Ok(Response::new(echoed)) })
    }
}

impl Service<http::Request<Body>> for EchoService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(Codec::default()).streaming(Echo, request).await) })
    }
}
