//! Requests that are no gRPC, and headers that say too much or nonsense.

use tonic::codegen::http::Method;

use super::Target;
use super::fields::wrong_answers;
use super::wire::{Call, framed};

const LIST_PLANS: &str = "/fanout.v1.FanoutService/ListPlans";

fn list() -> Call {
    Call::of(LIST_PLANS, framed(b""))
}

#[tokio::test]
async fn a_path_that_is_no_method_is_unimplemented_and_odd_headers_change_nothing() {
    let mut target = Target::start(&[]).await;
    let long = format!("/{}", "x".repeat(15 << 10));
    let mut cases = Vec::new();
    for path in [
        "/",
        "/fanout.v1.FanoutService",
        "/fanout.v1.FanoutService/",
        "/fanout.v1.FanoutService/listplans",
        "/fanout.v1.FanoutService/ListPlans/",
        "/fanout.v1.FanoutService/ListPlans/x",
        "//fanout.v1.FanoutService/ListPlans",
        "/fanout.v1.FanoutService/List%50lans",
        "/fanout.v1.FanoutService/../../etc/passwd",
        "/fanout.v2.FanoutService/ListPlans",
        "/grpc.health.v1.Health/check",
        &long,
    ] {
        let what: String = path.chars().take(60).collect();
        let call = Call::of(path, framed(b""));
        cases.push((what, call, "Unimplemented UNKNOWN_METHOD".to_owned()));
    }
    let (fits, large, huge) = (
        "x".repeat(15 << 10),
        "x".repeat(17 << 10),
        "x".repeat(60 << 10),
    );
    for (what, call, expected) in [
        (
            "proto by name",
            list().with("content-type", "application/grpc+proto"),
            "Ok +1",
        ),
        ("no te", list().without("te"), "Ok +1"),
        ("a header of 15 KiB", list().with("x", &fits), "Ok +1"),
        ("a header of 17 KiB", list().with("x", &large), "HTTP 431"),
        ("a header of 60 KiB", list().with("x", &huge), "HTTP 431"),
        (
            "an unknown compression accepted",
            list().with("grpc-accept-encoding", "br,zstd"),
            "Ok +1",
        ),
        (
            "a deadline that is none",
            list().with("grpc-timeout", "soon"),
            "Ok +1",
        ),
        (
            "a negative deadline",
            list().with("grpc-timeout", "-1S"),
            "Ok +1",
        ),
        (
            "a deadline of nine digits",
            list().with("grpc-timeout", "999999999H"),
            "Ok +1",
        ),
        (
            "the longest deadline",
            list().with("grpc-timeout", "99999999H"),
            "Ok +1",
        ),
        ("bad base64", list().with("trace-bin", "!!!"), "Ok +1"),
        (
            "a status in a request",
            list().with("grpc-status", "13"),
            "Ok +1",
        ),
        (
            "a request to continue",
            list().with("expect", "100-continue"),
            "Ok +1",
        ),
        (
            "a query",
            Call::of(&format!("{LIST_PLANS}?a=b"), framed(b"")),
            "Ok +1",
        ),
        (
            "a length that is too short",
            list().with("content-length", "3"),
            "broken: stream error received: unspecific protocol error detected",
        ),
        (
            "a length that is too long",
            list().with("content-length", "99999999999"),
            "broken: stream error received: unspecific protocol error detected",
        ),
    ] {
        cases.push((what.to_owned(), call, expected.to_owned()));
    }
    let peer = target.peer().await;
    assert_eq!(wrong_answers(&peer, cases).await, Vec::<String>::new());
    target.is_well("odd headers").await;
    target.ends_well().await;
}

/// What these are answered is up to the transport; that they do no harm is not.
#[tokio::test]
async fn another_http_method_or_content_does_no_harm() {
    let mut target = Target::start(&[]).await;
    let mut calls = vec![list().without("content-type"), list().with("te", "gzip")];
    for method in [
        "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
    ] {
        calls.push(list().by(Method::from_bytes(method.as_bytes()).unwrap()));
    }
    for content in [
        "application/json",
        "application/grpc+json",
        "application/grpcx",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "text/plain",
        "\u{1f600}",
    ] {
        calls.push(list().with("content-type", content));
    }
    for call in calls {
        let what = format!("{} {:?}", call.method, call.headers);
        // A connection of its own: it may be closed for this.
        target.peer().await.call(call).await;
        target.is_well(&what).await;
    }
    target.ends_well().await;
}
