//! The second port: metrics for Prometheus and probes, over plain HTTP/1.1. It tells nothing of any plan, and is open as
//! long as the server runs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use tonic::codegen::http::header::{ALLOW, CONTENT_TYPE};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode as HttpStatus};

use crate::coordinator::Coordinator;
use crate::telemetry::{self, Census};

/// Requests that are answered at the same time; one more waits.
const PLACES: usize = 16;
/// How long one may take from its connection to its answer's end.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long to wait when no connection can be accepted, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// What can be looked at.
#[derive(Clone)]
pub(super) struct Observed {
    pub(super) coordinator: Arc<Coordinator>,
    /// Whether the server is ready: what the health service says, too.
    pub(super) ready: watch::Receiver<bool>,
    pub(super) connections: TaskTracker,
}

impl Observed {
    /// Opens the port, and answers what serves it until it is dropped.
    pub(super) async fn open(self, address: SocketAddr) -> std::io::Result<JoinSet<()>> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "metrics and probes are open");
        let mut serving = JoinSet::new();
        serving.spawn(self.serve(listener));
        Ok(serving)
    }

    async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(PLACES));
        let mut answering = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            while answering.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let observed = self.clone();
                    answering.spawn(async move {
                        let _place = place;
                        // Whoever is slow or goes away asks again.
                        let answered = observed.answer_one(stream);
                        let _ = tokio::time::timeout(REQUEST_TIME_MAX, answered).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection for metrics and probes");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer_one(&self, stream: TcpStream) {
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request)) });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(HttpStatus::METHOD_NOT_ALLOWED, "GET it\n");
            let methods = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, methods);
            return refused;
        }
        let is_ready = *self.ready.borrow();
        match request.uri().path() {
            "/livez" => text(HttpStatus::OK, "alive\n"),
            "/readyz" if is_ready => text(HttpStatus::OK, "ready\n"),
            "/readyz" => text(HttpStatus::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => {
                let page = telemetry::page(Census {
                    is_ready,
                    connections: self.connections.len() as u64,
                    ..self.coordinator.census()
                });
                of_type(HttpStatus::OK, telemetry::CONTENT_TYPE, page)
            }
            _ => text(
                HttpStatus::NOT_FOUND,
                "there are /metrics, /livez and /readyz\n",
            ),
        }
    }
}

fn text(status: HttpStatus, text: &str) -> Response<String> {
    of_type(status, TEXT, text.to_owned())
}

fn of_type(status: HttpStatus, content_type: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
