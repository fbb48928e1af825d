//! What servers and clients count.

use std::{ops::Deref, sync::Arc};

crate::counters! {
    /// Counts of a TCP server or client since its start.
    #[non_exhaustive]
    pub struct TcpStats, atomic TcpCounters {
        /// Connections accepted within the limits.
        counter accepted: u64,
        /// Connections closed at once because of a limit: on connections, on those of one address, on descriptors.
        counter refused: u64,
        /// Times that descriptors had run out when a connection was to be accepted.
        counter shortages: u64,
        /// Connections that could not be accepted for other reasons.
        counter accept_errors: u64,
        /// Connections of a server now.
        gauge open: u64,
        /// Connections whose `opened` hook ran.
        counter opened: u64,
        /// Connections that have ended.
        counter closed: u64,
        /// Frames served.
        counter frames: u64,
        /// Bytes received.
        counter bytes_in: u64,
        /// Bytes sent.
        counter bytes_out: u64,
        /// Times a frame was put off because its function was busy.
        counter busy: u64,
        /// Connections closed for what they sent.
        counter malformed: u64,
        /// Panics of frame functions and hooks.
        counter panics: u64,
        /// Connections closed because they were idle or stuck.
        counter timed_out: u64,
    }
}

/// Those of one shard. Aligned so that shards do not share cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters(TcpCounters);

impl Counters {
    pub(crate) fn per_shard(shards: usize) -> Arc<[Self]> {
        (0..shards).map(|_| Self::default()).collect()
    }
}

impl Deref for Counters {
    type Target = TcpCounters;

    fn deref(&self) -> &TcpCounters {
        &self.0
    }
}

pub(crate) fn sum(shards: &[Counters]) -> TcpStats {
    shards.iter().map(|shard| shard.load()).sum()
}
