//! Reads a subject: puts appends together from messages, and checks that each follows the one before.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::message::{Head, Kind, OtherForm};
use super::stream::{Away, Message, Read, Stream};
use crate::engine::Entry;
use crate::journal::Error;
use crate::journal::disk::frame::{self, Hash};
use crate::journal::stored::{Reading, Unreadable};

/// So many messages are asked for one by one before all that are left are asked for together.
const ASKED_FOR: u32 = 4;

/// A place in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last entry before it.
    pub(super) sequence: u64,
    /// The last message of the subject before it: what an append here follows.
    pub(super) position: u64,
    /// The last of those messages that no append goes on after: who reads on from here has to begin behind it.
    pub(super) whole: u64,
    /// Number of the history.
    pub(super) history: u64,
    /// Hash of the last frame before it.
    pub(super) hash: Hash,
}

/// What comes next in a subject.
#[derive(Debug)]
pub(super) enum Step {
    /// The entries of an append.
    Append(Vec<Arc<Entry>>),
    /// Nothing yet.
    End,
    /// The history was forgotten, or there is another one.
    Gone,
}

/// Reads on from a place.
pub(super) struct Reader {
    subject: Arc<str>,
    /// After the last append that was read; behind messages that count for nothing, or not yet.
    place: Place,
    pieces: Option<Pieces>,
    asked_for: u32,
    together: Option<Read>,
}

/// An append whose last message has not come.
struct Pieces {
    append: u64,
    next: u32,
    frames: BytesMut,
}

impl Reader {
    pub(super) fn new(subject: Arc<str>, place: Place) -> Self {
        Self {
            subject,
            place: Place {
                position: place.whole,
                ..place
            },
            pieces: None,
            // Who begins at the beginning has more to read.
            asked_for: if place.whole == 0 { ASKED_FOR } else { 0 },
            together: None,
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// What comes next.
    pub(super) async fn next(&mut self, stream: &dyn Stream) -> Result<Step, Error> {
        while let Some(message) = self.message(stream).await? {
            let damaged =
                |problem: &str| Error::Damaged(format!("{problem} (message {})", message.position));
            let read = Head::read(&message.payload);
            let (head, frames) = read.map_err(|other| match other {
                OtherForm::Strange => damaged(&other.to_string()),
                OtherForm::Later(_) => other.into(),
            })?;
            if head.history != self.place.history {
                if self.place.sequence > 0 {
                    return Ok(Step::Gone);
                }
                // It is of an earlier plan of this name.
                self.pass(message.position);
                continue;
            }
            match head.kind {
                Kind::Forgotten => return Ok(Step::Gone),
                Kind::Begun => self.pass(message.position),
                Kind::Entries => {
                    let frames = self.piece(&head, frames);
                    self.pass(message.position);
                    if let Some(frames) = frames {
                        let entries = self.entries(&head, frames);
                        return entries
                            .map(Step::Append)
                            .map_err(|unreadable| match unreadable {
                                Unreadable::Later(_) => Error::Failed(unreadable.to_string()),
                                Unreadable::Malformed(problem) => damaged(&problem),
                            });
                    }
                }
            }
        }
        Ok(Step::End)
    }

    /// Goes behind a message. Where an append goes on after it, nobody can begin to read there.
    fn pass(&mut self, position: u64) {
        self.place.position = position;
        if self.pieces.is_none() {
            self.place.whole = position;
        }
    }

    async fn message(&mut self, stream: &dyn Stream) -> Result<Option<Message>, Error> {
        let away = |away: Away| Error::Away(away.0);
        let from = self.place.position + 1;
        if self.asked_for >= ASKED_FOR {
            let together = self
                .together
                .get_or_insert_with(|| stream.read(&self.subject, from));
            match together.next().await {
                Some(Ok(message)) => return Ok(Some(message)),
                ended => {
                    self.together = None;
                    self.asked_for = 0;
                    ended.transpose().map_err(away)?;
                }
            }
        }
        self.asked_for += 1;
        let message = stream.next(&self.subject, from).await.map_err(away)?;
        if message.is_none() {
            self.asked_for = 0;
        }
        Ok(message)
    }

    /// The frames of an append, once all are there.
    fn piece(&mut self, head: &Head, frames: Bytes) -> Option<Bytes> {
        if head.piece == 0 && !head.continues {
            self.pieces = None;
            return Some(frames);
        }
        if head.piece == 0 {
            self.pieces = Some(Pieces {
                append: head.append,
                next: 0,
                frames: BytesMut::new(),
            });
        }
        let follows =
            |pieces: &&mut Pieces| pieces.append == head.append && pieces.next == head.piece;
        let Some(pieces) = self.pieces.as_mut().filter(follows) else {
            // Its beginning was before the place that was begun at, where an append was overtaken.
            self.pieces = None;
            return None;
        };
        pieces.frames.extend_from_slice(&frames);
        pieces.next += 1;
        if head.continues {
            return None;
        }
        self.pieces.take().map(|pieces| pieces.frames.freeze())
    }

    /// Reads the frames of an append.
    fn entries(&mut self, head: &Head, mut frames: Bytes) -> Result<Vec<Arc<Entry>>, Unreadable> {
        let malformed = |problem: &str| Unreadable::Malformed(problem.to_owned());
        let mut hash = self.place.hash;
        let mut reading = Reading::default();
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        if head.after != self.place.sequence {
            return Err(malformed("an append follows another entry than the last"));
        }
        while !frames.is_empty() {
            let frame = frame::take(&mut frames, &hash);
            let (head, payload) =
                frame.ok_or_else(|| malformed("a frame is not as it was written"))?;
            hash = head.own;
            reading.read(payload, &mut entries)?;
        }
        let mut sequences = head.after + 1..=head.last;
        let in_order = entries
            .iter()
            .all(|entry| sequences.next() == Some(entry.sequence));
        if reading.is_under_way() || !in_order || sequences.next().is_some() || hash != head.hash {
            return Err(malformed("an append is not what its message says"));
        }
        self.place.sequence = head.last;
        self.place.hash = hash;
        Ok(entries)
    }
}
