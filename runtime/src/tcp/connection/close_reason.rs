//! Why connections end.

use std::{fmt, io};

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed its side, and everything it had sent was served.
    PeerClosed,
    /// The socket failed; a reset by the peer is [`io::ErrorKind::ConnectionReset`].
    Failed(io::ErrorKind),
    /// The input is not frames, or a frame is over the limit.
    Malformed(String),
    /// A message id nobody is registered for.
    UnknownMessage(i32),
    /// A frame function answered [`Flow::Close`](crate::Flow::Close).
    Refused(&'static str),
    /// [`ShardContext::close`](crate::ShardContext::close).
    Closed(&'static str),
    /// A frame function or hook panicked.
    Panicked,
    /// No buffer for the input.
    PoolExhausted,
    /// Nothing moved for the idle timeout.
    Idle,
    /// Output did not move for the stall timeout.
    Stalled,
    /// The rest of a frame did not come within the frame timeout.
    FrameTimeout,
    /// The shards drained.
    Drained,
    /// The shards stopped without waiting for it.
    Cut,
}

impl CloseReason {
    /// The peer's fault, to be counted as malformed and logged.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::UnknownMessage(_) | Self::Refused(_))
    }

    /// This side ended it because of how the peer behaved.
    pub(crate) fn is_giving_up(&self) -> bool {
        self.is_malformed() || self.is_timeout() || matches!(self, Self::Closed(_))
    }

    /// Nothing, or too little, came from the peer.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Idle | Self::Stalled | Self::FrameTimeout)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Failed(kind) => write!(f, "{kind}"),
            Self::Malformed(what) => f.write_str(what),
            Self::UnknownMessage(id) => write!(f, "unknown message id {id}"),
            Self::Refused(why) | Self::Closed(why) => f.write_str(why),
            Self::Panicked => f.write_str("panic while serving it"),
            Self::PoolExhausted => f.write_str("buffer pool exhausted"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Stalled => f.write_str("output stalled for too long"),
            Self::FrameTimeout => f.write_str("a frame took too long to come"),
            Self::Drained => f.write_str("shut down"),
            Self::Cut => f.write_str("cut off at shut down"),
        }
    }
}
