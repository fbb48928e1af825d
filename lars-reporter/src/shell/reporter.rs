//! [`Reporter`]: the service as a whole, from start to drain.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use lars_runtime::{ListenError, Shards, ShardsConfig, TcpServer};
use lars_service::Shutdown;

use super::{
    intake::{Intake, IntakeCounters},
    queue::{self, RowReceiver, RowSender},
    sink::{Outage, Sink},
    writer::{Writer, WriterThread},
};
use crate::config::ReporterConfig;

/// How long agents' last frames may take when the service stops; the writers' drain comes after.
const INTAKE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than the writers' drain may take a write that is under way at its end is waited for.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

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

/// What the reporter has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReporterStats {
    /// Connections open now.
    pub connections: u64,
    /// Connections closed because of what came over them.
    pub malformed: u64,
    /// Messages taken.
    pub requests: u64,
    /// Rows they held.
    pub results: u64,
    /// Results left out because no host has such a port.
    pub invalid_results: u64,
    /// Messages whose time stamp was missing or too far ahead, and was replaced.
    pub ts_corrected: u64,
    /// Times a message had to wait because its writer's queue was full.
    pub busy: u64,
    /// Rows in the queues now.
    pub queued_rows: u64,
    /// Keys whose rows wait to be written now.
    pub pending_keys: u64,
    /// Rows dropped because too many keys waited.
    pub dropped_at_cap: u64,
    /// Rows dropped because the table does not take their values.
    pub dropped_refused: u64,
    /// Rows written to the table.
    pub rows_written: u64,
    /// Transactions that wrote them.
    pub flushes: u64,
    /// Transactions that failed; their rows were kept.
    pub flush_failures: u64,
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
    shards: Shards<Intake>,
    queues: Vec<RowSender>,
    writers: Vec<WriterThread>,
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
        let server = TcpServer::start(&shards, config.server.clone(), Intake::handlers())?;
        // After listening: a second copy that is refused shall not touch the database.
        let writers = start_writers(&config, receivers).map_err(StartError::Thread)?;
        Ok(Self { server, shards, queues, writers, drain_timeout: config.drain_timeout })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Sums over shards and writers. Waits for each shard, so it is for OS threads only.
    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        let tcp = self.server.stats();
        let mut stats =
            ReporterStats { connections: tcp.open, malformed: tcp.malformed, ..ReporterStats::default() };
        for shard in self.shards.handles() {
            // A shard that has ended counts nothing.
            stats.add_intake(shard.call(|intake, _| intake.counters()).unwrap_or_default());
        }
        stats.queued_rows = self.queues.iter().map(|queue| queue.queued_rows() as u64).sum();
        self.writers.iter().for_each(|writer| stats.add_writer(writer));
        stats
    }

    /// Stops accepting, takes the frames that have been received, and writes what is held, for at most
    /// [`ReporterConfig::drain_timeout`] and a second.
    pub fn stop(self) -> Drained {
        let Self { server, shards, queues, writers, drain_timeout } = self;
        shards.drain(INTAKE_DRAIN_TIMEOUT);
        // Without senders the writers know that nothing more will come.
        drop((server, queues));
        let give_up_at = Instant::now() + drain_timeout + WRITE_PATIENCE;
        let keys_lost = writers.into_iter().map(|writer| writer.wait_for_end(give_up_at)).sum();
        if keys_lost > 0 {
            tracing::error!(keys_lost, "stopped without writing everything: the database did not take it");
        }
        Drained { keys_lost }
    }
}

impl ReporterStats {
    fn add_intake(&mut self, counters: IntakeCounters) {
        self.requests += counters.requests;
        self.results += counters.results;
        self.invalid_results += counters.invalid_results;
        self.ts_corrected += counters.ts_corrected;
        self.busy += counters.busy;
    }

    fn add_writer(&mut self, writer: &WriterThread) {
        let counters = &writer.counters;
        self.pending_keys += counters.pending_keys.load(Ordering::Relaxed);
        self.dropped_at_cap += counters.dropped_at_cap.load(Ordering::Relaxed);
        self.dropped_refused += counters.dropped_refused.load(Ordering::Relaxed);
        self.rows_written += counters.rows_written.load(Ordering::Relaxed);
        self.flushes += counters.flushes.load(Ordering::Relaxed);
        self.flush_failures += counters.flush_failures.load(Ordering::Relaxed);
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
) -> Result<Shards<Intake>, lars_runtime::StartError> {
    let config = ShardsConfig {
        name: "lars-reporter".to_owned(),
        shards: config.shards,
        tcp_driver: config.tcp_driver,
        ..ShardsConfig::default()
    };
    Shards::start(config, move |_| Intake::new(queues.clone()))
}

fn start_writers(config: &ReporterConfig, queues: Vec<RowReceiver>) -> io::Result<Vec<WriterThread>> {
    let outage = Arc::new(Outage::default());
    let start_one = |(index, queue)| {
        let sink = Sink::new(config.store.clone(), Arc::clone(&outage));
        Writer::spawn(index, queue, sink, config.limits_of_each_writer(), config.drain_timeout)
    };
    queues.into_iter().enumerate().map(start_one).collect()
}

/// Runs the reporter until `shutdown` is triggered, then drains it.
///
/// # Errors
/// If it cannot start.
pub fn run(config: ReporterConfig, shutdown: &Shutdown) -> Result<(), StartError> {
    let store = config.store.clone();
    let reporter = Reporter::start(config)?;
    tracing::info!(addr = %reporter.local_addr(), %store, "listening");
    shutdown.wait();
    tracing::info!("stopping");
    let Drained { keys_lost } = reporter.stop();
    tracing::info!(keys_lost, "stopped");
    Ok(())
}
