//! Bound UDP sockets, and sending through them from any shard.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    address::{self, ListenError},
    port_holder::Transport,
};

/// Asked for, so that bursts survive a busy shard; the kernel gives what `net.core.rmem_max` allows.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Bound sockets that nobody serves yet.
#[derive(Debug)]
pub struct UdpSockets {
    pub(super) sockets: Vec<BoundSocket>,
}

/// One socket with two descriptors: one for glommio, which closes it, one for everybody else.
#[derive(Debug)]
pub(super) struct BoundSocket {
    pub(super) sender: UdpSender,
    pub(super) for_glommio: OwnedFd,
}

impl UdpSockets {
    /// Binds a socket per address, all or none. Port 0 takes a free one.
    ///
    /// # Errors
    /// If an address cannot be had; [`ListenError::InUse`] if another socket has it.
    pub fn bind(addrs: &[SocketAddr]) -> Result<Self, ListenError> {
        let ports = || addrs.iter().map(SocketAddr::port);
        let wanted = || ports().min().unwrap_or(0)..=ports().max().unwrap_or(0);
        let failed = |addr| move |source| ListenError::new(addr, source, Transport::Udp, wanted());
        let bind = |addr: &SocketAddr| bind(*addr).map_err(failed(*addr));
        Ok(Self { sockets: addrs.iter().map(bind).collect::<Result<_, _>>()? })
    }

    /// Where they are bound, in order, with the ports that were taken.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|socket| socket.sender.0.local_addr).collect()
    }

    /// Sending ends, in order.
    #[must_use]
    pub fn senders(&self) -> Vec<UdpSender> {
        self.sockets.iter().map(|socket| socket.sender.clone()).collect()
    }
}

/// Without SO_REUSEPORT, which glommio's `bind` sets, so that a second copy of the program is told. Blocking,
/// because io_uring answers EAGAIN for a non-blocking socket instead of waiting; all else asks with
/// `MSG_DONTWAIT`.
fn bind(addr: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer works too.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    address::bind(&socket, addr)?;
    let local_addr =
        socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))?;
    let for_glommio = OwnedFd::from(socket.try_clone()?);
    let sender = UdpSender(Arc::new(Inner { socket, local_addr, unsent: AtomicU64::new(0) }));
    Ok(BoundSocket { sender, for_glommio })
}

struct Inner {
    socket: Socket,
    local_addr: SocketAddr,
    unsent: AtomicU64,
}

/// Sends through a socket from any thread: a reply can leave through the socket its request came in by.
#[derive(Clone)]
pub struct UdpSender(Arc<Inner>);

impl UdpSender {
    /// Sends at once or not at all; false: dropped, and counted.
    pub fn send_to(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        // Never glommio's `send_to`: with a full socket buffer it sends one byte of the datagram.
        let sent = self.0.socket.send_to_with_flags(bytes, &to.into(), libc::MSG_DONTWAIT).is_ok();
        if !sent {
            self.0.unsent.fetch_add(1, Relaxed);
        }
        sent
    }

    /// Has a waiting `recv_from` of this socket return, by sending it an empty datagram.
    pub(super) fn wake_receiver(&self) {
        let mut own = self.0.local_addr;
        match own.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        self.send_to(own, &[]);
    }

    /// How long a receive that may wait does so, rounded up to a tick of the kernel.
    pub(super) fn set_receive_timeout(&self, timeout: Duration) -> io::Result<()> {
        // The kernel takes zero for "for ever".
        self.0.socket.set_read_timeout(Some(timeout.max(Duration::from_micros(1))))
    }

    pub(super) fn unsent(&self) -> u64 {
        self.0.unsent.load(Relaxed)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}

impl fmt::Debug for UdpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSender").field(&self.0.local_addr).finish()
    }
}
