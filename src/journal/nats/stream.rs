//! What a journal asks of a JetStream stream, and what it is told.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream as Messages;

/// An answer that comes from the stream's servers.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Away>> + Send + 'a>>;

/// Messages that come one after the other.
pub type Read = Pin<Box<dyn Messages<Item = Result<Message, Away>> + Send>>;

/// A message as the stream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the stream, from 1.
    pub position: u64,
    /// When the stream took it: milliseconds since 1970-01-01T00:00:00Z.
    pub at: u64,
    /// What it says.
    pub payload: Bytes,
}

/// A subject with messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// How many messages it has.
    pub messages: usize,
}

/// The stream did not answer, or not what it was asked. What was asked may have been done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is at this place.
    At(u64),
    /// It was refused: the subject is at another place, or the stream is busy and cannot say.
    Refused,
    /// There is no room for it.
    Full(String),
}

/// A stream with a subject for each plan. All that it answers comes from the stream's leader, so that it is true when it
/// is said.
pub trait Stream: Send + Sync + 'static {
    /// Appends a message to a subject whose last message is at `expected`, or that has none if that is 0. The same `id`
    /// within two minutes is the same message.
    fn publish(
        &self,
        subject: &str,
        expected: u64,
        id: &str,
        payload: Bytes,
    ) -> Asked<'_, Published>;

    /// The last message of a subject.
    fn last(&self, subject: &str) -> Asked<'_, Option<Message>>;

    /// The first message of a subject from a place on.
    fn next(&self, subject: &str, from: u64) -> Asked<'_, Option<Message>>;

    /// All messages of a subject from a place on, up to those that are there now.
    fn read(&self, subject: &str, from: u64) -> Read;

    /// The subjects that have messages.
    fn subjects(&self) -> Asked<'_, Vec<Subject>>;

    /// Forgets the messages of a subject before a place.
    fn forget(&self, subject: &str, before: u64) -> Asked<'_, ()>;

    /// Most bytes of a message.
    fn message_bytes_max(&self) -> usize;

    /// Why the stream is not there, if that is known.
    fn away(&self) -> Option<String>;
}
