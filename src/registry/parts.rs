//! Parts of a plan's history as its watchers are shown them, made once for all who come to the same place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Parts that were made last are kept for those who come later, up to so many bytes of them; whoever comes too late has
/// another one made.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// What watchers are shown of some events that follow each other.
#[derive(Debug)]
pub struct Part {
    /// The event before the first.
    pub after: u64,
    /// What is shown, one event after the other.
    pub frames: Bytes,
    /// Where what is shown of each of the events ends.
    pub ends: Vec<usize>,
}

impl Part {
    /// The last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.after + self.ends.len() as u64
    }

    /// What is shown of the events after one of this part, or after the one before it, and up to another.
    #[must_use]
    pub fn frames_between(&self, after: u64, last: u64) -> Bytes {
        let end_of = |sequence: u64| {
            let events = usize::try_from(sequence.saturating_sub(self.after));
            let events = events.unwrap_or(usize::MAX).min(self.ends.len());
            events.checked_sub(1).map_or(0, |last| self.ends[last])
        };
        self.frames.slice(end_of(after)..end_of(last))
    }

    fn continues(&self, sequence: u64) -> bool {
        (self.after..self.last()).contains(&sequence)
    }
}

/// The parts of one plan.
#[derive(Debug, Default)]
pub struct Parts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, each with whether it has documents, too.
    parts: VecDeque<(bool, Arc<Part>)>,
    bytes: usize,
}

impl Parts {
    /// A part in which an event is followed by others; if there is none, `make` makes one, which others wait for.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn after<E>(
        &self,
        sequence: u64,
        documents: bool,
        make: impl FnOnce() -> Result<Part, E>,
    ) -> Result<Arc<Part>, E> {
        let mut kept = self.lock();
        let fits = |(has, part): &&(bool, Arc<Part>)| *has == documents && part.continues(sequence);
        if let Some((_, part)) = kept.parts.iter().rev().find(fits) {
            return Ok(Arc::clone(part));
        }
        let part = Arc::new(make()?);
        kept.bytes += part.frames.len();
        kept.parts.push_back((documents, Arc::clone(&part)));
        while kept.bytes > KEPT_BYTES_MAX
            && let Some((_, oldest)) = kept.parts.pop_front()
        {
            kept.bytes -= oldest.frames.len();
        }
        Ok(part)
    }

    /// Forgets all parts.
    pub fn clear(&self) {
        *self.lock() = Kept::default();
    }

    /// What a panic left is sound: parts are made before anything is changed.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
