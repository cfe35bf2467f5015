//! Where a plan keeps the documents of its records: one after the other, in pieces of memory that grow with the plan, so
//! that a record costs a copy and no memory of its own.

use bytes::{Bytes, BytesMut};

/// The first piece.
const PIECE_BYTES_MIN: usize = 4 << 10;
const PIECE_BYTES_MAX: usize = 1 << 20;
/// A document of this size has memory of its own, rather than leave the end of a piece unused.
const ALONE_BYTES_MIN: usize = PIECE_BYTES_MAX / 16;

/// The documents of a plan. At most half of the memory is unused (of a small plan, most of 4 KiB), and of a large plan at
/// most a piece of 1 MiB and a sixteenth. A piece lives as long as one of its documents.
#[derive(Debug, Default)]
pub struct Documents {
    /// What is left of the last piece.
    piece: BytesMut,
    /// Bytes of all documents.
    kept: usize,
}

impl Documents {
    /// Keeps a copy of a document.
    pub fn keep(&mut self, document: &[u8]) -> Bytes {
        if document.len() >= ALONE_BYTES_MIN {
            return Bytes::copy_from_slice(document);
        }
        if self.piece.capacity() < document.len() {
            let bytes = self.kept.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
            self.piece = BytesMut::with_capacity(bytes.max(document.len()));
        }
        self.kept += document.len();
        self.piece.extend_from_slice(document);
        self.piece.split().freeze()
    }
}
