//! Which host of a module comes next.
//!
//! A [`Balancer`] owns the hosts of one module, hands them out and learns from reports how they fare; the
//! rules are in `docs/BALANCER.md`. It is made of three pieces that know nothing of each other:
//!
//! * `HostSet`: which hosts there are, in which state and order, and whose status has not been sent.
//! * [`Health`]: when a host is ejected and when it recovers.
//! * `RoundRobin`: which host is picked.
//!
//! What is put between them: the cap on ejections and the panic mode ([`Limits`]).
//!
//! Every pick and every report looks at the windows of *all* the module's hosts, in constant amortised time.

use std::sync::Arc;

use lars_proto::{Endpoint, HostAddr};

use self::{
    batch::Part,
    health::{State, Verdict},
    host_set::HostSet,
    select::RoundRobin,
};
use super::time::Moment;

mod batch;
mod effects;
mod health;
mod host_set;
mod limits;
pub(super) mod linked_order;
mod params;
mod select;

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Outcome};
pub use effects::{Change, Effects, Ejection, EjectionRule, RecoveryRule};
pub use health::Health;
pub use limits::Limits;
pub use params::BalancerParams;

/// The answer to a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    Host(HostAddr),
    /// There are hosts, but none should be called now.
    Overloaded,
    /// The module has no hosts.
    NoHosts,
}

/// A host as people see it in the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStatus {
    pub host: HostAddr,
    /// Successes in the current window.
    pub succ: u32,
    /// Failures in the current window.
    pub err: u32,
    pub overloaded: bool,
}

/// How many hosts there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub idle: usize,
    pub overloaded: usize,
}

impl Census {
    /// In both states.
    #[must_use]
    pub const fn hosts(self) -> usize {
        self.idle + self.overloaded
    }
}

/// The hosts of one module and the rules by which they are handed out.
///
/// Every method that takes `effects` may eject hosts and let them recover; what it brought about besides its
/// answer is added there.
#[derive(Debug)]
pub struct Balancer {
    params: Arc<BalancerParams>,
    hosts: HostSet,
    round_robin: RoundRobin,
    is_panicking: bool,
}

impl Balancer {
    /// A module without hosts.
    #[must_use]
    pub fn new(params: Arc<BalancerParams>) -> Self {
        Self { params, hosts: HostSet::new(), round_robin: RoundRobin::default(), is_panicking: false }
    }

    /// The host for the next call.
    pub fn pick(&mut self, now: Moment, effects: &mut Effects) -> Pick {
        self.close_windows(now, effects);
        let selected = if self.is_panicking {
            RoundRobin::select_any(&mut self.hosts)
        } else {
            self.round_robin.select(&mut self.hosts, self.params.probe_num)
        };
        effects.probed |= selected.probed;
        self.check_invariants();
        selected.pick
    }

    /// Learns how a call went: the batch of one. False if `host` is not (or no longer) one of the module's.
    pub fn report(&mut self, host: HostAddr, outcome: Outcome, now: Moment, effects: &mut Effects) -> bool {
        self.hosts.observe(now);
        let Some(key) = self.hosts.find(host) else {
            return false;
        };
        self.count(key, Part::Run(outcome, 1), effects);
        self.close_windows(now, effects);
        self.check_invariants();
        true
    }

    /// Learns how calls went since the last batch, as if they were reported one by one now. False if `host` is
    /// not (or no longer) one of the module's.
    ///
    /// Where the order of the calls is known the result is the same as that of single reports. Calls of
    /// unknown order are added up first and judged together, by the rates only, and end what was in a row.
    pub fn report_batch(
        &mut self,
        host: HostAddr,
        mut batch: Batch,
        now: Moment,
        effects: &mut Effects,
    ) -> bool {
        self.hosts.observe(now);
        let Some(key) = self.hosts.find(host) else {
            return false;
        };
        // As with single reports, the first call still belongs to windows that have ended by now.
        if let Some(first) = batch.take_part(1) {
            self.count(key, first, effects);
        }
        self.close_windows(now, effects);
        while let Some(part) = batch.take_part(u32::MAX) {
            self.count(key, part, effects);
        }
        self.check_invariants();
        true
    }

    /// Makes `route` the module's hosts: new ones are added, vanished ones leave, the others keep their state. A
    /// host that is listed twice counts once, as its first entry says.
    pub fn update(&mut self, route: &[Endpoint], now: Moment, effects: &mut Effects) {
        self.hosts.observe(now);
        self.hosts.update(route);
        self.look_for_panic(effects);
        self.check_invariants();
    }

    /// Has hosts overloaded that were so before this agent started, those ejected first before the others. Hosts that
    /// the module does not have are skipped; the cap on ejections does not matter, as it did when they were ejected.
    pub fn restore(&mut self, ejections: &[Ejection], now: Moment, effects: &mut Effects) {
        self.hosts.observe(now);
        for &Ejection { host, rule, since } in ejections {
            let found = self.hosts.find(host);
            // Ejected once, whatever is listed twice.
            if let Some(key) = found.filter(|&key| self.hosts.host(key).state() == State::Idle) {
                self.hosts.eject_since(key, rule, since);
                effects.dirty = true;
            }
        }
        self.look_for_panic(effects);
        self.check_invariants();
    }

    /// Does what is due by time alone; to be called about once a second.
    pub fn sweep(&mut self, now: Moment, effects: &mut Effects) {
        self.close_windows(now, effects);
        self.check_invariants();
    }

    /// How many hosts there are in each state.
    #[must_use]
    pub const fn census(&self) -> Census {
        self.hosts.census()
    }

    /// Whether so few hosts are idle that all are picked in turn.
    #[must_use]
    pub const fn is_panicking(&self) -> bool {
        self.is_panicking
    }

    /// Grows whenever the set of hosts, what a route says of one, or the state of one changes, so that a copy
    /// of the pick state made with [`Balancer::hosts`] can tell whether it is current.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.hosts.version()
    }

    /// Every host: the idle ones first, each state in the order in which it will be picked.
    pub fn hosts(&self) -> impl Iterator<Item = HostStatus> {
        self.hosts.statuses()
    }

    /// The overloaded hosts, those ejected first before the others.
    pub fn ejections(&self) -> impl Iterator<Item = Ejection> {
        self.hosts.ejections()
    }

    /// What the route says of one of the module's hosts.
    #[must_use]
    pub fn endpoint(&self, host: HostAddr) -> Option<Endpoint> {
        self.hosts.endpoint(host)
    }

    /// Whether [`Balancer::take_dirty`] has anything to take.
    #[must_use]
    pub const fn has_dirty(&self) -> bool {
        self.hosts.has_dirty()
    }

    /// Appends up to `limit` hosts whose status is not what was taken last to `out`; they count as sent.
    pub fn take_dirty(&mut self, limit: usize, out: &mut Vec<HostStatus>) {
        self.hosts.take_dirty(limit, out);
        self.check_invariants();
    }

    /// What was sent may have been lost on the way: all hosts sent are dirty again.
    pub fn resend(&mut self) {
        self.hosts.resend();
        self.check_invariants();
    }

    /// Counts calls of a host and does what the rules say then.
    fn count(&mut self, key: u32, part: Part, effects: &mut Effects) {
        let (state, before) = (self.hosts.host(key).state(), self.hosts.host(key).counts());
        self.hosts.count(key, part);
        effects.dirty = true;
        if let Some(verdict) = self.params.health.judge_calls(state, self.hosts.host(key).counts(), part) {
            self.change_within(key, state, before, part, verdict, effects);
        }
    }

    /// A part that is counted already changes the state of its host: at one of its calls, and what comes after
    /// that call belongs to the new window. Out of line, as it happens seldom.
    #[cold]
    fn change_within(
        &mut self,
        key: u32,
        state: State,
        before: health::Counts,
        part: Part,
        verdict: Verdict,
        effects: &mut Effects,
    ) {
        let (changing_call, verdict) = self.params.health.find_change(state, before, part, verdict);
        let remaining = part.calls() - changing_call;
        if !self.may_follow(verdict) {
            effects.spared += remaining + 1;
            return;
        }
        self.open_window(key, Some(verdict), effects);
        if let (Part::Run(outcome, _), 1..) = (part, remaining) {
            self.hosts.count(key, Part::Run(outcome, remaining));
        }
        self.look_for_panic(effects);
    }

    /// Judges every host whose window has ended.
    fn close_windows(&mut self, now: Moment, effects: &mut Effects) {
        self.hosts.observe(now);
        for state in [State::Idle, State::Overloaded] {
            let window_len = self.params.health.window_len(state);
            // Bounded, because a window of no length ends as soon as it begins.
            for _ in 0..self.hosts.len_of(state) {
                match self.hosts.oldest_window(state) {
                    Some((oldest, start)) if start + window_len <= now => {
                        self.close_window(oldest, state, effects);
                    }
                    Some(_) | None => break,
                }
            }
        }
    }

    fn close_window(&mut self, key: u32, state: State, effects: &mut Effects) {
        let mut verdict = self.params.health.judge_window(state, self.hosts.host(key).counts());
        if verdict.is_some_and(|verdict| !self.may_follow(verdict)) {
            effects.spared += 1;
            verdict = None;
        }
        self.open_window(key, verdict, effects);
        if verdict.is_some() {
            self.look_for_panic(effects);
        }
    }

    /// Whether the cap leaves room for what the rules call for.
    fn may_follow(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Eject(_) => self.params.limits.allow_ejection(self.hosts.census()),
            Verdict::Recover(_) => true,
        }
    }

    /// Follows the verdict, if there is one, and in any case gives the host a fresh window and the last place.
    fn open_window(&mut self, key: u32, verdict: Option<Verdict>, effects: &mut Effects) {
        let host = self.hosts.host(key).addr();
        let ejected_by = match verdict {
            Some(Verdict::Eject(rule)) => {
                effects.changes.push(Change::Ejected { host, rule });
                Some(rule)
            }
            Some(Verdict::Recover(rule)) => {
                effects.changes.push(Change::Recovered { host, rule });
                None
            }
            // An overloaded host's window ends with its recovery.
            None => None,
        };
        effects.dirty |= self.hosts.open_window(key, ejected_by);
    }

    /// Enters or leaves the panic mode, as the states of the hosts demand.
    fn look_for_panic(&mut self, effects: &mut Effects) {
        let is_panicking = self.params.limits.demand_panic(self.hosts.census());
        if is_panicking != self.is_panicking {
            self.is_panicking = is_panicking;
            effects.changes.push(if is_panicking { Change::PanicEntered } else { Change::PanicLeft });
        }
    }

    fn check_invariants(&self) {
        self.hosts.check_invariants();
        self.round_robin.check_invariants(self.params.probe_num);
        let demanded = self.params.limits.demand_panic(self.hosts.census());
        debug_assert_eq!(self.is_panicking, demanded, "panic follows the states");
    }
}
