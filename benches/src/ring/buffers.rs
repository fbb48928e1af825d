//! [`ProvidedBuffers`]: memory that the kernel picks from when it has something to deliver.

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};

/// Kernel pages are no larger on the machines that this runs on.
const PAGE_LEN: usize = 64 << 10;

/// Memory that begins a page, as the kernel wants it.
#[derive(Clone)]
#[repr(align(65_536))]
struct Page(#[allow(dead_code)] [u8; PAGE_LEN]);

/// The one group of buffers that a ring has.
pub(super) const GROUP: u16 = 0;

/// A ring of free buffers, shared with the kernel. A buffer is the kernel's while it is in there, and ours from the
/// completion that names it until [`give_back`](Self::give_back).
pub(super) struct ProvidedBuffers {
    /// Room for `count` entries; the kernel reads those before the tail.
    entries: Vec<Page>,
    /// `count` buffers of `len` bytes. No reference is ever made to the whole of it.
    memory: Vec<u8>,
    count: u16,
    len: usize,
    tail: u16,
}

impl ProvidedBuffers {
    /// `count` buffers of `len` bytes, all free.
    ///
    /// # Panics
    /// If `count` is no power of two up to 32,768, or `len` is 0 or beyond 4 GiB.
    pub(super) fn new(count: u16, len: usize) -> Self {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} buffers");
        assert!(len > 0 && u32::try_from(len).is_ok(), "buffers of {len} bytes");
        let pages = (usize::from(count) * size_of::<BufRingEntry>()).div_ceil(PAGE_LEN);
        let (entries, memory) = (vec![Page([0; PAGE_LEN]); pages], vec![0; usize::from(count) * len]);
        let mut buffers = Self { entries, memory, count, len, tail: 0 };
        (0..count).for_each(|buffer| buffers.give_back(buffer));
        buffers
    }

    /// Lets a ring pick from these buffers. They must outlive it.
    pub(super) fn register(&self, ring: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: there is room for `count` entries, all initialized, and they begin a page. They stay valid until
        // `Ring`, the only caller, has closed the ring: it drops its buffers last.
        unsafe { ring.register_buf_ring_with_flags(self.entries.as_ptr() as u64, self.count, GROUP, 0) }
    }

    /// The first `len` bytes of a buffer that a completion has named and that was not given back.
    pub(super) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(buffer < self.count && len <= self.len, "the kernel names a buffer that it was given");
        // SAFETY: within `memory`. The kernel does not write to this buffer before it is given back, which takes
        // `&mut self` and so ends the slice.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(usize::from(buffer) * self.len), len) }
    }

    /// The kernel may fill the buffer again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        let entries = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: `slot` is within the `count` entries and `buffer` within `memory`. The kernel does not read an entry
        // behind the tail, and there are never more free buffers than entries.
        unsafe {
            let entry = &mut *entries.add(slot);
            entry.set_addr(self.memory.as_mut_ptr().add(usize::from(buffer) * self.len) as u64);
            entry.set_len(self.len as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned, and is touched by nobody but this line and the kernel,
        // which reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
