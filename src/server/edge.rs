//! The listening edge: accepts connections, bounds them, serves them, and closes them: at their age, when the server
//! drains, and by force when the drain is over.
//!
//! The transport that comes with tonic does not cap connections, waits for ever for a peer that says nothing, and cannot
//! close what outlives its grace; so the loop is here, on the same HTTP implementation.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prost::bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use super::fair::{Begin, Calls, Fair};
use super::first_words;
use super::tls::{self, Private};
use crate::config::{Config, FIRST_CALL_TIME, WebOrigins};
use crate::service::{Closing, Peer, call, in_a_browsers_words};
use crate::telemetry;

/// Flow control: while two portions of a stream are read and answered, its peer sends two others; with less, both wait for
/// each other in turn. A peer that is not read is stopped by its stream's window long before h2 takes its many small unread
/// frames for an attack. That guard allows half of the connection's window: with more, whoever floods with such frames is cut
/// off too late for the others.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Most bytes that are made for one stream ahead of what its peer takes: what a watcher that does not read costs.
const SEND_BUFFER_BYTES: usize = 64 << 10;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Most bytes that are kept of an HTTP/1.1 connection, its headers among them.
const HTTP1_BUFFER_BYTES: usize = 64 << 10;
/// Streams that this side had to reset on one connection before it is closed.
const LOCAL_RESETS_MAX: usize = 1_024;
/// How long a connection without a call may take to say its first bytes, and to make its first call, when the server drains:
/// who has just connected is told to go elsewhere.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long to wait when no connection can be accepted, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves connections.
#[derive(Clone)]
pub(super) struct Edge {
    streams_per_connection: u32,
    /// How long a connection may say nothing, and how long it may take to answer then.
    keepalive_times: (Duration, Duration),
    routes: Routes,
    origins: WebOrigins,
    /// What connections begin with, as it is now; nothing: without TLS.
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    places: Arc<Semaphore>,
    /// Cancelled when no more connections are accepted and those that are there are to end.
    pub(super) draining: CancellationToken,
    /// Cancelled when what is still there is cut.
    pub(super) cut: CancellationToken,
    /// The connections.
    pub(super) connections: TaskTracker,
    first_bytes: Duration,
    first_call: Duration,
    age: Option<Duration>,
    keepalive: TcpKeepalive,
}

impl Edge {
    pub(super) fn new(
        routes: Routes,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        config: &Config,
    ) -> Self {
        let age = config.times.connection_age;
        Self {
            streams_per_connection: config.limits.streams_per_connection_max,
            keepalive_times: (
                config.times.keepalive_interval,
                config.times.keepalive_timeout,
            ),
            routes: routes.prepare(),
            origins: config.web_origins.clone(),
            tls,
            places: Arc::new(Semaphore::new(config.limits.connections_max)),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            connections: TaskTracker::new(),
            first_bytes: config.times.first_bytes_timeout,
            first_call: FIRST_CALL_TIME,
            age: (!age.is_zero()).then_some(age),
            keepalive: TcpKeepalive::new()
                .with_time(config.times.keepalive_interval)
                .with_interval(config.times.keepalive_timeout),
        }
    }

    /// The HTTP implementation of a connection whose calls begin so.
    fn http(&self, begin: Begin) -> auto::Builder<Begin> {
        let (interval, timeout) = self.keepalive_times;
        let mut http = auto::Builder::new(begin);
        http.http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_concurrent_streams(self.streams_per_connection)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
        // Browsers, for gRPC-Web. What they leave idle is closed.
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(interval)
            .max_buf_size(HTTP1_BUFFER_BYTES);
        http
    }

    /// Accepts connections until the server drains, and those that are there already.
    pub(super) async fn accept(&self, listener: TcpListener) {
        let mut draining = pin!(self.draining.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut draining => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            self.admit(stream, peer);
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // Closed at once: the peer tries again later, or elsewhere.
            telemetry::metrics::connection_refused();
            tracing::warn!(%peer, "refused a connection: connections_max are open");
            return;
        };
        let edge = self.clone();
        self.connections.spawn(async move {
            let _place = place;
            if let Err(error) = edge.serve(stream).await {
                tracing::debug!(%peer, error, "a connection ended");
            }
        });
    }

    async fn serve(&self, stream: TcpStream) -> Result<(), BoxError> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&self.keepalive)?;
        let Some(tls) = &self.tls else {
            return match self.in_time(first_words::await_on(&stream)).await? {
                Some(()) => self.speak(Fair::new(Bytes::new(), stream), None).await,
                None => Ok(()),
            };
        };
        let config = Arc::clone(&tls.borrow());
        match self.in_time(tls::accept(stream, config)).await? {
            Some(Private { seen, stream, peer }) => self.speak(Fair::new(seen, stream), peer).await,
            None => Ok(()),
        }
    }

    /// What comes of it, if it comes in the time that a connection has for its first bytes.
    async fn in_time<T>(
        &self,
        first: impl Future<Output = io::Result<T>>,
    ) -> io::Result<Option<T>> {
        let over = async {
            tokio::select! {
                () = tokio::time::sleep(self.first_bytes) => {}
                () = self.draining.cancelled() => tokio::time::sleep(LAST_WORDS).await,
            }
        };
        tokio::select! {
            biased;
            first = first => first.map(Some),
            () = over => Ok(None),
        }
    }

    /// Serves the calls of a connection until it ends.
    async fn speak<S>(&self, stream: Fair<S>, peer: Option<Arc<Peer>>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Its streams end when the connection is to end, also if only its age says so.
        let closing = self.draining.child_token();
        // Told to end before its first call, a client would take that call for failed: it is answered instead.
        let called = CancellationToken::new();
        let service = service_fn(|mut request: Request<Incoming>| {
            called.cancel();
            if let Some(peer) = &peer {
                request.extensions_mut().insert(Arc::clone(peer));
            }
            let (routes, closing) = (self.routes.clone(), Closing(closing.clone()));
            let origins = self.origins.clone();
            let grpc = |request| call(routes, request, closing);
            async move { Ok::<_, Infallible>(in_a_browsers_words(request, &origins, grpc).await) }
        });
        let turn = stream.turn();
        let mut calls = Calls::new(Arc::clone(&turn));
        let http = self.http(calls.begin());
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream.clone()), service));
        let mut cut = pin!(self.cut.cancelled());
        let mut age = pin!(sleep_about(self.age));
        let mut ended = pin!(async {
            closing.cancelled().await;
            let _ = timeout(LAST_WORDS, called.cancelled()).await;
        });
        // Who makes no call is told to go, and cut off if they stay.
        let mut unused = pin!(async {
            for time in [self.first_call, self.first_bytes] {
                if timeout(time, called.cancelled()).await.is_ok() {
                    pending::<()>().await;
                }
                closing.cancel();
            }
        });
        let mut ending = false;
        poll_fn(|context| {
            if cut.as_mut().poll(context).is_ready() || unused.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !closing.is_cancelled() && age.as_mut().poll(context).is_ready() {
                closing.cancel();
            }
            if !ending && ended.as_mut().poll(context).is_ready() {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            turn.begin();
            let begun = Instant::now();
            let served = connection.as_mut().poll(context);
            let sent = stream.poll_send(context);
            match (served, sent) {
                // Calls that are left are nobody's any more.
                (Poll::Ready(served), _) => return Poll::Ready(served),
                (Poll::Pending, Poll::Ready(Err(gone))) => return Poll::Ready(Err(gone.into())),
                (Poll::Pending, _) => calls.go_on(context),
            }
            turn.end(begun.elapsed());
            Poll::Pending
        })
        .await
    }
}

/// Sleeps a time, give or take a tenth, so that connections made together do not end together; for ever without one.
async fn sleep_about(time: Option<Duration>) {
    let Some(time) = time else {
        return std::future::pending().await;
    };
    // Seeded anew each time it is made.
    let thousandths = RandomState::new().hash_one(0) % 201;
    let share = 0.9 + f64::from(u8::try_from(thousandths).unwrap_or(100)) / 1_000.0;
    tokio::time::sleep(time.mul_f64(share)).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_makes_no_call_is_closed_in_time_and_one_that_made_a_call_is_not() {
        let mut config = Config::default();
        config.times.first_bytes_timeout = Duration::from_secs(1);
        let mut edge = Edge::new(Routes::default(), None, &config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        edge.first_call = Duration::from_secs(1);
        tokio::spawn(async move { edge.accept(listener).await });
        let used = TcpStream::connect(address).await.expect("a connection");
        let (send, connection) = h2::client::handshake(used).await.expect("HTTP/2");
        tokio::spawn(async move { connection.await.is_ok() });
        let call = async || {
            let mut send = send.clone().ready().await.expect("it is open");
            let request = Request::get(format!("http://{address}/")).body(());
            let sent = send.send_request(request.expect("a request"), true);
            sent.expect("it is sent")
                .0
                .await
                .expect("an answer")
                .status()
        };
        assert_eq!(call().await, 415);

        // It says what clients begin with, and nothing after; not even that it heard that it has to go.
        let mut silent = TcpStream::connect(address).await.expect("a connection");
        let said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        silent.write_all(said).await.expect("it is heard");
        let heard = async { silent.read_to_end(&mut Vec::new()).await };
        let closed = timeout(Duration::from_secs(30), heard).await;
        assert!(closed.is_ok());
        assert_eq!(call().await, 415);
    }
}
