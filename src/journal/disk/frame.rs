//! Frames: what a plan's file is made of, one after the other.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | length of the payload, at least 1 |
//! | 4..8 | how many entries begin in it |
//! | 8..16 | the sequence they follow |
//! | 16..24 | how much of the file was sure to be on the disk before this frame was written |
//! | 24..28 | 1 if the append goes on in the next frame, else 0 |
//! | 28..32 | what the frame's own hash is: 1, XXH3-128; 0, the first 16 bytes of BLAKE3, as format 1 had it |
//! | 32..48 | hash of the frame before, or 0 in the first |
//! | 48..64 | hash of this one, of bytes 0..48 and the payload |
//! | 64.. | the payload |
//!
//! Numbers are little-endian, and so is XXH3-128. After the last frame there are zeros, or nothing.
//!
//! The hashes tell damage, and a frame that is not the next one, with a chance of 2^-128 that they do not. Against somebody
//! who changes the file on purpose neither hash helps: it has no key, so whoever can write can also hash.
//!
//! What was sure to be on the disk tells damage from a loss of power: the frames of one write reach the disk in any order,
//! so a wrong frame may well be followed by a right one, but not by one that was written after the wrong one was sure.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use twox_hash::XxHash3_128;

use super::files::{FileHandle, read_all_at};
use crate::engine::Entry;
use crate::journal::Error;
use crate::journal::stored::{self, Pieces};

/// Bytes of a frame before its payload.
pub(in crate::journal) const HEAD_BYTES: usize = 64;
/// Longest payload.
pub(in crate::journal) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// So much of a file is read at once, unless a frame is longer.
const BLOCK_BYTES: usize = 1 << 20;

const PREVIOUS: std::ops::Range<usize> = 32..48;
const OWN: std::ops::Range<usize> = 48..64;
const CONTINUES: u32 = 1;
const BLAKE3: u32 = 0;
/// What frames are written with: 40 times as fast as BLAKE3 for a frame of one record, 10 times for one of fifty.
const XXH3: u32 = 1;

/// The hash of a frame.
pub(in crate::journal) type Hash = [u8; 16];

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Head {
    pub(in crate::journal) length: u32,
    pub(in crate::journal) entries: u32,
    pub(in crate::journal) after: u64,
    pub(in crate::journal) synced: u64,
    pub(in crate::journal) continues: bool,
    pub(in crate::journal) previous: Hash,
    pub(in crate::journal) own: Hash,
}

impl Head {
    /// Bytes of the frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.length)
    }

    /// Reads what may be a head; `None` if it is surely none.
    fn read(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let half = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        let hash = |at: usize| std::array::from_fn(|byte| bytes[at + byte]);
        let head = Self {
            length: half(0),
            entries: half(4),
            after: word(8),
            synced: word(16),
            continues: half(24) == CONTINUES,
            previous: hash(PREVIOUS.start),
            own: hash(OWN.start),
        };
        let is_one = (1..=PAYLOAD_BYTES_MAX).contains(&(head.length as usize))
            && half(24) <= CONTINUES
            && matches!(half(28), BLAKE3 | XXH3);
        is_one.then_some(head)
    }
}

/// The hash of a frame. What it is of is put side by side for that: one piece is hashed much faster than two.
fn hash(frame: &mut [u8]) -> Hash {
    let mut head = [0; HEAD_BYTES];
    head.copy_from_slice(&frame[..HEAD_BYTES]);
    let hashed = OWN.len();
    frame[hashed..HEAD_BYTES].copy_from_slice(&head[..OWN.start]);
    let hash = if head[28] == XXH3.to_le_bytes()[0] {
        XxHash3_128::oneshot(&frame[hashed..]).to_le_bytes()
    } else {
        let hash = blake3::hash(&frame[hashed..]);
        std::array::from_fn(|byte| hash.as_bytes()[byte])
    };
    frame[..HEAD_BYTES].copy_from_slice(&head);
    hash
}

/// Writes an append behind what is there, as frames that are still to be [sealed](seal): cut into parts of about
/// `part_bytes`, the first after the entry `after`. Answers where their payloads are.
///
/// # Errors
/// [`Error::Full`] if a record is longer than [`PAYLOAD_BYTES_MAX`]; nothing is written.
pub(in crate::journal) fn append(
    to: &mut Vec<u8>,
    entries: &[Arc<Entry>],
    part_bytes: usize,
    mut after: u64,
) -> Result<Pieces, Error> {
    let begin = to.len();
    let pieces = stored::write(entries, part_bytes, HEAD_BYTES, to);
    let longest = pieces.iter().map(|piece| piece.payload.len()).max();
    if let Some(longest) = longest.filter(|bytes| *bytes > PAYLOAD_BYTES_MAX) {
        to.truncate(begin);
        return Err(Error::Full(format!(
            "a record of {longest} bytes is more than the {PAYLOAD_BYTES_MAX} that a frame can hold"
        )));
    }
    for (position, piece) in pieces.iter().enumerate() {
        let continues = position + 1 < pieces.len();
        let frame = piece.payload.start - HEAD_BYTES..piece.payload.end;
        put_head(&mut to[frame], piece.entries, after, continues);
        after += u64::from(piece.entries);
    }
    Ok(pieces)
}

/// Appends a frame that is still to be [sealed](seal). The payload is at most [`PAYLOAD_BYTES_MAX`] long.
pub(super) fn write(to: &mut Vec<u8>, payload: &[u8], entries: u32, after: u64, continues: bool) {
    let begin = to.len();
    to.resize(begin + HEAD_BYTES, 0);
    to.extend_from_slice(payload);
    put_head(&mut to[begin..], entries, after, continues);
}

/// Makes a frame of a payload with room before it, still to be [sealed](seal). The room is zero.
fn put_head(frame: &mut [u8], entries: u32, after: u64, continues: bool) {
    let length = frame.len() - HEAD_BYTES;
    debug_assert!(length <= PAYLOAD_BYTES_MAX, "the caller checks");
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    frame[0..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&entries.to_le_bytes());
    frame[8..16].copy_from_slice(&after.to_le_bytes());
    frame[24..28].copy_from_slice(&u32::from(continues).to_le_bytes());
    frame[28..32].copy_from_slice(&XXH3.to_le_bytes());
}

/// Puts into each of these frames how much of the file is on the disk, the hash of the frame before, and its own.
pub(in crate::journal) fn seal(mut frames: &mut [u8], synced: u64, previous: &mut Hash) {
    while let Some((length, _)) = frames.split_first_chunk::<4>() {
        let end = HEAD_BYTES + u32::from_le_bytes(*length) as usize;
        let (frame, rest) = frames.split_at_mut(end);
        frame[16..24].copy_from_slice(&synced.to_le_bytes());
        frame[PREVIOUS].copy_from_slice(previous);
        *previous = hash(frame);
        frame[OWN].copy_from_slice(previous);
        frames = rest;
    }
}

/// Takes the next frame off bytes that are wholly there, and its payload; `None` if it is not as it was written, or does
/// not follow the frame of this hash.
pub(in crate::journal) fn take(bytes: &mut Bytes, previous: &Hash) -> Option<(Head, Bytes)> {
    let head = Head::read(bytes.first_chunk()?)?;
    let end = HEAD_BYTES + head.length as usize;
    if bytes.len() < end || head.previous != *previous {
        return None;
    }
    let mut frame = BytesMut::from(&bytes.split_to(end)[..]);
    (hash(&mut frame) == head.own).then(|| (head, frame.freeze().slice(HEAD_BYTES..)))
}

/// What there is at a place in a file.
#[derive(Debug)]
pub(super) enum Step {
    /// A frame as it was written.
    Frame(Head, Bytes),
    /// Zeros, or the end of what is to be read.
    End,
    /// Something else.
    Wrong,
}

/// Reads a file frame by frame, with memory for a block or for the longest frame.
pub(super) struct Frames<'f> {
    file: &'f dyn FileHandle,
    /// Where the next frame begins.
    offset: u64,
    /// Nothing is read from here on.
    end: u64,
    /// What the next frame has to follow; the first may follow anything if it is not known.
    previous: Option<Hash>,
    /// What was read of the file from `offset` on.
    block: BytesMut,
}

impl<'f> Frames<'f> {
    /// Reads from `offset` to `end`, which is not past the end of the file.
    pub(super) fn new(
        file: &'f dyn FileHandle,
        offset: u64,
        end: u64,
        previous: Option<Hash>,
    ) -> Self {
        Self {
            file,
            offset,
            end,
            previous,
            block: BytesMut::new(),
        }
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes are to be read from there on.
    pub(super) fn left(&self) -> u64 {
        self.end - self.offset
    }

    /// The next frame. After anything else, the same comes again.
    pub(super) fn next(&mut self) -> io::Result<Step> {
        if self.fill(HEAD_BYTES)? < HEAD_BYTES {
            let zeros = self.block.iter().all(|byte| *byte == 0);
            return Ok(if zeros { Step::End } else { Step::Wrong });
        }
        let Some((bytes, _)) = self.block.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(Step::Wrong);
        };
        let Some(head) = Head::read(bytes) else {
            let zeros = bytes.iter().all(|byte| *byte == 0);
            return Ok(if zeros { Step::End } else { Step::Wrong });
        };
        let follows = self
            .previous
            .is_none_or(|previous| head.previous == previous);
        let frame_bytes = head.frame_bytes();
        let length = HEAD_BYTES + head.length as usize;
        if !follows || frame_bytes > self.end - self.offset || self.fill(length)? < length {
            return Ok(Step::Wrong);
        }
        if hash(&mut self.block[..length]) != head.own {
            return Ok(Step::Wrong);
        }
        let mut payload = self.block.split_to(length).freeze();
        payload.advance(HEAD_BYTES);
        self.offset += frame_bytes;
        self.previous = Some(head.own);
        Ok(Step::Frame(head, payload))
    }

    /// Reads on until so many bytes are there, or all; answers how many are.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        if self.block.len() >= wanted {
            return Ok(self.block.len());
        }
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let there = self.block.len();
        // If nobody has the frames before any more, this is the memory that they were in.
        self.block.resize(wanted.max(BLOCK_BYTES).min(left), 0);
        let read = read_all_at(
            self.file,
            &mut self.block[there..],
            self.offset + there as u64,
        );
        self.block.truncate(there + *read.as_ref().unwrap_or(&0));
        read?;
        Ok(self.block.len())
    }
}

/// Whether there is anything but zeros in this part of a file.
pub(super) fn is_written(file: &dyn FileHandle, offset: u64, end: u64) -> io::Result<bool> {
    let mut found = false;
    blocks(file, offset, end, 0, |_, block| {
        found |= block.iter().any(|byte| *byte != 0);
        !found
    })?;
    Ok(found)
}

/// The place of a frame, anywhere after `wrong`, that was written when all up to behind `wrong` was sure to be on the disk.
pub(super) fn later_than(file: &dyn FileHandle, wrong: u64, end: u64) -> io::Result<Option<u64>> {
    let mut likely = Vec::new();
    blocks(file, wrong + 1, end, HEAD_BYTES - 1, |begin, block| {
        for (at, bytes) in (begin..).zip(block.windows(HEAD_BYTES)) {
            let Some((bytes, _)) = bytes.split_first_chunk() else {
                continue;
            };
            let head = Head::read(bytes);
            let is_later = |head: &Head| {
                head.synced > wrong && head.synced <= at && head.frame_bytes() <= end - at
            };
            if head.filter(is_later).is_some() {
                likely.push(at);
            }
        }
        true
    })?;
    for at in likely {
        if let Step::Frame(..) = Frames::new(file, at, end, None).next()? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Hands out a part of a file block by block, each with so many bytes of the next one, until `each` says `false`.
fn blocks(
    file: &dyn FileHandle,
    mut offset: u64,
    end: u64,
    overlap: usize,
    mut each: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES + overlap];
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let wanted = block.len().min(left);
        let read = read_all_at(file, &mut block[..wanted], offset)?;
        if !each(offset, &block[..read]) || read < wanted {
            break;
        }
        offset += BLOCK_BYTES as u64;
    }
    Ok(())
}
