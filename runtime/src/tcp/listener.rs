//! TCP servers: an accepting thread per listener deals connections out to the shards, round-robin.
//!
//! The listener is bound here and not with glommio, whose `bind` always shares the port with a second copy of the
//! program.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    address::{ListenError, bind},
    limits,
    port_holder::Transport,
    shard::shards::Shards,
    tcp::acceptor::Acceptor,
    tcp::connection::Limits,
    tcp::handlers::Handlers,
    tcp::places::Places,
    tcp::service::{DEFAULT_FRAME_LEN_MAX, Service},
    tcp::stats::{TcpStats, sum},
};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// A TCP server's address and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// More are accepted and closed at once. Lowered at the start if the process may not open so many descriptors.
    pub connections_max: usize,
    /// Connections of one address, at most; `None`: no bound of its own.
    pub connections_per_peer_max: Option<usize>,
    /// Descriptors that connections leave for all else that the process opens: files, other connections, logs.
    pub descriptors_kept: usize,
    /// A connection on which nothing moves for this long is closed. Whatever this is, a peer that vanished without a
    /// word is noticed after two minutes, by TCP keepalive, or earlier if something is sent to it.
    pub idle_timeout: Option<Duration>,
    /// Output that may wait per connection. Frames are not served while more than half of it waits, so replies
    /// of less than the other half always fit.
    pub output_bytes_max: usize,
    /// A connection whose output does not move for this long is cut.
    pub stall_timeout: Duration,
    /// A connection that takes longer than this to send the rest of a frame is cut.
    pub frame_timeout: Duration,
    /// A connection whose peer does not acknowledge what was sent for this long is cut, at least 1 ms
    /// (`TCP_USER_TIMEOUT`).
    pub unacknowledged_timeout: Duration,
    /// The longest frame, header included; one that is longer closes its connection.
    pub frame_len_max: usize,
}

impl TcpServerConfig {
    /// The defaults: 10,000 connections, no idle timeout, 1 MiB of output, 10 s to move it, 60 s to have it
    /// acknowledged, 30 s for a frame of at most 65,535 bytes to be complete.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            connections_max: 10_000,
            connections_per_peer_max: None,
            descriptors_kept: 128,
            idle_timeout: None,
            output_bytes_max: 1 << 20,
            stall_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(30),
            unacknowledged_timeout: Duration::from_secs(60),
            frame_len_max: DEFAULT_FRAME_LEN_MAX,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            frame_len_max: self.frame_len_max,
            output_bytes_max: self.output_bytes_max,
            idle_timeout: self.idle_timeout,
            stall_timeout: self.stall_timeout,
            frame_timeout: self.frame_timeout,
            unacknowledged_timeout: self.unacknowledged_timeout,
        }
    }
}

impl TcpServerConfig {
    /// How many connections there may be: as many as configured, or as there are descriptors for. Says so in the log.
    fn connections_possible(&self, service: &str) -> usize {
        let possible = connections_for(limits::descriptors_left(), self.descriptors_kept);
        if possible < self.connections_max {
            tracing::warn!(
                service,
                configured = self.connections_max,
                possible,
                limit = limits::descriptors_max(),
                "fewer connections than configured: raise the limit on open files (ulimit -n, LimitNOFILE= in systemd)"
            );
        }
        self.connections_max.min(possible)
    }
}

/// How many of the descriptors that are left are for connections: where there are few, half.
fn connections_for(left: usize, kept: usize) -> usize {
    left.saturating_sub(kept).max(left / 2)
}

/// A listening server. It runs until its shards drain or stop; dropping this handle changes nothing.
pub struct TcpServer {
    local_addr: SocketAddr,
    stats: Box<dyn Fn() -> TcpStats + Send + Sync>,
}

impl TcpServer {
    /// Listens, and serves what connects on `shards`.
    ///
    /// # Errors
    /// If the address cannot be had; [`ListenError::InUse`] if another socket has it.
    pub fn start<S>(
        shards: &Shards<S>,
        config: TcpServerConfig,
        handlers: Handlers<S>,
    ) -> Result<Self, ListenError> {
        let port = config.listen.port();
        let failed = |source| ListenError::new(config.listen, source, Transport::Tcp, port..=port);
        let socket = listen(config.listen).map_err(failed)?;
        let local_addr = local_addr(&socket).map_err(failed)?;
        let service =
            Service::new(format!("server {local_addr}"), handlers, config.limits(), shards.handles().len());
        let connections_max = config.connections_possible(&service.name);
        let places = Places::new(connections_max, config.connections_per_peer_max);
        let acceptor = Arc::new(Acceptor::new(places).map_err(failed)?);
        let stats = {
            let (acceptor, counters) = (Arc::clone(&acceptor), Arc::clone(&service.counters));
            Box::new(move || acceptor.stats() + sum(&counters))
        };
        for shard in shards.handles() {
            let limits = config.limits();
            // A stopped shard has no connections to watch.
            let _ = shard.install(move |shard| shard.watch(&limits));
        }
        acceptor.start(socket, shards.handles().to_vec(), service).map_err(failed)?;
        shards.before_drain(move || acceptor.stop());
        Ok(Self { local_addr, stats })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Counts since the start, summed over the shards.
    #[must_use]
    pub fn stats(&self) -> TcpStats {
        (self.stats)()
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

/// Without SO_REUSEPORT, so that a second copy of the program is told.
pub(super) fn listen(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    bind(&socket, addr)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_others() {
        assert_eq!(connections_for(1_000, 128), 872);
        assert_eq!(connections_for(200, 128), 100);
        assert_eq!(connections_for(0, 128), 0);
        let config = TcpServerConfig::new(([127, 0, 0, 1], 0).into());
        let wishes = TcpServerConfig { connections_max: usize::MAX, ..config.clone() };
        let possible = wishes.connections_possible("server");
        assert!(possible < usize::MAX, "{possible}");
        assert_eq!(TcpServerConfig { connections_max: 1, ..config }.connections_possible("server"), 1);
    }
}
