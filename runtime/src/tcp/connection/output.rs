//! What waits to be written to a connection: a bounded queue of chunks, taken from its front.

use std::{collections::VecDeque, io::IoSlice, mem, sync::Arc, time::Instant};

use crate::pool::{Pool, PoolBuf, PoolExhausted};

/// Bytes were not queued; nothing of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection's output is at its bound. The `writable` hook tells when there is room again.
    #[error("the connection's output queue is full")]
    Full,
    /// The connection has ended or is about to.
    #[error("the connection is gone")]
    Gone,
    /// There is no buffer to copy them to.
    #[error(transparent)]
    Pool(#[from] PoolExhausted),
}

/// Chunks handed to the kernel with one call, at most.
pub(crate) const SLICES_MAX: usize = 16;

/// Chunks double with what is queued, between these, so that a burst of small messages is few writes.
const CHUNK_LEN_MIN: usize = 4 << 10;
const CHUNK_LEN_MAX: usize = 64 << 10;

/// A queue longer than this gives its memory back when it has been written out.
const CHUNKS_KEPT: usize = 64;

enum Chunk {
    /// Copied; the next small message is appended to it.
    Pooled(PoolBuf),
    /// One allocation for all connections that it goes to.
    Shared(Arc<[u8]>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// The output queue of one connection. Messages go in whole or not at all.
pub(crate) struct Output {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written already.
    written: usize,
    queued: usize,
    /// Chunks at the front that the kernel may be reading: they stay where they are until [`Output::settle`].
    lent: usize,
    bytes_max: usize,
    /// When something was last written, or queued while nothing was.
    moved_at: Instant,
    refused: bool,
}

impl Output {
    pub(crate) fn new(bytes_max: usize, now: Instant) -> Self {
        Self {
            chunks: VecDeque::new(),
            written: 0,
            queued: 0,
            lent: 0,
            bytes_max,
            moved_at: now,
            refused: false,
        }
    }

    /// Queues a copy of `parts`, one behind the other.
    pub(crate) fn push(&mut self, parts: &[&[u8]], pool: &Pool, now: Instant) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.check_room(len)?;
        if len == 0 {
            // No chunk is empty, or writing from the front could write nothing for ever.
            return Ok(());
        }
        match self.chunks.back_mut() {
            Some(Chunk::Pooled(last)) if last.spare() >= len => last.extend_from_slices(parts)?,
            Some(_) | None => {
                let room = self.queued.clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX).max(len);
                let mut chunk = pool.take(room)?;
                chunk.extend_from_slices(parts)?;
                self.chunks.push_back(Chunk::Pooled(chunk));
            }
        }
        self.count(len, now);
        Ok(())
    }

    /// Queues `bytes` without a copy.
    pub(crate) fn push_shared(&mut self, bytes: &Arc<[u8]>, now: Instant) -> Result<(), SendError> {
        self.check_room(bytes.len())?;
        if !bytes.is_empty() {
            self.chunks.push_back(Chunk::Shared(Arc::clone(bytes)));
            self.count(bytes.len(), now);
        }
        Ok(())
    }

    fn check_room(&mut self, len: usize) -> Result<(), SendError> {
        if self.queued + len > self.bytes_max {
            self.refused = true;
            return Err(SendError::Full);
        }
        Ok(())
    }

    fn count(&mut self, len: usize, now: Instant) {
        if self.queued == 0 {
            self.moved_at = now;
        }
        self.queued += len;
        self.check_invariants();
    }

    /// Fills `slices` from the front of the queue and returns how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut skip = self.written;
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk.bytes()[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// Like [`slices`](Self::slices), for a write that goes on by itself: whatever happens to the queue, these
    /// bytes stay where they are until [`settle`](Self::settle). Others may be queued meanwhile.
    pub(crate) fn lend<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        debug_assert_eq!(self.lent, 0, "one write at a time");
        self.lent = self.chunks.len().min(SLICES_MAX);
        self.slices(slices)
    }

    /// The write of what was lent has ended, `count` bytes of it are written.
    pub(crate) fn settle(&mut self, count: usize, now: Instant) {
        self.lent = 0;
        if self.queued == 0 {
            // It was cleared meanwhile, and kept only what was lent.
            self.clear();
        } else {
            self.consume(count, now);
        }
    }

    /// Whether the kernel may be reading from it.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent > 0
    }

    /// The first `count` bytes are written; their chunks are released.
    pub(crate) fn consume(&mut self, count: usize, now: Instant) {
        debug_assert!(count <= self.queued);
        if count == 0 {
            return;
        }
        self.moved_at = now;
        self.queued -= count;
        self.written += count;
        while let Some(first) = self.chunks.front()
            && first.bytes().len() <= self.written
        {
            self.written -= first.bytes().len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > CHUNKS_KEPT {
            self.chunks = VecDeque::new();
        }
        self.check_invariants();
    }

    /// Drops everything that is queued; what is lent, as soon as it is settled.
    pub(crate) fn clear(&mut self) {
        self.queued = 0;
        if self.lent > 0 {
            self.chunks.truncate(self.lent);
        } else {
            self.chunks = VecDeque::new();
            self.written = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// So much waits that a connection had better not be offered more to answer.
    pub(crate) fn is_high(&self) -> bool {
        self.queued > self.bytes_max / 2
    }

    /// So little waits that there is room again.
    pub(crate) fn is_low(&self) -> bool {
        self.queued <= self.bytes_max / 4
    }

    /// Once after a refusal, when there is room again.
    pub(crate) fn take_writable(&mut self) -> bool {
        let writable = self.refused && self.is_low();
        if writable {
            self.refused = false;
        }
        writable
    }

    pub(crate) fn moved_at(&self) -> Instant {
        self.moved_at
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.queued + self.written,
            self.chunks.iter().map(|chunk| chunk.bytes().len()).sum::<usize>()
        );
        debug_assert!(self.chunks.iter().all(|chunk| !chunk.bytes().is_empty()));
        debug_assert!(self.queued <= self.bytes_max);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Only at an abnormal end, when nobody is left to be told that the kernel is done: what it may read is never
        // used for something else.
        if self.lent > 0 {
            mem::forget(mem::take(&mut self.chunks));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: usize = 100_000;

    #[test]
    fn what_the_kernel_may_read_is_not_released_even_if_nobody_settles_it() {
        let (pool, now) = (Pool::new(1 << 20), Instant::now());
        let in_use = |lend: bool, settle: bool| {
            let mut output = Output::new(BYTES_MAX, now);
            output.push(&[b"pooled"], &pool, now).expect("room");
            if lend {
                output.lend(&mut [IoSlice::new(&[]); SLICES_MAX]);
                output.clear();
            }
            if settle {
                output.settle(3, now);
            }
            drop(output);
            pool.stats().buffers_in_use
        };
        assert_eq!(in_use(false, false), 0);
        assert_eq!(in_use(true, true), 0);
        assert_eq!(in_use(true, false), 1);
    }

    fn content(output: &Output) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = output.slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        PushShared(usize),
        Consume(usize),
        /// A write that ends after the next so many operations, having written so much.
        Lend(usize, usize),
    }

    /// Where the front of the queue lies.
    fn places(output: &mut Output) -> Vec<(*const u8, usize)> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = output.lend(&mut slices);
        slices[..count].iter().map(|slice| (slice.as_ptr(), slice.len())).collect()
    }

    fn stay(places: &[(*const u8, usize)], output: &Output) -> bool {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = output.slices(&mut slices);
        // The last may have got longer.
        slices[..count]
            .iter()
            .zip(places)
            .all(|(slice, (at, len))| slice.as_ptr() == *at && slice.len() >= *len)
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let len = || prop_oneof![0..100_usize, 0..50_000_usize];
        let op = prop_oneof![
            len().prop_map(Op::Push),
            len().prop_map(Op::PushShared),
            len().prop_map(Op::Consume),
            (0..6_usize, len()).prop_map(|(pause, len)| Op::Lend(pause, len)),
        ];
        prop::collection::vec(op, 0..60)
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came_and_messages_go_in_whole_or_not(ops in ops()) {
            let (pool, now) = (Pool::new(1 << 20), Instant::now());
            let mut output = Output::new(BYTES_MAX, now);
            let mut model: Vec<u8> = Vec::new();
            let mut lent: Option<(usize, usize, Vec<_>)> = None;
            for (index, op) in ops.into_iter().enumerate() {
                let fits = |len: usize| model.len() + len <= BYTES_MAX;
                match op {
                    Op::Push(len) => {
                        let message: Vec<_> = (0..len).map(|at| (index + at) as u8).collect();
                        let (front, back) = message.split_at(len / 3);
                        prop_assert_eq!(output.push(&[front, back], &pool, now).is_ok(), fits(len));
                        if fits(len) { model.extend(message) }
                    }
                    Op::PushShared(len) => {
                        let message: Arc<[u8]> = vec![index as u8; len].into();
                        prop_assert_eq!(output.push_shared(&message, now).is_ok(), fits(len));
                        if fits(len) { model.extend(&*message) }
                    }
                    Op::Lend(pause, len) if lent.is_none() && !model.is_empty() => {
                        lent = Some((index + pause, len, places(&mut output)));
                    }
                    Op::Lend(..) => {}
                    // There is one write at a time.
                    Op::Consume(_) if lent.is_some() => {}
                    Op::Consume(len) => {
                        let len = len.min(model.len());
                        output.consume(len, now);
                        model.drain(..len);
                    }
                }
                if let Some((until, len, places)) = &lent {
                    prop_assert!(stay(places, &output));
                    if *until <= index {
                        let len = (*len).min(places.iter().map(|(_, len)| len).sum());
                        output.settle(len, now);
                        model.drain(..len);
                        lent = None;
                    }
                }
                let front = content(&output);
                prop_assert!(model.starts_with(&front));
                prop_assert_eq!(front.is_empty(), model.is_empty());
                prop_assert_eq!(output.queued(), model.len());
            }
            if lent.is_some() {
                output.settle(0, now);
            }
            output.consume(model.len(), now);
            prop_assert_eq!(pool.stats().bytes_in_use, 0);
        }
    }

    #[test]
    fn nothing_takes_no_buffer() {
        let (pool, now) = (Pool::new(1 << 20), Instant::now());
        let mut output = Output::new(BYTES_MAX, now);
        output.push(&[&[]], &pool, now).expect("room");
        assert_eq!(pool.stats().buffers_in_use, 0);
        output.push_shared(&Arc::from(*b"abc"), now).expect("room");
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        assert_eq!((output.slices(&mut slices), slices[0].len()), (1, 3), "the front has something to write");
    }

    #[test]
    fn what_is_lent_outlives_a_clearing() {
        let (pool, now) = (Pool::new(1 << 20), Instant::now());
        let mut output = Output::new(BYTES_MAX, now);
        let shared: Arc<[u8]> = (*b"shared").into();
        output.push(&[b"copied"], &pool, now).expect("room");
        output.push_shared(&shared, now).expect("room");
        let lent = places(&mut output);
        output.push_shared(&shared, now).expect("room");
        output.clear();
        assert!(output.is_lent() && output.is_empty());
        assert!(stay(&lent, &output));
        assert_eq!(Arc::strong_count(&shared), 2, "what was not lent is gone");
        output.settle(6, now);
        assert!(!output.is_lent());
        assert_eq!((Arc::strong_count(&shared), pool.stats().bytes_in_use), (1, 0));
    }

    #[test]
    fn small_messages_share_a_buffer() {
        let (pool, now) = (Pool::new(1 << 20), Instant::now());
        let mut output = Output::new(BYTES_MAX, now);
        for _ in 0..100 {
            output.push(&[&[1; 40]], &pool, now).expect("room");
        }
        assert_eq!(pool.stats().buffers_in_use, 1);
        assert_eq!(content(&output).len(), 4000);
    }

    #[test]
    fn refusals_are_told_once_there_is_room() {
        let (pool, now) = (Pool::new(1 << 20), Instant::now());
        let mut output = Output::new(1000, now);
        output.push(&[&[1; 900]], &pool, now).expect("room");
        assert!(!output.take_writable(), "nothing was refused");
        assert_eq!(output.push(&[&[1; 101]], &pool, now), Err(SendError::Full));
        output.consume(649, now);
        assert!(!output.take_writable(), "251 of 1000 bytes wait");
        output.consume(1, now);
        assert!(output.take_writable());
        assert!(!output.take_writable(), "once");
    }

    #[test]
    fn without_a_buffer_nothing_is_queued() {
        let (pool, now) = (Pool::new(4096), Instant::now());
        let mut output = Output::new(BYTES_MAX, now);
        output.push(&[&[1; 4000]], &pool, now).expect("room");
        assert!(matches!(output.push(&[&[2; 100]], &pool, now), Err(SendError::Pool(_))));
        assert_eq!(output.queued(), 4000);
    }

    #[test]
    fn time_counts_from_the_last_movement() {
        let (pool, start) = (Pool::new(1 << 20), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut output = Output::new(BYTES_MAX, start);
        output.push(&[b"abc"], &pool, at(5)).expect("room");
        output.push(&[b"def"], &pool, at(7)).expect("room");
        assert_eq!(output.moved_at(), at(5), "queueing more moves nothing");
        output.consume(0, at(8));
        assert_eq!(output.moved_at(), at(5));
        output.consume(1, at(9));
        assert_eq!(output.moved_at(), at(9));
    }
}
