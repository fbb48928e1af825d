//! Datagrams in batches, through the safe wrappers of nix: [`Inbox`] receives with one `recvmmsg`, [`Outbox`]
//! sends with one `sendmmsg`.

use std::{
    array,
    io::{IoSlice, IoSliceMut},
    iter,
    net::UdpSocket,
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrLike, recv, recvmmsg, send, sendmmsg};

/// Datagrams per system call, at most.
pub const BATCH: usize = 64;

/// Longer datagrams are cut off if nothing else is said. The longest, routes aside, have some 50 bytes.
pub const DATAGRAM_LEN_MAX: usize = 2_048;

/// Received datagrams. `A` is their senders' address, `()` on a connected socket.
pub struct Inbox<A> {
    headers: MultiHeaders<A>,
    bytes: Vec<u8>,
    /// Room for each datagram, in bytes.
    len_max: usize,
    /// Length and sender of each datagram received last.
    received: Vec<(usize, Option<A>)>,
}

impl<A: SockaddrLike + Copy> Default for Inbox<A> {
    fn default() -> Self {
        Self::for_datagrams_of(DATAGRAM_LEN_MAX)
    }
}

impl<A: SockaddrLike + Copy> Inbox<A> {
    /// Cuts off what is longer than `len_max` bytes, which are at least 1.
    pub fn for_datagrams_of(len_max: usize) -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            bytes: vec![0; BATCH * len_max],
            len_max,
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Receives up to `max` datagrams (and [`BATCH`]) in place of those received before; how many those are.
    ///
    /// # Errors
    /// Of `recvmmsg`.
    pub fn receive(&mut self, socket: &UdpSocket, max: usize, flags: MsgFlags) -> nix::Result<usize> {
        self.received.clear();
        let mut buffers = self.bytes.chunks_exact_mut(self.len_max).take(max);
        let mut slices: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
        let slices = slices.iter_mut().take(max);
        let results = recvmmsg(socket.as_raw_fd(), &mut self.headers, slices, flags, None)?;
        self.received.extend(results.map(|datagram| (datagram.bytes, datagram.address)));
        Ok(self.received.len())
    }

    /// How many datagrams were received last.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// One of the datagrams received last.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn datagram(&self, index: usize) -> &[u8] {
        let start = index * self.len_max;
        &self.bytes[start..start + self.received[index].0]
    }

    /// The datagrams received last, with their senders.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], Option<A>)> {
        let buffers = self.bytes.chunks_exact(self.len_max);
        self.received.iter().zip(buffers).map(|((len, from), buffer)| (&buffer[..*len], *from))
    }
}

impl Inbox<()> {
    /// [`receive`](Self::receive) on a connected socket, without waiting; a single datagram comes by the cheaper `recv`.
    ///
    /// # Errors
    /// Of `recvmmsg` or `recv`.
    pub fn receive_connected(&mut self, socket: &UdpSocket, max: usize) -> nix::Result<usize> {
        if max > 1 {
            return self.receive(socket, max, MsgFlags::MSG_DONTWAIT);
        }
        self.received.clear();
        let len = recv(socket.as_raw_fd(), &mut self.bytes[..self.len_max], MsgFlags::MSG_DONTWAIT)?;
        self.received.push((len, None));
        Ok(1)
    }
}

/// Datagrams to be sent. `A` is the receivers' address, `()` on a connected socket.
pub struct Outbox<A> {
    headers: MultiHeaders<A>,
    bytes: Vec<u8>,
    /// Where each datagram ends in `bytes`.
    ends: Vec<usize>,
    to: Vec<Option<A>>,
}

impl<A: SockaddrLike + Copy> Default for Outbox<A> {
    fn default() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            bytes: Vec::with_capacity(BATCH * DATAGRAM_LEN_MAX),
            ends: Vec::with_capacity(BATCH),
            to: Vec::with_capacity(BATCH),
        }
    }
}

impl<A: SockaddrLike + Copy> Outbox<A> {
    /// Adds what `write` appends as one datagram.
    ///
    /// # Panics
    /// If [`BATCH`] datagrams wait already.
    pub fn push(&mut self, to: Option<A>, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(!self.is_full(), "a batch has at most {BATCH} datagrams");
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self.to.push(to);
    }

    /// Whether the next datagram has no place before a flush.
    pub fn is_full(&self) -> bool {
        self.ends.len() == BATCH
    }

    /// Sends all datagrams; a single one on a connected socket by the cheaper `send`. What the kernel does not take is
    /// dropped, as the network may do it.
    ///
    /// # Errors
    /// Of `sendmmsg` or `send`.
    pub fn flush(&mut self, socket: &UdpSocket, flags: MsgFlags) -> nix::Result<()> {
        let sent = match self.to[..] {
            [] => Ok(()),
            [None] => send(socket.as_raw_fd(), &self.bytes, flags).map(drop),
            _ => self.send_all(socket, flags),
        };
        self.bytes.clear();
        self.ends.clear();
        self.to.clear();
        sent
    }

    fn send_all(&mut self, socket: &UdpSocket, flags: MsgFlags) -> nix::Result<()> {
        let starts = iter::once(0).chain(self.ends.iter().copied());
        let mut datagrams = starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end]);
        let slices: [_; BATCH] = array::from_fn(|_| [IoSlice::new(datagrams.next().unwrap_or_default())]);
        let slices = slices.iter().take(self.ends.len());
        sendmmsg(socket.as_raw_fd(), &mut self.headers, slices, &self.to, [], flags).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use nix::sys::socket::SockaddrIn;

    use super::*;

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let caller = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        caller.connect(server.local_addr().expect("bound")).expect("connect");
        let (mut outbox, mut inbox) = (Outbox::<()>::default(), Inbox::<SockaddrIn>::default());
        for round in 0..2_u8 {
            for n in 0..3_u8 {
                outbox.push(None, |bytes| bytes.extend([round, n].repeat(usize::from(n))));
            }
            outbox.flush(&caller, MsgFlags::empty()).expect("sent");
            let mut received = Vec::new();
            while received.len() < 3 {
                inbox.receive(&server, 2, MsgFlags::MSG_WAITFORONE).expect("received");
                received.extend(inbox.datagrams().map(|(bytes, from)| (bytes.to_vec(), from)));
            }
            for (n, (bytes, from)) in received.iter().enumerate() {
                assert_eq!(bytes, &[round, n as u8].repeat(n));
                let from = from.expect("a sender");
                assert_eq!(SocketAddr::from((from.ip(), from.port())), caller.local_addr().expect("bound"));
            }
        }
    }
}
