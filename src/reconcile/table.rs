//! Numbers that are found by a hash, in as little memory as that takes: a plan has a million of them.

/// A table of numbers, each with a hash. It is made for so many and never grows: then three quarters of it can be in use
/// whatever their count is, and a number takes 5.3 bytes.
///
/// A number stands in the first block with a free slot from its home on, which the upper end of its hash chooses: mostly
/// there, so that looking for it touches one line of the cache. The bits of a slot that no number needs have the lower end
/// of the hash, so that hardly any number is looked at in vain: one of 4,096 of a million.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    blocks: Box<[Block]>,
    /// The bits of a slot that have the part of the hash.
    hash_bits: u32,
}

/// Slots, taken from the first on: the part of the hash, and below it the number and one; zero if free. They are compared
/// all at once.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Block([u32; SLOTS]);

const SLOTS: usize = 16;
const FREE: u32 = 0;

impl Table {
    /// An empty table with room for `room` numbers below `end`.
    pub(super) fn new(room: usize, end: u32) -> Self {
        // More than that at least by one, unless there is none: a free slot ends every search.
        let slots = if room == 0 { 0 } else { room + room / 3 + 1 };
        let number_bits = u32::BITS - end.leading_zeros();
        Self {
            blocks: vec![Block::default(); slots.div_ceil(SLOTS)].into(),
            hash_bits: u32::MAX.checked_shl(number_bits).unwrap_or(0),
        }
    }

    /// A number with this hash of which `is_it` is true.
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.blocks.is_empty() {
            return None;
        }
        self.look_for(hash, is_it).ok()
    }

    /// Adds a number, unless there is one with this hash of which `is_it` is true: then that one is the answer. There has
    /// to be room.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        number: u32,
        is_it: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        match self.look_for(hash, is_it) {
            Ok(equal) => Some(equal),
            Err(block) => {
                let slot = self.part(hash) | (number + 1);
                let Block(slots) = &mut self.blocks[block];
                if let Some(free) = slots.iter_mut().find(|slot| **slot == FREE) {
                    *free = slot;
                }
                None
            }
        }
    }

    /// A number, or the block where it would stand.
    fn look_for(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Result<u32, usize> {
        let part = self.part(hash);
        let mut at = self.home(hash);
        loop {
            let Block(slots) = &self.blocks[at];
            let mut equal = 0;
            for (place, slot) in slots.iter().enumerate() {
                equal |= u32::from(slot & self.hash_bits == part) << place;
            }
            while equal != 0 {
                let number = slots[equal.trailing_zeros() as usize] & !self.hash_bits;
                if number != FREE && is_it(number - 1) {
                    return Ok(number - 1);
                }
                equal &= equal - 1;
            }
            if slots[SLOTS - 1] == FREE {
                return Err(at);
            }
            at += 1;
            if at == self.blocks.len() {
                at = 0;
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
    fn part(&self, hash: u64) -> u32 {
        hash as u32 & self.hash_bits
    }

    /// Spreads hashes evenly over any number of blocks, without a division.
    #[expect(clippy::cast_possible_truncation, reason = "less than the blocks")]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> u64::BITS) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Table;

    /// A table of the positions of hashes, each of which is in it.
    fn table(hashes: &[u64]) -> Table {
        let end = u32::try_from(hashes.len()).unwrap();
        let mut table = Table::new(hashes.len(), end);
        for (number, hash) in (0..end).zip(hashes) {
            assert_eq!(table.insert(*hash, number, |_| false), None);
        }
        table
    }

    #[test]
    fn a_table_without_room_has_nothing() {
        assert_eq!(Table::default().find(7, |_| true), None);
        assert_eq!(Table::new(0, 5).find(7, |_| true), None);
    }

    #[test]
    fn a_number_takes_no_more_than_5_4_bytes_at_any_count() {
        for room in [1_000, 1_024, 1_000_000, 1_048_576, 1_200_000] {
            let bytes = size_of_val(&*Table::new(room, u32::MAX).blocks);
            assert!(bytes * 10 <= room * 54, "{room} numbers take {bytes} bytes");
        }
    }

    #[test]
    fn numbers_that_leave_no_bit_for_the_hash_are_found() {
        let mut table = Table::new(2, u32::MAX);
        assert_eq!(table.insert(9, u32::MAX - 1, |_| false), None);
        assert_eq!(table.insert(9, 0, |number| number == 0), None);
        assert_eq!(
            table.find(9, |number| number == u32::MAX - 1),
            Some(u32::MAX - 1)
        );
        assert_eq!(table.find(9, |number| number == 0), Some(0));
        assert_eq!(table.find(9, |number| number == 1), None);
    }

    #[test]
    fn numbers_of_one_hash_are_all_there_also_around_the_end_of_the_table() {
        let table = table(&[u64::MAX; 100]);
        for number in 0..100 {
            assert_eq!(table.find(u64::MAX, |found| found == number), Some(number));
        }
        assert_eq!(table.find(u64::MAX, |_| false), None);
        assert_eq!(
            table.find(0, |_| true),
            None,
            "looked at, and of another hash"
        );
    }

    proptest! {
        #[test]
        fn a_table_has_what_a_map_has(
            hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0..9_u64, (0..9_u64).prop_map(|n| n << 60)], 0..200),
            others in prop::collection::vec(any::<u64>(), 0..20),
        ) {
            let mut map = BTreeMap::new();
            let end = u32::try_from(hashes.len()).unwrap();
            let mut table = Table::new(hashes.len(), end);
            for (number, hash) in (0..end).zip(&hashes) {
                let known = map.get(hash).copied();
                let is_it = |other: u32| hashes[other as usize] == *hash;
                prop_assert_eq!(table.insert(*hash, number, is_it), known);
                map.entry(*hash).or_insert(number);
            }
            for hash in hashes.iter().chain(&others) {
                let is_it = |other: u32| hashes[other as usize] == *hash;
                prop_assert_eq!(table.find(*hash, is_it), map.get(hash).copied());
            }
        }
    }
}
