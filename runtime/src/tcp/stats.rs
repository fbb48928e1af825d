//! What servers and links count.

use crate::tcp::connection::Counters;

/// Counts of a TCP server since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpStats {
    /// Connections accepted within the limit.
    pub accepted: u64,
    /// Connections closed at once because of the limit.
    pub refused: u64,
    /// Times accepting paused because descriptors or memory had run out.
    pub shortages: u64,
    /// Connections there are now.
    pub open: u64,
    /// Connections whose `opened` hook ran.
    pub opened: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Frames served.
    pub frames: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Times a frame was put off because its function was busy.
    pub busy: u64,
    /// Connections closed for what they sent.
    pub malformed: u64,
    /// Panics of frame functions and hooks.
    pub panics: u64,
    /// Connections closed because they were idle or stuck.
    pub timed_out: u64,
}

pub(crate) fn sum(shards: &[Counters]) -> TcpStats {
    shards.iter().fold(TcpStats::default(), |sum, shard| TcpStats {
        opened: sum.opened + shard.opened.get(),
        closed: sum.closed + shard.closed.get(),
        frames: sum.frames + shard.frames.get(),
        bytes_in: sum.bytes_in + shard.bytes_in.get(),
        bytes_out: sum.bytes_out + shard.bytes_out.get(),
        busy: sum.busy + shard.busy.get(),
        malformed: sum.malformed + shard.malformed.get(),
        panics: sum.panics + shard.panics.get(),
        timed_out: sum.timed_out + shard.timed_out.get(),
        ..sum
    })
}
