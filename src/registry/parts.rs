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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use super::{Bytes, KEPT_BYTES_MAX, Part, Parts};

    /// Events 11 to 14, of which 12 is not shown.
    fn part() -> Part {
        Part {
            after: 10,
            frames: Bytes::from_static(b"aabbbc"),
            ends: vec![2, 2, 5, 6],
        }
    }

    fn after(parts: &Parts, sequence: u64, documents: bool, made: Part) -> Arc<Part> {
        let made = parts.after(sequence, documents, || Ok::<_, Infallible>(made));
        made.unwrap_or_else(|never| match never {})
    }

    #[test]
    fn a_part_shows_what_comes_after_any_of_its_events_up_to_another() {
        let part = part();
        assert_eq!(part.last(), 14);
        for (after, last, shown) in [
            (10, 14, "aabbbc"),
            (10, 12, "aa"),
            (11, 12, ""),
            (11, 13, "bbb"),
            (13, 14, "c"),
            (10, 99, "aabbbc"),
        ] {
            assert_eq!(part.frames_between(after, last), shown, "{after} to {last}");
        }
    }

    #[test]
    fn a_part_is_made_once_for_all_who_come_to_one_of_its_events() {
        let parts = Parts::default();
        let first = after(&parts, 10, false, part());
        for sequence in 10..14 {
            let empty = Part {
                after: sequence,
                frames: Bytes::new(),
                ends: vec![0],
            };
            assert!(Arc::ptr_eq(&first, &after(&parts, sequence, false, empty)));
        }
        let next = Part {
            after: 14,
            ..part()
        };
        assert!(!Arc::ptr_eq(&first, &after(&parts, 14, false, next)));
        assert!(
            !Arc::ptr_eq(&first, &after(&parts, 10, true, part())),
            "with documents"
        );
        parts.clear();
        assert!(!Arc::ptr_eq(&first, &after(&parts, 10, false, part())));
    }

    #[test]
    fn the_oldest_parts_are_forgotten_when_they_take_more_than_they_may() {
        let parts = Parts::default();
        let large = |after| Part {
            after,
            frames: vec![0; KEPT_BYTES_MAX / 2].into(),
            ends: vec![KEPT_BYTES_MAX / 2],
        };
        let made: Vec<_> = (1..=3)
            .map(|at| after(&parts, at, false, large(at)))
            .collect();
        assert!(Arc::ptr_eq(&made[2], &after(&parts, 3, false, large(3))));
        assert!(Arc::ptr_eq(&made[1], &after(&parts, 2, false, large(2))));
        assert!(!Arc::ptr_eq(&made[0], &after(&parts, 1, false, large(1))));
    }
}
