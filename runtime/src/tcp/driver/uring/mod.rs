//! The driver on an io_uring of its own: one task per shard moves the bytes of all its connections.
//!
//! Each connection has one receive that goes on by itself, into buffers of the pool, and one send at most. A
//! turn is one call to the kernel: it submits what the turn before made up, and brings what has come. What was
//! received is served at once; then each connection that something happened to is advanced by its
//! [`Step`](crate::tcp::connection::Step), so that the replies to all frames of a turn are one send. Turns follow each other
//! until one brings nothing; then the task waits in the ring if pauses were short, and else parks on its eventfd.
//!
//! Nothing is lost when buffers run out: the kernel ends the receive, and it is asked again when there are
//! buffers, of which there are more then.

mod attached;
mod buffers;
mod connection;
mod queues;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io, mem,
    net::TcpStream,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use slab::Slab;

pub(crate) use self::attached::Attached;
use self::{
    connection::{Advanced, UringConnection},
    queues::{Completion, Request, Uring},
};
use super::open_connection::OpenConnection;
use crate::{
    glommio_facts::event_read::EventRead,
    log_throttle::LogThrottle,
    pool::Pool,
    shard::local::Shard,
    tcp::connection::{DriverWaker, WakeQueue},
    tcp::service::Service,
};

/// Work without a break before the shard looks at its other IO.
const WORK_PER_YIELD: Duration = Duration::from_micros(500);

/// Work on completions in one turn, and again on connections; what is left then waits for the next turn. So a turn ends
/// soon, whatever peers send.
const WORK_PER_TURN: Duration = Duration::from_micros(200);
/// How many of them between two looks at the clock.
const CLOCK_EVERY: usize = 4;

/// Where completions follow each other within this time, the task waits for the next in the ring itself, which is one
/// system call; to sleep on the executor and to wake up is about ten. The shard's other work waits meanwhile, no longer
/// than it does for `WORK_PER_YIELD`.
const LINGER: Duration = Duration::from_micros(200);

/// Between two log lines about a kernel that refuses to work.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Whether this kernel has what the driver needs: Linux 6.1.
///
/// # Errors
/// What the kernel said.
pub(super) fn probe() -> io::Result<()> {
    let eventfd = EventFd::new()?;
    Uring::new(&Pool::new(usize::MAX), eventfd.as_raw_fd()).map(drop)
}

/// Bytes that the ring and its provided buffers' ring have locked.
pub(super) fn locked_bytes() -> u64 {
    Uring::locked_bytes()
}

/// All connections of one shard.
pub(crate) struct UringDriver<S> {
    /// Connections that called.
    calls: Rc<WakeQueue>,
    /// Borrowed for the length of a turn.
    connections: RefCell<UringConnections<S>>,
    /// Tells that the ring has something to collect. Taken by the task.
    eventfd: RefCell<Option<EventRead>>,
}

struct UringConnections<S> {
    uring: Uring,
    slots: Slab<UringConnection<S>>,
    /// What has come and was not looked at yet.
    completions: VecDeque<Completion>,
    /// Connections to be advanced first: they got no buffer, because others had them all.
    starved: VecDeque<u32>,
    /// Connections to be advanced.
    due: VecDeque<u32>,
    log: LogThrottle,
}

impl<S: 'static> UringDriver<S> {
    /// To be called on the shard's thread.
    pub(crate) fn new(pool: &Pool) -> io::Result<Self> {
        // Blocking: the executor's read is to wait.
        let eventfd = EventRead::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?.into());
        let connections = UringConnections {
            uring: Uring::new(pool, eventfd.fd().as_raw_fd())?,
            slots: Slab::new(),
            completions: VecDeque::new(),
            starved: VecDeque::new(),
            due: VecDeque::new(),
            log: LogThrottle::each(LOG_INTERVAL),
        };
        Ok(Self {
            calls: Rc::default(),
            connections: RefCell::new(connections),
            eventfd: RefCell::new(Some(eventfd)),
        })
    }

    /// Takes a connected socket over, and runs the `opened` hook.
    ///
    /// # Errors
    /// If the peer is gone already; then nothing was opened.
    pub(super) fn open(
        &self,
        shard: &Shard<S>,
        service: &Arc<Service<S>>,
        socket: OwnedFd,
    ) -> io::Result<Attached> {
        let socket = TcpStream::from(socket);
        // The ring waits for a blocking socket; from others it brings what there is, which is nothing.
        socket.set_nonblocking(false)?;
        let mut connections = self.connections.borrow_mut();
        let place = connections.slots.vacant_entry();
        // A connection has a descriptor, and those are `i32`s.
        let slot = u32::try_from(place.key()).map_err(io::Error::other)?;
        let open = OpenConnection::begin(shard, service, &socket, DriverWaker::of_queue(&self.calls, slot))?;
        let attached = Attached::default();
        place.insert(UringConnection::new(open.clone(), socket, slot, attached.ending()));
        drop(connections);
        open.run_opened(shard);
        open.with(shard, |conn| conn.wake());
        Ok(attached)
    }

    /// Wakes the task if the ring has something that nobody was told of: on processors that order memory loosely,
    /// going to sleep and being called can miss each other.
    pub(crate) fn check(&self) {
        if self.connections.borrow_mut().has_work() {
            self.calls.wake();
        }
    }

    fn has_work(&self) -> bool {
        !self.calls.is_empty() || self.connections.borrow_mut().has_work()
    }

    /// Turns, until there is nothing to do, nor, if it `lingers`, soon will be.
    async fn work(&self, shard: &Rc<Shard<S>>, lingers: bool) {
        let mut since = Instant::now();
        let mut came = true;
        while self.has_work() || lingers && came {
            let linger = (lingers && self.calls.is_empty()).then_some(LINGER);
            let now;
            (now, came) = self.connections.borrow_mut().turn(shard, &self.calls, linger);
            if now.duration_since(since) > WORK_PER_YIELD {
                shard.reactor_yield.wait().await;
                since = Instant::now();
            }
        }
    }

    /// Waits until there is something to do, or all is over.
    async fn park(&self, shard: &Shard<S>, eventfd: &mut EventRead) {
        if !self.connections.borrow_mut().uring.prepare_to_park() {
            return;
        }
        poll_fn(|cx| {
            if self.has_work() || self.is_over(shard) {
                return Poll::Ready(());
            }
            self.calls.set_waker(cx.waker());
            eventfd.poll(cx)
        })
        .await;
        self.connections.borrow_mut().uring.unpark();
    }

    fn is_over(&self, shard: &Shard<S>) -> bool {
        shard.is_stopping() && self.connections.borrow().slots.is_empty()
    }
}

/// The task that drives the shard's connections, until the shard stops and the last of them has ended.
pub(crate) async fn run<S: 'static>(shard: Rc<Shard<S>>) {
    let Some(driver) = super::uring_of(&shard) else { return };
    let Some(mut eventfd) = driver.eventfd.take() else { return };
    let calls = Rc::clone(&driver.calls);
    shard.at_end(move || calls.wake());
    let mut lingers = false;
    while !driver.is_over(&shard) {
        driver.work(&shard, lingers).await;
        let parked_at = Instant::now();
        driver.park(&shard, &mut eventfd).await;
        lingers = parked_at.elapsed() < LINGER;
    }
    let fire = |fd: BorrowedFd<'_>| {
        // The counter is far from its end.
        let _ = nix::unistd::write(fd, &1_u64.to_ne_bytes());
    };
    eventfd.end(fire).await;
}

impl<S: 'static> UringConnections<S> {
    /// Submits what was made up, serves what has come, advances whom it concerns. Where all that is left to do is to
    /// submit, it waits for `linger` in the same call. Returns the time of the turn, and whether anything had come.
    fn turn(&mut self, shard: &Rc<Shard<S>>, calls: &WakeQueue, linger: Option<Duration>) -> (Instant, bool) {
        let linger = linger.filter(|_| !self.is_behind() && !self.uring.has_to_collect());
        let turned = self.uring.turn(&mut self.completions, linger);
        self.log_failure(turned);
        let (now, came) = (Instant::now(), !self.completions.is_empty());
        shard.net.borrow_mut().set_now(now);
        let mut work = Work::begin(now);
        while !work.is_enough()
            && let Some(completion) = self.completions.pop_front()
        {
            self.complete(shard, &completion);
        }
        // Those that called are due, too, be it twice.
        calls.take(&mut self.due);
        // One that is queued again has its turn in the next one.
        let mut count = self.starved.len() + self.due.len();
        let mut work = Work::begin(Instant::now());
        while count > 0
            && !work.is_enough()
            && let Some(slot) = self.starved.pop_front().or_else(|| self.due.pop_front())
        {
            count -= 1;
            self.advance(shard, slot);
        }
        (now, came)
    }

    fn has_work(&mut self) -> bool {
        self.is_behind() || self.uring.has_work()
    }

    /// Whether a turn left something for the next.
    fn is_behind(&self) -> bool {
        !self.completions.is_empty() || !self.starved.is_empty() || !self.due.is_empty()
    }

    fn log_failure(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && let Some(suppressed) = self.log.due(Instant::now())
        {
            tracing::error!(%error, suppressed, "io_uring refuses to work");
        }
    }

    fn complete(&mut self, shard: &Rc<Shard<S>>, completion: &Completion) {
        if completion.is_out_of_buffers() {
            self.uring.buffers().grow(self.slots.len());
        }
        if let Some(connection) = self.slots.get_mut(completion.slot as usize) {
            match completion.request {
                Request::Receive => connection.received(shard, &mut self.uring, completion),
                Request::Send => connection.sent(shard, completion),
                // What it ended says so itself, and the slot may be another's by now.
                Request::Cancel => return,
            }
            if !mem::replace(&mut connection.due, true) {
                let due = if connection.is_starved(completion) { &mut self.starved } else { &mut self.due };
                due.push_back(completion.slot);
            }
        }
        if let Some(buffer) = completion.buffer {
            self.uring.buffers().recycle(buffer);
        }
    }

    fn advance(&mut self, shard: &Rc<Shard<S>>, slot: u32) {
        let Some(connection) = self.slots.get_mut(slot as usize) else { return };
        connection.due = false;
        match connection.advance(shard, &mut self.uring) {
            Advanced::Waits => {}
            Advanced::HasMore => {
                connection.due = true;
                self.due.push_back(slot);
            }
            Advanced::Over => self.slots.remove(slot as usize).resolve(),
        }
    }
}

/// The work of one turn, limited in time.
struct Work {
    began: Instant,
    count: usize,
}

impl Work {
    fn begin(now: Instant) -> Self {
        Self { began: now, count: 0 }
    }

    /// To be asked before each piece of it; the first is always done.
    fn is_enough(&mut self) -> bool {
        let looks = self.count > 0 && self.count.is_multiple_of(CLOCK_EVERY);
        self.count += 1;
        looks && self.began.elapsed() > WORK_PER_TURN
    }
}
