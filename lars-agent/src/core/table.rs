//! One shard's modules: their routes, their hosts, and what is known of them.
//!
//! A shard owns the modules whose ids lead to it, and nobody else touches them. The table answers lookups
//! from memory alone and notes what it wants: which routes it is interested in comes out of
//! [`Table::poll_interest`], call counts for the reporter out of [`Table::poll_statistics`].
//!
//! A module is either *without hosts* (not learned yet, or known to be empty) or *with hosts*, in which
//! case a balancer has them. One moment per module, `ask_at`, says from when on a lookup asks lars-dns:
//! at once for a new module, [`ASK_AGAIN_INTERVAL`] after a question (answers get lost), `update_timeout`
//! after an answer. So no module stays without an answer for ever, and none is asked for at every lookup. While
//! lars-dns knows digests, modules that it has answered are not asked for at all: a digest finds what is not current.
//!
//! Anybody on the machine can look up modules that nobody serves. When they fill the table, the one among them that
//! nobody has looked up for longest makes room for a new one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use lars_proto::{Endpoint, HostAddr, ModuleId};
use slab::Slab;

use super::{
    balancer::{
        Balancer, BalancerParams, Census, Change, Effects, HostStatus, Outcome, Pick,
        linked_order::{Linked, LinkedOrder, Links},
    },
    statistics::{Queued, Schedule},
    time::Moment,
};
use crate::stats::TableStats;

mod doubts;
mod saved;
mod statistics;

use doubts::Doubts;

/// After so long without an answer a lookup asks lars-dns again.
pub const ASK_AGAIN_INTERVAL: Duration = Duration::from_secs(2);
/// A module without hosts that nobody has asked for in this time is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Interests that wait in the table. When so many wait, a lookup is answered without asking lars-dns; the next
/// one tries again.
pub const INTERESTS_MAX: usize = 16_384;
/// Modules without hosts that are looked at for one to make room. Those that the schedule still holds stay.
const EVICTION_TRIES: usize = 8;
/// Changes of hosts that wait to be told to people. Beyond, they are counted only.
const CHANGES_MAX: usize = 64;
/// The least time between two notes that the table is full.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// Each sweep visits one part in so many of the modules …
const SWEEP_PARTS: usize = 8;
/// … at this interval, so that all are visited within a second and none of the visits is long.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// With more modules than this the invariants are not checked after each call, even in debug builds.
const CHECKED_MODULES_MAX: usize = 64;

/// What a table is built with.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// What the modules' balancers go by.
    pub balancer: Arc<BalancerParams>,
    /// The most modules a table knows: garbage must not exhaust memory. Beyond, a new module takes the place of one
    /// without hosts; if all have hosts, it is answered with [`Answer::NotFound`] and not remembered.
    pub modules_max: usize,
    /// How long an answer of lars-dns counts as current, if it knows no digests; and the time between two of those.
    pub update_timeout: Duration,
    /// For how long an empty route of a module with hosts is kept back that lars-dns does not say to be meant.
    pub empty_hold: Duration,
    /// The least time between two status reports of a module whose hosts do not change state.
    pub report_interval: Duration,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            balancer: Arc::default(),
            modules_max: 1_000_000,
            update_timeout: Duration::from_secs(15),
            empty_hold: Duration::from_secs(30),
            report_interval: Duration::from_secs(1),
        }
    }
}

/// The answer to a lookup of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Host(HostAddr),
    /// All hosts are overloaded and it is not a probe's turn.
    Overloaded,
    /// The module is unknown or has no hosts.
    NotFound,
}

/// Which routes a table is interested in, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Ask for this module's route.
    Want(ModuleId),
    /// Nobody looks this module up any more.
    Forget(ModuleId),
}

struct Module {
    id: ModuleId,
    /// From when on a lookup asks lars-dns.
    ask_at: Moment,
    /// The last lookup that found no hosts, and its place among the others of that kind.
    missed_at: Moment,
    misses: Links,
    /// lars-dns has said who serves it, if anybody does, if not to this agent then to the one before.
    is_learned: bool,
    /// It has said so to this agent.
    is_confirmed: bool,
    queued: Queued,
    /// None while there are no hosts, which keeps modules learned from garbage small.
    balancer: Option<Box<Balancer>>,
}

impl Module {
    /// Has lars-dns asked for the route, if it is time to.
    fn ask(&mut self, interests: &mut VecDeque<Interest>, config: &TableConfig, now: Moment) {
        let wait_max = config.update_timeout.max(ASK_AGAIN_INTERVAL);
        if now.is_due(self.ask_at, wait_max) && interests.len() < INTERESTS_MAX {
            self.ask_at = now + ASK_AGAIN_INTERVAL;
            interests.push_back(Interest::Want(self.id));
        }
    }

    /// Differs after the hosts, or the state of one, have changed.
    fn version(&self) -> Option<u64> {
        self.balancer.as_ref().map(|balancer| balancer.version())
    }

    fn census(&self) -> Census {
        self.balancer.as_ref().map(|balancer| balancer.census()).unwrap_or_default()
    }
}

impl Linked for Module {
    fn links(&self, _: usize) -> &Links {
        &self.misses
    }

    fn links_mut(&mut self, _: usize) -> &mut Links {
        &mut self.misses
    }
}

/// One shard's modules.
pub struct Table {
    config: TableConfig,
    modules: Slab<Module>,
    by_id: HashMap<ModuleId, usize, RandomState>,
    /// The modules without hosts, the longest-missed first.
    misses: LinkedOrder<0>,
    interests: VecDeque<Interest>,
    doubts: Doubts,
    has_digests: bool,
    /// When it was last noted that the table is full, and whether somebody should be told.
    full_at: Option<Moment>,
    is_full_news: bool,
    /// What balancers did that people should know of.
    changes: VecDeque<(ModuleId, Change)>,
    schedule: Schedule,
    /// Grows whenever a route is put into force or a host changes its state.
    version: u64,
    /// Where the next sweep goes on, as a slab key, and when.
    sweep_from: usize,
    sweep_at: Moment,
    /// One above the highest slab key used so far.
    keys_end: usize,
    stats: TableStats,
}

impl Table {
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        let schedule = Schedule::new(config.report_interval);
        let doubts = Doubts::new(config.empty_hold);
        Self {
            config,
            modules: Slab::new(),
            by_id: HashMap::default(),
            misses: LinkedOrder::default(),
            interests: VecDeque::new(),
            doubts,
            has_digests: false,
            full_at: None,
            is_full_news: false,
            changes: VecDeque::new(),
            schedule,
            version: 0,
            sweep_from: 0,
            sweep_at: Moment::ORIGIN,
            keys_end: 0,
            stats: TableStats::default(),
        }
    }

    /// The host for the next call of `module`.
    pub fn get_host(&mut self, module: ModuleId, now: Moment) -> Answer {
        self.get_host_if_learned(module, now).unwrap_or_else(|| self.missed_host())
    }

    /// Likewise, for a client that may wait: `None` if the module is not learned, and then nothing is counted.
    pub fn get_host_if_learned(&mut self, module: ModuleId, now: Moment) -> Option<Answer> {
        let mut effects = Effects::default();
        let key = self.look_up(module, now);
        let pick = match key.and_then(|key| self.modules[key].balancer.as_mut()) {
            Some(balancer) => balancer.pick(now, &mut effects),
            None => Pick::NoHosts,
        };
        if let Some(key) = key {
            self.note(key, effects, now);
        }
        let (counter, answer) = match pick {
            Pick::Host(host) => (&mut self.stats.lookups_ok, Answer::Host(host)),
            Pick::Overloaded => (&mut self.stats.lookups_overload, Answer::Overloaded),
            Pick::NoHosts if key.is_some_and(|key| self.modules[key].is_learned) => {
                (&mut self.stats.lookups_noexist, Answer::NotFound)
            }
            Pick::NoHosts => return None,
        };
        *counter += 1;
        self.check_invariants();
        Some(answer)
    }

    /// The answer to a lookup of a host whose module is not learned.
    pub fn missed_host(&mut self) -> Answer {
        self.stats.lookups_noexist += 1;
        Answer::NotFound
    }

    /// Appends all hosts of `module` to `hosts`: none if it is unknown or has none.
    pub fn get_route(&mut self, module: ModuleId, now: Moment, hosts: &mut Vec<HostAddr>) {
        if !self.get_route_if_learned(module, now, hosts) {
            self.missed_route();
        }
    }

    /// Likewise, for a client that may wait: false if the module is not learned, and then nothing is counted.
    pub fn get_route_if_learned(&mut self, module: ModuleId, now: Moment, hosts: &mut Vec<HostAddr>) -> bool {
        let key = self.look_up(module, now);
        let is_learned = key.is_some_and(|key| self.modules[key].is_learned);
        if is_learned {
            self.stats.route_lookups += 1;
            self.each_host(module, &mut |status| hosts.push(status.host));
        }
        self.check_invariants();
        is_learned
    }

    /// A lookup of a whole route whose module is not learned is answered.
    pub fn missed_route(&mut self) {
        self.stats.route_lookups += 1;
    }

    /// Whether lars-dns has said who serves `module`, if anybody does.
    #[must_use]
    pub fn is_learned(&self, module: ModuleId) -> bool {
        self.by_id.get(&module).is_some_and(|&key| self.modules[key].is_learned)
    }

    /// Whether lars-dns is expected to say so.
    #[must_use]
    pub fn is_awaited(&self, module: ModuleId) -> bool {
        self.by_id.get(&module).is_some_and(|&key| !self.modules[key].is_learned)
    }

    /// Learns how a call went.
    pub fn report(&mut self, module: ModuleId, host: HostAddr, outcome: Outcome, now: Moment) {
        let mut effects = Effects::default();
        let key = self.by_id.get(&module).copied();
        let known = key
            .and_then(|key| self.modules[key].balancer.as_mut())
            .is_some_and(|balancer| balancer.report(host, outcome, now, &mut effects));
        if known {
            self.stats.reports += 1;
        } else {
            self.stats.reports_unknown += 1;
        }
        if let Some(key) = key {
            self.note(key, effects, now);
        }
        self.check_invariants();
    }

    /// Puts `route` into force as the route of `module`.
    pub fn route_update(&mut self, module: ModuleId, route: &[Endpoint], now: Moment) {
        let Some(&key) = self.by_id.get(&module) else {
            self.stats.updates_unknown += 1;
            return;
        };
        self.stats.updates += 1;
        let module = &mut self.modules[key];
        module.ask_at = now + self.config.update_timeout;
        self.stats.unconfirmed -= u64::from(module.is_learned && !module.is_confirmed);
        (module.is_learned, module.is_confirmed) = (true, true);
        let (before, version) = (module.census(), module.version());
        if route.is_empty() {
            if module.balancer.take().is_some() {
                module.missed_at = now;
                self.misses.push_back(&mut self.modules, key as u32);
            }
        } else {
            if module.balancer.is_none() {
                self.misses.remove(&mut self.modules, key as u32);
            }
            let (params, mut effects) = (&self.config.balancer, Effects::default());
            let balancer =
                self.modules[key].balancer.get_or_insert_with(|| Box::new(Balancer::new(Arc::clone(params))));
            balancer.update(route, now, &mut effects);
            self.note(key, effects, now);
        }
        let after = self.modules[key].census();
        self.version += u64::from(self.modules[key].version() != version);
        self.stats.hosts_idle = self.stats.hosts_idle + after.idle as u64 - before.idle as u64;
        self.stats.hosts_overloaded =
            self.stats.hosts_overloaded + after.overloaded as u64 - before.overloaded as u64;
        self.check_invariants();
    }

    /// Whether digests find out what is not current, so that lookups need not.
    pub fn set_has_digests(&mut self, has_digests: bool) {
        self.has_digests = has_digests;
    }

    /// Whether [`Table::poll_interest`] or [`Table::poll_change`] has something to give.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.interests.is_empty() || !self.changes.is_empty()
    }

    /// The next ejection or recovery of a host, or what else its balancer did.
    pub fn poll_change(&mut self) -> Option<(ModuleId, Change)> {
        self.changes.pop_front()
    }

    /// The next interest, in the order in which they came about.
    pub fn poll_interest(&mut self) -> Option<Interest> {
        self.interests.pop_front()
    }

    /// Whether the table has been full since this was asked last; true once in a while at most.
    pub fn poll_full(&mut self) -> bool {
        std::mem::take(&mut self.is_full_news)
    }

    /// When [`Table::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        (!self.modules.is_empty()).then_some(self.sweep_at)
    }

    /// Sweeps a part of the modules, if it is time: closes windows that nobody's lookup or report closed,
    /// and forgets modules that nobody wants.
    pub fn handle_timeout(&mut self, now: Moment) {
        if !now.is_due(self.sweep_at, SWEEP_INTERVAL) {
            return;
        }
        self.sweep_at = now + SWEEP_INTERVAL;
        let end = self.keys_end.min(self.sweep_from + self.keys_end.div_ceil(SWEEP_PARTS));
        for key in self.sweep_from..end {
            self.sweep(key, now);
        }
        self.sweep_from = if end == self.keys_end { 0 } else { end };
        self.check_invariants();
    }

    #[must_use]
    pub fn stats(&self) -> TableStats {
        TableStats { in_doubt: self.doubts.len() as u64, ..self.stats }
    }

    /// Visits every host of `module`, the idle ones first, in the order in which they will be picked.
    pub fn each_host(&self, module: ModuleId, visit: &mut dyn FnMut(HostStatus)) {
        let found = self.by_id.get(&module).and_then(|&key| self.modules[key].balancer.as_ref());
        if let Some(balancer) = found {
            balancer.hosts().for_each(visit);
        }
    }

    /// Finds a module for a lookup, inserts it if it is new, and asks lars-dns if it is time to.
    fn look_up(&mut self, id: ModuleId, now: Moment) -> Option<usize> {
        let key = match self.by_id.get(&id) {
            Some(&key) => key,
            None => self.insert_module(id, now)?,
        };
        let module = &mut self.modules[key];
        // Where digests find what is not current, only the sweep asks again, for what is in doubt.
        if !self.has_digests || !module.is_confirmed {
            module.ask(&mut self.interests, &self.config, now);
        }
        if module.balancer.is_none() {
            module.missed_at = now;
            self.misses.remove(&mut self.modules, key as u32);
            self.misses.push_back(&mut self.modules, key as u32);
        }
        Some(key)
    }

    fn insert_module(&mut self, id: ModuleId, now: Moment) -> Option<usize> {
        if self.modules.len() >= self.config.modules_max && !self.make_room(now) {
            self.stats.modules_refused += 1;
            return None;
        }
        let module = Module {
            id,
            ask_at: now,
            missed_at: now,
            misses: Links::NONE,
            is_learned: false,
            is_confirmed: false,
            queued: Queued::default(),
            balancer: None,
        };
        let key = self.modules.insert(module);
        self.misses.push_back(&mut self.modules, key as u32);
        self.by_id.insert(id, key);
        self.keys_end = self.keys_end.max(key + 1);
        self.stats.modules += 1;
        Some(key)
    }

    /// Forgets the module without hosts that nobody has looked up for longest. False if there is none to forget.
    fn make_room(&mut self, now: Moment) -> bool {
        if self.full_at.is_none_or(|at| now.is_due(at + FULL_INTERVAL, FULL_INTERVAL)) {
            self.full_at = Some(now);
            self.is_full_news = true;
        }
        let is_queued = |key: &u32| self.modules[*key as usize].queued.is_queued();
        let oldest = self.misses.iter(&self.modules).take(EVICTION_TRIES).find(|key| !is_queued(key));
        let has_room = oldest.is_some_and(|key| self.forget(key as usize));
        self.stats.modules_evicted += u64::from(has_room);
        has_room
    }

    /// Counts what the balancer brought about, and sees to it that the reporter learns of it.
    fn note(&mut self, key: usize, effects: Effects, now: Moment) {
        self.version += effects.changes.len() as u64;
        self.stats.probes += u64::from(effects.probed);
        self.stats.ejections_spared += u64::from(effects.spared);
        let module = &mut self.modules[key];
        let mut changed_state = false;
        for &change in &effects.changes {
            match change {
                Change::Ejected { .. } => {
                    self.stats.ejections += 1;
                    self.stats.hosts_idle -= 1;
                    self.stats.hosts_overloaded += 1;
                    changed_state = true;
                }
                Change::Recovered { .. } => {
                    self.stats.recoveries += 1;
                    self.stats.hosts_idle += 1;
                    self.stats.hosts_overloaded -= 1;
                    changed_state = true;
                }
                Change::PanicEntered | Change::PanicLeft => {}
            }
            if self.changes.len() < CHANGES_MAX {
                self.changes.push_back((module.id, change));
            }
        }
        if changed_state {
            self.schedule.urgent(module.id, &mut module.queued);
        } else if effects.dirty {
            self.schedule.changed(module.id, &mut module.queued, now);
        }
    }

    fn sweep(&mut self, key: usize, now: Moment) {
        let Some(module) = self.modules.get_mut(key) else {
            return;
        };
        if let Some(balancer) = &mut module.balancer {
            let mut effects = Effects::default();
            balancer.sweep(now, &mut effects);
            let is_wanted = !module.is_confirmed || self.doubts.has(module.id);
            self.note(key, effects, now);
            if is_wanted {
                self.modules[key].ask(&mut self.interests, &self.config, now);
            }
        } else if now.is_due(module.missed_at + FORGET_AFTER, FORGET_AFTER) {
            self.forget(key);
        }
    }

    /// Forgets a module without hosts, unless the schedule holds it or lars-dns could not be told; then it can be
    /// tried again later.
    fn forget(&mut self, key: usize) -> bool {
        let module = &self.modules[key];
        if module.queued.is_queued() || self.interests.len() >= INTERESTS_MAX {
            return false;
        }
        self.by_id.remove(&module.id);
        self.version += 1;
        self.interests.push_back(Interest::Forget(module.id));
        self.misses.remove(&mut self.modules, key as u32);
        self.modules.remove(key);
        self.stats.modules -= 1;
        true
    }

    /// The map leads to the modules, modules that have something to tell are scheduled as they say themselves,
    /// and the bounds hold. In debug builds only, and not with so many modules that it would take long.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.modules.len() > CHECKED_MODULES_MAX {
            return;
        }
        assert_eq!(self.by_id.len(), self.modules.len(), "each module is in the map");
        assert!(self.modules.len() <= self.config.modules_max, "modules are bounded");
        assert!(self.sweep_from <= self.keys_end, "sweeps stay in range");
        let in_doubt = |module: &Module| module.balancer.is_some() && self.doubts.has(module.id);
        let in_doubt = self.modules.iter().filter(|(_, module)| in_doubt(module)).count();
        assert_eq!(in_doubt, self.doubts.len(), "only who has hosts is in doubt");
        assert_eq!(self.stats.modules, self.modules.len() as u64, "modules are counted");
        let unconfirmed = self.modules.iter().filter(|(_, module)| module.is_learned && !module.is_confirmed);
        assert_eq!(self.stats.unconfirmed, unconfirmed.count() as u64, "unconfirmed modules are counted");
        let census = self.modules.iter().map(|(_, module)| module.census());
        let (idle, overloaded) =
            census.fold((0, 0), |sum, one| (sum.0 + one.idle as u64, sum.1 + one.overloaded as u64));
        assert_eq!(
            (self.stats.hosts_idle, self.stats.hosts_overloaded),
            (idle, overloaded),
            "hosts are counted"
        );
        assert!(self.misses.is_well_formed(&self.modules), "the misses are a queue");
        for (key, module) in &self.modules {
            assert_eq!(self.by_id.get(&module.id), Some(&key), "the map leads to {}", module.id);
            assert!(self.schedule.agrees_with(module.id, module.queued), "{} is queued once", module.id);
            let is_missed = module.misses != Links::NONE;
            assert_eq!(is_missed, module.balancer.is_none(), "{} is among the misses", module.id);
            let has_dirty = module.balancer.as_ref().is_some_and(|balancer| balancer.has_dirty());
            assert!(!has_dirty || module.queued.is_queued(), "{} is sent", module.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::messages::ReportStatusRequest;

    use super::*;
    use crate::core::statistics::{HOSTS_PER_MESSAGE_MAX, status_report};

    const SECOND: Duration = Duration::from_secs(1);
    const T0: Moment = Moment::ORIGIN;
    const A: ModuleId = ModuleId::new(1, 1);
    const B: ModuleId = ModuleId::new(-2, i32::MAX);

    fn host(n: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, n)
    }

    fn route(ports: impl IntoIterator<Item = u16>) -> Vec<Endpoint> {
        ports.into_iter().map(|port| host(port).into()).collect()
    }

    fn hosts(ports: impl IntoIterator<Item = u16>) -> Vec<HostAddr> {
        ports.into_iter().map(host).collect()
    }

    fn table() -> Table {
        Table::new(TableConfig::default())
    }

    /// A table that has asked for module `A` and been told its hosts.
    fn table_with(ports: impl IntoIterator<Item = u16>) -> Table {
        let mut table = table();
        assert_eq!(table.get_host(A, T0), Answer::NotFound);
        assert_eq!(interests(&mut table), [Interest::Want(A)]);
        table.route_update(A, &route(ports), T0);
        table
    }

    fn interests(table: &mut Table) -> Vec<Interest> {
        std::iter::from_fn(|| table.poll_interest()).collect()
    }

    fn reports(table: &mut Table, now: Moment) -> Vec<ReportStatusRequest> {
        std::iter::from_fn(|| table.poll_statistics(now)).collect()
    }

    fn status(port: u16, succ: u32, err: u32, overloaded: bool) -> HostStatus {
        HostStatus { host: host(port), succ, err, overloaded }
    }

    /// Sweeps all modules once, ending at `now`.
    fn sweep_all(table: &mut Table, now: Moment) {
        for part in (0..SWEEP_PARTS as u32).rev() {
            table.handle_timeout(now.saturating_sub(part * SWEEP_INTERVAL));
        }
    }

    fn fail(table: &mut Table, port: u16, times: usize, now: Moment) {
        (0..times).for_each(|_| table.report(A, host(port), Outcome::Failure, now));
    }

    mod lookups {
        use super::*;

        #[test]
        fn an_unknown_module_is_asked_for_once() {
            let mut table = table();
            for _ in 0..3 {
                assert_eq!(table.get_host(A, T0), Answer::NotFound);
            }
            assert_eq!(interests(&mut table), [Interest::Want(A)]);
        }

        #[test]
        fn an_answer_that_got_lost_is_asked_for_again() {
            let mut table = table();
            table.get_host(A, T0);
            interests(&mut table);
            table.get_host(A, T0 + ASK_AGAIN_INTERVAL.mul_f32(0.9));
            assert_eq!(interests(&mut table), []);
            table.get_host(A, T0 + ASK_AGAIN_INTERVAL);
            assert_eq!(interests(&mut table), [Interest::Want(A)]);
        }

        #[test]
        fn a_module_known_to_be_empty_is_not_asked_for_until_the_update_timeout() {
            let mut table = table_with([]);
            for second in 0..15 {
                assert_eq!(table.get_host(A, T0 + second * SECOND), Answer::NotFound);
            }
            assert_eq!(interests(&mut table), []);
            assert_eq!(table.get_host(A, T0 + 15 * SECOND), Answer::NotFound);
            assert_eq!(interests(&mut table), [Interest::Want(A)]);
        }

        #[test]
        fn where_digests_find_what_is_not_current_only_what_is_not_learned_is_asked_for() {
            let mut table = table_with([1]);
            table.set_has_digests(true);
            table.get_host(A, T0 + 100 * SECOND);
            assert_eq!(interests(&mut table), []);
            for second in [100, 102] {
                table.get_host(B, T0 + second * SECOND);
                assert_eq!(interests(&mut table), [Interest::Want(B)], "answers get lost");
            }
            table.set_has_digests(false);
            table.get_host(A, T0 + 102 * SECOND);
            assert_eq!(interests(&mut table), [Interest::Want(A)], "the next server is of the original");
        }

        #[test]
        fn a_route_is_asked_for_again_by_the_first_lookup_after_the_update_timeout() {
            let mut table = table_with([1]);
            table.get_host(A, T0 + 14 * SECOND);
            assert_eq!(interests(&mut table), []);
            assert_eq!(table.get_host(A, T0 + 15 * SECOND), Answer::Host(host(1)));
            table.get_host(A, T0 + 15 * SECOND);
            assert_eq!(interests(&mut table), [Interest::Want(A)]);
            table.route_update(A, &route([1]), T0 + 16 * SECOND);
            table.get_host(A, T0 + 30 * SECOND);
            assert_eq!(interests(&mut table), [], "an update counts from when it came");
        }

        #[test]
        fn a_clock_that_steps_back_does_not_keep_a_module_from_being_asked_for() {
            let mut table = table();
            table.get_host(A, T0 + 1_000 * SECOND);
            interests(&mut table);
            table.get_host(A, T0);
            assert_eq!(interests(&mut table), [Interest::Want(A)]);
        }

        #[test]
        fn hosts_then_overload_then_none() {
            let mut table = table_with([1]);
            assert_eq!(table.get_host(A, T0), Answer::Host(host(1)));
            fail(&mut table, 1, 15, T0);
            assert_eq!(table.get_host(A, T0), Answer::Overloaded);
            table.route_update(A, &[], T0);
            assert_eq!(table.get_host(A, T0), Answer::NotFound);
            let stats = table.stats();
            assert_eq!((stats.lookups_ok, stats.lookups_overload, stats.lookups_noexist), (1, 1, 2));
            assert_eq!((stats.ejections, stats.reports, stats.updates), (1, 15, 2));
        }

        #[test]
        fn a_route_lists_idle_and_overloaded_hosts() {
            let mut table = table_with([1, 2, 3]);
            fail(&mut table, 2, 15, T0);
            let mut route = vec![];
            table.get_route(A, T0, &mut route);
            assert_eq!(route, hosts([1, 3, 2]));
        }

        #[test]
        fn a_route_of_an_unknown_module_is_empty_and_asked_for() {
            let (mut table, mut route) = (table(), vec![]);
            table.get_route(B, T0, &mut route);
            assert_eq!((route, interests(&mut table)), (vec![], vec![Interest::Want(B)]));
        }
    }

    mod bounds {
        use super::*;

        fn table_of(modules_max: usize) -> Table {
            Table::new(TableConfig { modules_max, ..TableConfig::default() })
        }

        #[test]
        fn in_a_full_table_the_longest_missed_module_without_hosts_makes_room() {
            let mut table = table_of(2);
            table.get_host(A, T0);
            table.route_update(A, &route([1]), T0);
            table.get_host(B, T0);
            assert!(!table.poll_full());
            for n in 0..10 {
                assert_eq!(table.get_host(ModuleId::new(n, 0), T0), Answer::NotFound);
            }
            let newest = ModuleId::new(9, 0);
            table.route_update(newest, &route([2]), T0);
            assert_eq!(table.get_host(newest, T0), Answer::Host(host(2)), "a new module is served");
            assert_eq!(table.get_host(A, T0), Answer::Host(host(1)), "a module with hosts stays");
            assert_eq!((table.stats().modules, table.stats().modules_evicted), (2, 10));
            let interests = interests(&mut table);
            assert_eq!(
                interests[..4],
                [
                    Interest::Want(A),
                    Interest::Want(B),
                    Interest::Forget(B),
                    Interest::Want(ModuleId::new(0, 0)),
                ]
            );
            assert!(table.poll_full() && !table.poll_full(), "said once");
        }

        #[test]
        fn a_lookup_keeps_its_module_from_making_room() {
            let mut table = table_of(2);
            table.get_host(A, T0);
            table.get_host(B, T0);
            table.get_host(A, T0);
            interests(&mut table);
            table.get_host(ModuleId::new(7, 7), T0);
            assert_eq!(interests(&mut table), [Interest::Forget(B), Interest::Want(ModuleId::new(7, 7))]);
        }

        #[test]
        fn a_table_full_of_modules_with_hosts_remembers_no_others() {
            let mut table = table_of(1);
            table.get_host(A, T0);
            table.route_update(A, &route([1]), T0);
            assert_eq!(table.get_host(B, T0), Answer::NotFound);
            assert_eq!((table.stats().modules, table.stats().modules_refused), (1, 1));
        }

        #[test]
        fn an_empty_answer_does_not_keep_a_module_that_nobody_looks_up() {
            let mut table = table_with([]);
            for second in 1..=300 {
                table.route_update(A, &[], T0 + second * SECOND);
            }
            sweep_all(&mut table, T0 + FORGET_AFTER + SECOND);
            assert_eq!(interests(&mut table), [Interest::Forget(A)]);
            assert_eq!(table.stats().modules, 0);
        }

        #[test]
        fn modules_without_hosts_are_forgotten_when_nobody_asks_for_them() {
            let mut table = table_with([1]);
            table.get_host(B, T0);
            interests(&mut table);
            table.get_host(B, T0 + 2 * SECOND);
            interests(&mut table);
            sweep_all(&mut table, T0 + FORGET_AFTER + SECOND);
            assert_eq!(table.stats().modules, 2);
            sweep_all(&mut table, T0 + FORGET_AFTER + 2 * SECOND);
            assert_eq!(interests(&mut table), [Interest::Forget(B)]);
            assert_eq!(table.stats().modules, 1, "a module with hosts stays");
        }

        #[test]
        fn questions_that_nobody_takes_do_not_pile_up() {
            let mut table = table();
            let asked = INTERESTS_MAX as i32 + 1;
            (0..asked).for_each(|n| assert_eq!(table.get_host(ModuleId::new(n, 7), T0), Answer::NotFound));
            assert_eq!(interests(&mut table).len(), INTERESTS_MAX);
            table.get_host(ModuleId::new(asked - 1, 7), T0);
            assert_eq!(interests(&mut table).len(), 1, "the next lookup asks");
        }

        #[test]
        fn routes_that_nobody_asked_for_are_ignored() {
            let mut table = table();
            table.route_update(A, &route([1]), T0);
            assert_eq!((table.stats().modules, table.stats().updates_unknown), (0, 1));
        }

        #[test]
        fn reports_on_strangers_are_ignored_and_counted() {
            let mut table = table_with([1]);
            table.report(A, host(9), Outcome::Failure, T0);
            table.report(B, host(1), Outcome::Failure, T0);
            assert_eq!((table.stats().reports_unknown, table.stats().reports), (2, 0));
            assert_eq!((table.stats().modules, interests(&mut table)), (1, vec![]));
        }
    }

    mod statistics {
        use super::*;

        #[test]
        fn counts_are_sent_an_interval_after_the_first_of_them() {
            let mut table = table_with([1, 2]);
            table.report(A, host(1), Outcome::Success, T0);
            fail(&mut table, 1, 2, T0);
            assert_eq!(reports(&mut table, T0), []);
            let expected = status_report(A, &[status(1, 1, 2, false)]);
            assert_eq!(reports(&mut table, T0 + SECOND), [expected]);
            assert_eq!(reports(&mut table, T0 + 2 * SECOND), [], "nothing changed");
        }

        #[test]
        fn a_change_of_state_is_sent_at_once() {
            let mut table = table_with([1, 2]);
            table.report(A, host(2), Outcome::Success, T0);
            fail(&mut table, 1, 15, T0);
            let expected = status_report(A, &[status(1, 0, 0, true), status(2, 1, 0, false)]);
            assert_eq!(reports(&mut table, T0), [expected]);
            let recovered = status_report(A, &[status(1, 0, 0, false)]);
            sweep_all(&mut table, T0 + 14 * SECOND);
            assert_eq!(reports(&mut table, T0 + 14 * SECOND), []);
            // The window of host 2 ends too, and its counts with it.
            sweep_all(&mut table, T0 + 16 * SECOND);
            let sent = reports(&mut table, T0 + 16 * SECOND);
            assert_eq!(sent.len(), 1);
            assert!(sent[0].results.contains(&recovered.results[0]), "{sent:?}");
            assert_eq!(table.stats().recoveries, 1);
        }

        #[test]
        fn many_hosts_are_sent_in_portions() {
            let ports = 1..=5_000;
            let mut table = table_with(ports.clone());
            ports.clone().for_each(|port| table.report(A, host(port), Outcome::Success, T0));
            let sent = reports(&mut table, T0 + SECOND);
            let lens: Vec<usize> = sent.iter().map(|report| report.results.len()).collect();
            assert_eq!(lens, [HOSTS_PER_MESSAGE_MAX, HOSTS_PER_MESSAGE_MAX, 1_000]);
            let all: Vec<_> = sent.into_iter().flat_map(|report| report.results).collect();
            let expected: Vec<_> = ports.map(|port| status(port, 1, 0, false)).collect();
            assert_eq!(
                all,
                expected.chunks(100).flat_map(|hosts| status_report(A, hosts).results).collect::<Vec<_>>()
            );
        }

        #[test]
        fn an_outage_of_the_reporter_queues_nothing_and_ends_with_the_newest_state() {
            let mut table = table_with([1]);
            fail(&mut table, 1, 15, T0);
            for second in 1..1_000 {
                table.report(A, host(1), Outcome::Success, T0 + second * SECOND);
            }
            let now = T0 + 1_000 * SECOND;
            let mut current = vec![];
            table.each_host(A, &mut |status| current.push(status));
            assert_eq!(reports(&mut table, now), [status_report(A, &current)]);
        }

        #[test]
        fn what_a_broken_link_may_have_lost_is_told_again() {
            let mut table = table_with([1, 2]);
            fail(&mut table, 1, 15, T0);
            let told = reports(&mut table, T0);
            table.resend(T0);
            assert_eq!(reports(&mut table, T0 + SECOND), told);
        }

        #[test]
        fn before_a_stop_everything_is_due() {
            let mut table = table_with([1]);
            table.report(A, host(1), Outcome::Success, T0);
            table.flush_now();
            assert_eq!(reports(&mut table, T0).len(), 1);
        }

        #[test]
        fn a_module_whose_hosts_vanished_has_nothing_to_tell() {
            let mut table = table_with([1]);
            table.report(A, host(1), Outcome::Success, T0);
            table.route_update(A, &[], T0);
            assert_eq!(reports(&mut table, T0 + SECOND), []);
        }
    }

    #[test]
    fn a_sweep_visits_every_module_within_a_second() {
        let mut table = table();
        let modules: Vec<ModuleId> = (0..100).map(|n| ModuleId::new(n, 0)).collect();
        for &module in &modules {
            table.get_host(module, T0);
            table.route_update(module, &route([1]), T0);
            (0..15).for_each(|_| table.report(module, host(1), Outcome::Failure, T0));
        }
        assert_eq!((table.stats().hosts_idle, table.stats().hosts_overloaded), (0, 100));
        let mut now = T0 + 15 * SECOND;
        let deadline = now + SECOND;
        while now < deadline {
            table.handle_timeout(now);
            now = now + Duration::from_millis(10);
        }
        assert_eq!((table.stats().hosts_idle, table.stats().hosts_overloaded), (100, 0));
    }

    #[test]
    fn the_next_deadline() {
        let mut table = table();
        assert_eq!(table.poll_timeout(), None);
        table.get_host(A, T0);
        table.handle_timeout(T0);
        assert_eq!(table.poll_timeout(), Some(T0 + SWEEP_INTERVAL));
        table.route_update(A, &route([1]), T0);
        fail(&mut table, 1, 15, T0);
        assert_eq!(table.statistics_deadline(), Some(T0), "a change of state is sent at once");
    }
}
