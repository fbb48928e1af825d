//! The thread that polls the store: it does what the tracker says and hands what changed to the shards.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lars_proto::ModuleId;
use lars_runtime::{LogThrottle, ShardHandle, Stopped};
use lars_service::Shutdown;
use lars_store::{OutageLog, StoreError, StoreUrl};

use super::{
    database::{Database, LoadEnd},
    serve::Shard,
    state::{Newest, store_name},
    stats::DnsCounters,
};
use crate::core::{
    push::{self, Push},
    saved::SavedRoutes,
    shrink_guard::{Hold, HoldEnd, ShrinkRules},
    snapshot::Snapshot,
    tracker::{Event, Reply, Request, Timing, Tracker},
};

/// Changed modules pushed by one job of a shard, so that with many subscribers its other work gets a turn.
const PUSHES_PER_JOB: usize = 16;

/// How often published changes are logged, and how many of their modules by name.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
const MODULES_LOGGED: usize = 5;

/// How often the end of a load is looked for.
const LOAD_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A running polling thread. Dropping it tells the thread to end and does not wait.
pub(super) struct Polling {
    stop: Shutdown,
    audience: flume::Sender<Audience>,
    /// Closed when the thread has ended.
    ended: flume::Receiver<()>,
    pub(super) stats: Arc<DnsCounters>,
    hold: Arc<Mutex<Option<Hold>>>,
}

/// Who hears of changes, and the routes that they have.
pub(super) type Audience = (Vec<ShardHandle<Shard>>, Arc<Snapshot>);

/// The first routes.
pub(super) struct First {
    pub(super) routes: Arc<Snapshot>,
    /// They are not those from before the start.
    pub(super) is_loaded: bool,
}

impl Polling {
    /// Starts the thread. It sends the first routes once, and then waits for [`Polling::serve`].
    pub(super) fn start(
        url: StoreUrl,
        timing: Timing,
        shrink: Option<ShrinkRules>,
        saved: Option<&SavedRoutes>,
        newest: Newest,
    ) -> io::Result<(Self, flume::Receiver<Result<First, StoreError>>)> {
        let (stop, stats) = (Shutdown::new(), Arc::new(DnsCounters::default()));
        let hold = Arc::new(Mutex::new(None));
        let (first_sender, first) = flume::bounded(1);
        let (audience, audience_receiver) = flume::bounded(1);
        let (ending, ended) = flume::bounded::<()>(0);
        let store_name = store_name(&url);
        let tracker = Tracker::new(timing, shrink, fastrand::u64(..), Instant::now());
        let poller = Poller {
            database: Database::new(url),
            tracker: match saved {
                Some(saved) => tracker.resuming(saved),
                None => tracker,
            },
            store_name,
            newest,
            last_saved: saved.cloned(),
            stop: stop.clone(),
            stats: Arc::clone(&stats),
            hold: Arc::clone(&hold),
            failed_polls: OutageLog::default(),
            failed_loads: OutageLog::default(),
            held_loads: OutageLog::default(),
            published_log: LogThrottle::each(LOG_INTERVAL),
            scratch: Vec::new(),
        };
        thread::Builder::new().name("lars-dns-poll".into()).spawn(move || {
            poller.run(&first_sender, &audience_receiver);
            drop(ending);
        })?;
        Ok((Self { stop, audience, ended, stats, hold }, first))
    }

    /// From now on the thread looks for changes and hands them to `audience`.
    pub(super) fn serve(&self, audience: Audience) {
        // A thread that panicked takes nothing; `is_running` tells.
        let _ = self.audience.send(audience);
    }

    /// Whether the thread is there. One that is not there without having been told so has panicked.
    pub(super) fn is_running(&self) -> bool {
        !self.ended.is_disconnected()
    }

    /// What a load took away and is served nevertheless.
    pub(super) fn shrink_hold(&self) -> Option<Hold> {
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the thread to end.
    pub(super) fn tell_to_end(&self) {
        self.stop.trigger();
    }

    /// Waits for the end for `timeout`: a call to the database cannot be interrupted, and the thread ends by
    /// itself after it. Whether it has ended.
    pub(super) fn wait_for_end(self, timeout: Duration) -> bool {
        self.ended.recv_timeout(timeout) == Err(flume::RecvTimeoutError::Disconnected)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.tell_to_end();
    }
}

struct Poller {
    database: Database,
    tracker: Tracker,
    store_name: String,
    newest: Newest,
    last_saved: Option<SavedRoutes>,
    stop: Shutdown,
    stats: Arc<DnsCounters>,
    hold: Arc<Mutex<Option<Hold>>>,
    failed_polls: OutageLog,
    failed_loads: OutageLog,
    held_loads: OutageLog,
    published_log: LogThrottle,
    scratch: Vec<u8>,
}

/// New routes, and the modules to push.
type Publication = (Arc<Snapshot>, Vec<ModuleId>);

impl Poller {
    fn run(mut self, first: &flume::Sender<Result<First, StoreError>>, audience: &flume::Receiver<Audience>) {
        self.count();
        let Some(routes) = self.first_routes() else { return };
        // Nobody waits for them any more if the service was told to end.
        let _ = first.send(routes);
        let Ok((shards, served)) = audience.recv() else { return };
        // Who started with routes from before has them still.
        let snapshot = Arc::clone(self.tracker.snapshot());
        let changed = served.diff(&snapshot);
        if self.publish((snapshot, changed), &shards).is_err() {
            return;
        }
        while !self.stop.is_triggered() {
            // What fails is tried again, and the last routes stay in force.
            if let Ok(Some(publication)) = self.advance()
                && self.publish(publication, &shards).is_err()
            {
                return;
            }
        }
    }

    /// Tries until there are routes, what is configured turns out to be wrong, or the thread is told to end. Routes
    /// from before the start are those if the store does not answer at once.
    fn first_routes(&mut self) -> Option<Result<First, StoreError>> {
        while !self.stop.is_triggered() {
            let advanced = self.advance();
            if self.tracker.has_loaded() || (advanced.is_err() && self.tracker.has_routes()) {
                let snapshot = Arc::clone(self.tracker.snapshot());
                push::cut_routes(&snapshot).for_each(|(module, cut)| self.report_cut(module, cut));
                return Some(Ok(First { routes: snapshot, is_loaded: self.tracker.has_loaded() }));
            }
            match advanced {
                Err(error) if error.is_fatal() => return Some(Err(error)),
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    /// Does the next thing there is to do, or waits for it. Errors are counted and logged here.
    fn advance(&mut self) -> Result<Option<Publication>, StoreError> {
        if let Some(end) = self.database.load_end() {
            return self.take_load(end);
        }
        let now = Instant::now();
        let Some(request) = self.tracker.poll_request(now) else {
            self.wait(self.tracker.poll_timeout().saturating_duration_since(now));
            return Ok(None);
        };
        match self.perform(&request) {
            Ok(reply) => {
                let events = self.tracker.handle_reply(reply, Instant::now());
                Ok(self.take_events(events))
            }
            Err(error) => {
                let now = Instant::now();
                self.tracker.handle_failure(now);
                if let Some(unsaid) = self.failed_polls.failed(error.to_string(), now) {
                    self.log_failure(&error, unsaid);
                }
                Err(error)
            }
        }
    }

    /// Being told to end is looked at by the caller.
    fn wait(&self, pause: Duration) {
        let longest = if self.tracker.is_loading() { LOAD_CHECK_INTERVAL } else { pause };
        let _ = self.stop.wait_timeout(pause.min(longest));
    }

    fn take_load(&mut self, end: LoadEnd) -> Result<Option<Publication>, StoreError> {
        match end {
            LoadEnd::Done(Ok(loaded)) => {
                self.stats.full_reloads.add(1);
                let events = self.tracker.handle_load(loaded, Instant::now());
                let is_used = !events.iter().any(|event| matches!(event, Event::LoadDiscarded { .. }));
                if is_used && self.failed_loads.over() {
                    tracing::info!(store = %self.database.url(), "everything can be loaded again");
                }
                Ok(self.take_events(events))
            }
            LoadEnd::Done(Err(error)) => {
                self.stats.store_errors.add(1);
                let now = Instant::now();
                self.tracker.handle_load_failure(now);
                if let Some(unsaid) = self.failed_loads.failed(error.to_string(), now) {
                    self.log_failure(&error, unsaid);
                }
                Err(error)
            }
            LoadEnd::Panicked => panic!("the loading thread has panicked"),
        }
    }

    /// Rows that are not deleted now are deleted the next time.
    fn perform(&mut self, request: &Request) -> Result<Reply, StoreError> {
        let done = self.database.perform(request, self.tracker.snapshot(), &self.stats);
        let Err(error) = done else { return done };
        self.stats.store_errors.add(1);
        if matches!(request, Request::Prune(_)) {
            tracing::warn!(%error, "cannot delete old rows of RouteChange");
            return Ok(Reply::Pruned);
        }
        Err(error)
    }

    fn take_events(&mut self, events: Vec<Event>) -> Option<Publication> {
        self.count();
        let mut publication = None;
        for event in events {
            match event {
                Event::Publish { snapshot, changed } => publication = Some((snapshot, changed)),
                Event::StoreBack { away_for } => {
                    let _ = self.failed_polls.over();
                    tracing::info!(store = %self.database.url(), ?away_for, "the store is back");
                }
                Event::LoadDiscarded { version, seen } => self.log_discarded(version, seen),
                Event::ShrinkHeld(hold) => self.note_held(hold),
                Event::ShrinkOver { end, hold } => self.note_hold_over(end, hold),
                // Comes with an error, which is logged.
                Event::StoreAway => {}
            }
        }
        publication
    }

    /// An error that ends the start is left to whoever started.
    fn log_failure(&self, error: &StoreError, unsaid: u64) {
        let means = if !self.tracker.has_routes() {
            if error.is_fatal() {
                return;
            }
            "waiting for the store before listening"
        } else if self.tracker.sees_changes() {
            "cannot load everything; changes that are recorded are still pushed"
        } else {
            "no changes are seen for now; the last routes stay in force"
        };
        tracing::warn!(%error, failures_not_logged = unsaid, "{means}");
    }

    /// A server that is behind for a moment is the database's own business; one that stays so is mentioned again.
    fn log_discarded(&mut self, version: Option<u64>, seen: Option<u64>) {
        self.stats.loads_discarded.add(1);
        let reason = "a load came from a server that is behind".to_owned();
        if let Some(unsaid) = self.failed_loads.failed(reason, Instant::now()) {
            let (version, seen) = (version.unwrap_or(0), seen.unwrap_or(0));
            tracing::warn!(
                version,
                seen,
                loads_not_logged = unsaid,
                "a full load is not used: it is behind what was seen"
            );
        }
    }

    /// Once when it begins or begins anew, and in reminders.
    fn note_held(&mut self, hold: Hold) {
        let now = Instant::now();
        let Hold { hosts_lost, hosts_served, since, until } = hold;
        let before = self.hold.lock().unwrap_or_else(PoisonError::into_inner).replace(hold);
        if before.is_none() {
            self.stats.shrinks_held.add(1);
        }
        if let Some(loads_not_logged) = self.held_loads.failed(format!("{since:?}"), now) {
            let takes_effect_in = until.map(|until| until.saturating_duration_since(now));
            tracing::error!(
                hosts_lost,
                hosts_served,
                ?takes_effect_in,
                loads_not_logged,
                "hosts are gone that no row of RouteChange names: they are served nevertheless, until they are back, \
                 or `lars route accept` says that it is meant so"
            );
        }
    }

    fn note_hold_over(&mut self, end: HoldEnd, hold: Option<Hold>) {
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.held_loads.over();
        let hosts_lost = hold.map(|hold| hold.hosts_lost);
        match end {
            HoldEnd::RowsBack => tracing::info!(hosts_lost, "hosts that were gone are back"),
            HoldEnd::Accepted(accepted) => {
                self.stats.shrinks_accepted.add(1);
                tracing::warn!(hosts_lost, hosts = accepted.hosts, "the routes were accepted as they are");
            }
            HoldEnd::TimeOver => {
                self.stats.shrinks_timed_out.add(1);
                tracing::error!(hosts_lost, "hosts did not come back in time: they are not served any more");
            }
        }
    }

    fn count(&mut self) {
        if self.tracker.has_routes() {
            self.newest.offer(&mut self.last_saved, &self.tracker, &self.store_name);
        }
        self.stats.serves_saved.set((self.tracker.has_routes() && !self.tracker.has_loaded()).into());
        let hold = self.tracker.shrink_hold();
        self.stats.hosts_held.set(hold.map_or(0, |hold| hold.hosts_lost as u64));
        let snapshot = self.tracker.snapshot();
        self.stats.modules.set(snapshot.module_count() as u64);
        self.stats.hosts.set(snapshot.host_count() as u64);
        self.stats.version.set(self.tracker.version().unwrap_or(0));
    }

    /// Every shard first gets the routes and then the pushes made from them, in this order, so that no
    /// subscriber ever hears an older state after a newer one.
    fn publish(
        &mut self,
        (snapshot, changed): Publication,
        shards: &[ShardHandle<Shard>],
    ) -> Result<(), Stopped> {
        self.log_published(&changed);
        let is_loaded = self.tracker.has_loaded();
        for shard in shards {
            let snapshot = Arc::clone(&snapshot);
            shard.submit(move |shard, _| shard.replace(snapshot, is_loaded))?;
        }
        for modules in changed.chunks(PUSHES_PER_JOB) {
            let pushes: Arc<[Push]> = modules.iter().map(|&module| self.encode(&snapshot, module)).collect();
            for shard in shards {
                let pushes = Arc::clone(&pushes);
                shard.submit(move |shard, net| shard.push(net, &pushes))?;
            }
        }
        Ok(())
    }

    /// A snapshot without changes is only laid out anew.
    fn log_published(&mut self, changed: &[ModuleId]) {
        if changed.is_empty() {
            return;
        }
        if let Some(not_logged) = self.published_log.due(Instant::now()) {
            let first: Vec<_> = changed.iter().take(MODULES_LOGGED).map(ModuleId::to_string).collect();
            tracing::info!(modules = changed.len(), first = first.join(" "), not_logged, "changes published");
        }
    }

    fn encode(&mut self, snapshot: &Snapshot, module: ModuleId) -> Push {
        let push = Push::encode(module, snapshot.hosts(module), &mut self.scratch);
        if push.hosts_cut > 0 {
            self.report_cut(module, push.hosts_cut);
        }
        push
    }

    fn report_cut(&self, module: ModuleId, hosts_cut: usize) {
        self.stats.truncated_routes.add(1);
        tracing::warn!(%module, hosts_cut, "the module has more hosts than fit a response");
    }
}
