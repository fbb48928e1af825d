//! UDP servers: one socket per shard, datagrams in batches.
//!
//! glommio's `recv_from` is only the wait for the first datagram; what else there is comes in batches, and the
//! replies leave in batches. A `recv_from` that waits is never cancelled: a finished one would lose its datagram.

mod batch;
mod socket;

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    os::fd::{FromRawFd, IntoRawFd},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use glommio::timer::Timer;

pub use self::socket::{UdpSender, UdpSockets};
use self::{
    batch::{Inbox, Outbox},
    socket::BoundSocket,
};
use crate::{counter::Counter, net::Net, panics::contain, shard::Shard, shards::Shards};

/// Work on one socket before the shard looks at its other IO.
const WORK_PER_PASS: Duration = Duration::from_micros(250);

/// After a failure to receive, so that a lasting one does not occupy the shard.
const ERROR_WAIT: Duration = Duration::from_millis(20);

/// Bounds of a UDP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// The longest datagram; longer ones are dropped and counted. Replies may be as long as UDP allows.
    pub datagram_len_max: usize,
}

impl Default for UdpConfig {
    /// 2 KiB.
    fn default() -> Self {
        Self { datagram_len_max: 2_048 }
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

/// Counts of a UDP server since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams served.
    pub received: u64,
    /// Replies handed to the kernel, not counting what went out by [`UdpSender`]s.
    pub replied: u64,
    /// Datagrams dropped because they were too long.
    pub oversized: u64,
    /// Replies, and datagrams of [`UdpSender`]s, dropped because the kernel did not take them.
    pub unsent: u64,
    /// Panics of the service's function; the datagram gets no reply.
    pub panics: u64,
}

type OnDatagram<S> = fn(&mut S, &mut Net<S>, Datagram<'_>, &mut Vec<u8>);

#[derive(Default)]
#[repr(align(128))]
struct Counters {
    received: Counter,
    replied: Counter,
    oversized: Counter,
    unsent: Counter,
    panics: Counter,
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
        on_datagram: fn(&mut S, &mut Net<S>, Datagram<'_>, reply: &mut Vec<u8>),
    ) -> Self {
        let start = |(index, socket): (usize, BoundSocket)| {
            let counters = Arc::new(Counters::default());
            let handle = (socket.sender.clone(), Arc::clone(&counters));
            let len_max = config.datagram_len_max;
            // A stopped shard serves nothing.
            let _ = shards.shard(index % shards.len()).mount(move |shard| {
                let serving = Serving::new(shard, socket, index, len_max, on_datagram, counters);
                shard.spawn(serving.run());
            });
            handle
        };
        Self { sockets: sockets.sockets.into_iter().enumerate().map(start).collect() }
    }

    /// Counts since the start, summed over the sockets.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.sockets.iter().fold(UdpStats::default(), |sum, (sender, counters)| UdpStats {
            received: sum.received + counters.received.get(),
            replied: sum.replied + counters.replied.get(),
            oversized: sum.oversized + counters.oversized.get(),
            unsent: sum.unsent + counters.unsent.get() + sender.unsent(),
            panics: sum.panics + counters.panics.get(),
        })
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
    socket: glommio::net::UdpSocket,
    sender: UdpSender,
    index: usize,
    len_max: usize,
    on_datagram: OnDatagram<S>,
    counters: Arc<Counters>,
    /// One byte longer than a datagram may be, to tell the ones that are too long.
    first: Vec<u8>,
    inbox: Inbox,
    outbox: Outbox,
    /// When the shard last looked at its other IO.
    passed_at: Instant,
}

impl<S: 'static> Serving<S> {
    fn new(
        shard: &Rc<Shard<S>>,
        socket: BoundSocket,
        index: usize,
        len_max: usize,
        on_datagram: OnDatagram<S>,
        counters: Arc<Counters>,
    ) -> Self {
        let BoundSocket { sender, for_glommio } = socket;
        // SAFETY: the descriptor is open and owned by nobody else from here on.
        let socket = unsafe { glommio::net::UdpSocket::from_raw_fd(for_glommio.into_raw_fd()) };
        shard.at_end({
            let sender = sender.clone();
            move || sender.rouse_receiver()
        });
        Self {
            shard: Rc::clone(shard),
            socket,
            sender,
            index,
            len_max,
            on_datagram,
            counters,
            first: vec![0; len_max + 1],
            inbox: Inbox::new(len_max),
            outbox: Outbox::new(),
            passed_at: Instant::now(),
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
            while self.serve_batch() && !self.shard.is_ending() {
                self.pass_if_due().await;
            }
            // Not only in the loop: datagrams that come one by one, each just before the wait would start, would
            // never let the others have their turn.
            self.pass_if_due().await;
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
        if waited {
            self.passed_at = Instant::now();
        }
        received
    }

    /// Lets the shard look at its other IO if this socket has had it work for long enough.
    async fn pass_if_due(&mut self) {
        if self.passed_at.elapsed() > WORK_PER_PASS {
            self.shard.reactor_pass.wait().await;
            self.passed_at = Instant::now();
        }
    }

    /// Serves the datagram that ended the wait, and replies at once: there may be no other.
    fn serve_first(&mut self, len: usize, from: SocketAddr) {
        if len > self.len_max {
            self.counters.oversized.add(1);
            return;
        }
        let request = Datagram { from, socket: self.index, bytes: &self.first[..len] };
        self.shard.with(|state, net| {
            net.set_now(Instant::now());
            answer(state, net, self.on_datagram, request, &mut self.outbox, &self.counters);
        });
        self.flush();
    }

    /// Serves what waits in the socket, up to a batch; whether there was anything.
    fn serve_batch(&mut self) -> bool {
        let Ok(received) = self.inbox.receive(self.sender.fd()) else { return false };
        self.shard.with(|state, net| {
            net.set_now(Instant::now());
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
        received > 0
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
    net: &mut Net<S>,
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
