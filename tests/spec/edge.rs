//! The listening edge: how many connections, for how long, and what calls get that never come to a method.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fanout::proto::{
    GetPlanRequest, GetPlanResponse, PlanRequest, ReconcileRequest, WatchPlanRequest,
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost::bytes::Bytes;
use tonic::codegen::http::Request;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::harness::{PATIENCE, TestServer, plan_request, refusal};

/// Whether the server closes this connection while it says nothing.
async fn is_closed(address: &str) -> bool {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = tokio::task::spawn_blocking(move || connection.read(&mut [0; 64]));
    matches!(read.await.unwrap(), Ok(0))
}

#[tokio::test]
async fn a_connection_that_does_not_begin_to_speak_is_closed() {
    let server =
        TestServer::with(|config| config.times.first_bytes_timeout = Duration::from_millis(50))
            .await;
    assert!(is_closed(&server.address).await);
}

#[tokio::test]
async fn one_connection_past_the_limit_is_closed_and_the_others_go_on() {
    // The test's own client is the first.
    let mut server = TestServer::with(|config| config.limits.connections_max = 1).await;
    assert!(is_closed(&server.address).await);
    server.register("p", &["a"]).await;
}

#[tokio::test]
async fn a_connection_at_its_age_ends_its_streams_and_the_client_connects_anew() {
    let mut server =
        TestServer::with(|config| config.times.connection_age = Duration::from_millis(300)).await;
    server.register("p", &["a"]).await;
    let mut client = server.connect().await;
    let began = Instant::now();
    let request = WatchPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(request).await.unwrap().into_inner();
    let status = tokio::time::timeout(PATIENCE, frames.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::Unavailable, "DRAINING".into(), String::new())
    );
    // A tenth less than its age, at the earliest, since it was opened a little before.
    assert!(
        began.elapsed() > Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
    let request = GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let again = async {
        while client.get_plan(request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_large_for_any_method_is_an_invalid_argument() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 1_000).await;
    let large = PlanRequest {
        config: " ".repeat(1_001).into(),
        ..plan_request("p", &["a"])
    };
    let status = server.plan(large).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE".into(),
            "message".into()
        )
    );
    let status = raw_call("Plan", b"\xff\xff\xff", &[]).await;
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "MALFORMED_MESSAGE".into(),
            "message".into()
        )
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let server = TestServer::start().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/fanout.v1.FanoutService/Nope");
    let codec: ProstCodec<GetPlanRequest, GetPlanResponse> = ProstCodec::default();
    let status = grpc
        .unary(tonic::Request::new(GetPlanRequest::default()), path, codec)
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::Unimplemented, "UNKNOWN_METHOD".into(), String::new())
    );
}

#[tokio::test]
async fn a_deadline_that_passes_is_answered_as_such() {
    let wait = Some(prost_types::Duration {
        seconds: 300,
        nanos: 0,
    });
    let request = ReconcileRequest {
        plan_id: "p".into(),
        wait,
        ..Default::default()
    };
    let status = raw_call(
        "Reconcile",
        &request.encode_to_vec(),
        &[("grpc-timeout", "50m")],
    )
    .await;
    assert_eq!(
        refusal(&status),
        (
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED".into(),
            String::new()
        )
    );
}

/// Calls a method of a server with plan `p` without a gRPC client, which would keep the deadline itself.
async fn raw_call(method: &str, message: &[u8], headers: &[(&str, &str)]) -> Status {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let stream = tokio::net::TcpStream::connect(&server.address)
        .await
        .unwrap();
    let http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut client, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body: Bytes = [&[0][..], &length, message].concat().into();
    let mut request = Request::post(format!(
        "http://{}/fanout.v1.FanoutService/{method}",
        server.address
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).unwrap();
    let response = tokio::time::timeout(PATIENCE, client.send_request(request))
        .await
        .unwrap()
        .unwrap();
    let status =
        Status::from_header_map(response.headers()).expect("an error comes without a message");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
    status
}
