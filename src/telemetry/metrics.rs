//! What is counted where it happens: a function for each thing, a few nanoseconds, no lock, no text. All servers of a
//! process count together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::Histogram;
use crate::engine::{Disposition, EndReason, Receipt};

/// Something that only grows.
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Every disposition with its label; the position of one is its number.
pub(super) const DISPOSITIONS: [(Disposition, &str); 9] = [
    (Disposition::Accepted, "accepted"),
    (Disposition::Duplicate, "duplicate"),
    (Disposition::SupersededPrevious, "superseded_previous"),
    (Disposition::Unmatched, "unmatched"),
    (Disposition::Ambiguous, "ambiguous"),
    (Disposition::Late, "late"),
    (Disposition::KeysDisagree, "keys_disagree"),
    (Disposition::Invalid, "invalid"),
    (Disposition::TooLarge, "too_large"),
];

/// Every reason of an end; the position of one is its number.
pub(super) const END_REASONS: [EndReason; 6] = [
    EndReason::AllRecorded,
    EndReason::Sealed,
    EndReason::Deadline,
    EndReason::Cancelled,
    EndReason::ToleranceExceeded,
    EndReason::MinimumReached,
];

pub(super) static RECORDS: [Counter; DISPOSITIONS.len()] =
    [const { Counter::new() }; DISPOSITIONS.len()];
pub(super) static RECEIPTS: Histogram = Histogram::new();
pub(super) static PLANS_REGISTERED: Counter = Counter::new();
pub(super) static PLANS_ENDED: [Counter; END_REASONS.len()] =
    [const { Counter::new() }; END_REASONS.len()];
pub(super) static CONNECTIONS_REFUSED: Counter = Counter::new();
pub(super) static REPLAYS: Counter = Counter::new();
pub(super) static JOURNAL_BYTES: Counter = Counter::new();
pub(super) static JOURNAL_WRITES: Counter = Counter::new();
pub(super) static APPENDS: Histogram = Histogram::new();

/// Records have their receipts, so long after they were read.
pub fn records_answered(receipts: &[Receipt], after: Duration) {
    if receipts.is_empty() {
        return;
    }
    let mut became = [0; DISPOSITIONS.len()];
    for receipt in receipts {
        became[receipt.disposition as usize] += 1;
    }
    for (counter, count) in RECORDS.iter().zip(became).filter(|(_, count)| *count > 0) {
        counter.add(count);
    }
    RECEIPTS.observe(after, receipts.len() as u64);
}

/// A plan was registered.
pub fn plan_registered() {
    PLANS_REGISTERED.add(1);
}

/// A plan has ended here.
pub fn plan_ended(reason: EndReason) {
    PLANS_ENDED[reason as usize].add(1);
}

/// A connection was closed at once: as many as may be are open.
pub fn connection_refused() {
    CONNECTIONS_REFUSED.add(1);
}

/// A plan's history was read from the journal.
pub fn history_replayed() {
    REPLAYS.add(1);
}

/// The journal has written so many bytes at once.
pub fn journal_wrote(bytes: usize) {
    JOURNAL_WRITES.add(1);
    JOURNAL_BYTES.add(bytes as u64);
}

/// The journal has acknowledged or refused an append that had to be waited for, after so long.
pub fn append_answered(after: Duration) {
    APPENDS.observe(after, 1);
}

#[cfg(test)]
mod tests {
    use super::{DISPOSITIONS, END_REASONS};

    #[test]
    fn what_is_counted_by_its_number_is_labelled_by_its_number() {
        for (number, (disposition, _)) in DISPOSITIONS.into_iter().enumerate() {
            assert_eq!(disposition as usize, number);
        }
        for (number, reason) in END_REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}
