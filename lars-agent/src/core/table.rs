//! One shard's modules: their routes, their hosts, and what is known of them.
//!
//! A shard owns the modules whose ids lead to it, and nobody else touches them. The table answers lookups
//! from memory alone and notes what it would like to know: questions for lars-dns come out of
//! [`Table::poll_output`], call counts for the reporter out of [`Table::poll_statistics`].
//!
//! A module is either *without hosts* (not answered yet, or known to be empty) or *with hosts*, in which
//! case a policy balances them. One moment per module, `ask_at`, says from when on a lookup asks lars-dns:
//! at once for a new module, [`ASK_AGAIN_INTERVAL`] after a question (answers get lost), `update_timeout`
//! after an answer. So no module stays without an answer for ever, and none is asked for at every lookup.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ahash::RandomState;
use lars_proto::{Endpoint, HostAddr, ModuleId};
use slab::Slab;

use super::{
    balancer::{Balancer, BalancerParams, Census, Change, Effects, HostStatus, Outcome, Pick},
    statistics::{HOSTS_PER_MESSAGE_MAX, Schedule, StatusReport, Ticket},
    time::Moment,
};

/// After so long without an answer a lookup asks lars-dns again.
pub const ASK_AGAIN_INTERVAL: Duration = Duration::from_secs(2);
/// A module without hosts that nobody has asked for in this time is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Questions for lars-dns that wait in the table. When so many wait, a lookup is answered without asking;
/// the next one tries again.
pub const OUTPUTS_MAX: usize = 16_384;

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
    /// The most modules a table knows. Beyond, lookups of unknown modules are answered with
    /// [`Answer::NotFound`] and counted: garbage must not exhaust memory.
    pub modules_max: usize,
    /// How long an answer of lars-dns counts as current.
    pub update_timeout: Duration,
    /// The least time between two status reports of a module whose hosts do not change state.
    pub report_interval: Duration,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            balancer: Arc::default(),
            modules_max: 1_000_000,
            update_timeout: Duration::from_secs(15),
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

/// What the table wants from the link to lars-dns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for this module's route.
    QueryDns(ModuleId),
    /// Nobody looks this module up any more.
    Forget(ModuleId),
}

/// What a table has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounters {
    pub lookups_ok: u64,
    pub lookups_overload: u64,
    pub lookups_noexist: u64,
    pub route_lookups: u64,
    /// Lookups of unknown modules that were not remembered because the table is full.
    pub modules_refused: u64,
    pub reports: u64,
    /// Reports for a module or a host that is not known; ignored.
    pub reports_unknown: u64,
    pub ejections: u64,
    pub recoveries: u64,
    pub probes: u64,
    pub updates: u64,
    /// Routes of modules that nobody wants; ignored.
    pub updates_unknown: u64,
}

struct Module {
    id: ModuleId,
    /// From when on a lookup asks lars-dns.
    ask_at: Moment,
    /// The last lookup that found no hosts.
    missed_at: Moment,
    ticket: Ticket,
    /// None while there are no hosts, which keeps modules learned from garbage small.
    balancer: Option<Box<Balancer>>,
}

/// One shard's modules.
pub struct Table {
    config: TableConfig,
    modules: Slab<Module>,
    by_id: HashMap<ModuleId, usize, RandomState>,
    outputs: VecDeque<Output>,
    schedule: Schedule,
    /// Where the next sweep goes on, as a slab key, and when.
    sweep_from: usize,
    sweep_at: Moment,
    /// One above the highest slab key used so far.
    keys_end: usize,
    counters: TableCounters,
}

impl Table {
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        let schedule = Schedule::new(config.report_interval);
        Self {
            config,
            modules: Slab::new(),
            by_id: HashMap::default(),
            outputs: VecDeque::new(),
            schedule,
            sweep_from: 0,
            sweep_at: Moment::ORIGIN,
            keys_end: 0,
            counters: TableCounters::default(),
        }
    }

    /// The host for the next call of `module`.
    pub fn get_host(&mut self, module: ModuleId, now: Moment) -> Answer {
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
            Pick::Host(host) => (&mut self.counters.lookups_ok, Answer::Host(host)),
            Pick::Overloaded => (&mut self.counters.lookups_overload, Answer::Overloaded),
            Pick::NoHosts => (&mut self.counters.lookups_noexist, Answer::NotFound),
        };
        *counter += 1;
        self.check_invariants();
        answer
    }

    /// Appends all hosts of `module` to `hosts`: none if it is unknown or has none.
    pub fn get_route(&mut self, module: ModuleId, now: Moment, hosts: &mut Vec<HostAddr>) {
        self.counters.route_lookups += 1;
        self.look_up(module, now);
        self.each_host(module, &mut |status| hosts.push(status.host));
        self.check_invariants();
    }

    /// Learns how a call went.
    pub fn report(&mut self, module: ModuleId, host: HostAddr, outcome: Outcome, now: Moment) {
        let mut effects = Effects::default();
        let key = self.by_id.get(&module).copied();
        let known = key
            .and_then(|key| self.modules[key].balancer.as_mut())
            .is_some_and(|balancer| balancer.report(host, outcome, now, &mut effects));
        if known {
            self.counters.reports += 1;
        } else {
            self.counters.reports_unknown += 1;
        }
        if let Some(key) = key {
            self.note(key, effects, now);
        }
        self.check_invariants();
    }

    /// lars-dns says that `hosts` is the route of `module` now.
    pub fn route_update(&mut self, module: ModuleId, hosts: &[HostAddr], now: Moment) {
        let Some(&key) = self.by_id.get(&module) else {
            self.counters.updates_unknown += 1;
            return;
        };
        self.counters.updates += 1;
        let module = &mut self.modules[key];
        module.ask_at = now + self.config.update_timeout;
        if hosts.is_empty() {
            module.balancer = None;
            module.missed_at = now;
        } else {
            let params = &self.config.balancer;
            let balancer = module.balancer.get_or_insert_with(|| Box::new(Balancer::new(Arc::clone(params))));
            let mut effects = Effects::default();
            balancer.update(hosts.iter().copied().map(Endpoint::from), now, &mut effects);
            self.note(key, effects, now);
        }
        self.check_invariants();
    }

    /// The next question for lars-dns.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The question given last could not be passed on: it is the first one next time.
    pub fn unsent(&mut self, output: Output) {
        self.outputs.push_front(output);
    }

    /// The next message for the reporter, if one is due. Its hosts count as told, so ask only when it can be
    /// sent; if it may have been lost after all, there is [`Table::retell`].
    pub fn poll_statistics(&mut self, now: Moment) -> Option<StatusReport> {
        loop {
            let turn = self.schedule.next_turn(now)?;
            let module = self.by_id.get(&turn.module).map(|&key| &mut self.modules[key]);
            let Some(Module { ticket, balancer, .. }) = module else {
                self.schedule.done(turn, None);
                continue;
            };
            let mut hosts = Vec::new();
            let mut has_more = false;
            if let Some(balancer) = balancer {
                balancer.take_dirty(HOSTS_PER_MESSAGE_MAX, &mut hosts);
                has_more = balancer.has_dirty();
            }
            if !has_more {
                self.schedule.done(turn, Some(ticket));
            }
            self.check_invariants();
            if !hosts.is_empty() {
                return Some(StatusReport { module: turn.module, hosts });
            }
        }
    }

    /// The reporter may have lost what it was told, because the link broke: everything told is told again.
    pub fn retell(&mut self, now: Moment) {
        for (_, module) in &mut self.modules {
            if let Some(balancer) = &mut module.balancer {
                balancer.resend();
                if balancer.has_dirty() {
                    self.schedule.changed(module.id, &mut module.ticket, now);
                }
            }
        }
        self.check_invariants();
    }

    /// Makes everything there is to tell due at once, for a last report before a stop.
    pub fn hurry_statistics(&mut self) {
        self.schedule.hurry();
    }

    /// When [`Table::handle_timeout`] or [`Table::poll_statistics`] has something to do next, if nothing
    /// else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let sweep = (!self.modules.is_empty()).then_some(self.sweep_at);
        [sweep, self.schedule.deadline()].into_iter().flatten().min()
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
    pub const fn counters(&self) -> TableCounters {
        self.counters
    }

    #[must_use]
    pub fn modules_len(&self) -> usize {
        self.modules.len()
    }

    /// How many hosts there are in each state, of all modules. Takes time in the number of modules.
    #[must_use]
    pub fn census(&self) -> Census {
        let censuses = self.modules.iter().filter_map(|(_, module)| Some(module.balancer.as_ref()?.census()));
        censuses.fold(Census::default(), |sum, one| Census {
            idle: sum.idle + one.idle,
            overloaded: sum.overloaded + one.overloaded,
        })
    }

    /// Visits every host of `module`, the idle ones first, in the order in which they will be picked.
    pub fn each_host(&self, module: ModuleId, visit: &mut dyn FnMut(HostStatus)) {
        let found = self.by_id.get(&module).and_then(|&key| self.modules[key].balancer.as_ref());
        if let Some(balancer) = found {
            balancer.hosts().for_each(visit);
        }
    }

    /// Finds a module for a lookup, learns it if it is new, and asks lars-dns if it is time to.
    fn look_up(&mut self, id: ModuleId, now: Moment) -> Option<usize> {
        let key = match self.by_id.get(&id) {
            Some(&key) => key,
            None => self.learn(id, now)?,
        };
        let module = &mut self.modules[key];
        if module.balancer.is_none() {
            module.missed_at = now;
        }
        let wait_max = self.config.update_timeout.max(ASK_AGAIN_INTERVAL);
        if now.is_due(module.ask_at, wait_max) && self.outputs.len() < OUTPUTS_MAX {
            module.ask_at = now + ASK_AGAIN_INTERVAL;
            self.outputs.push_back(Output::QueryDns(id));
        }
        Some(key)
    }

    fn learn(&mut self, id: ModuleId, now: Moment) -> Option<usize> {
        if self.modules.len() >= self.config.modules_max {
            self.counters.modules_refused += 1;
            return None;
        }
        let ticket = Ticket::default();
        let key = self.modules.insert(Module { id, ask_at: now, missed_at: now, ticket, balancer: None });
        self.by_id.insert(id, key);
        self.keys_end = self.keys_end.max(key + 1);
        Some(key)
    }

    /// Counts what a policy brought about, and sees to it that the reporter learns of it.
    fn note(&mut self, key: usize, effects: Effects, now: Moment) {
        self.counters.probes += u64::from(effects.probed);
        let mut changed_state = false;
        for change in &effects.changes {
            match change {
                Change::Ejected { .. } => self.counters.ejections += 1,
                Change::Recovered { .. } => self.counters.recoveries += 1,
                Change::PanicEntered | Change::PanicLeft => continue,
            }
            changed_state = true;
        }
        let module = &mut self.modules[key];
        if changed_state {
            self.schedule.urgent(module.id, &mut module.ticket);
        } else if effects.dirty {
            self.schedule.changed(module.id, &mut module.ticket, now);
        }
    }

    fn sweep(&mut self, key: usize, now: Moment) {
        let Some(module) = self.modules.get_mut(key) else {
            return;
        };
        if let Some(balancer) = &mut module.balancer {
            let mut effects = Effects::default();
            balancer.sweep(now, &mut effects);
            self.note(key, effects, now);
        } else if now.is_due(module.missed_at + FORGET_AFTER, FORGET_AFTER) {
            self.forget(key);
        }
    }

    /// Forgets a module, unless lars-dns or the schedule could not be told; then the next sweep tries again.
    fn forget(&mut self, key: usize) {
        let module = &self.modules[key];
        if module.ticket.is_queued() || self.outputs.len() >= OUTPUTS_MAX {
            return;
        }
        self.by_id.remove(&module.id);
        self.outputs.push_back(Output::Forget(module.id));
        self.modules.remove(key);
    }

    /// The map leads to the modules, modules that have something to tell are scheduled as their tickets say,
    /// and the bounds hold. In debug builds only, and not with so many modules that it would take long.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.modules.len() > CHECKED_MODULES_MAX {
            return;
        }
        assert_eq!(self.by_id.len(), self.modules.len(), "each module is in the map");
        assert!(self.modules.len() <= self.config.modules_max, "modules are bounded");
        assert!(self.sweep_from <= self.keys_end, "sweeps stay in range");
        for (key, module) in &self.modules {
            assert_eq!(self.by_id.get(&module.id), Some(&key), "the map leads to {}", module.id);
            assert!(self.schedule.agrees_with(module.id, module.ticket), "{} is queued once", module.id);
            let has_dirty = module.balancer.as_ref().is_some_and(|balancer| balancer.has_dirty());
            assert!(!has_dirty || module.ticket.is_queued(), "{} gets its turn", module.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const T0: Moment = Moment::ORIGIN;
    const A: ModuleId = ModuleId::new(1, 1);
    const B: ModuleId = ModuleId::new(-2, i32::MAX);

    fn host(n: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, n)
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
        assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
        table.route_update(A, &hosts(ports), T0);
        table
    }

    fn outputs(table: &mut Table) -> Vec<Output> {
        std::iter::from_fn(|| table.poll_output()).collect()
    }

    fn reports(table: &mut Table, now: Moment) -> Vec<StatusReport> {
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
            assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
        }

        #[test]
        fn an_answer_that_got_lost_is_asked_for_again() {
            let mut table = table();
            table.get_host(A, T0);
            outputs(&mut table);
            table.get_host(A, T0 + ASK_AGAIN_INTERVAL.mul_f32(0.9));
            assert_eq!(outputs(&mut table), []);
            table.get_host(A, T0 + ASK_AGAIN_INTERVAL);
            assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
        }

        #[test]
        fn a_module_known_to_be_empty_is_not_asked_for_until_the_update_timeout() {
            let mut table = table_with([]);
            for second in 0..15 {
                assert_eq!(table.get_host(A, T0 + second * SECOND), Answer::NotFound);
            }
            assert_eq!(outputs(&mut table), []);
            assert_eq!(table.get_host(A, T0 + 15 * SECOND), Answer::NotFound);
            assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
        }

        #[test]
        fn a_route_is_asked_for_again_by_the_first_lookup_after_the_update_timeout() {
            let mut table = table_with([1]);
            table.get_host(A, T0 + 14 * SECOND);
            assert_eq!(outputs(&mut table), []);
            assert_eq!(table.get_host(A, T0 + 15 * SECOND), Answer::Host(host(1)));
            table.get_host(A, T0 + 15 * SECOND);
            assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
            table.route_update(A, &hosts([1]), T0 + 16 * SECOND);
            table.get_host(A, T0 + 30 * SECOND);
            assert_eq!(outputs(&mut table), [], "an update counts from when it came");
        }

        #[test]
        fn a_clock_that_steps_back_does_not_keep_a_module_from_being_asked_for() {
            let mut table = table();
            table.get_host(A, T0 + 1_000 * SECOND);
            outputs(&mut table);
            table.get_host(A, T0);
            assert_eq!(outputs(&mut table), [Output::QueryDns(A)]);
        }

        #[test]
        fn hosts_then_overload_then_none() {
            let mut table = table_with([1]);
            assert_eq!(table.get_host(A, T0), Answer::Host(host(1)));
            fail(&mut table, 1, 15, T0);
            assert_eq!(table.get_host(A, T0), Answer::Overloaded);
            table.route_update(A, &[], T0);
            assert_eq!(table.get_host(A, T0), Answer::NotFound);
            let counters = table.counters();
            assert_eq!((counters.lookups_ok, counters.lookups_overload, counters.lookups_noexist), (1, 1, 2));
            assert_eq!((counters.ejections, counters.reports, counters.updates), (1, 15, 2));
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
            assert_eq!((route, outputs(&mut table)), (vec![], vec![Output::QueryDns(B)]));
        }
    }

    mod bounds {
        use super::*;

        #[test]
        fn a_full_table_answers_unknown_modules_without_remembering_them() {
            let config = TableConfig { modules_max: 2, ..TableConfig::default() };
            let mut table = Table::new(config);
            for n in 0..10 {
                assert_eq!(table.get_host(ModuleId::new(n, 0), T0), Answer::NotFound);
            }
            assert_eq!((table.modules_len(), table.counters().modules_refused), (2, 8));
            assert_eq!(outputs(&mut table).len(), 2);
        }

        #[test]
        fn modules_without_hosts_are_forgotten_when_nobody_asks_for_them() {
            let mut table = table_with([1]);
            table.get_host(B, T0);
            outputs(&mut table);
            table.get_host(B, T0 + 2 * SECOND);
            outputs(&mut table);
            sweep_all(&mut table, T0 + FORGET_AFTER + SECOND);
            assert_eq!(table.modules_len(), 2);
            sweep_all(&mut table, T0 + FORGET_AFTER + 2 * SECOND);
            assert_eq!(outputs(&mut table), [Output::Forget(B)]);
            assert_eq!(table.modules_len(), 1, "a module with hosts stays");
        }

        #[test]
        fn questions_that_nobody_takes_do_not_pile_up() {
            let mut table = table();
            let asked = OUTPUTS_MAX as i32 + 1;
            (0..asked).for_each(|n| assert_eq!(table.get_host(ModuleId::new(n, 7), T0), Answer::NotFound));
            assert_eq!(outputs(&mut table).len(), OUTPUTS_MAX);
            table.get_host(ModuleId::new(asked - 1, 7), T0);
            assert_eq!(outputs(&mut table).len(), 1, "the next lookup asks");
        }

        #[test]
        fn routes_that_nobody_asked_for_are_ignored() {
            let mut table = table();
            table.route_update(A, &hosts([1]), T0);
            assert_eq!((table.modules_len(), table.counters().updates_unknown), (0, 1));
        }

        #[test]
        fn reports_on_strangers_are_ignored_and_counted() {
            let mut table = table_with([1]);
            table.report(A, host(9), Outcome::Failure, T0);
            table.report(B, host(1), Outcome::Failure, T0);
            assert_eq!((table.counters().reports_unknown, table.counters().reports), (2, 0));
            assert_eq!((table.modules_len(), outputs(&mut table)), (1, vec![]));
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
            let expected = StatusReport { module: A, hosts: vec![status(1, 1, 2, false)] };
            assert_eq!(reports(&mut table, T0 + SECOND), [expected]);
            assert_eq!(reports(&mut table, T0 + 2 * SECOND), [], "nothing changed");
        }

        #[test]
        fn a_change_of_state_is_sent_at_once() {
            let mut table = table_with([1, 2]);
            table.report(A, host(2), Outcome::Success, T0);
            fail(&mut table, 1, 15, T0);
            let expected =
                StatusReport { module: A, hosts: vec![status(1, 0, 0, true), status(2, 1, 0, false)] };
            assert_eq!(reports(&mut table, T0), [expected]);
            let recovered = StatusReport { module: A, hosts: vec![status(1, 0, 0, false)] };
            sweep_all(&mut table, T0 + 14 * SECOND);
            assert_eq!(reports(&mut table, T0 + 14 * SECOND), []);
            // The window of host 2 ends too, and its counts with it.
            sweep_all(&mut table, T0 + 16 * SECOND);
            let sent = reports(&mut table, T0 + 16 * SECOND);
            assert_eq!(sent.len(), 1);
            assert!(sent[0].hosts.contains(&recovered.hosts[0]), "{sent:?}");
            assert_eq!(table.counters().recoveries, 1);
        }

        #[test]
        fn many_hosts_are_sent_in_portions() {
            let ports = 1..=5_000;
            let mut table = table_with(ports.clone());
            ports.clone().for_each(|port| table.report(A, host(port), Outcome::Success, T0));
            let sent = reports(&mut table, T0 + SECOND);
            let lens: Vec<usize> = sent.iter().map(|report| report.hosts.len()).collect();
            assert_eq!(lens, [HOSTS_PER_MESSAGE_MAX, HOSTS_PER_MESSAGE_MAX, 1_000]);
            let all: Vec<HostStatus> = sent.into_iter().flat_map(|report| report.hosts).collect();
            assert_eq!(all, ports.map(|port| status(port, 1, 0, false)).collect::<Vec<_>>());
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
            assert_eq!(reports(&mut table, now), [StatusReport { module: A, hosts: current }]);
        }

        #[test]
        fn what_a_broken_link_may_have_lost_is_told_again() {
            let mut table = table_with([1, 2]);
            fail(&mut table, 1, 15, T0);
            let told = reports(&mut table, T0);
            table.retell(T0);
            assert_eq!(reports(&mut table, T0 + SECOND), told);
        }

        #[test]
        fn before_a_stop_everything_is_due() {
            let mut table = table_with([1]);
            table.report(A, host(1), Outcome::Success, T0);
            table.hurry_statistics();
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
            table.route_update(module, &hosts([1]), T0);
            (0..15).for_each(|_| table.report(module, host(1), Outcome::Failure, T0));
        }
        assert_eq!(table.census(), Census { idle: 0, overloaded: 100 });
        let mut now = T0 + 15 * SECOND;
        let deadline = now + SECOND;
        while now < deadline {
            table.handle_timeout(now);
            now = now + Duration::from_millis(10);
        }
        assert_eq!(table.census(), Census { idle: 100, overloaded: 0 });
    }

    #[test]
    fn the_next_deadline() {
        let mut table = table();
        assert_eq!(table.poll_timeout(), None);
        table.get_host(A, T0);
        table.handle_timeout(T0);
        assert_eq!(table.poll_timeout(), Some(T0 + SWEEP_INTERVAL));
        table.route_update(A, &hosts([1]), T0);
        fail(&mut table, 1, 15, T0);
        assert_eq!(table.poll_timeout(), Some(T0), "a change of state is told at once");
    }
}
