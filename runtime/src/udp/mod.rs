//! UDP servers: one socket per shard, datagrams in batches.
//!
//! glommio's `recv_from` is only the wait of a shard that has nothing to do; what else there is comes in batches, and
//! the replies leave in batches. A `recv_from` that waits is never cancelled: a finished one would lose its datagram.
//!
//! To go to sleep in glommio and to wake up takes about ten system calls, which is several times what a datagram
//! takes. So a shard that is there for its socket stays with it while datagrams follow each other closely
//! ([`UdpConfig::linger`], [`UdpConfig::spin`]), and has glommio look at its other IO from time to time.

mod batch;
mod socket;

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    ops::Deref,
    os::fd::{FromRawFd, IntoRawFd},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use glommio::timer::Timer;

pub use self::socket::{UdpSender, UdpSockets};
use self::{
    batch::{Inbox, Outbox, Wait},
    socket::BoundSocket,
};
use crate::{
    counters, shard::context::ShardContext, shard::local::Shard, shard::mailbox::ShardHandle,
    shard::panics::contain, shard::shards::Shards,
};

/// Work on one socket before the shard looks at its other IO; the second where it lingers in that socket.
const WORK_PER_YIELD: Duration = Duration::from_micros(500);
const WORK_PER_YIELD_LINGERING: Duration = Duration::from_millis(2);

/// So long after it has sent something on a connection a shard does not linger: there may be an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(10);

/// After a failure to receive, so that a lasting one does not occupy the shard.
const ERROR_WAIT: Duration = Duration::from_millis(20);

/// Bounds of a UDP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// The longest datagram; longer ones are dropped and counted. Replies may be as long as UDP allows.
    pub datagram_len_max: usize,
    /// How long a shard polls the socket after a datagram before it sleeps: quicker replies for a busy processor.
    pub spin: Duration,
    /// Whether a shard stays with its socket; only done if no shard has two of the sockets. `None`: never.
    pub linger: Option<Linger>,
}

/// Waiting for the next datagram in the socket itself before going to sleep on all IO: one system call where that
/// takes ten.
///
/// Other IO of the shard ends the wait: io_uring interrupts a thread that has a completion to look at
/// (io_uring_setup(2), at `IORING_SETUP_COOP_TASKRUN`). What completed just before is looked at when the wait ends.
/// So this is for shards that do little else; one that has jobs, or has just sent something on a connection,
/// does not linger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// It is done where datagrams follow each other within this time.
    pub within: Duration,
    /// How long at a time, rounded up to a tick of the kernel (1 to 10 ms). A short wait costs more than a long one:
    /// each has the kernel set its timer.
    pub at_most: Duration,
}

impl Default for Linger {
    /// Datagrams within 1 ms of each other, 100 ms at most.
    fn default() -> Self {
        Self { within: Duration::from_millis(1), at_most: Duration::from_millis(100) }
    }
}

impl Default for UdpConfig {
    /// Datagrams of 2 KiB, no spinning, no lingering.
    fn default() -> Self {
        Self { datagram_len_max: 2_048, spin: Duration::ZERO, linger: None }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of the server's sockets it came in by.
    pub socket: usize,
    /// What was sent; may be empty.
    pub bytes: &'a [u8],
}

counters! {
    /// Counts of a UDP server since its start.
    #[non_exhaustive]
    pub struct UdpStats, atomic UdpCounters {
        /// Datagrams served.
        counter received: u64,
        /// Replies handed to the kernel, without what went out outside of a datagram's turn.
        counter replied: u64,
        /// Datagrams dropped because they were too long.
        counter oversized: u64,
        /// Replies, and datagrams sent outside of a datagram's turn, dropped because the kernel did not take them.
        counter unsent: u64,
        /// Panics of the service's function; the datagram gets no reply.
        counter panics: u64,
    }
}

type OnDatagram<S> = fn(&mut S, &mut ShardContext<S>, Datagram<'_>, &mut Vec<u8>);

/// Of one socket, in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Counters(UdpCounters);

impl Deref for Counters {
    type Target = UdpCounters;

    fn deref(&self) -> &UdpCounters {
        &self.0
    }
}

/// A running server. It runs until its shards drain or stop; dropping this handle changes nothing.
pub struct UdpServer {
    sockets: Vec<(UdpSender, Arc<Counters>)>,
}

impl UdpServer {
    /// Serves socket i on shard i mod shards. `on_datagram` writes its answer into `reply`, which comes empty;
    /// left empty, none is sent.
    pub fn start<S: 'static>(
        shards: &Shards<S>,
        sockets: UdpSockets,
        config: UdpConfig,
        on_datagram: fn(&mut S, &mut ShardContext<S>, Datagram<'_>, reply: &mut Vec<u8>),
    ) -> Self {
        let linger = config.linger.filter(|_| sockets.sockets.len() <= shards.len());
        let config = UdpConfig { linger, ..config };
        let start = |(index, socket): (usize, BoundSocket)| {
            let counters = Arc::new(Counters::default());
            let handle = (socket.sender.clone(), Arc::clone(&counters));
            let config = config.clone();
            // A stopped shard serves nothing.
            let _ = shards.shard(index % shards.len()).install(move |shard| {
                let serving = Serving::new(shard, socket, index, config, on_datagram, counters);
                shard.spawn(serving.run());
            });
            handle
        };
        Self { sockets: sockets.sockets.into_iter().enumerate().map(start).collect() }
    }

    /// Counts since the start, summed over the sockets.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        let stats = |(sender, counters): &(UdpSender, Arc<Counters>)| {
            counters.load() + UdpStats { unsent: sender.unsent(), ..UdpStats::default() }
        };
        self.sockets.iter().map(stats).sum()
    }
}

impl fmt::Debug for UdpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sockets.iter().map(|(sender, _)| sender)).finish()
    }
}

/// One socket on its shard.
struct Serving<S: 'static> {
    shard: Rc<Shard<S>>,
    handle: ShardHandle<S>,
    socket: glommio::net::UdpSocket,
    sender: UdpSender,
    index: usize,
    config: UdpConfig,
    on_datagram: OnDatagram<S>,
    counters: Arc<Counters>,
    /// One byte longer than a datagram may be, to tell the ones that are too long.
    first: Vec<u8>,
    inbox: Inbox,
    outbox: Outbox,
    /// When the shard last looked at its other IO.
    yielded_at: Instant,
    /// When datagrams were last served.
    served_at: Instant,
    /// Whether the next datagram is expected soon.
    lingers: bool,
}

impl<S: 'static> Serving<S> {
    fn new(
        shard: &Rc<Shard<S>>,
        socket: BoundSocket,
        index: usize,
        config: UdpConfig,
        on_datagram: OnDatagram<S>,
        counters: Arc<Counters>,
    ) -> Self {
        let BoundSocket { sender, for_glommio } = socket;
        let handle = shard.net.borrow().shard(shard.index()).clone();
        let linger = config.linger.filter(|linger| sender.set_receive_timeout(linger.at_most).is_ok());
        let config = UdpConfig { linger, ..config };
        // SAFETY: the descriptor is open and owned by nobody else from here on.
        let socket = unsafe { glommio::net::UdpSocket::from_raw_fd(for_glommio.into_raw_fd()) };
        shard.at_end({
            let sender = sender.clone();
            move || sender.wake_receiver()
        });
        let (len_max, now) = (config.datagram_len_max, Instant::now());
        Self {
            shard: Rc::clone(shard),
            handle,
            socket,
            sender,
            index,
            config,
            on_datagram,
            counters,
            first: vec![0; len_max + 1],
            inbox: Inbox::new(len_max),
            outbox: Outbox::new(),
            yielded_at: now,
            served_at: now,
            lingers: false,
        }
    }

    async fn run(mut self) {
        loop {
            let first = self.wait().await;
            if self.shard.is_ending() {
                return;
            }
            match first {
                Ok((len, from)) => self.serve_first(len, from),
                Err(error) => {
                    tracing::debug!(socket = self.index, %error, "receiving a datagram");
                    Timer::new(ERROR_WAIT).await;
                }
            }
            while !self.shard.is_ending() && self.serve_batch().await {
                self.yield_if_due().await;
            }
            // Not only in the loop: datagrams that come one by one, each just before the wait would start, would
            // never let the others have their turn.
            self.yield_if_due().await;
        }
    }

    /// Waits for a datagram, which lies in `self.first` then.
    async fn wait(&mut self) -> Result<(usize, SocketAddr), glommio::GlommioError<()>> {
        let mut receive = pin!(self.socket.recv_from(&mut self.first));
        let mut waited = false;
        let received = poll_fn(|cx| {
            let polled = receive.as_mut().poll(cx);
            waited |= polled.is_pending();
            polled
        })
        .await;
        let now = Instant::now();
        if waited {
            self.yielded_at = now;
        }
        self.lingers = self.config.linger.is_some_and(|linger| now - self.served_at < linger.within);
        self.served_at = now;
        received
    }

    /// Lets the shard look at its other IO if this socket has had it work for long enough.
    async fn yield_if_due(&mut self) {
        let work = if self.lingers { WORK_PER_YIELD_LINGERING } else { WORK_PER_YIELD };
        if self.served_at - self.yielded_at > work {
            self.yield_to_reactor().await;
        }
    }

    async fn yield_to_reactor(&mut self) {
        self.shard.reactor_yield.wait().await;
        self.yielded_at = Instant::now();
    }

    /// Serves the datagram that ended the wait, and replies at once: there may be no other.
    fn serve_first(&mut self, len: usize, from: SocketAddr) {
        if len > self.config.datagram_len_max {
            self.counters.oversized.add(1);
            return;
        }
        let request = Datagram { from, socket: self.index, bytes: &self.first[..len] };
        self.shard.with(|state, net| {
            net.set_now(self.served_at);
            answer(state, net, self.on_datagram, request, &mut self.outbox, &self.counters);
        });
        self.flush();
    }

    /// Serves what comes in soon, up to a batch; whether anything did.
    async fn serve_batch(&mut self) -> bool {
        let received = self.receive().await;
        if received == 0 {
            return false;
        }
        self.served_at = Instant::now();
        self.shard.with(|state, net| {
            net.set_now(self.served_at);
            for index in 0..received {
                let Some((from, bytes)) = self.inbox.datagram(index) else {
                    self.counters.oversized.add(1);
                    continue;
                };
                let request = Datagram { from, socket: self.index, bytes };
                answer(state, net, self.on_datagram, request, &mut self.outbox, &self.counters);
            }
        });
        self.flush();
        true
    }

    /// Receives a batch: what is there, else what comes while this spins, else what comes while it lingers.
    async fn receive(&mut self) -> usize {
        let lingers = self.lingers && !self.has_other_work();
        let polls = !lingers || !self.config.spin.is_zero();
        let received = if polls { self.poll().await } else { 0 };
        if received > 0 || !lingers {
            return received;
        }
        self.inbox.receive(self.sender.fd(), Wait::UntilTimeout).unwrap_or(0)
    }

    /// Whether the shard should look at its other IO before it waits. What came while it was busy here does not
    /// end the wait.
    fn has_other_work(&self) -> bool {
        self.handle.has_mail()
            || self.shard.has_messages()
            || self.shard.net.borrow().has_sent_within(ANSWER_TIMEOUT)
    }

    /// Receives what is there, or comes before it has spun for long enough.
    async fn poll(&mut self) -> usize {
        loop {
            let received = self.inbox.receive(self.sender.fd(), Wait::No).unwrap_or(0);
            if received > 0 || self.config.spin.is_zero() {
                return received;
            }
            let now = Instant::now();
            if now - self.served_at > self.config.spin || self.shard.is_ending() {
                return 0;
            }
            if now - self.yielded_at > WORK_PER_YIELD {
                self.yield_to_reactor().await;
            }
        }
    }

    fn flush(&mut self) {
        let result = self.outbox.flush(self.sender.fd());
        self.counters.replied.add(result.sent as u64);
        self.counters.unsent.add(result.unsent as u64);
    }
}

/// Has the service answer one datagram. If it panics there is no answer.
fn answer<S>(
    state: &mut S,
    net: &mut ShardContext<S>,
    on_datagram: OnDatagram<S>,
    request: Datagram<'_>,
    outbox: &mut Outbox,
    counters: &Counters,
) {
    counters.received.add(1);
    let draft = outbox.draft();
    if contain("serving a datagram", net.shard_index(), || on_datagram(state, net, request, draft)).is_none()
    {
        counters.panics.add(1);
        outbox.draft();
    }
    outbox.commit(request.from);
}
