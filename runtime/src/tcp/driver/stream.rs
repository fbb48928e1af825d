//! The driver on glommio's `TcpStream`: one task per connection.

use std::{
    future::Future,
    io::{self, IoSlice},
    net::TcpStream as StdStream,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown},
};

use super::open_connection::OpenConnection;
use crate::{
    shard::local::Shard,
    tcp::connection::CloseReason,
    tcp::connection::{DriverWaker, Output, SLICES_MAX, Step},
    tcp::service::Service,
};

/// Rounds (a read of 64 KiB at most, or one over held input) before others get their turn …
const ROUNDS_PER_TURN: usize = 8;
/// … or fewer, if they took so long: a peer that floods must not delay the others.
const WORK_PER_TURN: Duration = Duration::from_micros(250);

/// Drives one connection from its `opened` to its `closed` hook; resolves to why it ended.
pub(crate) struct StreamDriver<S: 'static> {
    shard: Rc<Shard<S>>,
    open: OpenConnection<S>,
    stream: TcpStream,
    /// While it lets others have their turn.
    yielding: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// What a round came to.
enum Round {
    Again,
    Wait,
    Over(CloseReason),
}

impl<S: 'static> StreamDriver<S> {
    /// Takes a connected socket over and runs the `opened` hook.
    ///
    /// # Errors
    /// If the peer is gone already; then nothing was opened.
    pub(crate) fn open(shard: &Rc<Shard<S>>, service: &Arc<Service<S>>, socket: OwnedFd) -> io::Result<Self> {
        let socket = StdStream::from(socket);
        let open = OpenConnection::begin(shard, service, &socket, DriverWaker::default())?;
        // SAFETY: the descriptor is open and owned by nobody else from here on.
        let stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        let driver = Self { shard: Rc::clone(shard), open, stream, yielding: None };
        driver.open.run_opened(shard);
        Ok(driver)
    }

    /// The time it is, also for the functions that run in this turn.
    fn begin_turn(&self, waker: &Waker) -> Instant {
        let (mut net, now) = (self.shard.net.borrow_mut(), Instant::now());
        net.set_now(now);
        if let Some(conn) = net.connection(self.open.id) {
            conn.waker.set_task(waker);
        }
        now
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Round {
        match self.flush(cx) {
            Ok(true) => self.open.tell_writable(&self.shard),
            Ok(false) => {}
            Err(error) => return Round::Over(CloseReason::Failed(error.kind())),
        }
        match self.open.step(&self.shard) {
            Step::Serve => self.serve(0),
            Step::Read => return self.read(cx),
            Step::ReadLast => return self.read_last(),
            Step::Wait => return Round::Wait,
            Step::Close(reason) => return Round::Over(reason),
        }
        Round::Again
    }

    /// Serves what is held and the first `len` bytes of the scratch buffer.
    fn serve(&self, len: usize) {
        self.open.serve(&self.shard, &self.shard.scratch.borrow()[..len]);
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Round {
        let read = {
            let mut scratch = self.shard.scratch.borrow_mut();
            Pin::new(&mut self.stream).poll_read(cx, &mut scratch)
        };
        match read {
            Poll::Pending => return Round::Wait,
            Poll::Ready(Ok(0)) => self.end_of_input(CloseReason::PeerClosed),
            Poll::Ready(Ok(len)) => self.serve(len),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(error)) => return Round::Over(CloseReason::Failed(error.kind())),
        }
        Round::Again
    }

    /// Reads without waiting, past glommio's pending poll: the last call before a drain ends the connection.
    fn read_last(&mut self) -> Round {
        let read = recv(self.fd(), &mut self.shard.scratch.borrow_mut(), MsgFlags::MSG_DONTWAIT);
        match read {
            Ok(0) | Err(Errno::EAGAIN) => self.end_of_input(CloseReason::Drained),
            Ok(len) => self.serve(len),
            Err(Errno::EINTR) => {}
            Err(errno) => return Round::Over(CloseReason::Failed(io::Error::from(errno).kind())),
        }
        Round::Again
    }

    fn end_of_input(&self, reason: CloseReason) {
        self.open.with(&self.shard, |conn| conn.end_of_input(reason));
    }

    /// Writes output until there is none or the socket takes no more; whether anything was written.
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Self { shard, open, stream, .. } = self;
        let mut net = shard.net.borrow_mut();
        let (now, mut wrote) = (net.now(), false);
        let counters = &open.service.counters[net.shard_index()];
        while let Some(conn) = net.connection(open.id)
            && !conn.output.is_empty()
        {
            let Poll::Ready(written) = poll_write(stream, &conn.output, cx) else { break };
            let written = written?;
            counters.bytes_out.add(written as u64);
            conn.output.consume(written, now);
            wrote = true;
        }
        Ok(wrote)
    }

    fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn close(&self, reason: &CloseReason) {
        self.open.end(&self.shard, reason);
        // A glommio stream must not be dropped with a poll in flight: shutting down completes it. The peer may
        // have closed already.
        let _ = shutdown(self.fd(), Shutdown::Both);
    }
}

/// Writes from the front of `output`. If the socket takes nothing now, the task is woken when it does.
fn poll_write(stream: &mut TcpStream, output: &Output, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = output.slices(&mut slices);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let written = match &slices[..count] {
        [one] => send(stream.as_raw_fd(), one, flags),
        all => sendmsg::<()>(stream.as_raw_fd(), all, &[], flags, None),
    };
    match written {
        Ok(len) => Poll::Ready(Ok(len)),
        Err(Errno::EINTR) => Poll::Ready(Ok(0)),
        Err(Errno::EAGAIN) => Pin::new(stream).poll_write(cx, &slices[0]),
        Err(errno) => Poll::Ready(Err(errno.into())),
    }
}

impl<S: 'static> Future for StreamDriver<S> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self.get_mut();
        if let Some(yielding) = &mut this.yielding {
            ready!(yielding.as_mut().poll(cx));
            this.yielding = None;
        }
        let began = this.begin_turn(cx.waker());
        for _ in 0..ROUNDS_PER_TURN {
            match this.round(cx) {
                Round::Again if began.elapsed() > WORK_PER_TURN => break,
                Round::Again => {}
                Round::Wait => return Poll::Pending,
                Round::Over(reason) => {
                    this.close(&reason);
                    return Poll::Ready(reason);
                }
            }
        }
        let reactor = Rc::clone(&this.shard.reactor_yield);
        let mut yielding: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { reactor.wait().await });
        match yielding.as_mut().poll(cx) {
            Poll::Ready(()) => cx.waker().wake_by_ref(),
            Poll::Pending => this.yielding = Some(yielding),
        }
        Poll::Pending
    }
}
