//! The form of a message: a head, and entries in the frames that a file has, too.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | the form: 2; 1 where the hashes of frames are those of a file's format 1 |
//! | 1 | what it says: 0 entries, 1 the history begins, 2 the plan was forgotten |
//! | 2 | 1 if the append goes on in the next message, else 0 |
//! | 3 | 0 |
//! | 4..8 | position of the message in its append |
//! | 8..16 | number of the history, drawn when it began |
//! | 16..24 | number of the append, drawn for it |
//! | 24..32 | the sequence that the append follows |
//! | 32..40 | sequence of its last entry |
//! | 40..56 | hash of its last frame |
//! | 56.. | frames, or the next piece of them |
//!
//! Numbers are little-endian. An append whose last message is missing counts for nothing: its writer was overtaken, or has
//! died, and the next append follows what was before it.

use bytes::Bytes;

use crate::journal::Error;
use crate::journal::disk::frame::Hash;

/// Bytes of a message before its frames.
pub(super) const HEAD_BYTES: usize = 56;

const FORM_1: u8 = 1;
const FORM: u8 = 2;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// This happened.
    Entries,
    /// The history begins.
    Begun,
    /// The plan was forgotten.
    Forgotten,
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) continues: bool,
    pub(super) piece: u32,
    pub(super) history: u64,
    pub(super) append: u64,
    pub(super) after: u64,
    pub(super) last: u64,
    pub(super) hash: Hash,
}

impl Head {
    /// Of a message without entries.
    pub(super) fn of(kind: Kind, history: u64, append: u64) -> Self {
        Self {
            kind,
            continues: false,
            piece: 0,
            history,
            append,
            after: 0,
            last: 0,
            hash: Hash::default(),
        }
    }

    /// Whether a history has entries that ends with this message: not if that is one of the first append's, and not its
    /// last.
    pub(super) fn has_entries(&self) -> bool {
        self.kind == Kind::Entries && !(self.continues && self.after == 0)
    }

    /// The message with these frames.
    pub(super) fn with(&self, frames: &[u8]) -> Bytes {
        let mut message = Vec::with_capacity(HEAD_BYTES + frames.len());
        message.resize(HEAD_BYTES, 0);
        message.extend_from_slice(frames);
        self.write(&mut message);
        message.into()
    }

    /// Writes the head where a message has left room for it.
    pub(super) fn write(&self, message: &mut [u8]) {
        let Some(head) = message.first_chunk_mut::<HEAD_BYTES>() else {
            return;
        };
        head[0] = FORM;
        head[1] = match self.kind {
            Kind::Entries => 0,
            Kind::Begun => 1,
            Kind::Forgotten => 2,
        };
        head[2] = u8::from(self.continues);
        head[3] = 0;
        head[4..8].copy_from_slice(&self.piece.to_le_bytes());
        head[8..16].copy_from_slice(&self.history.to_le_bytes());
        head[16..24].copy_from_slice(&self.append.to_le_bytes());
        head[24..32].copy_from_slice(&self.after.to_le_bytes());
        head[32..40].copy_from_slice(&self.last.to_le_bytes());
        head[40..56].copy_from_slice(&self.hash);
    }

    /// Reads a message.
    pub(super) fn read(message: &Bytes) -> Result<(Self, Bytes), OtherForm> {
        let bytes = message
            .first_chunk::<HEAD_BYTES>()
            .ok_or(OtherForm::Strange)?;
        let half = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        let kind = match (bytes[0], bytes[1]) {
            (FORM_1 | FORM, 0) => Kind::Entries,
            (FORM_1 | FORM, 1) => Kind::Begun,
            (FORM_1 | FORM, 2) => Kind::Forgotten,
            (form, _) if form > FORM => return Err(OtherForm::Later(form)),
            _ => return Err(OtherForm::Strange),
        };
        let head = Self {
            kind,
            continues: bytes[2] == 1,
            piece: half(4),
            history: word(8),
            append: word(16),
            after: word(24),
            last: word(32),
            hash: std::array::from_fn(|byte| bytes[40 + byte]),
        };
        if bytes[2] > 1 || bytes[3] > 0 {
            return Err(OtherForm::Strange);
        }
        Ok((head, message.slice(HEAD_BYTES..)))
    }
}

/// A message is not of a form that is known here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OtherForm {
    /// It is none of ours.
    #[error("there is a message of another form")]
    Strange,
    /// A replica wrote it that knows more: it can read it.
    #[error("a later version wrote a message, of form {0}")]
    Later(u8),
}

impl From<OtherForm> for Error {
    fn from(other: OtherForm) -> Self {
        match other {
            OtherForm::Strange => Self::Damaged(other.to_string()),
            OtherForm::Later(_) => Self::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Head, Kind, OtherForm};

    #[test]
    fn a_message_reads_as_it_was_written() {
        let head = Head {
            continues: true,
            piece: 7,
            after: 1 << 40,
            last: (1 << 40) + 3,
            hash: *b"0123456789abcdef",
            ..Head::of(Kind::Entries, u64::MAX - 1, 3 << 50)
        };
        let message = head.with(b"frames");
        assert_eq!(
            Head::read(&message),
            Ok((head, Bytes::from_static(b"frames")))
        );
        for kind in [Kind::Begun, Kind::Forgotten] {
            let head = Head::of(kind, 1, 2);
            assert_eq!(Head::read(&head.with(b"")), Ok((head, Bytes::new())));
        }
    }

    #[test]
    fn what_is_not_written_so_is_no_message() {
        let message = Head::of(Kind::Entries, 1, 2).with(b"");
        assert_eq!(
            Head::read(&message.slice(..message.len() - 1)),
            Err(OtherForm::Strange)
        );
        let changed = |at: usize, byte: u8| {
            let mut other = message.to_vec();
            other[at] = byte;
            Head::read(&other.into())
        };
        for (at, byte) in [(0, 0), (1, 3), (2, 2), (3, 1)] {
            assert_eq!(changed(at, byte), Err(OtherForm::Strange), "byte {at}");
        }
        assert_eq!(changed(0, 3), Err(OtherForm::Later(3)));
        assert_eq!(changed(0, 1), Head::read(&message), "the form before");
    }
}
