//! Browsers: gRPC-Web, byte for byte as a page sends it, and which pages are let in.
//!
//! `tests/clients/browser` has a page do the same in a real browser.

use std::time::Duration;

use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    GetPlanRequest, GetPlanResponse, Receipt, SubmitRecordsRequest, WatchPlanRequest,
    WatchPlanResponse,
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;
use tonic::codegen::http::{Method, Request, Response, StatusCode};

use crate::harness::{PATIENCE, TestServer, record};

const WEB: &str = "application/grpc-web+proto";

/// Sends one HTTP/1.1 request as a browser would.
async fn send(
    server: &TestServer,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/fanout.v1.FanoutService/{path}"))
        .header("host", &server.address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).unwrap();
    sender.send_request(request).await.unwrap()
}

/// A message with the five bytes that go before it.
fn framed(message: &impl Message) -> Bytes {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    framed.extend(message.encode_to_vec());
    framed.into()
}

/// The next frame of a body: its flags and what is in it.
async fn next(body: &mut hyper::body::Incoming, read: &mut BytesMut) -> (u8, Bytes) {
    loop {
        if read.len() >= 5 {
            let length = u32::from_be_bytes(read[1..5].try_into().unwrap()) as usize;
            if read.len() >= 5 + length {
                let mut frame = read.split_to(5 + length).freeze();
                let flags = frame.get_u8();
                frame.advance(4);
                return (flags, frame);
            }
        }
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap();
        let data = frame.expect("the body is over").unwrap().into_data();
        read.extend_from_slice(&data.unwrap());
    }
}

fn header<'r, B>(response: &'r Response<B>, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_page_gets_a_plan_with_an_ok_in_the_last_frame() {
    let mut server = TestServer::start().await;
    server.register("p", &["a", "b"]).await;
    let request = GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let headers = [
        ("content-type", WEB),
        ("x-grpc-web", "1"),
        ("origin", "http://localhost:3000"),
    ];
    let response = send(&server, Method::POST, "GetPlan", &headers, framed(&request)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), WEB);
    assert_eq!(
        header(&response, "access-control-allow-origin"),
        "http://localhost:3000"
    );
    assert_eq!(
        header(&response, "access-control-expose-headers"),
        "grpc-status,grpc-message,grpc-status-details-bin"
    );
    let (mut body, mut read) = (response.into_body(), BytesMut::new());
    let (flags, message) = next(&mut body, &mut read).await;
    let plan = GetPlanResponse::decode(message).unwrap().plan.unwrap();
    assert_eq!(
        (flags, &*plan.plan_id, plan.counts.unwrap().tasks),
        (0, "p", 2)
    );
    let (flags, trailers) = next(&mut body, &mut read).await;
    assert_eq!((flags, &*trailers), (0x80, &b"grpc-status:0\r\n"[..]));
}

#[tokio::test]
async fn a_page_watches_a_plan_live_until_its_end() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    let request = WatchPlanRequest {
        plan_id: "p".into(),
        include_snapshot: true,
        ..Default::default()
    };
    let headers = [("content-type", WEB)];
    let response = send(
        &server,
        Method::POST,
        "WatchPlan",
        &headers,
        framed(&request),
    )
    .await;
    let (mut body, mut read) = (response.into_body(), BytesMut::new());
    let decode = |(flags, message): (u8, Bytes)| {
        assert_eq!(flags, 0);
        WatchPlanResponse::decode(message).unwrap().frame.unwrap()
    };
    let frame = decode(next(&mut body, &mut read).await);
    assert!(matches!(frame, Frame::Snapshot(_)), "{frame:?}");
    // Only now: what follows is pushed, not fetched.
    let submit = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: vec![record(r#"{"id":"task-a","status":"completed"}"#)],
        ..Default::default()
    };
    let receipts: Vec<Receipt> = server
        .submit_records(submit)
        .await
        .unwrap()
        .into_inner()
        .receipts;
    assert_eq!(receipts[0].task_id, "task-a");
    let frame = decode(next(&mut body, &mut read).await);
    assert!(
        matches!(&frame, Frame::Result(result) if result.task_id == "task-a"),
        "{frame:?}"
    );
    loop {
        match decode(next(&mut body, &mut read).await) {
            Frame::End(_) => break,
            Frame::Progress(_) => {}
            frame => panic!("{frame:?}"),
        }
    }
    let (flags, trailers) = next(&mut body, &mut read).await;
    assert_eq!((flags, &*trailers), (0x80, &b"grpc-status:0\r\n"[..]));
}

#[tokio::test]
async fn a_page_may_send_text_instead_of_bytes() {
    let mut server = TestServer::start().await;
    server.register("p", &["a"]).await;
    // The frame of GetPlanRequest { plan_id: "p" }, in base64.
    let headers = [
        ("content-type", "application/grpc-web-text"),
        ("accept", "application/grpc-web-text"),
    ];
    let body = Bytes::from_static(b"AAAAAAMKAXA=");
    let response = send(&server, Method::POST, "GetPlan", &headers, body).await;
    assert_eq!(
        header(&response, "content-type"),
        "application/grpc-web-text+proto"
    );
    let text = response.into_body().collect().await.unwrap().to_bytes();
    // The last frame: grpc-status:0.
    assert!(text.ends_with(b"gAAAAA9ncnBjLXN0YXR1czowDQo="), "{text:?}");
}

#[tokio::test]
async fn a_page_reads_why_its_call_failed() {
    let server = TestServer::start().await;
    let request = GetPlanRequest {
        plan_id: "nope".into(),
        ..Default::default()
    };
    let headers = [("content-type", WEB), ("origin", "http://127.0.0.1")];
    let response = send(&server, Method::POST, "GetPlan", &headers, framed(&request)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "grpc-status"), "5");
    assert_eq!(
        header(&response, "grpc-message"),
        "there%20is%20no%20plan%20%22nope%22"
    );
    assert!(!header(&response, "grpc-status-details-bin").is_empty());
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_whatever_it_asks() {
    let server = TestServer::start().await;
    let evil = ("origin", "http://evil.example");
    let preflight = ("access-control-request-method", "POST");
    for (method, headers) in [
        (Method::POST, vec![("content-type", WEB), evil]),
        (Method::POST, vec![("content-type", "text/plain"), evil]),
        (Method::OPTIONS, vec![preflight, evil]),
        (Method::GET, vec![evil]),
        (
            Method::POST,
            vec![("content-type", WEB), ("origin", "null")],
        ),
    ] {
        let response = send(&server, method, "ListPlans", &headers, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{headers:?}");
        assert_eq!(header(&response, "access-control-allow-origin"), "");
    }
}

#[tokio::test]
async fn a_browser_that_asks_first_is_told_that_a_page_may_post() {
    let server = TestServer::start().await;
    let headers = [
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-grpc-web"),
    ];
    let response = send(&server, Method::OPTIONS, "GetPlan", &headers, Bytes::new()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        header(&response, "access-control-allow-origin"),
        "http://localhost:3000"
    );
    assert_eq!(header(&response, "access-control-allow-methods"), "POST");
    assert_eq!(
        header(&response, "access-control-allow-headers"),
        "content-type,x-grpc-web"
    );
    assert_eq!(header(&response, "access-control-max-age"), "7200");
}

#[tokio::test]
async fn what_is_neither_grpc_nor_grpc_web_is_an_unsupported_media_type() {
    let server = TestServer::start().await;
    for (method, content_type) in [
        (Method::GET, "text/html"),
        (Method::POST, "application/json"),
        (Method::POST, "application/grpc"),
    ] {
        let headers = [("content-type", content_type)];
        let response = send(&server, method, "GetPlan", &headers, Bytes::new()).await;
        assert_eq!(
            response.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{content_type}"
        );
    }
    let headers = [("content-type", WEB)];
    let response = send(&server, Method::GET, "GetPlan", &headers, Bytes::new()).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_browser_that_leaves_its_connection_idle_is_let_go() {
    let server =
        TestServer::with(|config| config.times.keepalive_interval = Duration::from_secs(2)).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/fanout.v1.FanoutService/ListPlans")
        .header("host", &server.address)
        .header("content-type", WEB)
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap();
    tokio::time::timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
