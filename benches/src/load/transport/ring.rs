//! On a private io_uring.

use std::{io, mem, os::fd::OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::UdpGsoSegment},
};

use super::{Caller, Datagrams, Input, Patience, Sockets, Stream, Streams, reply_len_max};
use crate::{
    datagrams::BATCH,
    ring::{Event, Ring, RingConfig, SocketKey, SocketKind, Wait},
};

/// What the kernel may deliver in one turn without a pause: so many bytes, and so many pieces at most.
const BUFFERS_LEN: usize = 64 << 20;
const BUFFERS_MAX: usize = 4_096;

/// Bytes of a stream that come in one piece, at most.
const PIECE_LEN: usize = 16 << 10;

impl Patience {
    fn wait(self) -> Wait {
        Wait { events: self.replies, gather: self.gather, max: self.max }
    }
}

fn ring_of(sockets: usize, buffer_len: usize) -> io::Result<Ring> {
    let sockets = u32::try_from(sockets).map_err(io::Error::other)?;
    let buffers = (BUFFERS_LEN / buffer_len).clamp(1, BUFFERS_MAX);
    let buffers = 1 << buffers.ilog2();
    Ring::new(RingConfig { sockets, buffers, buffer_len })
}

/// Memory for what is sent, used again and again.
#[derive(Default)]
struct Spare(Vec<Vec<u8>>);

impl Spare {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn put(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.0.push(bytes);
    }
}

/// Datagrams, a whole batch of one socket to an operation where all but the last have the same length.
pub(in crate::load) struct RingDatagrams {
    ring: Ring,
    /// Of each socket, the length of its longest datagrams if the kernel cuts batches there.
    cuts: Vec<Option<usize>>,
    /// Of one socket, until the next flush.
    batch: Vec<u8>,
    spare: Spare,
}

impl Sockets<Caller> for RingDatagrams {
    fn over(callers: Vec<Caller>) -> io::Result<Self> {
        let mut ring = ring_of(callers.len(), reply_len_max(&callers))?;
        let mut cuts = Vec::new();
        for (number, caller) in callers.into_iter().enumerate() {
            let cuts_at = |len: &usize| {
                let segment = i32::try_from(*len).unwrap_or(i32::MAX);
                setsockopt(&caller.socket, UdpGsoSegment, &segment).is_ok()
            };
            cuts.push(caller.datagram_len.filter(cuts_at));
            let key = ring.add(OwnedFd::from(caller.socket), SocketKind::Datagram)?;
            assert_eq!(key, number, "a ring numbers sockets in order");
        }
        Ok(Self { ring, cuts, batch: Vec::new(), spare: Spare::default() })
    }
}

impl RingDatagrams {
    fn send(&mut self, socket: SocketKey) -> Result<(), Errno> {
        let bytes = mem::replace(&mut self.batch, self.spare.take());
        self.ring.send(socket, bytes).map_err(errno)
    }
}

impl Datagrams for RingDatagrams {
    fn push(&mut self, socket: usize, datagram: &[u8]) -> Result<(), Errno> {
        let cut = self.cuts[socket];
        debug_assert!(cut.is_none_or(|len| len >= datagram.len()), "longer than was said");
        let joins =
            cut.is_some_and(|len| self.batch.len().is_multiple_of(len) && self.batch.len() < BATCH * len);
        if !joins {
            self.flush(socket)?;
        }
        self.batch.extend_from_slice(datagram);
        Ok(())
    }

    fn flush(&mut self, socket: usize) -> Result<(), Errno> {
        if self.batch.is_empty() { Ok(()) } else { self.send(socket) }
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        self.ring.turn(patience.wait())
    }

    fn next(&mut self, _expected: impl Fn(usize) -> usize) -> Option<(usize, Result<&[u8], Errno>)> {
        let Self { ring, spare, .. } = self;
        loop {
            match ring.next()? {
                Event::Received { socket } => return Some((socket, Ok(ring.received()))),
                Event::Failed { socket, error } => return Some((socket, Err(error))),
                Event::Sent { bytes, .. } => spare.put(bytes),
                Event::HungUp { .. } | Event::Accepted { .. } => {}
            }
        }
    }
}

/// Connections; what one is to send while it sends follows in one go.
pub(in crate::load) struct RingStreams {
    ring: Ring,
    connections: Vec<Connection>,
    spare: Spare,
}

#[derive(Default)]
struct Connection {
    output: Vec<u8>,
    sending: bool,
}

impl Sockets<Stream> for RingStreams {
    fn over(streams: Vec<Stream>) -> io::Result<Self> {
        let mut ring = ring_of(streams.len(), PIECE_LEN)?;
        let mut connections = Vec::new();
        for (number, stream) in streams.into_iter().enumerate() {
            let key = ring.add(OwnedFd::from(stream), SocketKind::Stream)?;
            assert_eq!(key, number, "a ring numbers sockets in order");
            connections.push(Connection::default());
        }
        Ok(Self { ring, connections, spare: Spare::default() })
    }
}

impl Streams for RingStreams {
    fn output(&mut self, connection: usize) -> &mut Vec<u8> {
        &mut self.connections[connection].output
    }

    fn flush(&mut self, connection: usize) -> io::Result<()> {
        let state = &mut self.connections[connection];
        if state.sending || state.output.is_empty() {
            return Ok(());
        }
        state.sending = true;
        let bytes = mem::replace(&mut state.output, self.spare.take());
        self.ring.send(connection, bytes)
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        self.ring.turn(patience.wait())
    }

    fn next(&mut self) -> Option<(usize, io::Result<Input<'_>>)> {
        loop {
            match self.ring.next()? {
                Event::Received { socket } => return Some((socket, Ok(Input::Bytes(self.ring.received())))),
                Event::HungUp { socket } => return Some((socket, Ok(Input::HungUp))),
                Event::Failed { socket, error } => return Some((socket, Err(error.into()))),
                Event::Sent { socket, bytes } => {
                    self.spare.put(bytes);
                    self.connections[socket].sending = false;
                    if let Err(error) = self.flush(socket) {
                        return Some((socket, Err(error)));
                    }
                }
                Event::Accepted { .. } => {}
            }
        }
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
