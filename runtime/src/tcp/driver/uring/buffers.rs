//! Buffers of the pool, provided to the kernel to receive into.

use std::{
    alloc::{self, Layout},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::pool::{Pool, PoolBuf, PoolExhausted};

/// Bytes of one buffer; a larger read takes several.
pub(super) const BUFFER_LEN: usize = 4 << 10;
/// As many as there are at the beginning, if the pool has them. The kernel goes round all of them, so fewer stay
/// warmer; it gives 32 to one connection before it looks at the next.
const COUNT_MIN: usize = 64;
/// As many as there may be: 4 MiB.
const COUNT_MAX: usize = 1024;

/// Alignment of the ring's memory that the kernel asks for.
const PAGE: usize = 4096;

/// The buffers and the ring that hands them to the kernel. Each buffer is the kernel's until a completion names
/// it, and again after [`recycle`](Self::recycle).
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    tail: u16,
    /// By buffer id. Their blocks do not move when this grows, but they are not to be touched while the kernel
    /// has them.
    blocks: Vec<PoolBuf>,
    pool: Pool,
}

impl Buffers {
    /// Bytes of the ring that hands them to the kernel.
    pub(super) const RING_LEN: u64 = (COUNT_MAX * size_of::<BufRingEntry>()) as u64;

    /// With as many buffers as there are at the beginning.
    pub(super) fn new(pool: &Pool) -> io::Result<Self> {
        // SAFETY: the layout is not empty.
        let entries = unsafe { alloc::alloc_zeroed(Self::layout()) }.cast();
        let entries = NonNull::new(entries).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers =
            Self { entries, tail: 0, blocks: Vec::with_capacity(COUNT_MAX), pool: pool.clone() };
        buffers.add().map_err(io::Error::other)?;
        while buffers.blocks.len() < COUNT_MIN && buffers.add().is_ok() {}
        Ok(buffers)
    }

    fn layout() -> Layout {
        let layout = Layout::array::<BufRingEntry>(COUNT_MAX).and_then(|layout| layout.align_to(PAGE));
        layout.expect("16 KiB can be had")
    }

    /// Where the ring lies, and how many entries it has.
    pub(super) fn entries(&self) -> (u64, u16) {
        (self.entries.as_ptr() as u64, COUNT_MAX as u16)
    }

    /// What the kernel has written to a buffer.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        self.blocks[usize::from(id)].written(len)
    }

    /// Gives a buffer to the kernel again.
    pub(super) fn recycle(&mut self, id: u16) {
        let block = self.blocks[usize::from(id)].block_mut();
        let (addr, len) = (block.as_mut_ptr() as u64, block.len() as u32);
        let slot = usize::from(self.tail) % COUNT_MAX;
        // SAFETY: the slot is in the ring. The kernel does not read it before the tail says so: there are never
        // more buffers than slots.
        let entry = unsafe { &mut *self.entries.as_ptr().add(slot) };
        entry.set_addr(addr);
        entry.set_len(len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the ring's first entry holds the tail, in a place that `set_…` above leave alone; it is aligned
        // and lives as long as `self`.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// They did not suffice: doubles their number, up to one for each connection, so that all may have something
    /// at once but a single one cannot have much.
    pub(super) fn grow(&mut self, connections: usize) {
        let count = (self.blocks.len() * 2).min(connections).min(COUNT_MAX);
        while self.blocks.len() < count && self.add().is_ok() {}
    }

    fn add(&mut self) -> Result<(), PoolExhausted> {
        self.blocks.push(self.pool.provide(BUFFER_LEN)?);
        // There are `COUNT_MAX` at most.
        self.recycle((self.blocks.len() - 1) as u16);
        Ok(())
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nothing refers to it any more.
        unsafe { alloc::dealloc(self.entries.as_ptr().cast(), Self::layout()) };
    }
}
