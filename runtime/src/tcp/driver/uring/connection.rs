//! One connection of the ring: its socket, and what the kernel was asked to do with it.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd,
    rc::Rc,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};

use super::{
    attached::Ending,
    queues::{Completion, Uring},
};
use crate::{
    shard::local::Shard,
    tcp::connection::CloseReason,
    tcp::connection::{Output, SLICES_MAX, Step},
    tcp::driver::open_connection::OpenConnection,
};

/// Whether the kernel receives for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Not,
    /// Until cancelled, or the stream ends.
    On,
    /// It was told to stop; the last completion is to come.
    Stopping,
}

/// What was closed: the socket is, too, when the kernel is done with it.
struct Closed {
    reason: CloseReason,
    /// The kernel may still be reading from it.
    output: Option<Output>,
}

/// What became of a connection that was advanced.
pub(super) enum Advanced {
    /// Something has to happen first.
    Waits,
    /// There may be more to do, when others have had their turn.
    HasMore,
    /// It is to be dropped by [`UringConnection::resolve`].
    Over,
}

pub(super) struct UringConnection<S> {
    open: OpenConnection<S>,
    socket: TcpStream,
    slot: u32,
    receiving: Receiving,
    sending: bool,
    /// Whether nothing was received since that was asked for.
    hungry: bool,
    /// Whether it is to be advanced in this turn.
    pub(super) due: bool,
    ending: Ending,
    closed: Option<Closed>,
}

impl<S: 'static> UringConnection<S> {
    pub(super) fn new(open: OpenConnection<S>, socket: TcpStream, slot: u32, ending: Ending) -> Self {
        let receiving = Receiving::Not;
        Self {
            open,
            socket,
            slot,
            receiving,
            sending: false,
            hungry: false,
            due: false,
            ending,
            closed: None,
        }
    }

    /// Does what its connection's step says, until it has to wait or has read once: a peer that never pauses would
    /// keep the shard.
    pub(super) fn advance(&mut self, shard: &Rc<Shard<S>>, uring: &mut Uring) -> Advanced {
        self.open.with(shard, |conn| conn.waker.reset());
        let mut has_read = false;
        while self.closed.is_none() {
            self.send(shard, uring);
            match self.open.step(shard) {
                Step::Serve => self.open.serve(shard, &[]),
                Step::Read => {
                    self.receive(uring);
                    break;
                }
                Step::ReadLast if self.receiving == Receiving::Not && has_read => return Advanced::HasMore,
                Step::ReadLast if self.receiving == Receiving::Not => {
                    self.read_last(shard);
                    has_read = true;
                }
                Step::ReadLast | Step::Wait => {
                    self.stop_receiving(uring);
                    break;
                }
                Step::Close(reason) => self.close(shard, uring, reason),
            }
        }
        if self.closed.is_none() || self.receiving != Receiving::Not || self.sending {
            Advanced::Waits
        } else {
            Advanced::Over
        }
    }

    fn send(&mut self, shard: &Shard<S>, uring: &mut Uring) {
        if self.sending {
            return;
        }
        let mut net = shard.net.borrow_mut();
        let Some(conn) = net.connection(self.open.id) else { return };
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = conn.output.lend(&mut slices);
        if count > 0 {
            // SAFETY: what is lent stays where it is until it is settled. `sent` does that; the output of a
            // connection that is closed before is kept in `closed`.
            unsafe { uring.send(self.socket.as_raw_fd(), self.slot, &slices[..count]) };
            self.sending = true;
        }
    }

    fn receive(&mut self, uring: &mut Uring) {
        if self.receiving == Receiving::Not {
            uring.receive(self.socket.as_raw_fd(), self.slot);
            self.receiving = Receiving::On;
            self.hungry = true;
        }
    }

    fn stop_receiving(&mut self, uring: &mut Uring) {
        if self.receiving == Receiving::On {
            uring.cancel_receive(self.slot);
            self.receiving = Receiving::Stopping;
        }
    }

    /// Reads without waiting: the last call before a drain ends the connection.
    fn read_last(&self, shard: &Rc<Shard<S>>) {
        let read = recv(self.socket.as_raw_fd(), &mut shard.scratch.borrow_mut(), MsgFlags::MSG_DONTWAIT);
        match read {
            Ok(0) | Err(Errno::EAGAIN) => self.end_of_input(shard, CloseReason::Drained),
            Ok(len) => self.open.serve(shard, &shard.scratch.borrow()[..len]),
            Err(Errno::EINTR) => {}
            Err(errno) => self.fail(shard, errno),
        }
    }

    fn end_of_input(&self, shard: &Shard<S>, reason: CloseReason) {
        self.open.with(shard, |conn| conn.end_of_input(reason));
    }

    fn fail(&self, shard: &Shard<S>, errno: Errno) {
        self.open.with(shard, |conn| conn.cut(CloseReason::Failed(io::Error::from(errno).kind())));
    }

    /// Runs the `closed` hook. The socket stays until the kernel is done with it, which this sees to.
    fn close(&mut self, shard: &Shard<S>, uring: &mut Uring, reason: CloseReason) {
        let connection = self.open.end(shard, &reason);
        let output = connection.map(|connection| connection.output).filter(Output::is_lent);
        self.closed = Some(Closed { reason, output });
        self.stop_receiving(uring);
        // A send that waits for the peer ends with this. The peer may have closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether others got all the buffers.
    pub(super) fn is_starved(&self, completion: &Completion) -> bool {
        self.hungry && completion.is_out_of_buffers()
    }

    /// Something, or nothing more, was received.
    pub(super) fn received(&mut self, shard: &Rc<Shard<S>>, uring: &mut Uring, completion: &Completion) {
        if !completion.more {
            self.receiving = Receiving::Not;
        }
        if self.closed.is_some() {
            return;
        }
        match (completion.outcome(), completion.buffer) {
            (Ok(len @ 1..), Some(buffer)) => {
                self.hungry = false;
                self.open.serve(shard, uring.buffers().bytes(buffer, len));
            }
            (Ok(_), _) if completion.more => {}
            (Ok(_), _) => self.end_of_input(shard, CloseReason::PeerClosed),
            (Err(Errno::ENOBUFS | Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), _) => {}
            (Err(errno), _) => self.fail(shard, errno),
        }
    }

    /// The send has ended.
    pub(super) fn sent(&mut self, shard: &Shard<S>, completion: &Completion) {
        self.sending = false;
        let outcome = completion.outcome();
        let sent = outcome.unwrap_or(0);
        self.open.counters(shard).bytes_out.add(sent as u64);
        let now = shard.net.borrow().now();
        if let Some(closed) = &mut self.closed {
            if let Some(mut output) = closed.output.take() {
                output.settle(sent, now);
            }
            return;
        }
        self.open.with(shard, |conn| conn.output.settle(sent, now));
        match outcome {
            Ok(_) => self.open.tell_writable(shard),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => self.fail(shard, errno),
        }
    }

    /// Closes the socket and tells who waits for that.
    pub(super) fn resolve(self) {
        drop(self.socket);
        if let Some(closed) = self.closed {
            self.ending.resolve(closed.reason);
        }
    }
}
