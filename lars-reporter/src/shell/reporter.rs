//! [`Reporter`]: the service as a whole, from start to drain.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lars_runtime::{ListenError, Sample, Shards, ShardsConfig, TcpServer, TcpStats};
use lars_service::Shutdown;
use lars_store::StoreError;

use super::{
    callers::AllCallers,
    database::{self, Database, Health, StartState},
    queue::{self, RowReceiver, RowSender},
    shard::Shard,
    stats::{ReporterCounters, ReporterStats},
    writer::{Writer, WriterThread},
};
use crate::config::ReporterConfig;

/// How often a reporter whose database has not answered yet looks whether it can be used.
const START_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long agents' last frames may take when the service stops; the writers' drain comes after.
const SHARDS_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than the writers' drain may take a write that is under way at its end is waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the reporter did not start. A database that is away is no reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The machine cannot run the shards.
    #[error(transparent)]
    Shards(#[from] lars_runtime::StartError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A writer got no thread.
    #[error("cannot start a writer thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why the reporter ended otherwise than it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// At its start the database could not be used as it is configured ([`StoreError::is_fatal`]).
    #[error(transparent)]
    Store(StoreError),
    /// It was told to end, and the database did not take everything in time.
    #[error("stopped without writing everything: the newest rows of {keys_lost} keys are lost")]
    RowsLost {
        /// Keys whose newest row is lost.
        keys_lost: usize,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Keys whose newest row could not be written in time.
    pub keys_lost: usize,
}

/// A running reporter. Dropping it stops it like [`Reporter::stop`], without waiting for the writers.
pub struct Reporter {
    server: TcpServer,
    shards: Shards<Shard>,
    queues: Vec<RowSender>,
    writers: Vec<WriterThread>,
    health: Arc<Mutex<Health>>,
    drain_timeout: Duration,
}

impl Reporter {
    /// Listens, at once; the database is opened meanwhile, and as soon as it is there.
    ///
    /// # Errors
    /// If the machine cannot run it, or the address is taken.
    pub fn start(config: ReporterConfig) -> Result<Self, StartError> {
        let (queues, receivers): (Vec<_>, Vec<_>) =
            (0..config.writers_used()).map(|_| queue::bounded(config.queue_rows)).unzip();
        let shards = start_shards(&config, queues.clone())?;
        let server = TcpServer::start(&shards, config.server.clone(), Shard::handlers())?;
        // After listening: a second copy that is refused shall not touch the database.
        let health = Arc::default();
        let writers = start_writers(&config, receivers, &health).map_err(StartError::Thread)?;
        Ok(Self { server, shards, queues, writers, health, drain_timeout: config.drain_timeout })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Sums over shards and writers. Waits for each shard, so it is for OS threads only.
    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        // A shard that has ended counts nothing.
        let shards =
            self.shards.handles().iter().filter_map(|shard| shard.call(|shard, _| shard.stats()).ok());
        let writers = self.writers.iter().map(|writer| writer.counters.load());
        let queued_rows = self.queues.iter().map(|queue| queue.queued_rows() as u64).sum();
        shards.chain(writers).sum::<ReporterStats>()
            + ReporterStats { queued_rows, ..ReporterStats::default() }
    }

    /// What its connections have done.
    #[must_use]
    pub fn tcp_stats(&self) -> TcpStats {
        self.server.stats()
    }

    /// Everything that is counted, by name. Waits for each shard, so it is for OS threads only.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.stats().samples().into_iter().chain(self.tcp_stats().samples()).collect()
    }

    /// Waits until the database can be used, or is found not to be usable as it is configured, or until `shutdown`.
    fn wait_for_store(&self, shutdown: &Shutdown) -> Result<(), StoreError> {
        while !shutdown.wait_timeout(START_CHECK_INTERVAL) {
            match database::lock(&self.health).start_state() {
                StartState::Waiting => {}
                StartState::Opened => return Ok(()),
                StartState::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stops accepting, takes the frames that have been received, and writes what is held, for at most
    /// [`ReporterConfig::drain_timeout`] and a second.
    pub fn stop(self) -> Drained {
        let Self { server, shards, queues, writers, health: _, drain_timeout } = self;
        shards.drain(SHARDS_DRAIN_TIMEOUT);
        // Without senders the writers know that nothing more will come.
        drop((server, queues));
        let give_up_at = Instant::now() + drain_timeout + WRITE_TIMEOUT;
        let keys_lost = writers.into_iter().map(|writer| writer.wait_for_end(give_up_at)).sum();
        if keys_lost > 0 {
            tracing::error!(keys_lost, "stopped without writing everything: the database did not take it");
        }
        Drained { keys_lost }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

fn start_shards(
    config: &ReporterConfig,
    queues: Vec<RowSender>,
) -> Result<Shards<Shard>, lars_runtime::StartError> {
    let config = ShardsConfig {
        name: "lars-reporter".to_owned(),
        shards: config.shards,
        tcp_driver: config.tcp_driver,
        ..ShardsConfig::default()
    };
    let callers = AllCallers::new();
    Shards::start(config, move |_| Shard::new(queues.clone(), callers.clone()))
}

fn start_writers(
    config: &ReporterConfig,
    queues: Vec<RowReceiver>,
    health: &Arc<Mutex<Health>>,
) -> io::Result<Vec<WriterThread>> {
    let start_one = |(index, queue)| {
        let counters: Arc<ReporterCounters> = Arc::default();
        // One of them is enough; they write to one table.
        let status_max_age = config.status_max_age.filter(|_| index == 0);
        let database =
            Database::new(config.store.clone(), Arc::clone(health), status_max_age, Arc::clone(&counters));
        Writer::spawn(index, queue, database, config.limits_of_each_writer(), config.drain_timeout, counters)
    };
    queues.into_iter().enumerate().map(start_one).collect()
}

/// Runs the reporter until `shutdown` is triggered, then drains it.
///
/// # Errors
/// If it cannot start, if the database cannot be used as it is configured, or if rows are lost at the end.
pub fn run(config: ReporterConfig, shutdown: &Shutdown) -> Result<(), RunError> {
    let store = config.store.clone();
    let reporter = Reporter::start(config)?;
    tracing::info!(addr = %reporter.local_addr(), %store, "listening");
    let started = reporter.wait_for_store(shutdown);
    if started.is_ok() {
        shutdown.wait();
    }
    tracing::info!("stopping");
    let Drained { keys_lost } = reporter.stop();
    started.map_err(RunError::Store)?;
    if keys_lost > 0 {
        return Err(RunError::RowsLost { keys_lost });
    }
    tracing::info!("stopped");
    Ok(())
}
