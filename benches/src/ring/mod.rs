//! [`Ring`]: a private io_uring for many sockets, driven by one thread. One system call a turn submits everything and
//! collects everything, whatever the number of sockets; what arrives lands in buffers that the kernel was provided with.
//!
//! This folder holds all `unsafe` of the benches. Its face is safe: the ring owns sockets and memory for as long as the
//! kernel may use them.

mod buffers;

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::{
    libc,
    sys::socket::{Shutdown, setsockopt, shutdown, sockopt::UdpGsoSegment},
};
use slab::Slab;

use self::buffers::{GROUP, ProvidedBuffers};

/// Operations that are submitted at once, at most.
const SUBMISSIONS: u32 = 1_024;

/// Completions that wait for us, at most, before the kernel puts them aside at a higher price.
const COMPLETIONS: u32 = 8_192;

/// Datagrams that the kernel cuts out of one send, at most.
const BATCH: usize = 64;

/// How long a turn waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// How many events are worth a turn.
    pub events: usize,
    /// How long to wait for so many; after that, one is enough.
    pub gather: Duration,
    /// How long to wait for anything.
    pub max: Duration,
}

impl Wait {
    /// Until anything happens, up to `max`.
    pub const fn for_one(max: Duration) -> Self {
        Self { events: 1, gather: Duration::ZERO, max }
    }
}

/// A socket of a ring. Its number is used again when the socket is gone.
pub type SocketKey = usize;

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection, nobody's yet.
    Accepted(OwnedFd),
    /// Part of a stream, or a datagram, came to a socket: [`Ring::received`] has it until the next event.
    Received(SocketKey),
    /// The peer of a socket sends no more.
    HungUp(SocketKey),
    /// Everything of one [`Ring::flush`] of a socket has been taken by the kernel.
    Sent(SocketKey),
    /// A receive, a send or an accept of a socket failed, and is over.
    Failed(SocketKey, io::Error),
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A connection.
    Stream,
    /// Connected, so that it only hears its peer.
    Datagram,
    /// Gets connections.
    Listener,
}

struct Socket {
    fd: OwnedFd,
    kind: SocketKind,
    /// Operations that the kernel has not finished.
    pending: usize,
    /// Whether its multishot operation is among them, or will be with the next turn.
    receiving: bool,
    /// To be forgotten once nothing is pending.
    closing: bool,
    /// What waits for the next flush.
    output: Vec<u8>,
    /// Of datagrams: the length at which the kernel cuts a batch.
    cut: Option<usize>,
    /// Of streams: whether something is being sent. What is flushed meanwhile follows by itself.
    sending: bool,
}

struct Sending {
    socket: SocketKey,
    bytes: Vec<u8>,
}

/// An io_uring and its sockets. Of the fields, the ring is dropped first, and the memory that it uses after it.
pub struct Ring {
    uring: IoUring,
    sockets: Slab<Socket>,
    sending: Slab<Sending>,
    buffers: ProvidedBuffers,
    /// The buffer of the last event, and the length of what is in it.
    lent: Option<(u16, usize)>,
    /// Sockets whose receive has ended and is to begin again.
    interrupted: Vec<SocketKey>,
    /// Sends since the last turn: their completions come at once, and are not worth a turn.
    sends_queued: usize,
    /// Memory for what is sent, used again and again.
    spare: Vec<Vec<u8>>,
}

/// What an operation was, in its completion.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const OPERATION_BITS: u32 = 1;

fn user_data(operation: u64, key: usize) -> u64 {
    (key as u64) << OPERATION_BITS | operation
}

impl Ring {
    /// A ring for this thread, with so many sockets at most, and so many provided buffers (a power of two up to 32,768)
    /// of so many bytes. A longer datagram is cut off, a stream goes on in the next buffer.
    ///
    /// # Errors
    /// If the kernel is older than Linux 6.1, or forbids it.
    pub fn new(sockets: u32, buffers: u16, buffer_len: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = ProvidedBuffers::new(buffers, buffer_len);
        buffers.register(&uring.submitter())?;
        uring.submitter().register_files_sparse(sockets)?;
        Ok(Self {
            uring,
            sockets: Slab::new(),
            sending: Slab::new(),
            buffers,
            lent: None,
            interrupted: Vec::new(),
            sends_queued: 0,
            spare: Vec::new(),
        })
    }

    /// Takes a socket, and receives or accepts on it from the next turn on.
    ///
    /// # Errors
    /// If there are as many already as were configured.
    pub fn add(&mut self, fd: OwnedFd, kind: SocketKind) -> io::Result<SocketKey> {
        let slot = self.sockets.vacant_entry();
        let key = slot.key();
        self.uring.submitter().register_files_update(key as u32, &[fd.as_raw_fd()])?;
        let (receiving, closing, sending) = (false, false, false);
        slot.insert(Socket {
            fd,
            kind,
            pending: 0,
            receiving,
            closing,
            output: Vec::new(),
            cut: None,
            sending,
        });
        self.receive(key)?;
        Ok(key)
    }

    /// Datagrams of `socket` have this length, or are shorter and then the last of a batch: the kernel sends many as one.
    pub fn cut_at(&mut self, socket: SocketKey, len: usize) {
        let (state, segment) = (&mut self.sockets[socket], i32::try_from(len).unwrap_or(i32::MAX));
        state.cut = setsockopt(&state.fd, UdpGsoSegment, &segment).is_ok().then_some(len);
    }

    /// Adds a message to what `socket` sends with the next flush; a batch of datagrams that is full goes by itself.
    ///
    /// # Errors
    /// If the kernel does not take submissions.
    pub fn push(&mut self, socket: SocketKey, message: &[u8]) -> io::Result<()> {
        let Socket { kind, output, cut, .. } = &self.sockets[socket];
        let joins = |len: usize| output.len().is_multiple_of(len) && output.len() < BATCH * len;
        if *kind == SocketKind::Datagram && !cut.is_some_and(joins) {
            self.flush(socket)?;
        }
        self.sockets[socket].output.extend_from_slice(message);
        Ok(())
    }

    /// Sends what was pushed, with the next turn: one datagram or batch, or the next part of a stream.
    ///
    /// # Errors
    /// If the kernel does not take submissions.
    pub fn flush(&mut self, socket: SocketKey) -> io::Result<()> {
        let state = &mut self.sockets[socket];
        if state.output.is_empty() || state.sending {
            return Ok(());
        }
        state.sending = state.kind == SocketKind::Stream;
        let bytes = mem::replace(&mut state.output, self.spare.pop().unwrap_or_default());
        let slot = self.sending.vacant_entry();
        let (key, place, len) = (slot.key(), bytes.as_ptr(), bytes.len() as u32);
        slot.insert(Sending { socket, bytes });
        let send = opcode::Send::new(types::Fixed(socket as u32), place, len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.sends_queued += 1;
        self.submit(socket, &send.user_data(user_data(SEND, key)))
    }

    /// Whether something of a stream waits or is being sent.
    pub fn is_sending(&self, socket: SocketKey) -> bool {
        let state = &self.sockets[socket];
        state.sending || !state.output.is_empty()
    }

    /// Tells the peer that nothing more is sent.
    ///
    /// # Errors
    /// If there is no peer any more.
    pub fn end_output(&self, socket: SocketKey) -> io::Result<()> {
        Ok(shutdown(self.sockets[socket].fd.as_raw_fd(), Shutdown::Write)?)
    }

    /// Ends a connection. Nothing more is heard of it.
    pub fn close(&mut self, socket: SocketKey) {
        let Some(state) = self.sockets.get_mut(socket) else { return };
        state.closing = true;
        // This ends what is pending. A peer that has gone already makes it fail, and nothing is pending then.
        let _ = shutdown(state.fd.as_raw_fd(), Shutdown::Both);
        self.forget_if_over(socket);
    }

    /// Submits everything, and waits for events. Those of the turn before must have been taken.
    ///
    /// # Errors
    /// Of `io_uring_enter`, apart from those that say that nothing has happened.
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.give_back();
        for socket in mem::take(&mut self.interrupted) {
            if self.sockets.get(socket).is_some_and(|state| !state.closing && !state.receiving) {
                self.receive(socket)?;
            }
        }
        let queued = mem::take(&mut self.sends_queued);
        match self.wait(queued, wait).map_err(|error| error.raw_os_error()) {
            // In turn: the time is up, a signal, and more completions than there is room for, which come later.
            Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY)) | Ok(_) => Ok(()),
            Err(code) => Err(code.map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error)),
        }
    }

    /// The next event of the turn.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Event> {
        self.give_back();
        loop {
            let completion = self.uring.completion().next()?;
            if let Some(event) = self.completed(&completion) {
                return Some(event);
            }
        }
    }

    /// What was received, if that was the last event.
    pub fn received(&self) -> &[u8] {
        self.lent.map_or(&[], |(buffer, len)| self.buffers.bytes(buffer, len))
    }

    /// Calls `reply` with what was received, if that was the last event, and the output of `socket`.
    pub fn reply<T>(&mut self, socket: SocketKey, reply: impl FnOnce(&[u8], &mut Vec<u8>) -> T) -> T {
        let received = self.lent.map_or(&[][..], |(buffer, len)| self.buffers.bytes(buffer, len));
        reply(received, &mut self.sockets[socket].output)
    }

    fn give_back(&mut self) {
        if let Some((buffer, _)) = self.lent.take() {
            self.buffers.give_back(buffer);
        }
    }

    /// Submits, and waits for so many completions more than are worth a turn.
    fn wait(&mut self, more: usize, wait: Wait) -> io::Result<usize> {
        let timeout = types::Timespec::from(wait.max);
        let gathers = !wait.gather.is_zero() && self.uring.params().is_feature_min_timeout();
        let mut args = types::SubmitArgs::new().timespec(&timeout);
        if gathers {
            args = args.min_wait_usec(u32::try_from(wait.gather.as_micros()).unwrap_or(u32::MAX));
        }
        let events = if gathers { wait.events.max(1) } else { 1 };
        self.uring.submitter().submit_with_args(more + events, &args)
    }

    fn receive(&mut self, socket: SocketKey) -> io::Result<()> {
        let fd = types::Fixed(socket as u32);
        let operation = match self.sockets[socket].kind {
            SocketKind::Stream | SocketKind::Datagram => opcode::RecvMulti::new(fd, GROUP).build(),
            SocketKind::Listener => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
        };
        self.sockets[socket].receiving = true;
        self.submit(socket, &operation.user_data(user_data(RECEIVE, socket)))
    }

    /// Queues an operation of a socket.
    fn submit(&mut self, socket: SocketKey, operation: &squeue::Entry) -> io::Result<()> {
        self.sockets[socket].pending += 1;
        loop {
            // SAFETY: what an operation points to is the kernel's until it has completed: received bytes go to the
            // provided buffers, which live as long as the ring, and those that are sent stay in `sending`, where
            // nothing touches them, until `completed` takes them out.
            let queued = unsafe { self.uring.submission().push(operation) };
            if queued.is_ok() {
                return Ok(());
            }
            self.uring.submit()?;
        }
    }

    /// `None` if it is nobody's business.
    fn completed(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let key = (completion.user_data() >> OPERATION_BITS) as usize;
        let operation = completion.user_data() & ((1 << OPERATION_BITS) - 1);
        if operation == SEND { self.sent(key, completion.result()) } else { self.delivered(key, completion) }
    }

    fn sent(&mut self, key: usize, result: i32) -> Option<Event> {
        let Sending { socket, mut bytes } = self.sending.remove(key);
        let state = &mut self.sockets[socket];
        state.sending = false;
        let closing = state.closing;
        self.ended(socket);
        if closing {
            return None;
        }
        // The kernel sends less than everything only if the connection breaks in between.
        let sent = match usize::try_from(result) {
            Ok(len) if len == bytes.len() => self.flush(socket),
            Ok(_) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        bytes.clear();
        self.spare.push(bytes);
        Some(sent.map_or_else(|error| Event::Failed(socket, error), |()| Event::Sent(socket)))
    }

    fn delivered(&mut self, socket: SocketKey, completion: &cqueue::Entry) -> Option<Event> {
        let (result, flags) = (completion.result(), completion.flags());
        let buffer = cqueue::buffer_select(flags);
        let state = &mut self.sockets[socket];
        let (kind, closing) = (state.kind, state.closing);
        let event = match usize::try_from(result) {
            Ok(fd) if kind == SocketKind::Listener => {
                // SAFETY: the kernel has just made it for us, and nobody else knows of it.
                Some(Event::Accepted(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
            }
            Ok(0) if kind == SocketKind::Stream => Some(Event::HungUp(socket)),
            Ok(len) => {
                self.lent = buffer.map(|buffer| (buffer, len));
                Some(Event::Received(socket))
            }
            // No buffer was free, or we asked for the end; neither is the socket's fault.
            Err(_) if matches!(-result, libc::ENOBUFS | libc::ECANCELED) => None,
            Err(_) => Some(Event::Failed(socket, io::Error::from_raw_os_error(-result))),
        };
        if !cqueue::more(flags) {
            state.receiving = false;
            if !matches!(event, Some(Event::HungUp(_) | Event::Failed(..))) {
                self.interrupted.push(socket);
            }
            self.ended(socket);
        }
        if closing {
            self.give_back();
            return None;
        }
        event
    }

    /// An operation of a socket has ended.
    fn ended(&mut self, socket: SocketKey) {
        self.sockets[socket].pending -= 1;
        self.forget_if_over(socket);
    }

    fn forget_if_over(&mut self, socket: SocketKey) {
        let state = &self.sockets[socket];
        if state.closing && state.pending == 0 {
            // The kernel keeps the file open for as long as it is in the table.
            let _ = self.uring.submitter().register_files_update(socket as u32, &[-1]);
            self.sockets.remove(socket);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What is under way ends here, before its memory goes. Nothing under way is an error that is none.
        let all = types::CancelBuilder::any().all();
        let _ = self.uring.submitter().register_sync_cancel(None, all);
        let _ = self.wait(0, Wait::for_one(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
        thread,
    };

    use super::*;

    fn ring(buffers: u16, buffer_len: usize) -> Ring {
        Ring::new(64, buffers, buffer_len).expect("a kernel with rings")
    }

    /// Hands `each` what happens until it has seen enough.
    fn turn_until(ring: &mut Ring, mut is_enough: impl FnMut(&mut Ring, Option<Event>) -> bool) {
        while !is_enough(ring, None) {
            ring.turn(Wait::for_one(Duration::from_millis(50))).expect("a turn");
            while let Some(event) = ring.next() {
                is_enough(ring, Some(event));
            }
        }
    }

    fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (ours, listener.accept().expect("accepted").0)
    }

    #[test]
    fn nothing_is_lost_when_buffers_run_out() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut ring = ring(2, 16);
        let mut received = HashMap::new();
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (ours, mut theirs) = streams();
                received.insert(ring.add(ours.into(), SocketKind::Stream).expect("room"), Vec::new());
                let bytes = bytes.clone();
                thread::spawn(move || theirs.write_all(&bytes))
            })
            .collect();
        let mut hung_up = 0;
        turn_until(&mut ring, |ring, event| {
            match event {
                Some(Event::Received(socket)) => {
                    received.entry(socket).or_default().extend_from_slice(ring.received());
                }
                Some(Event::HungUp(_)) => hung_up += 1,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            hung_up == 3
        });
        assert!(received.len() == 3 && received.values().all(|received| *received == bytes));
        writers.into_iter().for_each(|writer| writer.join().expect("no panic").expect("written"));
    }

    #[test]
    fn datagrams_come_one_by_one_and_may_be_empty() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let ours = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        ours.connect(server.local_addr().expect("bound")).expect("connected");
        let datagrams: [&[u8]; 4] = [b"one", b"", b"three", b""];
        for datagram in datagrams {
            server.send_to(datagram, ours.local_addr().expect("bound")).expect("sent");
        }
        let (mut ring, mut received) = (ring(4, 100), Vec::new());
        let key = ring.add(ours.into(), SocketKind::Datagram).expect("room");
        turn_until(&mut ring, |ring, event| {
            if let Some(event) = event {
                assert!(matches!(event, Event::Received(socket) if socket == key), "{event:?}");
                received.push(ring.received().to_vec());
            }
            received.len() == datagrams.len()
        });
        assert_eq!(received, datagrams);
    }

    #[test]
    fn a_closed_socket_is_forgotten_and_its_number_used_again() {
        let mut ring = ring(4, 100);
        for _ in 0..100 {
            let (ours, mut theirs) = streams();
            let key = ring.add(ours.into(), SocketKind::Stream).expect("room");
            assert_eq!(key, 0);
            ring.push(key, b"bye").and_then(|()| ring.flush(key)).expect("queued");
            ring.turn(Wait::for_one(Duration::from_millis(50))).expect("a turn");
            ring.close(key);
            turn_until(&mut ring, |ring, event| {
                assert!(event.is_none(), "nothing is heard of it: {event:?}");
                ring.sockets.is_empty()
            });
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).expect("an end");
            assert_eq!(received, b"bye");
        }
        assert!(ring.sending.is_empty());
    }

    #[test]
    fn a_dropped_ring_closes_its_sockets() {
        let (ours, mut theirs) = streams();
        let mut ring = ring(4, 100);
        ring.add(ours.into(), SocketKind::Stream).expect("room");
        ring.turn(Wait::for_one(Duration::ZERO)).expect("a turn");
        drop(ring);
        let end = theirs.read(&mut [0; 1]);
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
}
