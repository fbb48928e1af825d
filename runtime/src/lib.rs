//! Thread-per-core runtime on io_uring: shards, TCP and UDP servers, client links, a buffer pool, drain.
//!
//! The only crate that names glommio. It knows no message of Lars: services bring a framing function and one
//! function per message id ([`Handlers`]), a state per shard, and jobs ([`ShardHandle::try_submit`]).
//!
//! * [`Shards`]: one pinned thread with an executor each, owning a state that never leaves it.
//! * [`TcpServer`], [`TcpClient`]: connections with bounded input and output, back-pressure, timeouts; a
//!   [`TcpDriver`] moves their bytes.
//! * [`UdpServer`]: one socket per shard, datagrams in batches.
//! * [`Pool`]: reusable buffers with a cap.
//! * [`Shutdown`], [`preflight`], [`daemon`]: a process's beginning, configuration and end.
#![deny(missing_docs)]

mod address;
mod backoff;
mod client;
mod clock;
mod conn;
mod counter;
pub mod daemon;
mod driver;
mod handlers;
mod listener;
mod mailbox;
mod net;
mod occasional;
mod panics;
mod placement;
mod pool;
pub mod preflight;
mod pulse;
mod reactor_pass;
mod shard;
mod shards;
mod shutdown;
mod stats;
mod udp;

pub use self::{
    address::ListenError,
    backoff::Backoff,
    client::{TcpClient, TcpClientConfig},
    conn::ConnId,
    driver::{TcpDriver, TcpDriverError, UnknownTcpDriver},
    handlers::{CloseReason, Flow, Frame, Handlers},
    listener::{TcpServer, TcpServerConfig},
    mailbox::{ShardHandle, Stopped, SubmitError},
    net::{Net, SendError},
    placement::Placement,
    pool::{BUFFER_LEN_MAX, Pool, PoolBuf, PoolExhausted, PoolStats},
    shards::{DrainReport, Shards, ShardsConfig, StartError},
    shutdown::Shutdown,
    stats::TcpStats,
    udp::{Datagram, Linger, UdpConfig, UdpSender, UdpServer, UdpSockets, UdpStats},
};
