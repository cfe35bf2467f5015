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
        self.make_room(document.len());
        self.kept += document.len();
        self.piece.extend_from_slice(document);
        self.piece.split().freeze()
    }

    /// Keeps copies of documents. All that fit into a piece are copied before any of them is shared: to share what was
    /// just written is to wait until it has reached memory.
    pub fn keep_all(&mut self, documents: &[&[u8]]) -> Vec<Bytes> {
        let mut kept = Vec::with_capacity(documents.len());
        let mut rest = documents;
        while let [next, after @ ..] = rest {
            if next.len() >= ALONE_BYTES_MIN {
                kept.push(Bytes::copy_from_slice(next));
                rest = after;
                continue;
            }
            self.make_room(next.len());
            let capacity = self.piece.capacity();
            let mut fits = |document: &&&[u8]| {
                let fits = self.piece.len() + document.len() <= capacity;
                if fits {
                    self.piece.extend_from_slice(document);
                }
                fits
            };
            let together = rest.iter().take_while(|next| fits(next)).count();
            let piece = self.piece.split().freeze();
            let (copied, after) = rest.split_at(together);
            let mut begin = 0;
            kept.extend(copied.iter().map(|document| {
                let end = begin + document.len();
                piece.slice(std::mem::replace(&mut begin, end)..end)
            }));
            self.kept += piece.len();
            rest = after;
        }
        kept
    }

    fn make_room(&mut self, bytes: usize) {
        if self.piece.capacity() < bytes {
            let piece = self.kept.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
            self.piece = BytesMut::with_capacity(piece.max(bytes));
        }
    }
}
