//! A real JetStream stream: its connection, its health, and news of what arrives in it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RawMessageError, StorageType,
    Stream as Handle,
};
use async_nats::jetstream::{self, Context, ErrorCode as Told};
use async_nats::{Client, ConnectOptions, Event, ToServerAddrs};
use async_stream::stream;
use bytes::Bytes;
use futures_util::{Stream as Messages, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::publish::drawn;
use super::stream::{Asked, Away, Message, Published, Read, Stream, Subject};
use super::subject;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a creation of the stream may take: its servers may have to choose a leader.
const CREATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the server is to say that it is there; the connection is given up when it has not said so twice.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How often to look whether the stream is there, while it is and while it is not.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(250));
/// Longest wait before the next attempt to connect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// How long the stream knows a message again that it is sent twice.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long the stream keeps a consumer that a process began to read with and left behind.
const READ_LIFE: Duration = Duration::from_secs(5);
/// Headers of a message take no more.
const HEADER_BYTES_MAX: usize = 512;

/// What a connection is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers: `nats://HOST:PORT`, or `tls://`, with `USER:PASSWORD@` or `TOKEN@` if need be.
    pub servers: Vec<String>,
    /// Name of the stream. It is made if it is not there.
    pub stream: String,
    /// How many servers are to have each message, if the stream is made: 1 to 5.
    pub replicas: usize,
    /// A credentials file.
    pub credentials: Option<PathBuf>,
    /// A PEM file of certificates to trust beside the system's.
    pub certificate_authority: Option<PathBuf>,
    /// PEM files of a certificate and its key, to show to the server.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Why a journal on NATS cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What it is opened with is wrong.
    #[error("{0}")]
    Options(String),
}

/// Looks whether each of these can be the address of a server; nobody is connected to.
///
/// # Errors
/// One cannot be. The error does not say it: there may be a password in it.
pub fn check_servers(servers: &[String]) -> Result<(), OpenError> {
    let checked = servers.to_server_addrs().map(drop);
    checked.map_err(|error| OpenError::Options(error.to_string()))
}

/// A stream, and the connection to its servers.
pub(super) struct JetStream {
    context: Context,
    name: String,
    /// The stream, once it was there.
    handle: OnceLock<Handle<()>>,
    replicas: usize,
    away: watch::Sender<Option<String>>,
    look: Arc<Notify>,
}

impl JetStream {
    /// Begins to connect, and goes on trying.
    pub(super) async fn connect(options: &Options) -> Result<Arc<Self>, OpenError> {
        let wrong = |problem: String| OpenError::Options(problem);
        let look = Arc::new(Notify::new());
        let events = Arc::clone(&look);
        let mut connecting = ConnectOptions::new()
            .name("fanout")
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .connection_timeout(ANSWER_TIMEOUT)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                Duration::from_millis(20)
                    .saturating_mul(attempts)
                    .min(RECONNECT_DELAY_MAX)
            })
            .event_callback(move |event| {
                let look = Arc::clone(&events);
                async move {
                    match event {
                        Event::Connected | Event::Disconnected => look.notify_one(),
                        other => tracing::debug!(event = %other, "NATS"),
                    }
                }
            });
        if let Some(credentials) = &options.credentials {
            let with = connecting.credentials_file(credentials).await;
            connecting =
                with.map_err(|error| wrong(format!("{}: {error}", credentials.display())))?;
        }
        if let Some(authority) = &options.certificate_authority {
            connecting = connecting.add_root_certificates(authority.clone());
        }
        if let Some((certificate, key)) = &options.certificate {
            connecting = connecting.add_client_certificate(certificate.clone(), key.clone());
        }
        let client = connecting.connect(options.servers.clone()).await;
        let client = client.map_err(|error| wrong(error.to_string()))?;
        let context = jetstream::ContextBuilder::new()
            .timeout(ANSWER_TIMEOUT)
            .build(client);
        Ok(Arc::new(Self {
            context,
            name: options.stream.clone(),
            handle: OnceLock::new(),
            replicas: options.replicas,
            away: watch::Sender::new(Some("there is no connection to NATS yet".into())),
            look,
        }))
    }

    /// Whether the stream is there: `None`, or why not.
    pub(super) fn health(&self) -> watch::Receiver<Option<String>> {
        self.away.subscribe()
    }

    /// Looks whether the stream is there, for ever, and makes it the first time.
    pub(super) async fn look_after(self: Arc<Self>) {
        loop {
            let found = self.look_for().await;
            let is_there = found.is_ok();
            self.away.send_if_modified(|away| {
                match (&away, &found) {
                    (Some(_), Ok(())) => tracing::info!(stream = self.name, "NATS is there"),
                    (None, Err(why)) => tracing::warn!(stream = self.name, why, "NATS is away"),
                    _ => {}
                }
                let changed = away.is_some() != found.is_err();
                *away = found.err();
                changed
            });
            let every = if is_there { LOOK_EVERY.0 } else { LOOK_EVERY.1 };
            // Events come also when nothing has changed.
            drop(timeout(every, self.look.notified()).await);
        }
    }

    async fn look_for(&self) -> Result<(), String> {
        if let Some(handle) = self.handle.get() {
            let info = timeout(ANSWER_TIMEOUT, handle.get_info()).await;
            let info = info.map_err(|_| "the stream does not answer".to_owned())?;
            return info.map(drop).map_err(|error| error.to_string());
        }
        let config = Config {
            name: self.name.clone(),
            subjects: vec![subject::all(&self.name)],
            storage: StorageType::File,
            num_replicas: self.replicas,
            discard: DiscardPolicy::New,
            duplicate_window: DUPLICATE_WINDOW,
            deny_delete: true,
            description: Some("Histories of fanout's plans, a subject for each".into()),
            ..Config::default()
        };
        let made = timeout(CREATION_TIMEOUT, self.context.get_or_create_stream(config)).await;
        let made = made.map_err(|_| "the stream does not answer".to_owned())?;
        let found = made.map_err(|error| error.to_string())?;
        check(found.cached_info(), self.replicas);
        let handle = self.context.get_stream_no_info(&self.name).await;
        let handle = handle.map_err(|error| error.to_string())?;
        drop(self.handle.set(handle));
        Ok(())
    }

    /// The stream, if it is there: what is asked of one that is not would be answered by nobody.
    fn handle(&self) -> Result<Handle<()>, Away> {
        if let Some(why) = &*self.away.borrow() {
            return Err(Away(why.clone()));
        }
        let handle = self.handle.get().cloned();
        handle.ok_or_else(|| Away("there is no connection to NATS yet".into()))
    }

    /// Tells where messages arrive, in which subject, for ever; `None` after a while in which some may have been missed.
    pub(super) fn arrivals(self: Arc<Self>) -> impl Messages<Item = Option<(String, u64)>> {
        stream! {
            loop {
                drop(self.health().wait_for(Option::is_none).await);
                let Ok(handle) = self.handle() else {
                    tokio::time::sleep(LOOK_EVERY.1).await;
                    continue;
                };
                let config = pull::OrderedConfig {
                    filter_subject: subject::all(&self.name),
                    deliver_policy: DeliverPolicy::New,
                    headers_only: true,
                    ..pull::OrderedConfig::default()
                };
                let arriving = async {
                    let consumer = in_time(handle.create_consumer(config)).await?.map_err(away)?;
                    in_time(consumer.messages()).await?.map_err(away)
                };
                let mut arriving = match arriving.await {
                    Ok(arriving) => Box::pin(arriving),
                    Err(Away(why)) => {
                        tracing::debug!(why, "cannot follow the stream yet");
                        tokio::time::sleep(LOOK_EVERY.1).await;
                        continue;
                    }
                };
                yield None;
                let mut health = self.health();
                loop {
                    let next = tokio::select! {
                        next = arriving.next() => next,
                        // Whether it has missed anything meanwhile is not worth finding out.
                        _ = health.wait_for(Option::is_some) => break,
                    };
                    let Some(Ok(message)) = next else { break };
                    if let Ok(info) = message.info() {
                        yield Some((message.subject.to_string(), info.stream_sequence));
                    }
                }
            }
        }
    }
}

/// What one read has its messages from. The stream keeps each of them until it is deleted, or was left for
/// [`READ_LIFE`], and thousands of them would be too much for it: it is deleted when this is dropped.
struct Consumer {
    handle: Handle<()>,
    name: String,
}

impl Consumer {
    fn new(handle: &Handle<()>) -> Self {
        Self {
            handle: handle.clone(),
            name: format!("read-{:016x}", drawn()),
        }
    }

    /// The messages of a subject from a place on. None of them comes twice, and some may be lost on their way.
    async fn messages(&self, subject: &str, from: u64) -> Result<pull::Stream, Away> {
        let config = pull::Config {
            name: Some(self.name.clone()),
            filter_subject: subject.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            inactive_threshold: READ_LIFE,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let made = in_time(self.handle.create_consumer(config)).await?;
        let consumer = made.map_err(away)?;
        let messages = consumer.stream().expires(READ_LIFE).messages();
        in_time(messages).await?.map_err(away)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let (handle, name) = (self.handle.clone(), std::mem::take(&mut self.name));
        // At the end of the process there may be nobody to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(in_time(handle.delete_consumer(&name)).await) });
        }
    }
}

/// Says what about a stream that was made by somebody else is not as promised.
fn check(info: &Info, replicas: usize) {
    let Config {
        num_replicas,
        storage,
        max_age,
        discard,
        ..
    } = &info.config;
    if *num_replicas != replicas {
        tracing::warn!(
            has = num_replicas,
            wanted = replicas,
            "the stream was made with another number of replicas, and keeps it"
        );
    }
    if *storage != StorageType::File {
        tracing::warn!(
            "the stream is kept in memory: a restart of NATS loses what was acknowledged"
        );
    }
    if !max_age.is_zero() || *discard != DiscardPolicy::New {
        tracing::warn!("the stream forgets messages by itself: plans will be damaged");
    }
}

fn message(message: StreamMessage) -> Message {
    let at = message.time.unix_timestamp_nanos() / 1_000_000;
    Message {
        position: message.sequence,
        at: u64::try_from(at).unwrap_or_default(),
        payload: message.payload,
    }
}

/// A message, if there is one.
fn found(asked: Result<StreamMessage, RawMessageError>) -> Result<Option<Message>, Away> {
    match asked {
        Ok(found) => Ok(Some(message(found))),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error)
                if error.error_code() == Told::NO_MESSAGE_FOUND =>
            {
                Ok(None)
            }
            _ => Err(away(error)),
        },
    }
}

fn away(error: impl std::error::Error) -> Away {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !told.contains(&more) {
            told = format!("{told}: {more}");
        }
        source = error.source();
    }
    Away(format!("NATS: {told}"))
}

/// What became of a message that was not taken.
fn refused(error: PublishError) -> Result<Published, Away> {
    let code = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    match (error.kind(), code) {
        (PublishErrorKind::WrongLastSequence, _)
        | (_, Some(Told::STREAM_WRONG_LAST_SEQUENCE | Told::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => {
            Ok(Published::Refused)
        }
        (PublishErrorKind::MaxPayloadExceeded, _)
        | (
            _,
            Some(
                Told::STREAM_STORE_FAILED
                | Told::INSUFFICIENT_RESOURCES
                | Told::STORAGE_RESOURCES_EXCEEDED
                | Told::MEMORY_RESOURCES_EXCEEDED
                | Told::ACCOUNT_RESOURCES_EXCEEDED
                | Told::STREAM_MAX_STREAM_BYTES_EXCEEDED,
            ),
        ) => Ok(Published::Full(away(error).0)),
        _ => Err(away(error)),
    }
}

impl Stream for JetStream {
    fn publish(
        &self,
        subject: &str,
        expected: u64,
        id: &str,
        payload: Bytes,
    ) -> Asked<'_, Published> {
        let message = PublishMessage::build()
            .payload(payload)
            .message_id(id)
            .expected_stream(&self.name)
            .expected_last_subject_sequence(expected);
        let subject = subject.to_owned();
        Box::pin(async move {
            self.handle()?;
            let sent = match self.context.send_publish(subject, message).await {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(acknowledged) => Ok(Published::At(acknowledged.sequence)),
                Err(error) => refused(error),
            }
        })
    }

    fn last(&self, subject: &str) -> Asked<'_, Option<Message>> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let handle = self.handle()?;
            let asked = handle.get_last_raw_message_by_subject(&subject);
            found(in_time(asked).await?)
        })
    }

    fn next(&self, subject: &str, from: u64) -> Asked<'_, Option<Message>> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let handle = self.handle()?;
            let asked = handle.get_first_raw_message_by_subject(&subject, from);
            found(in_time(asked).await?)
        })
    }

    fn read(&self, subject: &str, from: u64) -> Read {
        let (handle, subject) = (self.handle(), subject.to_owned());
        Box::pin(async_stream::try_stream! {
            let handle = handle?;
            let last = found(in_time(handle.get_last_raw_message_by_subject(&subject)).await?)?;
            let Some(last) = last.filter(|last| last.position >= from) else {
                return;
            };
            let mut from = from.max(1);
            loop {
                let (consumer, began_from) = (Consumer::new(&handle), from);
                let mut messages = consumer.messages(&subject, from).await?;
                let mut received = 0;
                let why = loop {
                    let next = match in_time(messages.next()).await? {
                        Some(Ok(next)) => next,
                        Some(Err(error)) => break away(error),
                        None => break Away("NATS: the messages ended early".into()),
                    };
                    let info = next.info().map_err(|error| Away(error.to_string()))?;
                    received += 1;
                    if info.consumer_sequence != received {
                        break Away("NATS: a message was lost on its way".into());
                    }
                    let position = info.stream_sequence;
                    if position > last.position {
                        return;
                    }
                    yield Message { position, at: 0, payload: next.payload.clone() };
                    if position == last.position {
                        return;
                    }
                    from = position + 1;
                };
                // Who has not read on for a while finds its consumer gone, and goes on with another.
                if from == began_from {
                    Err(why)?;
                }
            }
        })
    }

    fn subjects(&self) -> Asked<'_, Vec<Subject>> {
        Box::pin(async move {
            let handle = self.handle()?;
            let all = subject::all(&self.name);
            let info = in_time(handle.info_with_subjects(all)).await?;
            let subjects = info.map_err(away)?;
            let subjects = subjects.map_ok(|(name, messages)| Subject { name, messages });
            subjects.try_collect().await.map_err(away)
        })
    }

    fn forget(&self, subject: &str, before: u64) -> Asked<'_, ()> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let purge = self.handle()?.purge().sequence(before).filter(subject);
            in_time(purge.into_future()).await?.map_err(away)?;
            Ok(())
        })
    }

    fn message_bytes_max(&self) -> usize {
        let client: Client = self.context.client();
        client
            .try_server_info()
            .map_or(1 << 20, |info| info.max_payload)
            .saturating_sub(HEADER_BYTES_MAX)
    }

    fn away(&self) -> Option<String> {
        self.away.borrow().clone()
    }
}

/// Waits for an answer, but not for ever.
async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Away> {
    let answer = timeout(ANSWER_TIMEOUT, answer).await;
    answer.map_err(|_| Away("NATS does not answer".into()))
}
