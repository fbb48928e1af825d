//! [`Sockets`]: how the load generator's bytes come and go, on a private io_uring: one system call a turn, whatever the
//! number of sockets.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::LoadError;
use crate::ring::{Event, Ring, RingConfig, SocketKind, Wait};

/// What the kernel may deliver in one turn without a pause: so many bytes, and so many pieces at most.
const BUFFERS_LEN: usize = 64 << 20;
const BUFFERS_MAX: usize = 4_096;

/// Bytes of a stream that come in one piece, at most.
pub(super) const PIECE_LEN: usize = 16 << 10;

/// Datagrams that the kernel cuts out of one send, at most.
const BATCH: usize = 64;

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

/// What has happened to a socket.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// The next bytes, or a datagram.
    Bytes(&'a [u8]),
    /// There are no more.
    HungUp,
    /// The kernel has everything that was flushed.
    Sent,
}

/// Connected sockets of one kind, numbered from 0.
pub(super) struct Sockets {
    ring: Ring,
    kind: SocketKind,
    outputs: Vec<Output>,
    /// Memory for what is sent, used again and again.
    spare: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// Of datagrams: the length at which the kernel cuts a batch.
    cut: Option<usize>,
    sending: bool,
}

impl Sockets {
    /// Takes them. What comes is at most `piece_len` bytes at once.
    ///
    /// # Errors
    /// If the kernel does not.
    pub(super) fn over(sockets: Vec<OwnedFd>, kind: SocketKind, piece_len: usize) -> io::Result<Self> {
        let buffers = (BUFFERS_LEN / piece_len).clamp(1, BUFFERS_MAX);
        let buffers = 1 << buffers.ilog2();
        let count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
        let mut ring = Ring::new(RingConfig { sockets: count, buffers, buffer_len: piece_len })?;
        let mut outputs = Vec::new();
        for (number, socket) in sockets.into_iter().enumerate() {
            assert_eq!(ring.add(socket, kind)?, number, "a ring numbers sockets in order");
            outputs.push(Output::default());
        }
        Ok(Self { ring, kind, outputs, spare: Vec::new() })
    }

    /// Datagrams of `socket` have this length, or are shorter and then the last of a batch: the kernel sends many as one.
    pub(super) fn cut_at(&mut self, socket: usize, len: usize) {
        let segment = i32::try_from(len).unwrap_or(i32::MAX);
        self.outputs[socket].cut =
            setsockopt(self.ring.fd(socket), UdpGsoSegment, &segment).is_ok().then_some(len);
    }

    /// Adds a message to what `socket` sends with the next flush; a batch of datagrams that is full goes by itself.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn push(&mut self, socket: usize, message: &[u8]) -> io::Result<()> {
        let Output { bytes, cut, .. } = &self.outputs[socket];
        let joins = |len: usize| bytes.len().is_multiple_of(len) && bytes.len() < BATCH * len;
        if self.kind == SocketKind::Datagram && !cut.is_some_and(joins) {
            self.flush(socket)?;
        }
        self.outputs[socket].bytes.extend_from_slice(message);
        Ok(())
    }

    /// Sends what was pushed, with the next wait. On a stream, what is pushed while it sends follows by itself.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn flush(&mut self, socket: usize) -> io::Result<()> {
        let output = &mut self.outputs[socket];
        if output.bytes.is_empty() || output.sending {
            return Ok(());
        }
        output.sending = self.kind == SocketKind::Stream;
        let bytes = mem::replace(&mut output.bytes, self.spare.pop().unwrap_or_default());
        self.ring.send(socket, bytes)
    }

    /// Waits until something has happened.
    ///
    /// # Errors
    /// If the kernel does.
    pub(super) fn wait(&mut self, wait: Wait) -> io::Result<()> {
        self.ring.turn(wait)
    }

    /// Waits for anything, up to `max`.
    ///
    /// # Errors
    /// If the kernel does.
    pub(super) fn wait_for_one(&mut self, max: Duration) -> io::Result<()> {
        self.wait(Wait { events: 1, gather: Duration::ZERO, max })
    }

    /// The next thing that has happened, or the error of a socket.
    pub(super) fn next(&mut self) -> Option<(usize, io::Result<Input<'_>>)> {
        match self.ring.next()? {
            Event::Received { socket } => Some((socket, Ok(Input::Bytes(self.ring.received())))),
            Event::HungUp { socket } => Some((socket, Ok(Input::HungUp))),
            Event::Failed { socket, error } => Some((socket, Err(error.into()))),
            Event::Accepted { .. } => unreachable!("there is no listener"),
            Event::Sent { socket, mut bytes } => {
                bytes.clear();
                self.spare.push(bytes);
                self.outputs[socket].sending = false;
                let input = self.flush(socket).map(|()| Input::Sent);
                Some((socket, input))
            }
        }
    }
}
