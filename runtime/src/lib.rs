//! Thread-per-core runtime on io_uring: shards, TCP and UDP servers, clients, a buffer pool, drain.
//!
//! The only crate that names glommio. It knows no message of Lars: services bring a framing function and one
//! function per message id ([`Handlers`]), a state per shard, messages for it ([`Mailboxes`]) and jobs
//! ([`ShardHandle::try_submit`]).
//!
//! * [`Shards`]: one pinned thread with an executor each, owning a state that never leaves it.
//! * [`TcpServer`], [`TcpClient`]: connections with bounded input and output, back-pressure, timeouts; a
//!   [`TcpDriver`] moves their bytes.
//! * [`UdpServer`]: one socket per shard, datagrams in batches.
//! * [`Backoff`], [`LogThrottle`]: how long to wait before the next try, and which log lines to leave out.
//! * [`Pool`]: reusable buffers with a cap.
//! * [`preflight`]: whether the kernel lets a process use io_uring.
#![deny(missing_docs)]

mod address;
mod backoff;
mod counters;
mod glommio_facts;
mod limits;
mod log_throttle;
mod pool;
mod port_holder;
mod shard;
mod tcp;
mod udp;

pub use self::{
    address::ListenError,
    backoff::Backoff,
    counters::{Counter, Sample, SampleKind},
    glommio_facts::preflight,
    log_throttle::LogThrottle,
    pool::{BUFFER_LEN_MAX, Pool, PoolBuf, PoolExhausted, PoolStats},
    port_holder::{PortHolder, Program},
    shard::{
        context::ShardContext,
        mailbox::{ShardHandle, Stopped, SubmitError},
        mailboxes::{Mailboxes, Refused},
        placement::Placement,
        shards::{DrainReport, Shards, ShardsConfig, StartError},
    },
    tcp::{
        client::{TcpClient, TcpClientConfig},
        connection::{CloseReason, ConnId, SendError},
        driver::{TcpDriver, TcpDriverError, UnknownTcpDriver},
        handlers::{Flow, Frame, Handlers},
        listener::{TcpServer, TcpServerConfig},
        stats::TcpStats,
    },
    udp::{Datagram, Linger, UdpConfig, UdpSender, UdpServer, UdpSockets, UdpStats},
};
