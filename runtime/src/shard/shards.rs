//! The shards of a process: starting them, reaching them, draining and stopping them.

use std::{
    io, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use glommio::LocalExecutorBuilder;

use crate::{
    glommio_facts::executor,
    glommio_facts::preflight::{self, PreflightError},
    glommio_facts::ticker::{TickReceiver, Ticker},
    shard::context::ShardContext,
    shard::mailbox::ShardHandle,
    shard::mailboxes::{self, Mailboxes},
    shard::placement::{Placement, allowed_cpus},
    shard::run::{self, Plan},
    shard::timer,
    tcp::driver::{Chosen, TcpDriver, TcpDriverError},
};

/// How many shards, where, and their bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardsConfig {
    /// Prefix of the threads' names.
    pub name: String,
    /// How many; 0 means one per CPU that this process may use.
    pub shards: usize,
    /// Where their threads run.
    pub placement: Placement,
    /// What moves the bytes of TCP connections.
    pub tcp_driver: TcpDriver,
    /// Bytes of buffers in the whole process, split evenly over the shards.
    pub pool_bytes_max: u64,
    /// Jobs that may wait in each shard's mailbox.
    pub mailbox_jobs_max: usize,
}

impl Default for ShardsConfig {
    fn default() -> Self {
        Self {
            name: "runtime".into(),
            shards: 0,
            placement: Placement::default(),
            tcp_driver: TcpDriver::default(),
            pool_bytes_max: 5 << 30,
            mailbox_jobs_max: 8_192,
        }
    }
}

/// The shards could not be started; none of them runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel does not let this process use io_uring.
    #[error("{0}")]
    Preflight(#[from] PreflightError),
    /// The kernel lacks what the chosen driver of connections needs.
    #[error(transparent)]
    TcpDriver(#[from] TcpDriverError),
    /// A thread or an executor could not be made.
    #[error("shard {shard}: {source}")]
    Shard {
        /// Which one.
        shard: usize,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    fn of_shard(shard: usize, source: io::Error, shards: usize, driver: Chosen) -> Self {
        match preflight::locked_memory_shortage(&source, shards, driver.locked_bytes()) {
            Some(shortage) => shortage.into(),
            None => Self::Shard { shard, source },
        }
    }
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that had everything served and flushed.
    pub connections_flushed: usize,
    /// Connections cut off at the deadline.
    pub connections_cut: usize,
}

/// The owner of the shards: one thread each, with an executor and a state `S` that is built there and never
/// leaves. Dropping it stops and joins them without waiting for connections; see [`Shards::drain`].
pub struct Shards<S: 'static> {
    handles: Arc<[ShardHandle<S>]>,
    threads: Vec<JoinHandle<()>>,
    ticker: Option<Ticker>,
    /// Stop what brings new connections.
    stop_accepting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    has_timer: AtomicBool,
}

impl<S: 'static> Shards<S> {
    /// Checks the kernel, then starts the threads. `make(i)` runs on shard i.
    ///
    /// # Errors
    /// If the kernel refuses ([`preflight::check`]), or a thread or executor cannot be made.
    pub fn start(
        config: ShardsConfig,
        make: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        preflight::check()?;
        preflight::quiet_membarrier();
        let driver = config.tcp_driver.choose()?;
        let allowed = allowed_cpus();
        let count = if config.shards == 0 { allowed.len().max(1) } else { config.shards };
        let pool_bytes_max = usize::try_from(config.pool_bytes_max).unwrap_or(usize::MAX) / count;
        let (senders, mailboxes): (Vec<_>, Vec<_>) =
            (0..count).map(|_| flume::bounded(config.mailbox_jobs_max.max(1))).unzip();
        let handles: Arc<[_]> =
            senders.into_iter().enumerate().map(|(index, sender)| ShardHandle::new(index, sender)).collect();
        let receivers: Vec<_> = (0..count).map(|_| Arc::new(TickReceiver::default())).collect();
        let (make, (ready, started)) = (Arc::new(make), flume::unbounded());

        let failed = move |shard| move |source| StartError::of_shard(shard, source, count, driver);
        let ticker = Ticker::start(&config.name, receivers.clone()).map_err(failed(0))?;
        let mut shards = Self {
            handles: Arc::clone(&handles),
            threads: Vec::new(),
            ticker: Some(ticker),
            stop_accepting: Mutex::default(),
            has_timer: AtomicBool::new(false),
        };
        for (index, (mailbox, ticks)) in mailboxes.into_iter().zip(receivers).enumerate() {
            let plan = Plan { index, handles: Arc::clone(&handles), mailbox, ticks, pool_bytes_max, driver };
            let (make, ready) = (Arc::clone(&make), ready.clone());
            let ready = move |result: io::Result<()>| {
                // `start` waits for one message per shard; when it has failed it listens no more.
                let _ = ready.send(result.map_err(failed(index)));
            };
            let builder = executor::builder(config.placement.cpu(index, &allowed));
            let name = format!("{}-shard-{index}", config.name);
            let thread = spawn(name, builder, plan, move |i| make(i), ready);
            shards.threads.push(thread.map_err(failed(index))?);
        }
        drop(ready);
        started.iter().collect::<Result<(), _>>()?;
        Ok(shards)
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// The handle of shard `i`.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn shard(&self, i: usize) -> &ShardHandle<S> {
        &self.handles[i]
    }

    /// The handles of all shards, in order.
    #[must_use]
    pub fn handles(&self) -> &[ShardHandle<S>] {
        &self.handles
    }

    /// Calls `tick` on every shard each `period` (1 ms at least), until the shards stop. A tick comes with the
    /// ticker's wake that follows its time, up to 100 ms late.
    pub fn every(&self, period: Duration, tick: fn(&mut S, &mut ShardContext<S>)) {
        if let Some(ticker) = &self.ticker {
            ticker.tick_each(period);
        }
        for shard in self.handles() {
            // A stopped shard has no ticks.
            let _ = shard.install(move |shard| shard.add_tick(period, tick));
        }
    }

    /// Has each shard receive what is sent to it: `receive` is called with each message, in order, many per turn.
    /// What still waits when the shards stop is dropped.
    ///
    /// # Panics
    /// If the mailboxes are not one per shard, or are installed a second time.
    pub fn install_mailboxes<M: Send + 'static>(
        &self,
        mailboxes: &Mailboxes<M>,
        receive: fn(&mut S, &mut ShardContext<S>, M),
    ) {
        let receivers = mailboxes.take_receivers();
        assert_eq!(receivers.len(), self.len(), "a mailbox for each shard");
        for (shard, messages) in self.handles().iter().zip(receivers) {
            // A stopped shard receives nothing.
            let _ = shard.install(move |shard| mailboxes::start(shard, messages, receive));
        }
    }

    /// Drives a state that knows when it next has something to do. After each turn that could have changed it (frames,
    /// datagrams, messages, jobs, ticks, hooks) `poll_timeout` is asked, so that has to be cheap; `handle_timeout` runs
    /// when that time has come, within 1 ms if the shard is idle, until the shards stop.
    ///
    /// # Panics
    /// The second time: a shard has one timer, its state as many deadlines as it likes.
    pub fn install_timer(
        &self,
        poll_timeout: fn(&S) -> Option<Instant>,
        handle_timeout: fn(&mut S, &mut ShardContext<S>),
    ) {
        assert!(!self.has_timer.swap(true, Relaxed), "a shard has one timer");
        for shard in self.handles() {
            // A stopped shard has no deadlines.
            let _ = shard.install(move |shard| timer::start(shard, poll_timeout, handle_timeout));
        }
    }

    /// Ends gracefully: stops accepting, lets each connection finish the frames that were received and flush
    /// its output, for `deadline` at most, then stops the shards and joins them.
    pub fn drain(self, deadline: Duration) -> DrainReport {
        self.drain_with(deadline, |_, _| {})
    }

    /// [`drain`](Self::drain), with `last` to run on each shard when its connections have ended.
    pub fn drain_with(mut self, deadline: Duration, last: fn(&mut S, &mut ShardContext<S>)) -> DrainReport {
        let deadline = Instant::now() + deadline;
        self.stop_accepting();
        let drained: Vec<_> = self
            .handles
            .iter()
            .map(|shard| {
                let (done, drained) = flume::bounded(1);
                shard.install(move |shard| shard.drain(done)).map(|()| drained)
            })
            .collect();
        for drained in drained.into_iter().flatten() {
            // At the deadline the rest is cut by `stop`.
            let _ = drained.recv_deadline(deadline);
        }
        let mut report = DrainReport::default();
        for shard in self.handles() {
            let end = shard.call(move |state, net| {
                last(state, net);
                (net.drained, net.connection_count())
            });
            if let Ok((flushed, cut)) = end {
                report.connections_flushed += flushed;
                report.connections_cut += cut;
            }
        }
        self.stop();
        report
    }

    /// Has `stop` run before the shards drain or stop.
    pub(crate) fn before_drain(&self, stop: impl FnOnce() + Send + 'static) {
        self.stop_accepting.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(stop));
    }

    fn stop_accepting(&self) {
        let accepting = mem::take(&mut *self.stop_accepting.lock().unwrap_or_else(PoisonError::into_inner));
        for stop in accepting {
            stop();
        }
    }

    fn stop(&mut self) {
        self.stop_accepting();
        for shard in self.handles() {
            // One that has stopped already needs no telling.
            let _ = shard.stop();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
        // Last, because a shard may need its wake to end.
        self.ticker = None;
    }
}

impl<S: 'static> Drop for Shards<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a shard's thread, which tells `ready` how that went.
fn spawn<S: 'static>(
    name: String,
    builder: LocalExecutorBuilder,
    plan: Plan<S>,
    make: impl FnOnce(usize) -> S + Send + 'static,
    ready: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(move || match executor::make(builder) {
        Ok(executor) => executor.run(run::run(plan, make, ready)),
        Err(error) => ready(Err(error)),
    })
}
