//! Reusable buffers of a shard: size classes, RAII return, no locks, a cap in bytes.
//!
//! Each class is a slab of blocks of one size. A block is lent as a [`PoolBuf`] and comes back when that is
//! dropped; the next taker gets the block that came back last, which is the one still in the CPU's cache.
//! At the cap, taking fails with a typed error; what is idle above a watermark goes back to the system.

use std::{
    cell::RefCell,
    fmt, mem,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use slab::Slab;

use crate::counters;

/// Sizes of the blocks, in bytes.
const CLASSES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20];

/// The largest buffer there is, in bytes.
pub const BUFFER_LEN_MAX: usize = CLASSES[CLASSES.len() - 1];

/// Idle bytes a shard keeps for the next burst; more is given back to the system at once.
const IDLE_BYTES_MAX: usize = 16 << 20;

/// No buffer: the cap is reached, or the wish is larger than [`BUFFER_LEN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("buffer pool has no {wanted} bytes, {in_use} of {bytes_max} are in use")]
pub struct PoolExhausted {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes lent out at that moment, on this shard.
    pub in_use: usize,
    /// The shard's share of the cap.
    pub bytes_max: usize,
}

counters! {
    /// What a shard's pool holds and has done.
    pub struct PoolStats {
        /// Bytes of the blocks that are lent out.
        gauge bytes_in_use: u64,
        /// Bytes of the blocks that the kernel has, to receive into.
        gauge bytes_provided: u64,
        /// Bytes of all blocks, wherever they are.
        gauge bytes_held: u64,
        /// Blocks lent out.
        gauge buffers_in_use: u64,
        /// Blocks that had to be allocated, ever.
        counter allocations: u64,
        /// Buffers refused at the cap, ever.
        counter refused: u64,
    }
}

/// The pool of one shard; cheap to clone, never leaves the shard's thread.
#[derive(Clone)]
pub struct Pool(Rc<RefCell<Blocks>>);

impl Pool {
    /// A pool that never holds more than `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Rc::new(RefCell::new(Blocks::new(bytes_max))))
    }

    /// An empty buffer for at least `capacity` bytes.
    ///
    /// # Errors
    /// At the cap, or if no class is that large.
    pub fn take(&self, capacity: usize) -> Result<PoolBuf, PoolExhausted> {
        let (class, slot, bytes) = self.0.borrow_mut().lend(capacity)?;
        Ok(PoolBuf { pool: self.clone(), class, slot, bytes, len: 0, provided: false })
    }

    /// A buffer for the kernel to receive into. All of those together take a quarter of the cap at most.
    pub(crate) fn provide(&self, capacity: usize) -> Result<PoolBuf, PoolExhausted> {
        let mut buffer = self.take(capacity)?;
        let mut blocks = self.0.borrow_mut();
        let (len, bytes_max) = (buffer.capacity() as u64, blocks.bytes_max);
        let provided = blocks.stats.bytes_provided + len;
        if provided > bytes_max / 4 {
            let refused = blocks.refuse(capacity);
            drop(blocks);
            return Err(refused);
        }
        blocks.stats.bytes_provided = provided;
        blocks.stats.bytes_in_use -= len;
        blocks.stats.buffers_in_use -= 1;
        drop(blocks);
        buffer.provided = true;
        Ok(buffer)
    }

    /// What the pool holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.0.borrow().stats
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}

/// Blocks of one size. A lent block leaves an empty box in its slot.
#[derive(Default)]
struct Class {
    blocks: Slab<Box<[u8]>>,
    idle: Vec<usize>,
}

struct Blocks {
    classes: [Class; CLASSES.len()],
    bytes_max: u64,
    stats: PoolStats,
}

impl Blocks {
    fn new(bytes_max: usize) -> Self {
        Self { classes: Default::default(), bytes_max: bytes_max as u64, stats: PoolStats::default() }
    }

    fn lend(&mut self, capacity: usize) -> Result<(usize, usize, Box<[u8]>), PoolExhausted> {
        let Some(class) = CLASSES.iter().position(|size| *size >= capacity) else {
            return Err(self.refuse(capacity));
        };
        let size = CLASSES[class];
        let (slot, block) = match self.classes[class].idle.pop() {
            Some(slot) => (slot, mem::take(&mut self.classes[class].blocks[slot])),
            None => self.allocate(class).ok_or_else(|| self.refuse(capacity))?,
        };
        self.stats.bytes_in_use += size as u64;
        self.stats.buffers_in_use += 1;
        Ok((class, slot, block))
    }

    /// A new block, if the cap allows one when need be after idle blocks of other classes are given back.
    fn allocate(&mut self, class: usize) -> Option<(usize, Box<[u8]>)> {
        let size = CLASSES[class] as u64;
        if self.stats.bytes_in_use + self.stats.bytes_provided + size > self.bytes_max {
            return None;
        }
        while self.stats.bytes_held + size > self.bytes_max {
            let idle = (0..CLASSES.len()).rev().find(|class| !self.classes[*class].idle.is_empty())?;
            self.give_back(idle);
        }
        self.stats.bytes_held += size;
        self.stats.allocations += 1;
        Some((self.classes[class].blocks.insert(Box::default()), vec![0; CLASSES[class]].into_boxed_slice()))
    }

    /// Gives one idle block of the class back to the system.
    fn give_back(&mut self, class: usize) {
        if let Some(slot) = self.classes[class].idle.pop() {
            self.classes[class].blocks.remove(slot);
            self.stats.bytes_held -= CLASSES[class] as u64;
        }
    }

    fn restore(&mut self, class: usize, slot: usize, block: Box<[u8]>, provided: bool) {
        if provided {
            self.stats.bytes_provided -= CLASSES[class] as u64;
        } else {
            self.stats.bytes_in_use -= CLASSES[class] as u64;
            self.stats.buffers_in_use -= 1;
        }
        self.classes[class].blocks[slot] = block;
        self.classes[class].idle.push(slot);
        let lent = self.stats.bytes_in_use + self.stats.bytes_provided;
        if self.stats.bytes_held - lent > IDLE_BYTES_MAX as u64 {
            self.give_back(class);
        }
        debug_assert!(lent <= self.stats.bytes_held);
        debug_assert!(self.stats.bytes_held <= self.bytes_max);
    }

    fn refuse(&mut self, wanted: usize) -> PoolExhausted {
        self.stats.refused += 1;
        PoolExhausted { wanted, in_use: self.stats.bytes_in_use as usize, bytes_max: self.bytes_max as usize }
    }
}

/// A buffer lent by a [`Pool`]: a byte vector that grows by moving to the next class. Dropping it returns it.
pub struct PoolBuf {
    pool: Pool,
    class: usize,
    slot: usize,
    bytes: Box<[u8]>,
    len: usize,
    provided: bool,
}

impl PoolBuf {
    /// Bytes it can hold without moving.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that still fit without moving.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.capacity() - self.len
    }

    /// Appends `more`, moving to a larger class if it does not fit.
    ///
    /// # Errors
    /// If there is no larger buffer to be had; then nothing is appended.
    pub fn extend_from_slice(&mut self, more: &[u8]) -> Result<(), PoolExhausted> {
        self.extend_from_slices(&[more])
    }

    /// Appends all `parts`, one behind the other, moving to a larger class if they do not fit.
    ///
    /// # Errors
    /// If there is no larger buffer to be had; then nothing is appended.
    pub fn extend_from_slices(&mut self, parts: &[&[u8]]) -> Result<(), PoolExhausted> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > self.spare() {
            self.move_to(self.len + len)?;
        }
        for part in parts {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        Ok(())
    }

    /// Forgets the first `count` bytes and moves the others to the front.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn discard_front(&mut self, count: usize) {
        if count > 0 {
            self.bytes.copy_within(count..self.len, 0);
            self.len -= count;
        }
    }

    /// All of its block, for the kernel to write to.
    pub(crate) fn block_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `len` bytes of its block, that the kernel has written.
    pub(crate) fn written(&self, len: usize) -> &[u8] {
        &self.bytes[..len]
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Moves to the smallest class that holds what it has, if there is such a buffer; else stays.
    pub fn shrink_to_fit(&mut self) {
        if CLASSES.iter().position(|size| *size >= self.len) < Some(self.class) {
            // Without a smaller buffer, the larger one serves as well.
            let _ = self.move_to(self.len);
        }
    }

    fn move_to(&mut self, capacity: usize) -> Result<(), PoolExhausted> {
        let mut other = self.pool.take(capacity)?;
        other.bytes[..self.len].copy_from_slice(self);
        other.len = self.len;
        *self = other;
        Ok(())
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        let block = mem::take(&mut self.bytes);
        self.pool.0.borrow_mut().restore(self.class, self.slot, block, self.provided);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class_size(capacity: usize) -> usize {
        CLASSES.into_iter().find(|size| *size >= capacity).expect("a class")
    }

    #[test]
    fn a_returned_buffer_is_used_again() {
        let pool = Pool::new(1 << 20);
        let first = pool.take(1).expect("room");
        assert_eq!(first.capacity(), 4 << 10);
        let address = first.bytes.as_ptr();
        drop(first);
        assert_eq!(pool.take(4096).expect("room").bytes.as_ptr(), address);
        let stats = pool.stats();
        assert_eq!((stats.allocations, stats.bytes_held, stats.bytes_in_use), (1, 4 << 10, 0));
    }

    #[test]
    fn the_cap_is_an_error_and_idle_blocks_of_other_classes_make_room() {
        let pool = Pool::new(64 << 10);
        let small: Vec<_> = (0..16).map(|_| pool.take(1).expect("room")).collect();
        let refused = PoolExhausted { wanted: 1, in_use: 64 << 10, bytes_max: 64 << 10 };
        assert_eq!(pool.take(1).expect_err("full"), refused);
        assert_eq!(refused.to_string(), "buffer pool has no 1 bytes, 65536 of 65536 are in use");
        drop(small);
        assert_eq!(pool.take(64 << 10).expect("the small ones are given back").capacity(), 64 << 10);
        assert_eq!(pool.stats().bytes_held, 64 << 10);
        assert_eq!(pool.stats().refused, 1);
    }

    #[test]
    fn nothing_is_larger_than_the_largest_class() {
        let pool = Pool::new(usize::MAX);
        assert_eq!(pool.take(BUFFER_LEN_MAX).expect("room").capacity(), BUFFER_LEN_MAX);
        assert!(pool.take(BUFFER_LEN_MAX + 1).is_err());
    }

    #[test]
    fn idle_memory_above_the_watermark_is_given_back() {
        let pool = Pool::new(1 << 30);
        drop((0..8).map(|_| pool.take(BUFFER_LEN_MAX).expect("room")).collect::<Vec<_>>());
        let stats = pool.stats();
        assert_eq!(stats.bytes_in_use, 0);
        assert!(stats.bytes_held <= IDLE_BYTES_MAX as u64, "{} bytes are held", stats.bytes_held);
    }

    #[test]
    fn a_buffer_that_cannot_grow_keeps_what_it_has() {
        let pool = Pool::new(8 << 10);
        let mut buffer = pool.take(1).expect("room");
        buffer.extend_from_slice(&[1; 4096]).expect("it fits");
        assert!(buffer.extend_from_slice(&[2]).is_err());
        assert_eq!(*buffer, [1; 4096]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take(usize),
        Extend(usize, usize),
        DiscardFront(usize, usize),
        Shrink(usize),
        Return(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let index = 0..8_usize;
        let len = prop_oneof![0..5_000_usize, 0..300_000_usize];
        prop_oneof![
            len.clone().prop_map(Op::Take),
            (index.clone(), len.clone()).prop_map(|(index, len)| Op::Extend(index, len)),
            (index.clone(), len).prop_map(|(index, len)| Op::DiscardFront(index, len)),
            index.clone().prop_map(Op::Shrink),
            index.prop_map(Op::Return),
        ]
    }

    proptest! {
        #[test]
        fn buffers_are_byte_vectors_within_a_cap(ops in prop::collection::vec(op(), 0..80)) {
            const BYTES_MAX: usize = 2 << 20;
            let pool = Pool::new(BYTES_MAX);
            let mut lent: Vec<(PoolBuf, Vec<u8>)> = Vec::new();
            for (step, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Take(len) => match pool.take(len) {
                        Ok(buffer) => {
                            prop_assert_eq!(buffer.capacity(), class_size(len));
                            lent.push((buffer, Vec::new()));
                        }
                        Err(refused) => prop_assert!(refused.in_use + class_size(len) > BYTES_MAX),
                    },
                    Op::Extend(index, len) => {
                        if let Some((buffer, model)) = lent.get_mut(index) {
                            let more = vec![step as u8; len];
                            if buffer.extend_from_slice(&more).is_ok() {
                                model.extend(more);
                            }
                        }
                    }
                    Op::DiscardFront(index, len) => {
                        if let Some((buffer, model)) = lent.get_mut(index) {
                            let len = len.min(model.len());
                            buffer.discard_front(len);
                            model.drain(..len);
                        }
                    }
                    Op::Shrink(index) => {
                        if let Some((buffer, _)) = lent.get_mut(index) {
                            buffer.shrink_to_fit();
                        }
                    }
                    Op::Return(index) => {
                        if index < lent.len() {
                            lent.swap_remove(index);
                        }
                    }
                }
                for (buffer, model) in &lent {
                    prop_assert_eq!(&**buffer, &model[..]);
                }
                let stats = pool.stats();
                prop_assert_eq!(stats.bytes_in_use, lent.iter().map(|(buffer, _)| buffer.capacity() as u64).sum::<u64>());
                prop_assert_eq!(stats.buffers_in_use, lent.len() as u64);
                prop_assert!(stats.bytes_held <= BYTES_MAX as u64);
            }
            drop(lent);
            prop_assert_eq!(pool.stats().bytes_in_use, 0);
        }
    }
}
