//! TCP servers: an accepting thread per listener deals connections out to the shards, round-robin.
//!
//! Connections are accepted here and not with glommio, whose accepted streams leak their descriptor when
//! dropped and lack CLOEXEC, and whose `bind` always shares the port with a second copy of the program.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{SockFlag, accept4},
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    address::{ListenError, bind},
    log_throttle::LogThrottle,
    shard::Shard,
    shard::mailbox::ShardHandle,
    shard::shards::Shards,
    tcp::connection::{Limits, Service},
    tcp::driver,
    tcp::handlers::Handlers,
    tcp::stats::{TcpStats, sum},
};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// Waits after the process or the system has run out of what a connection needs.
const SHORTAGE_WAIT_MIN: Duration = Duration::from_millis(10);
const SHORTAGE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// A TCP server's address and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// More are accepted and closed at once.
    pub connections_max: usize,
    /// A connection on which nothing moves for this long is closed. Whatever this is, a peer that vanished without a
    /// word is noticed after two minutes, by TCP keepalive.
    pub idle_timeout: Option<Duration>,
    /// Output that may wait per connection. Frames are not served while more than half of it waits, so replies
    /// of less than the other half always fit.
    pub output_bytes_max: usize,
    /// A connection whose output does not move for this long is cut.
    pub stall_timeout: Duration,
    /// The longest frame, header included; one that is longer closes its connection.
    pub frame_len_max: usize,
}

/// Header and longest body of a Lars frame.
const FRAME_LEN_MAX: usize = 8 + 65_527;

impl TcpServerConfig {
    /// The defaults: 10,000 connections, no idle timeout, 1 MiB of output, 10 s to move it.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            connections_max: 10_000,
            idle_timeout: None,
            output_bytes_max: 1 << 20,
            stall_timeout: Duration::from_secs(10),
            frame_len_max: FRAME_LEN_MAX,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            frame_len_max: self.frame_len_max,
            output_bytes_max: self.output_bytes_max,
            idle_timeout: self.idle_timeout,
            stall_timeout: self.stall_timeout,
        }
    }
}

/// A listening server. It runs until its shards drain or stop; dropping this handle changes nothing.
pub struct TcpServer {
    local_addr: SocketAddr,
    stats: Box<dyn Fn() -> TcpStats + Send + Sync>,
}

impl TcpServer {
    /// Listens, and serves what connects on `shards`.
    ///
    /// # Errors
    /// If the address cannot be had; [`ListenError::InUse`] if another socket has it.
    pub fn start<S>(
        shards: &Shards<S>,
        config: TcpServerConfig,
        handlers: Handlers<S>,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError::new(config.listen, source);
        let socket = listen(config.listen).map_err(failed)?;
        let local_addr = local_addr(&socket).map_err(failed)?;
        let service =
            Service::new(format!("server {local_addr}"), handlers, config.limits(), shards.handles().len());
        let acceptor = Arc::new(Acceptor::new(config.connections_max).map_err(failed)?);
        let stats = {
            let (acceptor, counters) = (Arc::clone(&acceptor), Arc::clone(&service.counters));
            Box::new(move || acceptor.add_to(sum(&counters)))
        };
        for shard in shards.handles() {
            let limits = config.limits();
            // A stopped shard has no connections to watch.
            let _ = shard.mount(move |shard| shard.watch(&limits));
        }
        acceptor.start(socket, shards.handles().to_vec(), service).map_err(failed)?;
        shards.own_acceptor(acceptor);
        Ok(Self { local_addr, stats })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Counts since the start, summed over the shards.
    #[must_use]
    pub fn stats(&self) -> TcpStats {
        (self.stats)()
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

/// Without SO_REUSEPORT, so that a second copy of the program is told.
fn listen(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    bind(&socket, addr)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

/// A place among the connections of a server; dropping it frees the place.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The accepting thread of one server.
pub(crate) struct Acceptor {
    connections_max: usize,
    open: Arc<AtomicUsize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    shortages: AtomicU64,
    stopped: AtomicBool,
    wake: EventFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Acceptor {
    fn new(connections_max: usize) -> io::Result<Self> {
        Ok(Self {
            connections_max,
            open: Arc::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            shortages: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            thread: Mutex::default(),
        })
    }

    fn start<S: 'static>(
        self: &Arc<Self>,
        socket: Socket,
        shards: Vec<ShardHandle<S>>,
        service: Arc<Service<S>>,
    ) -> io::Result<()> {
        let accepting = Accepting { acceptor: Arc::clone(self), socket, shards, service, next: 0 };
        let thread = thread::Builder::new().name("accept".into()).spawn(move || accepting.run())?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Closes the listener and joins the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
        // The counter of an eventfd does not overflow from one write.
        let _ = self.wake.write(1);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("an accepting thread panicked");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    fn permit(&self) -> Option<Permit> {
        if self.open.fetch_add(1, Relaxed) < self.connections_max {
            return Some(Permit(Arc::clone(&self.open)));
        }
        self.open.fetch_sub(1, Relaxed);
        None
    }

    fn add_to(&self, stats: TcpStats) -> TcpStats {
        TcpStats {
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            shortages: self.shortages.load(Relaxed),
            open: self.open.load(Relaxed) as u64,
            ..stats
        }
    }
}

/// What the thread owns.
struct Accepting<S: 'static> {
    acceptor: Arc<Acceptor>,
    socket: Socket,
    shards: Vec<ShardHandle<S>>,
    service: Arc<Service<S>>,
    next: usize,
}

impl<S: 'static> Accepting<S> {
    fn run(mut self) {
        let mut refusals = LogThrottle::each(LOG_INTERVAL);
        let mut shortages = LogThrottle::each(LOG_INTERVAL);
        let mut wait = SHORTAGE_WAIT_MIN;
        while self.wait_for_connections() {
            match self.accept_all(&mut refusals) {
                Ok(()) => wait = SHORTAGE_WAIT_MIN,
                Err(errno) => {
                    self.acceptor.shortages.fetch_add(1, Relaxed);
                    if let Some(suppressed) = shortages.due(Instant::now()) {
                        let service = &self.service.name;
                        tracing::warn!(service, %errno, suppressed, "cannot accept connections");
                    }
                    self.wait_out(wait);
                    wait = (wait * 2).min(SHORTAGE_WAIT_MAX);
                }
            }
        }
    }

    /// Whether there may be some; false when stopped.
    fn wait_for_connections(&self) -> bool {
        let wake = PollFd::new(self.acceptor.wake.as_fd(), PollFlags::POLLIN);
        let listener = PollFd::new(self.socket.as_fd(), PollFlags::POLLIN);
        // An interrupted wait is a short one.
        let _ = poll(&mut [wake, listener], PollTimeout::NONE);
        !self.acceptor.is_stopped()
    }

    /// Waits out a shortage, unless stopped.
    fn wait_out(&self, wait: Duration) {
        let wake = PollFd::new(self.acceptor.wake.as_fd(), PollFlags::POLLIN);
        let _ = poll(&mut [wake], PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO));
    }

    /// Accepts what waits.
    ///
    /// # Errors
    /// When out of descriptors or memory; connections wait in the backlog then.
    fn accept_all(&mut self, refusals: &mut LogThrottle) -> Result<(), Errno> {
        while !self.acceptor.is_stopped() {
            match accept(&self.socket) {
                Ok(connection) => self.admit(connection, refusals),
                Err(Errno::EAGAIN) => break,
                // The connection ended before it was accepted, or its packets brought an error along; accept(2)
                // says to treat these as a wish to retry.
                Err(
                    Errno::EINTR
                    | Errno::ECONNABORTED
                    | Errno::EPROTO
                    | Errno::EPERM
                    | Errno::ENETDOWN
                    | Errno::ENOPROTOOPT
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::EHOSTUNREACH
                    | Errno::EOPNOTSUPP
                    | Errno::ENETUNREACH,
                ) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn admit(&mut self, connection: OwnedFd, refusals: &mut LogThrottle) {
        let Some(permit) = self.acceptor.permit() else {
            self.acceptor.refused.fetch_add(1, Relaxed);
            if let Some(suppressed) = refusals.due(Instant::now()) {
                let connections_max = self.acceptor.connections_max;
                let service = &self.service.name;
                tracing::warn!(
                    service,
                    connections_max,
                    suppressed,
                    "too many connections, closing new ones"
                );
            }
            return;
        };
        self.acceptor.accepted.fetch_add(1, Relaxed);
        let shard = &self.shards[self.next % self.shards.len()];
        self.next = self.next.wrapping_add(1);
        let service = Arc::clone(&self.service);
        // A stopped shard drops the connection, which closes it.
        let _ = shard.mount(move |shard| open(shard, &service, connection, permit));
    }
}

fn accept(socket: &Socket) -> Result<OwnedFd, Errno> {
    let fd = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// On the shard: has the connection driven until it ends.
fn open<S: 'static>(shard: &Rc<Shard<S>>, service: &Arc<Service<S>>, connection: OwnedFd, permit: Permit) {
    if shard.is_ending() {
        return;
    }
    match driver::open(shard, service, connection) {
        Ok(driven) => shard.spawn(async move {
            driven.await;
            drop(permit);
        }),
        Err(error) => tracing::debug!(service = service.name, %error, "connection ended before it began"),
    }
}
