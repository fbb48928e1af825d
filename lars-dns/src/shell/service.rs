//! [`Dns`]: the service, put together.

use std::{
    fmt, io,
    iter::Sum,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lars_runtime::{
    ListenError, PoolStats, Sample, ShardContext, Shards, ShardsConfig, StartError as ShardsError, TcpServer,
    TcpStats,
    preflight::{self, PreflightError},
};
use lars_service::{Shutdown, StateWriter};
use lars_store::StoreError;

use super::{
    poll::{First, Polling},
    serve::{Shard, handlers},
    state::{self, Newest},
    stats::DnsStats,
};
use crate::{
    config::DnsConfig,
    core::{saved::SavedRoutes, shrink_guard::Hold, snapshot::Snapshot},
};

/// How often a start that waits for the store looks whether it still should.
const START_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long the store may take at the start where there are routes from before it.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the end waits for the disk.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a running service looks whether its polling thread is there.
const POLLING_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long connections may take to flush what they were sent, at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the end waits for a call to the database that is under way.
const POLLING_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel does not let this process use io_uring.
    #[error("{0}")]
    Preflight(#[from] PreflightError),
    /// The store cannot be used as it is configured ([`StoreError::is_fatal`]): a wrong password, a file that is no
    /// database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that writes the state could not be made.
    #[error("cannot start the thread that writes the state: {0}")]
    StateThread(#[source] io::Error),
    /// The thread that looks for changes could not be made.
    #[error("cannot start the polling thread: {0}")]
    Thread(#[source] io::Error),
    /// The shards could not be made.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The thread that looks for changes has panicked: changes would go unnoticed for ever.
    #[error("the polling thread has panicked")]
    PollingPanicked,
}

/// A running DNS service. Dropping it stops it at once; see [`Dns::stop`].
pub struct Dns {
    polling: Polling,
    state: Option<StateWriter>,
    server: TcpServer,
    shards: Shards<Shard>,
}

impl Dns {
    /// Opens the store, loads all routes, then listens. If the store does not answer and there are routes from before
    /// the start, these are served; else it is waited for, as long as it is away:
    /// to be able to give up, use [`Dns::start_unless`].
    ///
    /// # Errors
    /// If the store refuses, the address is taken, or the machine cannot run the shards.
    pub fn start(config: DnsConfig) -> Result<Self, StartError> {
        let never = Shutdown::new();
        Self::start_unless(config, &never).map(|started| started.expect("nobody can give up"))
    }

    /// Like [`Dns::start`], but `None` as soon as `shutdown` is triggered while the store is waited for.
    ///
    /// # Errors
    /// As those of [`Dns::start`].
    pub fn start_unless(config: DnsConfig, shutdown: &Shutdown) -> Result<Option<Self>, StartError> {
        // Said at once, and not only when the store is there.
        preflight::check()?;
        let dir = config.state_dir.as_deref();
        let saved = dir.and_then(|dir| state::read(dir, &state::store_name(&config.store)));
        let newest = Newest::default();
        let polling =
            Polling::start(config.store, config.timing, config.shrink, saved.as_ref(), newest.clone());
        let (polling, first) = polling.map_err(StartError::Thread)?;
        let Some((routes, is_loaded)) = wait_for(&first, saved, shutdown)? else {
            return Ok(None);
        };
        let state =
            dir.map(|dir| state::start_writer(dir, newest)).transpose().map_err(StartError::StateThread)?;
        let served = Arc::clone(&routes);
        let subscriptions_max = config.subscriptions_max.div_ceil(config.shards);
        let shards_config = ShardsConfig {
            name: "lars-dns".into(),
            shards: config.shards,
            tcp_driver: config.tcp_driver,
            ..ShardsConfig::default()
        };
        let shards = Shards::start(shards_config, move |_| {
            Shard::new(Arc::clone(&routes), is_loaded, subscriptions_max)
        })?;
        let server = TcpServer::start(&shards, config.server, handlers())?;
        polling.serve((shards.handles().to_vec(), served));
        Ok(Some(Self { polling, state, server, shards }))
    }

    /// Where it listens; with port 0 configured, the port that was free.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// What was counted so far, and what there is now. Asks every shard: not for a shard's own thread.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        self.polling.stats.load() + self.of_shards(|shard, _| shard.stats())
    }

    /// What was gone from the table when it was last loaded and is served nevertheless, if there is such a thing: then
    /// somebody should look.
    #[must_use]
    pub fn shrink_hold(&self) -> Option<Hold> {
        self.polling.shrink_hold()
    }

    /// What the runtime counted: of the server's connections, and of the shards' buffers.
    #[must_use]
    pub fn runtime_stats(&self) -> (TcpStats, PoolStats) {
        (self.server.stats(), self.of_shards(|_, net| net.pool().stats()))
    }

    /// Every number that is counted, with its part of the service (`dns`, `tcp`, `pool`, `state`), name and meaning.
    #[must_use]
    pub fn samples(&self) -> Vec<(&'static str, Sample)> {
        let (tcp, pool) = self.runtime_stats();
        let dns = self.stats().samples().map(|sample| ("dns", sample));
        let tcp = tcp.samples().map(|sample| ("tcp", sample));
        let pool = pool.samples().map(|sample| ("pool", sample));
        let state = self.state.as_ref().map(|state| state.stats().samples());
        let state = state.into_iter().flatten().map(|sample| ("state", sample));
        dns.into_iter().chain(tcp).chain(pool).chain(state).collect()
    }

    fn of_shards<T: Sum + Send + 'static>(&self, of: fn(&Shard, &ShardContext<Shard>) -> T) -> T {
        let shards = self.shards.handles().iter();
        shards.filter_map(|shard| shard.call(move |shard, net| of(shard, net)).ok()).sum()
    }

    /// Ends it: what was received is answered and flushed, for some seconds at most.
    pub fn stop(self) {
        self.polling.tell_to_end();
        let report = self.shards.drain(DRAIN_DEADLINE);
        tracing::info!(
            flushed = report.connections_flushed,
            cut = report.connections_cut,
            "connections ended"
        );
        if !self.polling.wait_for_end(POLLING_END_TIMEOUT) {
            tracing::warn!("a call to the store is still under way; it is left alone");
        }
        if let Some(state) = self.state {
            state.stop(STATE_TIMEOUT);
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

/// Runs the service until `shutdown` is triggered, then drains it.
///
/// # Errors
/// If it cannot start, or cannot keep up with changes any more.
pub fn run(config: DnsConfig, shutdown: &Shutdown) -> Result<(), StartError> {
    let Some(dns) = Dns::start_unless(config, shutdown)? else { return Ok(()) };
    let stats = dns.stats();
    tracing::info!(addr = %dns.local_addr(), modules = stats.modules, hosts = stats.hosts, "listening");
    while !shutdown.wait_timeout(POLLING_CHECK_INTERVAL) {
        if !dns.polling.is_running() {
            return Err(StartError::PollingPanicked);
        }
    }
    dns.stop();
    Ok(())
}

/// The first routes, and whether they were loaded. Routes from before the start are those if nothing comes for a while.
fn wait_for(
    first: &flume::Receiver<Result<First, StoreError>>,
    saved: Option<SavedRoutes>,
    shutdown: &Shutdown,
) -> Result<Option<(Arc<Snapshot>, bool)>, StartError> {
    let begun = Instant::now();
    while !shutdown.is_triggered() {
        match first.recv_timeout(START_CHECK_INTERVAL) {
            Ok(first) => {
                let First { routes, is_loaded } = first?;
                if !is_loaded {
                    tracing::warn!("the store does not answer: the routes from before the start are served");
                }
                return Ok(Some((routes, is_loaded)));
            }
            Err(flume::RecvTimeoutError::Timeout) => {}
            Err(flume::RecvTimeoutError::Disconnected) => return Err(StartError::PollingPanicked),
        }
        if let Some(saved) = &saved
            && begun.elapsed() >= STORE_TIMEOUT
        {
            tracing::warn!(
                "the store takes too long: the routes from before the start are served until it answers"
            );
            return Ok(Some((Arc::new(saved.snapshot.clone()), false)));
        }
    }
    Ok(None)
}
