//! Keeping up with SQL: what to read next, and what has changed.
//!
//! The caller does what [`Tracker::poll_request`] says, tells with [`Tracker::handle_reply`] or [`Tracker::handle_failure`] what
//! came of it, and passes on the [`Event`]s. A full load takes as long as the table is large, so it is only
//! begun by a request and goes on beside the others; [`Tracker::handle_load`] or [`Tracker::handle_load_failure`] is its end.
//! The rules:
//!
//! * Each `poll_interval`: read the version and the rows of `RouteChange`; read the modules these name again.
//! * Everything is loaded and compared each `full_reload_interval`; and at once if the version moved without
//!   a row to say why, if there are very many changes, if the log of changes is not the one it was, and
//!   after a failure. That finds what was changed without a row, with a version already seen, or whose row
//!   was deleted by another server.
//! * A module that was read while a load went on stays as it was read: the load may have seen it earlier.
//! * Where the database is several servers, a load may come from one that is behind. One that is older than the
//!   position at which it began is not used, and a module that was read lately stays as it was read unless the
//!   load has seen as much.
//! * A load that lost very many hosts is held by the [`super::shrink_guard`]: modules that lost some stay as they are,
//!   unless a row of `RouteChange` names them that was not dealt with when the load began.
//! * A module whose hosts are the same as before has not changed.
//! * Polls and loads fail each by themselves: changes are seen while loads fail, unless only a load can tell
//!   what there was before them.
//! * What a poll has found counts when it was dealt with: a poll that fails in between finds it again.
//! * Rows are deleted only by age and rarely, because other servers read them too.

mod load;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use lars_proto::{HostAddr, ModuleId};
use lars_runtime::Backoff;
use lars_store::{RouteAcceptance, RouteChange, RoutePosition};

use super::{
    change_log::ChangeLog,
    saved::SavedRoutes,
    shrink_guard::{Hold, HoldEnd, ShrinkGuard, ShrinkRules},
    snapshot::Snapshot,
};

/// Rows of `RouteChange` asked for at a time. As many in an answer mean that there may be more, and then
/// one full reload is cheaper than finding out.
pub const CHANGES_READ_MAX: usize = 4_096;

/// Changed modules that are read one by one; for more, everything is loaded.
pub const MODULES_READ_MAX: usize = 1_000;

/// Time from the end of one full reload to the next, at least, whatever the reason for it. A
/// `full_reload_interval` that is shorter takes precedence.
const RELOAD_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two tries while polls or loads fail.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often things are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Pause between two looks at the version and the changes.
    pub poll_interval: Duration,
    /// Pause between two comparisons with everything.
    pub full_reload_interval: Duration,
    /// Rows of `RouteChange` older than this are deleted.
    pub prune_age: Duration,
    /// Pause between two deletions, on average; many servers do not delete at the same moment.
    pub prune_interval: Duration,
}

/// What to read or do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the version, and the newest id of `RouteChange`: [`Reply::Position`].
    ReadPosition,
    /// Read at most [`CHANGES_READ_MAX`] rows of `RouteChange` behind this id, ascending: [`Reply::Changes`].
    ReadChanges {
        /// The last id not wanted.
        after_id: u64,
    },
    /// Read the hosts of these modules: [`Reply::Hosts`].
    ReadHosts(Vec<ModuleId>),
    /// Begin to load all routes, and go on: [`Reply::LoadBegun`] now, [`Tracker::handle_load`] when it is done.
    BeginLoad {
        /// The load also says which modules are named by rows of `RouteChange` behind this id.
        names_after_id: u64,
    },
    /// Delete rows of `RouteChange` that are older than this: [`Reply::Pruned`], whether or not it worked.
    Prune(Duration),
}

/// What a full load has seen, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadedRoutes {
    /// The routes.
    pub snapshot: Snapshot,
    /// How far the database was.
    pub position: RoutePosition,
    /// Of the modules that are served, those that the rows of `RouteChange` name that were asked for.
    pub named: BTreeSet<ModuleId>,
    /// The newest acceptance.
    pub accepted: Option<RouteAcceptance>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Reply {
    /// Of [`Request::ReadPosition`].
    Position(RoutePosition),
    /// Of [`Request::ReadChanges`].
    Changes(Vec<RouteChange>),
    /// Of [`Request::ReadHosts`]: every module asked for.
    Hosts(BTreeMap<ModuleId, Vec<HostAddr>>),
    /// Of [`Request::BeginLoad`].
    LoadBegun,
    /// Of [`Request::Prune`].
    Pruned,
}

/// What the rest of the service must know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Reply from this snapshot from now on, and push these modules. The first snapshot comes without any,
    /// because nobody can have asked yet.
    Publish {
        /// The routes as they are now.
        snapshot: Arc<Snapshot>,
        /// The modules whose hosts changed.
        changed: Vec<ModuleId>,
    },
    /// From now on no changes are seen. What was published last stays in force.
    StoreAway,
    /// A load was not used, because the database that it came from is behind what was seen. It counts as one that
    /// failed.
    LoadDiscarded {
        /// How far that database is.
        version: Option<u64>,
        /// How far it must be.
        seen: Option<u64>,
    },
    /// A load is not in force as far as it takes hosts away. Comes with each such load.
    ShrinkHeld(Hold),
    /// What was held is over.
    ShrinkOver {
        /// Why.
        end: HoldEnd,
        /// What it was.
        hold: Option<Hold>,
    },
    /// Changes are seen again.
    StoreBack {
        /// Time since [`Event::StoreAway`].
        away_for: Duration,
    },
}

/// The state of keeping up.
#[derive(Debug)]
pub struct Tracker {
    timing: Timing,
    jitter: fastrand::Rng,
    current: Arc<Snapshot>,
    version: Option<u64>,
    /// What this poll has read.
    version_read: Option<u64>,
    changes_read: Vec<RouteChange>,
    /// Modules that were read for themselves since the last load began, and for `full_reload_interval` before that.
    reads: BTreeMap<ModuleId, Read>,
    log: ChangeLog,
    /// What the rows of `RouteChange` up to here name was read for itself, or came with a load.
    dealt_with_id: u64,
    guard: ShrinkGuard,
    /// What is being done; `None` between two polls.
    doing: Option<Request>,
    poll_started_at: Instant,
    next_poll_at: Instant,
    next_prune_at: Instant,
    loaded_at: Option<Instant>,
    /// The routes are from before the start.
    resumed: bool,
    /// Loads that failed since the last one that did not, and when the next may begin.
    load_failures: u32,
    load_retry_at: Instant,
    /// The load that goes on.
    load: Option<Load>,
    /// There is a reason to load everything as soon as that may be.
    reload_wanted: bool,
    place: Place,
    away: Option<Away>,
}

/// What is known about what lies before the place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Everything before it is dealt with.
    Known,
    /// There is none, or what lies behind it is too much: start, very many changes. Only a full load helps, begun
    /// at a new place.
    Lost,
    /// The load that goes on began behind it and brings what lies before it.
    Restoring,
}

/// A load that goes on.
#[derive(Debug)]
struct Load {
    /// The version when it began.
    version: Option<u64>,
}

/// A module that was read.
#[derive(Clone, Copy, Debug)]
struct Read {
    at: Instant,
    /// A database that is not behind this has seen the change that the module was read for.
    position: RoutePosition,
    /// The load that goes on began before.
    during_load: bool,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    poll_failures: u32,
}

impl Tracker {
    /// Begins with nothing, and with loading everything. `seed` is for the jitter of pauses.
    #[must_use]
    pub fn new(timing: Timing, shrink: Option<ShrinkRules>, seed: u64, now: Instant) -> Self {
        let mut jitter = fastrand::Rng::with_seed(seed);
        let next_prune_at = now + prune_pause(&timing, &mut jitter);
        Self {
            timing,
            jitter,
            current: Arc::default(),
            version: None,
            version_read: None,
            changes_read: Vec::new(),
            reads: BTreeMap::new(),
            log: ChangeLog::default(),
            dealt_with_id: 0,
            guard: ShrinkGuard::new(shrink),
            doing: None,
            poll_started_at: now,
            next_poll_at: now,
            next_prune_at,
            loaded_at: None,
            resumed: false,
            load_failures: 0,
            load_retry_at: now,
            load: None,
            reload_wanted: true,
            place: Place::Lost,
            away: None,
        }
    }

    /// Goes on from `saved`, whatever has happened in the meantime: what was recorded since is read like any change,
    /// what is loaded is compared with it.
    #[must_use]
    pub fn resuming(mut self, saved: &SavedRoutes) -> Self {
        self.current = Arc::new(saved.snapshot.clone());
        self.version = saved.position.version;
        self.log = ChangeLog::behind(saved.position.newest_change_id);
        self.dealt_with_id = saved.position.newest_change_id;
        self.guard.resume(saved.spent_acceptance_id);
        (self.place, self.resumed) = (Place::Known, true);
        self
    }

    /// What to save of it, for a database of this name.
    #[must_use]
    pub fn to_save(&self, store: &str) -> SavedRoutes {
        SavedRoutes {
            store: store.to_owned(),
            snapshot: Snapshot::clone(&self.current),
            position: RoutePosition { version: self.version, newest_change_id: self.dealt_with_id },
            spent_acceptance_id: self.guard.spent_id(),
        }
    }

    /// Whether everything was loaded since the start. Routes from before it say of no module that it has no hosts.
    #[must_use]
    pub fn has_loaded(&self) -> bool {
        self.loaded_at.is_some()
    }

    /// The routes as they were last seen.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Whether there is something to serve: everything was loaded once, or there are routes from before the start.
    #[must_use]
    pub fn has_routes(&self) -> bool {
        self.loaded_at.is_some() || self.resumed
    }

    /// The version that was last seen.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Whether changes are found as they are recorded: between [`Event::StoreAway`] and [`Event::StoreBack`] they
    /// are not.
    #[must_use]
    pub fn sees_changes(&self) -> bool {
        self.away.is_none()
    }

    /// What a load took away and is served nevertheless, if there is such a thing.
    #[must_use]
    pub fn shrink_hold(&self) -> Option<Hold> {
        self.guard.hold()
    }

    /// Whether a load goes on, whose end is to be told.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.load.is_some()
    }

    /// What is to be done at `now`; the same until there is a reply to it. If it is nothing, ask again at
    /// [`Tracker::poll_timeout`].
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if self.doing.is_none() {
            self.doing = self.begin(now);
        }
        self.doing.clone()
    }

    /// When there will be something to do, if there is nothing before.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        match self.away {
            Some(_) => self.next_poll_at,
            None => self.next_poll_at.min(self.next_prune_at),
        }
    }

    /// While the store is away nothing is pruned. Otherwise that goes first, or polls that take long would
    /// leave no time for it. Before there are any routes, a change to them means nothing.
    fn begin(&mut self, now: Instant) -> Option<Request> {
        if self.is_loading() && !self.has_routes() {
            self.next_poll_at = self.next_poll_at.max(now + self.timing.poll_interval);
            return None;
        }
        if self.away.is_none() && now >= self.next_prune_at {
            return Some(Request::Prune(self.timing.prune_age));
        }
        (now >= self.next_poll_at).then(|| {
            self.poll_started_at = now;
            Request::ReadPosition
        })
    }

    /// Takes what came of the request.
    pub fn handle_reply(&mut self, reply: Reply, now: Instant) -> Vec<Event> {
        self.doing = None;
        match reply {
            Reply::Position(position) => {
                self.version_read = position.version;
                self.find_place(position.newest_change_id, now);
                Vec::new()
            }
            Reply::Changes(changes) => self.take_changes(changes, now),
            Reply::Hosts(hosts) => self.take_hosts(hosts, now),
            Reply::LoadBegun => {
                self.load = Some(Load { version: self.version });
                let interval = self.timing.full_reload_interval;
                self.reads.retain(|_, read| {
                    read.during_load = false;
                    now.duration_since(read.at) < interval
                });
                if self.place == Place::Lost {
                    self.place = Place::Restoring;
                }
                self.end_poll(now)
            }
            Reply::Pruned => {
                self.next_prune_at = now + prune_pause(&self.timing, &mut self.jitter);
                Vec::new()
            }
        }
    }

    /// The request failed. What was found by the poll before it is found again by the next. What happens until then
    /// may leave no trace, so everything is loaded, too.
    pub fn handle_failure(&mut self, now: Instant) -> Option<Event> {
        self.doing = None;
        self.changes_read.clear();
        self.reload_wanted = true;
        let event = self.gone(now);
        let failures = self.away.map_or(0, |away| away.poll_failures);
        let pauses = Backoff { base: self.timing.poll_interval, max: RETRY_PAUSE_MAX };
        self.next_poll_at = now + self.retry_pause(pauses, failures);
        if let Some(away) = &mut self.away {
            away.poll_failures = away.poll_failures.saturating_add(1);
        }
        event
    }

    /// No changes are seen from now on, if it was not so before.
    fn gone(&mut self, now: Instant) -> Option<Event> {
        if self.away.is_some() {
            return None;
        }
        self.away = Some(Away { since: now, poll_failures: 0 });
        Some(Event::StoreAway)
    }

    /// From half of the bound up: what failed just now is not tried again at once.
    fn retry_pause(&mut self, pauses: Backoff, failures: u32) -> Duration {
        pauses.next(failures, 0.5 + 0.5 * self.jitter.f64())
    }

    /// Where in the log to read. Without a place in it, a full reload is what helps, so that is waited for.
    fn find_place(&mut self, newest_change_id: u64, now: Instant) {
        let place_lost = self.place == Place::Lost;
        if place_lost && !self.may_reload(now) {
            self.next_poll_at = self.reload_allowed_at(now);
            return;
        }
        let went_back = newest_change_id < self.log.newest();
        if place_lost || went_back {
            self.log = ChangeLog::starting_at(newest_change_id);
        }
        if went_back {
            self.dealt_with_id = self.log.read_after();
        }
        // An empty log is no news: old servers delete what they have read. One that is shorter but not empty
        // was truncated and written anew, or restored.
        if went_back && newest_change_id > 0 {
            self.reload_wanted = true;
            self.forget_reads();
        }
        self.doing = Some(Request::ReadChanges { after_id: self.log.read_after() });
    }

    fn take_changes(&mut self, changes: Vec<RouteChange>, now: Instant) -> Vec<Event> {
        let version_moved = self.version_read != self.version;
        // A row that is not fresh explains a version, too: the version may have been read just before both
        // were written, or be written after its row, as may the hosts be. So these are read again.
        let explains = |change: &RouteChange| {
            self.log.is_fresh(change) || (version_moved && Some(change.version) == self.version_read)
        };
        let to_read: BTreeSet<ModuleId> =
            changes.iter().filter(|change| explains(change)).map(|change| change.module).collect();
        let too_many = changes.len() >= CHANGES_READ_MAX || to_read.len() > MODULES_READ_MAX;
        if self.place != Place::Lost && too_many {
            self.lose_place();
            self.next_poll_at = self.reload_allowed_at(now);
            return Vec::new();
        }
        if is_behind(self.version_read, self.version) {
            self.forget_reads();
        }
        self.reload_wanted |= (version_moved && to_read.is_empty()) || self.reload_is_due(now);
        self.changes_read = changes;
        if self.place == Place::Lost || to_read.is_empty() {
            return self.load_or_end_poll(now);
        }
        self.doing = Some(Request::ReadHosts(to_read.into_iter().collect()));
        Vec::new()
    }

    fn take_hosts(&mut self, hosts: BTreeMap<ModuleId, Vec<HostAddr>>, now: Instant) -> Vec<Event> {
        self.note_reads(hosts.keys().copied(), now);
        let (snapshot, changed) = self.current.apply(hosts);
        let published = (!changed.is_empty()).then(|| self.publish(snapshot, changed));
        published.into_iter().chain(self.load_or_end_poll(now)).collect()
    }

    /// The database went back: what was read before that stands in the way of no load that begins from now on.
    fn forget_reads(&mut self) {
        self.reads.retain(|_, read| read.during_load);
    }

    fn note_reads(&mut self, modules: impl Iterator<Item = ModuleId>, now: Instant) {
        let mut newest_change = BTreeMap::new();
        for change in &self.changes_read {
            let id = newest_change.entry(change.module).or_insert(change.id);
            *id = change.id.max(*id);
        }
        let during_load = self.is_loading();
        for module in modules {
            let newest_change_id = newest_change.get(&module).copied().unwrap_or(0);
            let position = RoutePosition { version: self.version_read, newest_change_id };
            self.reads.insert(module, Read { at: now, position, during_load });
        }
    }

    /// Every change that was found is dealt with. The last step of a poll begins a load, if one is wanted.
    fn load_or_end_poll(&mut self, now: Instant) -> Vec<Event> {
        self.version = self.version_read;
        self.log.handle(&std::mem::take(&mut self.changes_read), now);
        if self.place == Place::Known {
            self.dealt_with_id = self.log.newest();
        }
        if !self.reload_wanted || !self.may_reload(now) {
            return self.end_poll(now);
        }
        self.reload_wanted = false;
        self.doing = Some(Request::BeginLoad { names_after_id: self.dealt_with_id });
        Vec::new()
    }

    fn publish(&mut self, snapshot: Snapshot, changed: Vec<ModuleId>) -> Event {
        self.current = Arc::new(snapshot);
        Event::Publish { snapshot: Arc::clone(&self.current), changed }
    }

    fn end_poll(&mut self, now: Instant) -> Vec<Event> {
        self.next_poll_at = now.max(self.poll_started_at + self.timing.poll_interval);
        self.back(now).into_iter().collect()
    }

    /// The end of having been away, if this is it: steps succeed, and nothing is missed.
    fn back(&mut self, now: Instant) -> Option<Event> {
        let away = self.away.take_if(|_| self.place == Place::Known)?;
        Some(Event::StoreBack { away_for: now.duration_since(away.since) })
    }

    fn lose_place(&mut self) {
        self.place = Place::Lost;
        self.reload_wanted = true;
    }

    fn reload_is_due(&self, now: Instant) -> bool {
        let is_over = self.guard.hold().and_then(|hold| hold.until).is_some_and(|until| now >= until);
        let is_due = |at| now >= at + self.timing.full_reload_interval || is_over;
        !self.is_loading() && self.loaded_at.is_none_or(is_due)
    }

    fn may_reload(&self, now: Instant) -> bool {
        self.reload_allowed_at(now) <= now
    }

    /// One load goes on at a time; its end is not known, so it is looked for with each poll.
    fn reload_allowed_at(&self, now: Instant) -> Instant {
        if self.is_loading() {
            return now + self.timing.poll_interval;
        }
        self.loaded_at.map_or(now, |at| at + self.reload_pause_min()).max(self.load_retry_at)
    }

    fn reload_pause_min(&self) -> Duration {
        RELOAD_PAUSE_MIN.min(self.timing.full_reload_interval)
    }
}

/// Where one of them cannot be read, nobody can tell.
fn is_behind(version: Option<u64>, other: Option<u64>) -> bool {
    version.zip(other).is_some_and(|(version, other)| version < other)
}

/// From three to five quarters of the interval.
fn prune_pause(timing: &Timing, jitter: &mut fastrand::Rng) -> Duration {
    timing.prune_interval.mul_f64(0.75 + 0.5 * jitter.f64())
}

#[cfg(test)]
mod tests;
