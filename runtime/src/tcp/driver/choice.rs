//! Which driver a process uses.

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Serialize};

use super::uring;

/// What moves the bytes of TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpDriver {
    /// [`Ring`](Self::Ring) where the kernel has what it needs (Linux 6.1), else [`Stream`](Self::Stream).
    #[default]
    Auto,
    /// An io_uring per shard for all connections: least work per frame. Linux 6.1.
    Ring,
    /// A stream per connection, on the executor's own io_uring. Linux 5.8.
    Stream,
}

/// [`TcpDriver::Ring`] was asked for, and the kernel lacks what it needs.
#[derive(Debug, thiserror::Error)]
#[error("the TCP driver 'ring' needs Linux 6.1 or later, use 'auto' or 'stream': {0}")]
pub struct TcpDriverError(#[source] io::Error);

/// A driver that this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Stream,
    Uring,
}

impl TcpDriver {
    /// Asks the kernel.
    pub(crate) fn choose(self) -> Result<Chosen, TcpDriverError> {
        match self {
            Self::Stream => Ok(Chosen::Stream),
            Self::Ring => probe().map(|()| Chosen::Uring).map_err(TcpDriverError),
            Self::Auto if probe().is_ok() => Ok(Chosen::Uring),
            Self::Auto => Ok(Chosen::Stream),
        }
    }
}

fn probe() -> io::Result<()> {
    match uring::probe() {
        // The kernel has it. Whether there is memory is seen when the shards start.
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(()),
        result => result,
    }
}

impl Chosen {
    /// Bytes that the driver has locked on each shard, at most.
    pub(crate) fn locked_bytes(self) -> u64 {
        match self {
            Self::Stream => 0,
            Self::Uring => uring::locked_bytes(),
        }
    }
}

impl fmt::Display for TcpDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ring => "ring",
            Self::Stream => "stream",
        })
    }
}

/// A name that no driver has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not auto, ring or stream")]
pub struct UnknownTcpDriver(String);

impl FromStr for TcpDriver {
    type Err = UnknownTcpDriver;

    fn from_str(name: &str) -> Result<Self, UnknownTcpDriver> {
        [Self::Auto, Self::Ring, Self::Stream]
            .into_iter()
            .find(|driver| driver.to_string() == name)
            .ok_or_else(|| UnknownTcpDriver(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_have_names() {
        for driver in [TcpDriver::Auto, TcpDriver::Ring, TcpDriver::Stream] {
            assert_eq!(driver.to_string().parse(), Ok(driver));
        }
        let error = "uring".parse::<TcpDriver>().expect_err("no such driver");
        assert_eq!(error.to_string(), "'uring' is not auto, ring or stream");
    }

    #[test]
    fn the_plain_one_is_always_there_and_auto_finds_one() {
        assert!(matches!(TcpDriver::Stream.choose(), Ok(Chosen::Stream)));
        let has_uring = TcpDriver::Ring.choose().is_ok();
        let auto = TcpDriver::Auto.choose().expect("one of both");
        assert_eq!(auto == Chosen::Uring, has_uring);
    }
}
