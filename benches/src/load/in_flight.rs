//! What was asked and is not answered yet: [`Slots`] where replies come in any order or not at all,
//! [`Batches`] where they come in order. Pure; times are nanoseconds since the start of the run.

use std::collections::VecDeque;

use slab::Slab;

/// The most operations one socket may have in flight.
pub(super) const SLOTS_MAX: usize = 1 << 16;

/// Every sequence number has this bit, so that all of them take the same number of bytes on the wire.
const LONG: u32 = 1 << 31;

/// The operations of one socket. A sequence number holds the slot in its low bits and a count in the others,
/// so that a late reply is not taken for that of the operation which has the slot by then.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// The sequence number of each operation, and when it was sent.
    slots: Slab<(u32, u64)>,
    max: usize,
    begun: u32,
}

impl Slots {
    /// Room for `max` operations.
    ///
    /// # Panics
    /// If that is not 1..=[`SLOTS_MAX`].
    pub(super) fn new(max: usize) -> Self {
        assert!((1..=SLOTS_MAX).contains(&max), "{max} operations in flight");
        Self { slots: Slab::with_capacity(max), max, begun: 0 }
    }

    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        self.slots.len() < self.max
    }

    /// Operations in flight.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Begins an operation; its sequence number, or `None` if there is no room.
    pub(super) fn begin(&mut self, since: u64) -> Option<u32> {
        let slot_bits = self.max.next_power_of_two().trailing_zeros();
        let free = self.has_room().then(|| self.slots.vacant_entry())?;
        let seq = LONG | self.begun << slot_bits | free.key() as u32;
        free.insert((seq, since));
        self.begun = self.begun.wrapping_add(1);
        Some(seq)
    }

    /// Ends the operation that a reply belongs to, and returns when it was sent; `None` if it is
    /// not in flight (any more).
    pub(super) fn finish(&mut self, seq: u32) -> Option<u64> {
        let slot = seq as usize & (self.max.next_power_of_two() - 1);
        self.slots.get(slot).is_some_and(|(current, _)| *current == seq).then(|| self.slots.remove(slot).1)
    }

    /// Gives up what was sent before `sent_before`; how many those were.
    pub(super) fn expire(&mut self, sent_before: u64) -> u64 {
        let before = self.slots.len();
        self.slots.retain(|_, (_, since)| *since >= sent_before);
        (before - self.slots.len()) as u64
    }
}

/// The operations of one connection. Those that began together stand together.
#[derive(Clone, Debug)]
pub(super) struct Batches {
    /// When they were sent, and how many operations those are.
    batches: VecDeque<(u64, u64)>,
    len: u64,
    max: usize,
}

impl Batches {
    /// Room for `max` operations.
    pub(super) fn new(max: usize) -> Self {
        Self { batches: VecDeque::new(), len: 0, max }
    }

    /// Operations in flight.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.max
    }

    /// Gives up what was sent before `sent_before`; how many those were.
    pub(super) fn expire(&mut self, sent_before: u64) -> u64 {
        let before = self.len;
        while self.batches.front().is_some_and(|(since, _)| *since < sent_before) {
            self.len -= self.batches.pop_front().map_or(0, |(_, count)| count);
        }
        before - self.len
    }

    /// One more begins.
    pub(super) fn begin(&mut self, since: u64) {
        self.len += 1;
        match self.batches.back_mut() {
            Some((last, count)) if *last == since => *count += 1,
            _ => self.batches.push_back((since, 1)),
        }
    }

    /// The `count` oldest operations end: `finished` hears when they were sent, and how many those are.
    /// `false`, and nothing is changed, if there are not so many.
    pub(super) fn finish(&mut self, count: u64, mut finished: impl FnMut(u64, u64)) -> bool {
        if count > self.len {
            return false;
        }
        self.len -= count;
        let mut left = count;
        while left > 0
            && let Some((since, n)) = self.batches.front_mut()
        {
            let taken = left.min(*n);
            finished(*since, taken);
            left -= taken;
            *n -= taken;
            if *n == 0 {
                self.batches.pop_front();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_go_on_after_the_last_one() {
        let mut slots = Slots::new(2);
        slots.begun = u32::MAX >> 1;
        let (last, first) = (slots.begin(1), slots.begin(2));
        assert_eq!((last, first), (Some(u32::MAX - 1), Some(LONG | 1)));
        assert_eq!((slots.finish(u32::MAX - 1), slots.finish(LONG | 1)), (Some(1), Some(2)));
    }

    #[test]
    fn replies_in_order_end_the_oldest() {
        let mut batches = Batches::new(6);
        [10, 10, 10, 10, 20, 20].into_iter().for_each(|now| batches.begin(now));
        assert!(!batches.has_room());
        let mut finished = Vec::new();
        assert!(batches.finish(5, |since, n| finished.push((since, n))));
        assert_eq!(finished, [(10, 4), (20, 1)]);
        assert!(!batches.finish(2, |_, _| panic!("nothing ends")), "more replies than requests");
        assert!(batches.finish(1, |since, n| assert_eq!((since, n), (20, 1))));
        assert_eq!(batches.len(), 0);
        [1, 1, 2, 3].into_iter().for_each(|now| batches.begin(now));
        assert_eq!((batches.expire(3), batches.len()), (3, 1));
    }

    proptest! {
        /// Each step begins an operation, ends one with any number that was given out, or gives up what is older.
        #[test]
        fn slots_keep_what_a_map_would(
            count in 1usize..9,
            steps in prop::collection::vec((0..8, any::<prop::sample::Index>()), 0..200),
        ) {
            let (mut slots, mut model, mut seqs) = (Slots::new(count), HashMap::new(), vec![u32::MAX]);
            for (now, (kind, which)) in (100..).zip(steps) {
                match kind {
                    0..4 => {
                        let seq = slots.begin(now);
                        prop_assert_eq!(seq.is_some(), model.len() < count);
                        seqs.extend(seq);
                        prop_assert!(seq.is_none_or(|seq| model.insert(seq, now).is_none()));
                    }
                    4..7 => {
                        let seq = *which.get(&seqs);
                        prop_assert_eq!(slots.finish(seq), model.remove(&seq));
                    }
                    _ => {
                        let (before, oldest) = (model.len(), now - which.index(20) as u64);
                        model.retain(|_, since| *since >= oldest);
                        prop_assert_eq!(slots.expire(oldest), (before - model.len()) as u64);
                    }
                }
                prop_assert_eq!((slots.len(), slots.has_room()), (model.len(), model.len() < count));
            }
        }
    }
}
