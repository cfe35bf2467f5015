//! Puts a message at its place in a subject, and finds out what became of it, whatever the stream answers.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::message::{Head, Kind};
use super::stream::{Away, Message, Published, Stream};
use crate::journal::Error;
use crate::telemetry;

/// So long it is tried to find out what became of a message.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long to wait before a busy stream, or one that is away, is asked again.
const BUSY: Duration = Duration::from_millis(3);
const AWAY: Duration = Duration::from_millis(100);

/// A number that no other replica has drawn.
pub(super) fn drawn() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low
}

/// Publishes a message at its place, and finds out what became of it, however often it takes. Answers where it is.
pub(super) async fn publish(
    stream: &dyn Stream,
    subject: &str,
    expected: u64,
    head: &Head,
    message: Bytes,
) -> Result<u64, Error> {
    let id = format!("{:016x}-{}", head.append, head.piece);
    let until = Instant::now() + PATIENCE;
    loop {
        let why = match stream
            .publish(subject, expected, &id, message.clone())
            .await
        {
            Ok(Published::At(position)) => {
                telemetry::metrics::journal_wrote(message.len());
                return Ok(position);
            }
            Ok(Published::Full(problem)) => return Err(Error::Full(problem)),
            Ok(Published::Refused) => None,
            Err(Away(why)) => Some(why),
        };
        // What was answered may be about this message that has come before, and what was not may be there.
        let why = match (stream.next(subject, expected + 1).await, why) {
            (Ok(Some(there)), _) if is_it(&there, &message) => return Ok(there.position),
            (Ok(Some(_)), _) => return Err(overtaken(stream, subject).await),
            (Ok(None), None) => {
                if let Some(error) = no_such_place(stream, subject, expected).await {
                    return Err(error);
                }
                tokio::time::sleep(BUSY).await;
                "the stream is busy".to_owned()
            }
            (Ok(None), Some(why)) | (Err(Away(why)), _) => {
                tokio::time::sleep(AWAY).await;
                why
            }
        };
        if Instant::now() >= until {
            return Err(Error::Away(why));
        }
    }
}

fn is_it(there: &Message, message: &Bytes) -> bool {
    there.payload == *message
}

/// Others have appended: where the history is now.
async fn overtaken(stream: &dyn Stream, subject: &str) -> Error {
    match stream.last(subject).await {
        Ok(Some(last)) => match Head::read(&last.payload) {
            Ok((head, _)) if head.kind == Kind::Forgotten => Error::NotFound,
            Ok((head, _)) if head.continues => Error::Conflict { at: head.after },
            Ok((head, _)) => Error::Conflict { at: head.last },
            Err(other) => other.into(),
        },
        Ok(None) => Error::NotFound,
        Err(Away(why)) => Error::Away(why),
    }
}

/// Why there cannot be anything behind a place that is not known there.
async fn no_such_place(stream: &dyn Stream, subject: &str, expected: u64) -> Option<Error> {
    match stream.last(subject).await {
        Ok(None) if expected > 0 => Some(Error::NotFound),
        Ok(Some(last)) if last.position < expected => Some(Error::Damaged(format!(
            "the stream has lost messages: its last is {}, and {expected} was acknowledged",
            last.position
        ))),
        _ => None,
    }
}
