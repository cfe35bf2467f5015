//! The limits: servers on the same HTTP implementation, with the settings the coordinator serves with, that answer with
//! the bytes they were sent.

use std::convert::Infallible;
use std::future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use fanout::proto::SubmitRecordRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use memmap2::{Advice, MmapMut};
use prost::Message;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::Outcome;
use crate::wire::{AsIs, MESSAGE_BYTES_MAX};

/// Answers each message with itself.
pub const ECHO: &str = "/fanout.load.v1.EchoService/Echo";
/// In a call's metadata: how many bytes to answer more with than were sent, for each message.
pub const LONGER: &str = "longer";
/// Gives back what is kept.
pub const FORGET: &str = "/fanout.load.v1.EchoService/Forget";
/// Answers with its one record's body, as often as the record's id says.
pub const FAN_OUT: &str = "/fanout.load.v1.EchoService/FanOut";

const PIECE_BYTES: usize = 64 << 20;

/// Serves for ever. Keeping, it keeps what it is sent; decoding, it decodes and encodes each message as a service does that
/// is generated from the contract. With files of a certificate and its key, over TLS.
#[tokio::main]
pub async fn serve(keeping: bool, decoding: bool, tls: Option<[&str; 2]>) -> Outcome<()> {
    let tls = tls.map(acceptor).transpose()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("serving address={}", listener.local_addr()?);
    let echo = Echo {
        arena: keeping.then(Arc::default),
        decoding,
        frames: Arc::default(),
    };
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(16 << 20)
        .max_send_buf_size(64 << 10)
        .max_concurrent_streams(1_024);
    let http = Arc::new(http);
    loop {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(serve_one(
            Arc::clone(&http),
            echo.clone(),
            tls.clone(),
            connection,
        ));
    }
}

fn acceptor([certificate, key]: [&str; 2]) -> Outcome<TlsAcceptor> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)?.collect();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates?, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve_one(
    http: Arc<auto::Builder<TokioExecutor>>,
    echo: Echo,
    tls: Option<TlsAcceptor>,
    connection: TcpStream,
) -> Outcome<()> {
    connection.set_nodelay(true)?;
    match tls {
        None => serve_on(http, echo, connection).await,
        Some(tls) => serve_on(http, echo, tls.accept(connection).await?).await,
    }
}

async fn serve_on(
    http: Arc<auto::Builder<TokioExecutor>>,
    echo: Echo,
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Outcome<()> {
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let echo = echo.clone();
        async move { Ok::<_, Infallible>(echo.call(request.map(Body::new)).await) }
    });
    http.serve_connection(TokioIo::new(connection), service)
        .await
}

/// What there is to send to each watcher: frames of one size, one after the other.
#[derive(Clone, Copy)]
struct Frames {
    bytes: &'static [u8],
    size: usize,
}

#[derive(Clone)]
struct Echo {
    arena: Option<Arc<Arena>>,
    decoding: bool,
    frames: Arc<Mutex<Option<Frames>>>,
}

impl Echo {
    async fn call(self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        let mut grpc = Grpc::new(AsIs).apply_max_message_size_config(Some(MESSAGE_BYTES_MAX), None);
        match &*path {
            ECHO if self.decoding => {
                let codec = ProstCodec::<SubmitRecordRequest, SubmitRecordRequest>::default();
                let mut grpc =
                    Grpc::new(codec).apply_max_message_size_config(Some(MESSAGE_BYTES_MAX), None);
                let longer = longer(&request);
                let echo = |request| self.echo(request, longer.clone());
                grpc.streaming(tower::service_fn(echo), request).await
            }
            ECHO => {
                let echo = |request| self.echo(request, String::new());
                grpc.streaming(tower::service_fn(echo), request).await
            }
            FORGET => {
                let forget = tower::service_fn(|_: Request<Bytes>| {
                    if let Some(arena) = &self.arena {
                        arena.forget();
                    }
                    async { Ok::<_, Status>(Response::new(Bytes::new())) }
                });
                grpc.unary(forget, request).await
            }
            _ => {
                let fan_out = tower::service_fn(|request: Request<Bytes>| {
                    let frames = self.frames(request.get_ref());
                    async { frames.map(|frames| Response::new(each(frames))) }
                });
                grpc.server_streaming(fan_out, request).await
            }
        }
    }

    fn echo<M>(
        &self,
        request: Request<Streaming<M>>,
        longer: String,
    ) -> future::Ready<Result<Response<Echoed<M>>, Status>> {
        future::ready(Ok(Response::new(Echoed {
            messages: request.into_inner(),
            arena: self.arena.clone(),
            longer,
        })))
    }

    /// Made when they are first asked for, and kept as long as the process runs: nobody counts who reads them.
    fn frames(&self, request: &Bytes) -> Result<Frames, Status> {
        let request = SubmitRecordRequest::decode(&request[..])
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted = request.records.first();
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("no frame"))?;
        let count: usize = wanted
            .id
            .parse()
            .map_err(|_| Status::invalid_argument("no number of frames"))?;
        let size = wanted.body.len();
        let mut frames = lock(&self.frames);
        match *frames {
            Some(frames) if (frames.size, frames.bytes.len()) == (size, size * count) => Ok(frames),
            _ => Ok(*frames.insert(Frames {
                bytes: wanted.body.repeat(count).leak(),
                size,
            })),
        }
    }
}

fn each(Frames { bytes, size }: Frames) -> impl Stream<Item = Result<Bytes, Status>> {
    futures_util::stream::iter(
        bytes
            .chunks(size)
            .map(|frame| Ok(Bytes::from_static(frame))),
    )
}

/// What to put into each answer so that it is as much longer as a call asks for.
fn longer(request: &http::Request<Body>) -> String {
    let bytes = request.headers().get(LONGER);
    let bytes = bytes.and_then(|bytes| bytes.to_str().ok()?.parse().ok());
    let mut longer = "x".repeat(bytes.unwrap_or_default());
    // What says that there is something, and how long it is.
    let beside = SubmitRecordRequest {
        producer_id: longer.clone(),
        ..Default::default()
    };
    longer.truncate(
        longer
            .len()
            .saturating_sub(beside.encoded_len() - longer.len()),
    );
    longer
}

/// The messages of a stream, kept in passing if there is an arena.
struct Echoed<M> {
    messages: Streaming<M>,
    arena: Option<Arc<Arena>>,
    longer: String,
}

impl<M: Passing> Stream for Echoed<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = Pin::new(&mut self.messages).poll_next(context);
        if let Poll::Ready(Some(Ok(message))) = &mut next {
            if let Some(arena) = &self.arena {
                message.keep_in(arena);
            }
            if !self.longer.is_empty() {
                message.lengthen(&self.longer);
            }
        }
        next
    }
}

/// What is done with a message in passing.
trait Passing {
    /// Keeps what can be kept of it.
    fn keep_in(&self, arena: &Arena);

    /// Makes it longer by this, if it has a place for it.
    fn lengthen(&mut self, _: &str) {}
}

impl Passing for Bytes {
    fn keep_in(&self, arena: &Arena) {
        arena.keep(self);
    }
}

impl Passing for SubmitRecordRequest {
    fn keep_in(&self, arena: &Arena) {
        for record in &self.records {
            arena.keep(record.task_id.as_bytes());
            arena.keep(&record.body);
        }
    }

    fn lengthen(&mut self, longer: &str) {
        longer.clone_into(&mut self.producer_id);
    }
}

/// Where records are kept: a shelf for each thread, so that none waits for another.
#[derive(Default)]
struct Arena([Mutex<Shelf>; 16]);

#[derive(Default)]
struct Shelf {
    pieces: Vec<MmapMut>,
    /// Of the last piece.
    used: usize,
}

impl Arena {
    fn keep(&self, bytes: &[u8]) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        let shelf = THREAD.with(|thread| thread % self.0.len());
        lock(&self.0[shelf]).keep(bytes);
    }

    fn forget(&self) {
        for shelf in &self.0 {
            *lock(shelf) = Shelf::default();
        }
    }
}

impl Shelf {
    fn keep(&mut self, bytes: &[u8]) {
        if self.pieces.is_empty() || self.used + bytes.len() > PIECE_BYTES {
            let piece = MmapMut::map_anon(PIECE_BYTES).expect("memory");
            // Where there are no huge pages, it is as fast as it can be without.
            #[cfg(target_os = "linux")]
            let _ = piece.advise(Advice::HugePage);
            self.pieces.push(piece);
            self.used = 0;
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece[self.used..][..bytes.len()].copy_from_slice(bytes);
            self.used += bytes.len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
