//! Appends as bytes: cut into payloads, and entries as the generated messages would be written, without making those of
//! records, of which there are millions.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use smallvec::SmallVec;

use super::generated::Frame;
use super::{store, store_matched_by, store_status};
use crate::engine::{Entry, Event, Held};

/// What an entry of a record takes beside its document, at most nearly always.
const BESIDE_DOCUMENT_BYTES: usize = 48;

/// A payload, by its place in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Piece {
    /// How many entries begin here.
    pub(in crate::journal) entries: u32,
    /// Where the encoded message is.
    pub(in crate::journal) payload: Range<usize>,
}

/// The payloads of an append; nearly always one.
pub(in crate::journal) type Pieces = SmallVec<[Piece; 1]>;

/// Writes an append behind what a buffer has, cut into payloads of about `part_bytes`, each with room for a head of so many
/// bytes before it; what cannot be cut, a record or a task, may be larger.
pub(in crate::journal) fn write(
    entries: &[Arc<Entry>],
    part_bytes: usize,
    head_bytes: usize,
    to: &mut Vec<u8>,
) -> Pieces {
    to.reserve(head_bytes + entries.iter().map(bytes_about).sum::<usize>());
    let mut cutting = Cutting {
        to,
        head_bytes,
        begun: None,
        pieces: Pieces::new(),
    };
    for entry in entries {
        cutting.entry(entry);
        if let Event::PlanCreated(spec) = &entry.event {
            for task in spec.tasks.numbers(0..spec.tasks.len()) {
                let request = spec.request(task);
                let before = cutting.bytes();
                if before > 0 && before + request.len() > part_bytes {
                    cutting.finish();
                }
                cutting.task_request(request);
            }
            // Entries come before tasks in a message, so those that follow need one of their own.
            cutting.finish();
        } else if cutting.bytes() >= part_bytes {
            cutting.finish();
        }
    }
    cutting.finish();
    cutting.pieces
}

/// Bytes that an entry takes, about: no matter how wrong this is, only memory for records is worth to be taken at once.
fn bytes_about(entry: &Arc<Entry>) -> usize {
    match &entry.event {
        Event::RecordAccepted(held) => BESIDE_DOCUMENT_BYTES + held.document.len(),
        _ => BESIDE_DOCUMENT_BYTES,
    }
}

/// An append on its way into a buffer.
struct Cutting<'b> {
    to: &'b mut Vec<u8>,
    head_bytes: usize,
    /// Where the payload begins that is being written, and how many entries it has.
    begun: Option<(usize, u32)>,
    pieces: Pieces,
}

impl Cutting<'_> {
    /// Bytes of the payload that is being written.
    fn bytes(&self) -> usize {
        self.begun.map_or(0, |(begin, _)| self.to.len() - begin)
    }

    /// Begins a payload unless one is begun; answers its number of entries.
    fn begin(&mut self) -> &mut u32 {
        let (_, entries) = self.begun.get_or_insert_with(|| {
            self.to.resize(self.to.len() + self.head_bytes, 0);
            (self.to.len(), 0)
        });
        entries
    }

    fn entry(&mut self, entry: &Entry) {
        // An append of 4 billion entries fits no memory.
        *self.begin() += 1;
        match &entry.event {
            Event::RecordAccepted(held) => write_accepted(entry, held, self.to),
            _ => write_rare(entry, self.to),
        }
    }

    fn task_request(&mut self, request: Bytes) {
        self.begin();
        let mut key = Short::default();
        key.length(TASK_REQUESTS, request.len());
        self.to.extend_from_slice(key.bytes());
        self.to.extend_from_slice(&request);
    }

    fn finish(&mut self) {
        if let Some((begin, entries)) = self.begun.take() {
            let payload = begin..self.to.len();
            self.pieces.push(Piece { entries, payload });
        }
    }
}

// Numbers of fields, as in the contract.
const ENTRIES: u8 = 2;
const TASK_REQUESTS: u8 = 3;
const SEQUENCE: u8 = 1;
const AT: u8 = 2;
const RECORD_ACCEPTED: u8 = 4;

fn write_rare(entry: &Entry, to: &mut Vec<u8>) {
    let frame = Frame {
        entries: vec![store(entry)],
        ..Frame::default()
    };
    frame.encode_raw(to);
}

/// What [`write_rare`] writes of the entry of a record.
fn write_accepted(entry: &Entry, held: &Held, to: &mut Vec<u8>) {
    let mut beside = Short::default();
    beside.number(1, held.task.into());
    beside.number(2, held.revision.into());
    beside.word(3, store_status(held.verdict.status));
    beside.number(4, held.verdict.successful.into());
    beside.number(5, held.has_outcome.into());
    beside.word(6, store_matched_by(held.matched_by));
    if !held.document.is_empty() {
        beside.length(7, held.document.len());
    }
    let mut place = Short::default();
    place.number(SEQUENCE, entry.sequence);
    place.number(AT, entry.at.0);
    place.length(RECORD_ACCEPTED, beside.length + held.document.len());
    let mut key = Short::default();
    let inside = place.length + beside.length + held.document.len();
    key.length(ENTRIES, inside);
    to.extend_from_slice(key.bytes());
    to.extend_from_slice(place.bytes());
    to.extend_from_slice(beside.bytes());
    to.extend_from_slice(&held.document);
}

/// At most seven fields of a message, without the bytes of a last one: a key of one byte and a number of ten each.
struct Short {
    bytes: [u8; 7 * 11],
    length: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self {
            bytes: [0; 7 * 11],
            length: 0,
        }
    }
}

/// What the lowest bits of a key say of the field's form.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

impl Short {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// A number; 0 is not written.
    fn number(&mut self, field: u8, number: u64) {
        if number != 0 {
            self.push(field << 3 | VARINT);
            self.varint(number);
        }
    }

    /// A word, by its number.
    fn word(&mut self, field: u8, word: i32) {
        // Negative numbers are written with the bits of longer ones.
        self.number(field, i64::from(word).cast_unsigned());
    }

    /// The beginning of a field with so many bytes.
    fn length(&mut self, field: u8, length: usize) {
        self.push(field << 3 | LENGTH_DELIMITED);
        self.varint(length as u64);
    }

    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::{write_accepted, write_rare};
    use crate::engine::{Entry, Event, Held, MatchedBy, Status, Timestamp, Verdict};
    use std::sync::Arc;

    proptest! {
        #[test]
        fn a_record_is_written_as_the_generated_message_is(
            (sequence, at) in any::<(u64, u64)>(),
            (small, shift) in (any::<bool>(), 0..64_u32),
            (task, revision, successful, has_outcome) in any::<(u32, u32, bool, bool)>(),
            status in select(&[Status::Completed, Status::Failed, Status::MissingRecord][..]),
            matched_by in select(&[MatchedBy::TaskId, MatchedBy::Id, MatchedBy::Operator][..]),
            document in prop_oneof![any::<Vec<u8>>(), (0..40_000_usize).prop_map(|bytes| vec![b'x'; bytes])],
        ) {
            let shift = if small { shift } else { 0 };
            let held = Held {
                task: task.checked_shr(shift).unwrap_or_default(),
                revision: revision.checked_shr(shift).unwrap_or_default(),
                sequence: sequence >> shift,
                at: Timestamp(at >> shift),
                verdict: Verdict { status, successful },
                has_outcome,
                matched_by,
                document: Bytes::from(document),
            };
            let entry = Entry {
                sequence: held.sequence,
                at: held.at,
                event: Event::RecordAccepted(Arc::new(held.clone())),
            };
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            write_accepted(&entry, &held, &mut found);
            write_rare(&entry, &mut expected);
            prop_assert_eq!(found, expected);
        }
    }
}
