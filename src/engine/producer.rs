//! What a plan remembers of a producer's records, so that one that is sent again gets the receipt that it got.
//!
//! A producer numbers its records from 0 on, without gaps: their offsets. What a plan has of it is all up to its committed
//! offset. Records below that are not decided about again, whatever happened to their tasks since.

use std::sync::Arc;

use super::receipt::{Disposition, Receipt, Violation, Warning};
use crate::reconcile::MatchedBy;

/// Records of a producer that the plan has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The producer.
    pub producer: Arc<str>,
    /// Offset of the first of them.
    pub first_offset: u64,
    /// What became of each.
    pub outcomes: Vec<Remembered>,
    /// What is wrong with those that are no records, by their position here, in this order.
    pub violations: Vec<(u32, Violation)>,
}

/// The name that a plan knows a producer by, if it may send for one task only. No task's id has a NUL.
#[must_use]
pub fn producer_of_task(task_id: &str, producer: &str) -> String {
    format!("{task_id}\0{producer}")
}

/// The only task that the producer of this name may send for, if there is one.
pub(super) fn producer_task(name: &str) -> Option<&str> {
    name.split_once('\0').map(|(task_id, _)| task_id)
}

/// What a receipt says, without what the plan's history has anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// See [`Receipt::sequence`].
    pub sequence: u64,
    /// The event that accepted the record which the task had, 0 if it had none.
    pub held: u64,
    /// See [`Receipt::task`].
    pub task: Option<u32>,
    /// See [`Receipt::disposition`].
    pub disposition: Disposition,
    /// See [`Receipt::matched_by`].
    pub matched_by: Option<MatchedBy>,
    /// See [`Receipt::warnings`].
    pub warnings: Warnings,
}

/// A set of warnings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warnings(u8);

impl Warnings {
    const ALL: [Warning; 3] = [
        Warning::KeysDisagree,
        Warning::FieldInBodyIgnored,
        Warning::SessionNotLearnt,
    ];

    /// The warnings of a list.
    #[must_use]
    pub fn of(warnings: &[Warning]) -> Self {
        let bit = |warning| 1 << Self::position(warning);
        Self(warnings.iter().fold(0, |set, warning| set | bit(*warning)))
    }

    /// The warnings, in their order.
    pub fn iter(self) -> impl Iterator<Item = Warning> {
        let has = move |warning: &Warning| self.0 >> Self::position(*warning) & 1 == 1;
        Self::ALL.into_iter().filter(has)
    }

    fn position(warning: Warning) -> usize {
        match warning {
            Warning::KeysDisagree => 0,
            Warning::FieldInBodyIgnored => 1,
            Warning::SessionNotLearnt => 2,
        }
    }
}

impl Advance {
    /// Remembers receipts.
    pub(super) fn of(producer: &str, first_offset: u64, receipts: &[Receipt]) -> Self {
        let violations = (0..).zip(receipts).filter_map(|(position, receipt)| {
            let violation = receipt.violation.as_deref()?;
            Some((position, violation.clone()))
        });
        let mut violations: Vec<_> = violations.collect();
        // Of one or two, as nearly always, there would be room for four.
        violations.shrink_to_fit();
        Self {
            producer: producer.into(),
            first_offset,
            outcomes: receipts.iter().map(Remembered::of).collect(),
            violations,
        }
    }

    /// The offset after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first_offset + self.outcomes.len() as u64
    }

    /// The receipt of a record, if it is one of these.
    fn receipt(&self, offset: u64) -> Option<Receipt> {
        let position = usize::try_from(offset.checked_sub(self.first_offset)?).ok()?;
        let remembered = self.outcomes.get(position)?;
        let place = self
            .violations
            .binary_search_by_key(&position, |(at, _)| *at as usize);
        let violation = place
            .ok()
            .map(|place| Box::new(self.violations[place].1.clone()));
        Some(Receipt {
            task: remembered.task,
            matched_by: remembered.matched_by,
            sequence: remembered.sequence,
            remembered_held: remembered.held,
            is_remembered: true,
            warnings: remembered.warnings.iter().collect(),
            violation,
            ..Receipt::of(remembered.disposition)
        })
    }
}

impl Remembered {
    fn of(receipt: &Receipt) -> Self {
        Self {
            sequence: receipt.sequence,
            held: receipt.held.as_ref().map_or(0, |held| held.sequence),
            task: receipt.task,
            disposition: receipt.disposition,
            matched_by: receipt.matched_by,
            warnings: Warnings::of(&receipt.warnings),
        }
    }
}

/// All that a plan has of one producer, in order of the offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producer {
    advances: Vec<Arc<Advance>>,
}

impl Producer {
    /// How many of its records the plan has.
    pub(super) fn committed(&self) -> u64 {
        self.advances.last().map_or(0, |last| last.end())
    }

    /// The receipt that a record got.
    pub(super) fn receipt(&self, offset: u64) -> Option<Receipt> {
        let place = self
            .advances
            .partition_point(|advance| advance.end() <= offset);
        self.advances.get(place)?.receipt(offset)
    }

    pub(super) fn advance(&mut self, advance: &Arc<Advance>) {
        self.advances.push(Arc::clone(advance));
    }
}
