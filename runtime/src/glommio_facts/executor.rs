//! The executor's settings, and what memory they lock.
//!
//! Kernels before 5.12 and from 6.14 on charge rings against the user's limit on locked memory (8 MiB by default), all
//! kernels do so with registered buffers. A glommio 0.9.0 executor has three rings, and registers its memory for file IO
//! with each, as much as there is. So that many shards fit the usual limit, rings are small here: what does not fit is
//! submitted, or collected, in the next turn.

use std::{io, time::Duration};

use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};

/// Memory for file IO, which shards do not do; glommio's least.
const IO_MEMORY: usize = 64 << 10;
/// Requests per submission, not in flight.
const RING_DEPTH: usize = 64;
/// What glommio names main, latency and poll ring.
const RINGS: u64 = 3;
/// Long, because of the defect that `ticker` describes.
const PREEMPT_TIMER: Duration = Duration::from_secs(1);

/// For an executor on this CPU, or wherever the kernel puts it.
pub(crate) fn builder(cpu: Option<usize>) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        // Shards make no calls that block, and glommio panics where a thread for them is refused.
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
}

/// Makes it, on the thread that is to run it.
///
/// # Errors
/// With the kernel's number, where there is one.
pub(crate) fn make(builder: LocalExecutorBuilder) -> io::Result<LocalExecutor> {
    builder.make().map_err(|error| {
        let text = error.to_string();
        if let GlommioError::IoError(error) = error { error } else { io::Error::other(text) }
    })
}

/// Bytes that an executor has locked, at most: it does without registered memory if there is not enough.
pub(crate) fn locked_bytes() -> u64 {
    RINGS * (ring_bytes(RING_DEPTH as u64, 2 * RING_DEPTH as u64) + pages(IO_MEMORY as u64))
}

/// Bytes of an io_uring that can be given `submissions` at once, and holds `completions`.
pub(crate) const fn ring_bytes(submissions: u64, completions: u64) -> u64 {
    const HEADER: u64 = 320;
    pages(submissions * 64) + pages(HEADER + completions * 16 + submissions * 4)
}

const fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}
