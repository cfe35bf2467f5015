//! Browsers: gRPC-Web over HTTP/1.1 or HTTP/2, and which pages may use it.
//!
//! A page can only speak for itself if the server lets anybody's page in: a browser sends requests to this port for
//! every page that its user has open, also to a port that only this machine reaches. So a request that says which page
//! it comes from (`Origin`, which browsers always say and pages cannot change) is answered only if that page may.

use std::convert::Infallible;
use std::time::Duration;

use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::codegen::{Body as HttpBody, StdError};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::WebOrigins;

/// What a page may read of an answer; without it, it would not learn that a call failed.
const EXPOSED: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];
/// How long a browser need not ask again; none takes more than two hours.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(2 * 3_600);

/// Answers a request with `call`, which speaks gRPC; translates if it comes from a browser.
pub async fn in_a_browsers_words<B, F>(
    request: Request<B>,
    origins: &WebOrigins,
    call: impl FnOnce(Request<Body>) -> F + Clone,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + std::fmt::Display,
    F: Future<Output = Response<Body>> + Send,
{
    if let Some(origin) = request.headers().get(ORIGIN)
        && !origins.admit(origin.as_bytes())
    {
        tracing::debug!(?origin, "refused a page: it is not among web_origins");
        let text = "this page may not use this server: its origin is not among web_origins\n";
        return plain(StatusCode::FORBIDDEN, text);
    }
    let preflight = *request.method() == Method::OPTIONS;
    match content_type(&request) {
        kind if kind.starts_with(b"application/grpc-web") => {}
        kind if kind.starts_with(b"application/grpc") && request.version() == Version::HTTP_2 => {
            return call(request.map(Body::new)).await;
        }
        _ if preflight => {}
        _ => {
            let text = "this server speaks gRPC over HTTP/2, and gRPC-Web\n";
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
        }
    }
    let cors = CorsLayer::new()
        // It was looked at above.
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(PREFLIGHT_LIFE);
    let grpc = tower::service_fn(|request| {
        let call = call.clone();
        async move { Ok::<_, Infallible>(call(request).await) }
    });
    let answered = cors.layer(GrpcWebLayer::new().layer(grpc)).oneshot(request);
    let Ok(response) = answered.await;
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn content_type<B>(request: &Request<B>) -> &[u8] {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.map(HeaderValue::as_bytes).unwrap_or_default()
}
