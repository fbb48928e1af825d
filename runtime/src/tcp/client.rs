//! TCP clients: one connection at a time, with failover and reconnect.

use std::{
    future::Future,
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;
use glommio::{net::TcpStream, timer::Timer};

use crate::{
    backoff::Backoff,
    log_throttle::LogThrottle,
    shard::local::Shard,
    shard::mailbox::ShardHandle,
    tcp::connection::Limits,
    tcp::driver,
    tcp::handlers::Handlers,
    tcp::service::{DEFAULT_FRAME_LEN_MAX, Service},
    tcp::stats::{Counters, TcpStats, sum},
};

/// Between two log lines about the same.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Where a client goes, and its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpClientConfig {
    /// `host:port`, tried in this order.
    pub servers: Vec<String>,
    /// For each address of each server.
    pub connect_timeout: Duration,
    /// Between two walks over the list.
    pub backoff: Backoff,
    /// A connection that held for this long starts the backoff anew when it is lost.
    pub stable_after: Duration,
    /// Output that may wait; see [`TcpServerConfig`](crate::TcpServerConfig).
    pub output_bytes_max: usize,
    /// A connection whose output does not move for this long is cut.
    pub stall_timeout: Duration,
    /// A connection that takes longer than this to send the rest of a frame is cut.
    pub frame_timeout: Duration,
    /// A connection whose peer does not acknowledge what was sent for this long is cut, at least 1 ms
    /// (`TCP_USER_TIMEOUT`).
    pub unacknowledged_timeout: Duration,
    /// A connection on which nothing moves for this long is cut.
    pub idle_timeout: Option<Duration>,
    /// The longest frame, header included.
    pub frame_len_max: usize,
}

impl TcpClientConfig {
    /// The defaults: 3 s to connect, 100 ms to 5 s between tries, 1 MiB of output, 10 s to move it, 30 s to
    /// have it acknowledged, 30 s for a frame to be complete.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            connect_timeout: Duration::from_secs(3),
            backoff: Backoff::default(),
            stable_after: Duration::from_secs(10),
            output_bytes_max: 1 << 20,
            stall_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(30),
            unacknowledged_timeout: Duration::from_secs(30),
            idle_timeout: None,
            frame_len_max: DEFAULT_FRAME_LEN_MAX,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            frame_len_max: self.frame_len_max,
            output_bytes_max: self.output_bytes_max,
            idle_timeout: self.idle_timeout,
            stall_timeout: self.stall_timeout,
            frame_timeout: self.frame_timeout,
            unacknowledged_timeout: self.unacknowledged_timeout,
        }
    }
}

/// One client, living on one shard until that stops. Dropping this handle changes nothing.
#[derive(Debug)]
pub struct TcpClient {
    counters: Arc<[Counters]>,
}

impl TcpClient {
    /// Connects, and reconnects for as long as the shard runs: through the servers in order, then, after a wait,
    /// again from the first; from the next if the connection did not hold for `stable_after`. `opened` runs at each
    /// (re)connect, `closed` at each loss; between a `closed` and the next `opened` there is none. What a lost
    /// one had not sent is not sent again.
    ///
    /// # Panics
    /// If there is no server in the list.
    pub fn start<S: 'static>(shard: &ShardHandle<S>, config: TcpClientConfig, handlers: Handlers<S>) -> Self {
        assert!(!config.servers.is_empty(), "a client needs a server");
        let name = format!("client of {}", config.servers.join(", "));
        let service = Service::new(name, handlers, config.limits(), shard.index() + 1);
        let counters = Arc::clone(&service.counters);
        // On a stopped shard there is no client.
        let _ = shard.install(move |shard| {
            shard.watch(&service.limits);
            shard.spawn(run(Connecting { shard: Rc::clone(shard), service, config }));
        });
        Self { counters }
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> TcpStats {
        sum(&self.counters)
    }
}

struct Connecting<S: 'static> {
    shard: Rc<Shard<S>>,
    service: Arc<Service<S>>,
    config: TcpClientConfig,
}

async fn run<S: 'static>(client: Connecting<S>) {
    let mut attempt = 0;
    let mut first = 0;
    let mut log = LogThrottle::each(LOG_INTERVAL);
    while !client.shard.is_ending() {
        match client.connect_to_any(first, &mut log).await {
            Some((index, connection)) => {
                if client.hold(index, connection).await {
                    (attempt, first) = (0, 0);
                } else {
                    // One that takes connections and drops them, or hangs, must not keep it from the others.
                    first = (index + 1) % client.config.servers.len();
                }
            }
            None => {
                first = 0;
                if let Some(suppressed) = log.due(Instant::now()) {
                    tracing::warn!(
                        service = client.service.name,
                        attempt,
                        suppressed,
                        "no server can be reached"
                    );
                }
            }
        }
        client.unless_ending(Timer::new(client.config.backoff.next(attempt, fastrand::f64()))).await;
        attempt = attempt.saturating_add(1);
    }
}

impl<S: 'static> Connecting<S> {
    /// `None` if the shard ends before `work` does.
    async fn unless_ending<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let ending = async {
            self.shard.ending().await;
            None
        };
        future::or(ending, async { Some(work.await) }).await
    }

    /// The next server that takes the connection, by its index; in the order of the list, beginning with `first`.
    async fn connect_to_any(
        &self,
        first: usize,
        log: &mut LogThrottle,
    ) -> Option<(usize, (SocketAddr, OwnedFd))> {
        let servers = &self.config.servers;
        for (index, server) in servers.iter().enumerate().cycle().skip(first).take(servers.len()) {
            match self.unless_ending(self.connect_to(server)).await? {
                Ok(connection) => return Some((index, connection)),
                Err(error) => {
                    if let Some(suppressed) = log.due(Instant::now()) {
                        tracing::warn!(server, %error, suppressed, "cannot connect");
                    }
                }
            }
        }
        None
    }

    /// A connection to the first of the server's addresses that takes one, and which that is.
    async fn connect_to(&self, server: &str) -> io::Result<(SocketAddr, OwnedFd)> {
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for addr in resolve(server).await? {
            result = connect(addr, self.config.connect_timeout).await.map(|connection| (addr, connection));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Has the connection driven until it ends; whether the server was a good one: it held for long enough, and it
    /// was not this side that gave it up.
    async fn hold(&self, index: usize, connection: (SocketAddr, OwnedFd)) -> bool {
        let server = &self.config.servers[index];
        let since = Instant::now();
        let (addr, connection) = connection;
        match driver::open(&self.shard, &self.service, connection) {
            Ok(driven) => {
                tracing::info!(server, %addr, "connected");
                let reason = driven.await;
                tracing::info!(server, %reason, "disconnected");
                since.elapsed() >= self.config.stable_after && !reason.is_giving_up()
            }
            Err(error) => {
                tracing::warn!(server, %error, "the connection ended before it began");
                false
            }
        }
    }
}

/// The addresses of `host:port`. Names are looked up on a thread of their own: that may take many seconds.
async fn resolve(server: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(addr) = server.parse() {
        return Ok(vec![addr]);
    }
    let (found, addrs) = flume::bounded(1);
    let server = server.to_owned();
    thread::Builder::new().name("resolve".into()).spawn(move || {
        // Whoever asked may be gone.
        let _ = found.send(server.to_socket_addrs().map(Iterator::collect));
    })?;
    addrs.recv_async().await.unwrap_or_else(|_| Err(io::Error::other("the look-up was given up")))
}

async fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(addr, timeout).await.map_err(io::Error::from)?;
    // A second descriptor, because a glommio stream does not give its own away. It outlives the stream, which
    // had no request in flight but the poll that all streams start with.
    // SAFETY: the stream is open for as long as it is borrowed.
    let connection = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }.try_clone_to_owned()?;
    drop(stream);
    let connection = std::net::TcpStream::from(connection);
    // A port out of the ephemeral range that nobody listens on can end up connected to itself.
    if connection.local_addr()? == connection.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(connection.into())
}
