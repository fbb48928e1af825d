//! How the load generator's bytes come and go: connected sockets on a private io_uring.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use super::LoadError;
use crate::ring::{Ring, SocketKind};

/// What the kernel may deliver in one turn without a pause: so many bytes, and so many pieces at most.
const BUFFERS_LEN: usize = 64 << 20;
const BUFFERS_MAX: usize = 4_096;

/// Bytes of a stream that come in one piece, at most.
pub(super) const PIECE_LEN: usize = 16 << 10;

/// Connects.
pub(super) fn connect(server: SocketAddr, kind: SocketKind) -> Result<OwnedFd, LoadError> {
    if kind == SocketKind::Stream {
        let stream = TcpStream::connect(server).map_err(|error| LoadError::at(server, error))?;
        stream.set_nodelay(true)?;
        return Ok(stream.into());
    }
    let local = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    Ok(socket.into())
}

/// A ring over `sockets`, which it numbers from 0. What comes is at most `piece_len` bytes at once.
pub(super) fn ring_over(sockets: Vec<OwnedFd>, kind: SocketKind, piece_len: usize) -> io::Result<Ring> {
    let buffers = (BUFFERS_LEN / piece_len).clamp(1, BUFFERS_MAX);
    let count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
    let mut ring = Ring::new(count, 1 << buffers.ilog2(), piece_len)?;
    for (number, socket) in sockets.into_iter().enumerate() {
        assert_eq!(ring.add(socket, kind)?, number, "a ring numbers sockets in order");
    }
    Ok(ring)
}
