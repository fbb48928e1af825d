//! [`Ring`]: a private io_uring for many sockets, driven by one thread. One system call a turn submits everything and
//! collects everything; whatever arrives lands in buffers that the kernel was provided with.
//!
//! This folder holds all `unsafe` of the benches. Its face is safe: the ring owns sockets and memory for as long as the
//! kernel may use them.

mod buffers;

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{Shutdown, shutdown},
};
use slab::Slab;

use self::buffers::{GROUP, ProvidedBuffers};

/// Operations that are submitted at once, at most.
const SUBMISSIONS: u32 = 1_024;

/// Completions that wait for us, at most, before the kernel puts them aside at a higher price.
const COMPLETIONS: u32 = 8_192;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Sockets at the same time, at most.
    pub sockets: u32,
    /// Provided buffers, a power of two up to 32,768.
    pub buffers: u16,
    /// Bytes of each. A longer datagram is cut off, a stream goes on in the next one.
    pub buffer_len: usize,
}

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

/// A socket of a ring. Its number is used again when the socket is gone.
pub type SocketKey = usize;

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A listener has a new connection.
    Accepted {
        /// Nobody's yet.
        stream: OwnedFd,
    },
    /// Part of a stream, or a datagram: [`Ring::received`] has it until the next event.
    Received {
        /// By whom.
        socket: SocketKey,
    },
    /// The peer sends no more.
    HungUp {
        /// Whose peer.
        socket: SocketKey,
    },
    /// Everything of one [`Ring::send`] has been taken by the kernel.
    Sent {
        /// By whom.
        socket: SocketKey,
        /// Its memory, for the next time.
        bytes: Vec<u8>,
    },
    /// A receive, a send or an accept failed, and is over.
    Failed {
        /// Whose.
        socket: SocketKey,
        /// Why.
        error: Errno,
    },
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
}

/// What an operation was, in its completion.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const OPERATION_BITS: u32 = 1;

fn user_data(operation: u64, key: usize) -> u64 {
    (key as u64) << OPERATION_BITS | operation
}

impl Ring {
    /// Whether this kernel has what it takes: Linux 6.1.
    pub fn is_supported() -> bool {
        Self::new(RingConfig { sockets: 1, buffers: 1, buffer_len: 1 }).is_ok()
    }

    /// A ring for this thread.
    ///
    /// # Errors
    /// If the kernel is too old, or forbids it.
    pub fn new(config: RingConfig) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = ProvidedBuffers::new(config.buffers, config.buffer_len);
        buffers.register(&uring.submitter())?;
        uring.submitter().register_files_sparse(config.sockets)?;
        Ok(Self {
            uring,
            sockets: Slab::new(),
            sending: Slab::new(),
            buffers,
            lent: None,
            interrupted: Vec::new(),
            sends_queued: 0,
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
        slot.insert(Socket { fd, kind, pending: 0, receiving: false, closing: false });
        self.receive(key)?;
        Ok(key)
    }

    /// Sends `bytes`, all of them: one datagram, or the next part of a stream, of which only one may be under way.
    ///
    /// # Errors
    /// If the kernel does not take submissions.
    pub fn send(&mut self, socket: SocketKey, bytes: Vec<u8>) -> io::Result<()> {
        let slot = self.sending.vacant_entry();
        let (key, place, len) = (slot.key(), bytes.as_ptr(), bytes.len() as u32);
        slot.insert(Sending { socket, bytes });
        let send = opcode::Send::new(types::Fixed(socket as u32), place, len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.sends_queued += 1;
        self.submit(socket, &send.user_data(user_data(SEND, key)))
    }

    /// A socket, to set its options.
    pub fn fd(&self, socket: SocketKey) -> &OwnedFd {
        &self.sockets[socket].fd
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
        for socket in std::mem::take(&mut self.interrupted) {
            if self.sockets.get(socket).is_some_and(|state| !state.closing && !state.receiving) {
                self.receive(socket)?;
            }
        }
        let want = wait.events.max(1) + std::mem::take(&mut self.sends_queued);
        let entered = if wait.max.is_zero() { self.collect() } else { self.wait(want, wait) };
        match entered.map_err(|error| error.raw_os_error()) {
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

    fn give_back(&mut self) {
        if let Some((buffer, _)) = self.lent.take() {
            self.buffers.give_back(buffer);
        }
    }

    /// Submits, and collects what there is.
    fn collect(&mut self) -> io::Result<usize> {
        let queued = self.uring.submission().len() as u32;
        // SAFETY: there is no argument.
        unsafe {
            let flags = io_uring::EnterFlags::GETEVENTS.bits();
            self.uring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None)
        }
    }

    fn wait(&mut self, want: usize, wait: Wait) -> io::Result<usize> {
        let timeout = types::Timespec::from(wait.max);
        let gathers = !wait.gather.is_zero() && self.uring.params().is_feature_min_timeout();
        let mut args = types::SubmitArgs::new().timespec(&timeout);
        if gathers {
            args = args.min_wait_usec(u32::try_from(wait.gather.as_micros()).unwrap_or(u32::MAX));
        }
        let want = if gathers { want } else { want - wait.events.max(1) + 1 };
        self.uring.submitter().submit_with_args(want, &args)
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
        let sending = self.sending.remove(key);
        let socket = sending.socket;
        let closing = self.sockets[socket].closing;
        self.ended(socket);
        if closing {
            return None;
        }
        if result == sending.bytes.len() as i32 {
            return Some(Event::Sent { socket, bytes: sending.bytes });
        }
        // The kernel sends less than everything only if the connection breaks in between.
        let error = if result < 0 { Errno::from_raw(-result) } else { Errno::EPIPE };
        Some(Event::Failed { socket, error })
    }

    fn delivered(&mut self, socket: SocketKey, completion: &cqueue::Entry) -> Option<Event> {
        let (result, flags) = (completion.result(), completion.flags());
        let buffer = cqueue::buffer_select(flags);
        let state = &mut self.sockets[socket];
        let (kind, closing) = (state.kind, state.closing);
        let event = match usize::try_from(result) {
            Ok(fd) if kind == SocketKind::Listener => {
                // SAFETY: the kernel has just made it for us, and nobody else knows of it.
                Some(Event::Accepted { stream: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
            }
            Ok(0) if kind == SocketKind::Stream => Some(Event::HungUp { socket }),
            Ok(len) => {
                self.lent = buffer.map(|buffer| (buffer, len));
                Some(Event::Received { socket })
            }
            // No buffer was free, or we asked for the end; neither is the socket's fault.
            Err(_) if matches!(-result, libc::ENOBUFS | libc::ECANCELED) => None,
            Err(_) => Some(Event::Failed { socket, error: Errno::from_raw(-result) }),
        };
        if !cqueue::more(flags) {
            state.receiving = false;
            if !matches!(event, Some(Event::HungUp { .. } | Event::Failed { .. })) {
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
        let _ = self.collect();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    const WAIT: Wait = Wait { events: 1, gather: Duration::ZERO, max: Duration::from_millis(50) };

    fn ring(buffers: u16, buffer_len: usize) -> Ring {
        Ring::new(RingConfig { sockets: 64, buffers, buffer_len }).expect("a kernel with rings")
    }

    /// Turns until `enough`, and returns what each socket received, and whether it was hung up on.
    fn collect(
        ring: &mut Ring,
        mut enough: impl FnMut(&HashMap<SocketKey, (Vec<u8>, bool)>) -> bool,
    ) -> HashMap<SocketKey, (Vec<u8>, bool)> {
        let mut seen: HashMap<SocketKey, (Vec<u8>, bool)> = HashMap::new();
        while !enough(&seen) {
            ring.turn(WAIT).expect("a turn");
            while let Some(event) = ring.next() {
                match event {
                    Event::Received { socket } => {
                        seen.entry(socket).or_default().0.extend_from_slice(ring.received());
                    }
                    Event::HungUp { socket } => seen.entry(socket).or_default().1 = true,
                    Event::Sent { .. } => {}
                    other @ (Event::Accepted { .. } | Event::Failed { .. }) => panic!("{other:?}"),
                }
            }
        }
        seen
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
        let mut peers = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = streams();
            ring.add(ours.into(), SocketKind::Stream).expect("room");
            peers.push(theirs);
        }
        let writers = peers.into_iter().map(|mut peer| {
            let bytes = bytes.clone();
            std::thread::spawn(move || io::Write::write_all(&mut peer, &bytes))
        });
        let writers: Vec<_> = writers.collect();
        let seen = collect(&mut ring, |seen| seen.len() == 3 && seen.values().all(|(_, hung_up)| *hung_up));
        assert!(seen.values().all(|(received, _)| *received == bytes));
        writers.into_iter().for_each(|writer| writer.join().expect("no panic").expect("written"));
    }

    #[test]
    fn datagrams_come_one_by_one_and_may_be_empty() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let ours = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        ours.connect(server.local_addr().expect("bound")).expect("connected");
        let addr = ours.local_addr().expect("bound");
        let mut ring = ring(4, 100);
        let key = ring.add(ours.into(), SocketKind::Datagram).expect("room");
        let datagrams: [&[u8]; 4] = [b"one", b"", b"three", b""];
        for datagram in datagrams {
            server.send_to(datagram, addr).expect("sent");
        }
        let mut received = Vec::new();
        while received.len() < datagrams.len() {
            ring.turn(WAIT).expect("a turn");
            while let Some(event) = ring.next() {
                assert!(matches!(event, Event::Received { socket } if socket == key), "{event:?}");
                received.push(ring.received().to_vec());
            }
        }
        assert_eq!(received, datagrams);
        ring.send(key, b"back".to_vec()).expect("queued");
        ring.turn(WAIT).expect("a turn");
        let mut buffer = [0; 10];
        assert_eq!(server.recv(&mut buffer).expect("a datagram"), 4);
    }

    #[test]
    fn a_closed_socket_is_forgotten_and_its_number_used_again() {
        let mut ring = ring(4, 100);
        for _ in 0..100 {
            let (ours, mut theirs) = streams();
            let key = ring.add(ours.into(), SocketKind::Stream).expect("room");
            assert_eq!(key, 0);
            ring.send(key, b"bye".to_vec()).expect("queued");
            ring.turn(WAIT).expect("a turn");
            ring.close(key);
            while !ring.sockets.is_empty() {
                ring.turn(WAIT).expect("a turn");
                assert!(ring.next().is_none(), "nothing is heard of it");
            }
            let mut received = Vec::new();
            io::Read::read_to_end(&mut theirs, &mut received).expect("an end");
            assert_eq!(received, b"bye");
        }
        assert!(ring.sending.is_empty());
    }

    #[test]
    fn connections_are_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("bound");
        let mut ring = ring(4, 100);
        ring.add(listener.into(), SocketKind::Listener).expect("room");
        let peers: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(addr).expect("connected")).collect();
        let mut accepted = Vec::new();
        while accepted.len() < peers.len() {
            ring.turn(WAIT).expect("a turn");
            while let Some(event) = ring.next() {
                let Event::Accepted { stream } = event else { panic!("{event:?}") };
                accepted.push(TcpStream::from(stream).peer_addr().expect("a peer"));
            }
        }
        let expected: Vec<_> = peers.iter().map(|peer| peer.local_addr().expect("bound")).collect();
        assert_eq!(accepted, expected);
    }

    #[test]
    fn a_dropped_ring_closes_its_sockets() {
        let (ours, mut theirs) = streams();
        let mut ring = ring(4, 100);
        ring.add(ours.into(), SocketKind::Stream).expect("room");
        ring.turn(Wait { max: Duration::ZERO, ..WAIT }).expect("a turn");
        drop(ring);
        let end = io::Read::read(&mut theirs, &mut [0; 1]);
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
}
