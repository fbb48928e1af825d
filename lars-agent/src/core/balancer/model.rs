//! The rules of `docs/BALANCER.md` as plainly as they can be written: two vectors, everything looked up and
//! shifted by hand, one report at a time. What [`Balancer`](super::Balancer) is held against.

use std::collections::BTreeMap;

use lars_proto::HostAddr;

use super::{BalancerParams, Change, EjectionRule, HostStatus, Outcome, Pick, RecoveryRule};
use crate::core::time::Moment;

#[derive(Clone, Debug)]
struct ModelHost {
    addr: HostAddr,
    vsucc: u32,
    verr: u32,
    rsucc: u32,
    rerr: u32,
    contin_succ: u32,
    contin_err: u32,
    timestamp: Moment,
    /// Ties of `timestamp` are judged in the order in which the windows began.
    serial: u64,
}

pub(super) struct Model {
    params: BalancerParams,
    idle: Vec<ModelHost>,
    overloaded: Vec<ModelHost>,
    /// All hosts in the order of picks in panic.
    all: Vec<HostAddr>,
    access_count: u32,
    serial: u64,
    sent: BTreeMap<HostAddr, (u32, u32, bool)>,
    was_panicking: bool,
    /// What happened in the step that goes on.
    changes: Vec<Change>,
    spared: u32,
}

impl Model {
    pub(super) fn new(params: BalancerParams) -> Self {
        Self {
            params,
            idle: vec![],
            overloaded: vec![],
            all: vec![],
            access_count: 0,
            serial: 0,
            sent: BTreeMap::new(),
            was_panicking: false,
            changes: vec![],
            spared: 0,
        }
    }

    /// What happened since it was asked last.
    pub(super) fn take_effects(&mut self) -> (Vec<Change>, u32) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.spared))
    }

    pub(super) fn is_panicking(&self) -> bool {
        let hosts = self.idle.len() + self.overloaded.len();
        hosts > 0
            && (self.idle.len() as f64) / (hosts as f64) < f64::from(self.params.limits.panic_percent) / 100.0
    }

    fn note_panic(&mut self) {
        if self.is_panicking() != self.was_panicking {
            self.was_panicking = self.is_panicking();
            self.changes.push(if self.was_panicking { Change::PanicEntered } else { Change::PanicLeft });
        }
    }

    /// Whether one more host may be ejected.
    fn may_eject(&mut self) -> bool {
        let (idle, overloaded) = (self.idle.len(), self.overloaded.len());
        let percent_then = 100.0 * (overloaded + 1) as f64 / (idle + overloaded) as f64;
        let is_allowed = match self.params.limits.max_ejected_percent {
            100 => true,
            0 => false,
            percent => idle > 1 && (overloaded == 0 || percent_then <= f64::from(percent)),
        };
        self.spared += u32::from(!is_allowed);
        is_allowed
    }

    pub(super) fn pick(&mut self, now: Moment) -> Pick {
        self.windows(now);
        if self.idle.is_empty() && self.overloaded.is_empty() {
            return Pick::NoHosts;
        }
        if self.is_panicking() {
            self.all.rotate_left(1);
            return Pick::Host(self.all[self.all.len() - 1]);
        }
        if !self.overloaded.is_empty() {
            if self.access_count >= self.params.probe_num {
                self.access_count = 0;
                return Pick::Host(head_to_tail(&mut self.overloaded));
            }
            self.access_count += 1;
            if self.idle.is_empty() {
                return Pick::Overloaded;
            }
        }
        Pick::Host(head_to_tail(&mut self.idle))
    }

    pub(super) fn report(&mut self, addr: HostAddr, outcome: Outcome, now: Moment) -> bool {
        self.step_back(now);
        let failed = outcome == Outcome::Failure;
        if let Some(i) = self.idle.iter().position(|host| host.addr == addr) {
            let host = &mut self.idle[i];
            count(host, failed);
            let rate = f64::from(host.verr) / f64::from(host.vsucc + host.verr);
            let too_many = rate > self.params.health.err_rate;
            let rule = if too_many { EjectionRule::ErrorRate } else { EjectionRule::ErrorsInARow };
            if failed
                && (too_many || host.contin_err >= self.params.health.contin_err_limit)
                && self.may_eject()
            {
                let host = self.idle.remove(i);
                self.ejected(host, rule, now);
            }
        } else if let Some(i) = self.overloaded.iter().position(|host| host.addr == addr) {
            let host = &mut self.overloaded[i];
            count(host, failed);
            let rate = f64::from(host.vsucc) / f64::from(host.vsucc + host.verr);
            let enough = rate > self.params.health.succ_rate;
            let rule = if enough { RecoveryRule::SuccessRate } else { RecoveryRule::SuccessesInARow };
            if !failed && (enough || host.contin_succ >= self.params.health.contin_succ_limit) {
                let host = self.overloaded.remove(i);
                self.recovered(host, rule, now);
            }
        } else {
            return false;
        }
        self.windows(now);
        true
    }

    pub(super) fn windows(&mut self, now: Moment) {
        self.step_back(now);
        let idle_timeout = self.params.health.idle_timeout;
        for addr in due(&self.idle, |host| host.timestamp + idle_timeout <= now) {
            // One by one, because each ejection changes what the cap leaves.
            let i = self.idle.iter().position(|host| host.addr == addr).expect("it was there");
            let (calls, errors) = (self.idle[i].rsucc + self.idle[i].rerr, self.idle[i].rerr);
            let rate = f64::from(errors) / f64::from(calls);
            if calls > 0 && rate >= self.params.health.window_err_rate && self.may_eject() {
                let host = self.idle.remove(i);
                self.ejected(host, EjectionRule::WindowErrorRate, now);
            } else {
                let host = self.idle.remove(i);
                self.becomes_idle(host, now);
            }
        }
        let overload_timeout = self.params.health.overload_timeout;
        for addr in due(&self.overloaded, |host| host.timestamp + overload_timeout <= now) {
            let i = self.overloaded.iter().position(|host| host.addr == addr).expect("it was there");
            let host = self.overloaded.remove(i);
            self.recovered(host, RecoveryRule::Timeout, now);
        }
    }

    pub(super) fn update(&mut self, hosts: &[HostAddr], now: Moment) {
        self.step_back(now);
        for &addr in hosts {
            if !self.idle.iter().chain(&self.overloaded).any(|host| host.addr == addr) {
                self.becomes_idle(ModelHost::new(addr), now);
                self.all.push(addr);
            }
        }
        self.idle.retain(|host| hosts.contains(&host.addr));
        self.overloaded.retain(|host| hosts.contains(&host.addr));
        self.all.retain(|addr| hosts.contains(addr));
        self.sent.retain(|addr, _| hosts.contains(addr));
        self.note_panic();
    }

    pub(super) fn statuses(&self) -> Vec<HostStatus> {
        let status = |host: &ModelHost, overloaded| HostStatus {
            host: host.addr,
            succ: host.rsucc,
            err: host.rerr,
            overloaded,
        };
        let idle = self.idle.iter().map(|host| status(host, false));
        idle.chain(self.overloaded.iter().map(|host| status(host, true))).collect()
    }

    /// Hosts whose status differs from what was sent last; of a new host nobody thinks but that it is idle and
    /// without calls.
    pub(super) fn differing(&self) -> Vec<HostAddr> {
        let last = |addr| self.sent.get(&addr).copied().unwrap_or_default();
        let statuses = self.statuses().into_iter();
        statuses.filter(|s| (s.succ, s.err, s.overloaded) != last(s.host)).map(|s| s.host).collect()
    }

    pub(super) fn send(&mut self) {
        for s in self.statuses() {
            self.sent.insert(s.host, (s.succ, s.err, s.overloaded));
        }
    }

    fn ejected(&mut self, host: ModelHost, rule: EjectionRule, now: Moment) {
        self.changes.push(Change::Ejected { host: host.addr, rule });
        self.becomes_overloaded(host, now);
        self.note_panic();
    }

    fn recovered(&mut self, host: ModelHost, rule: RecoveryRule, now: Moment) {
        self.changes.push(Change::Recovered { host: host.addr, rule });
        self.becomes_idle(host, now);
        self.note_panic();
    }

    fn becomes_idle(&mut self, host: ModelHost, now: Moment) {
        self.serial += 1;
        let fresh = ModelHost { timestamp: now, serial: self.serial, ..ModelHost::new(host.addr) };
        self.idle.push(ModelHost { vsucc: self.params.health.init_succ_cnt, ..fresh });
    }

    fn becomes_overloaded(&mut self, host: ModelHost, now: Moment) {
        self.serial += 1;
        let fresh = ModelHost { timestamp: now, serial: self.serial, ..ModelHost::new(host.addr) };
        self.overloaded.push(ModelHost { verr: self.params.health.init_err_cnt, ..fresh });
    }

    fn step_back(&mut self, now: Moment) {
        for host in self.idle.iter_mut().chain(&mut self.overloaded) {
            host.timestamp = host.timestamp.min(now);
        }
    }
}

impl ModelHost {
    fn new(addr: HostAddr) -> Self {
        let (timestamp, serial) = (Moment::ORIGIN, 0);
        Self { addr, vsucc: 0, verr: 0, rsucc: 0, rerr: 0, contin_succ: 0, contin_err: 0, timestamp, serial }
    }
}

fn count(host: &mut ModelHost, failed: bool) {
    if failed {
        host.verr += 1;
        host.rerr += 1;
        host.contin_err += 1;
        host.contin_succ = 0;
    } else {
        host.vsucc += 1;
        host.rsucc += 1;
        host.contin_succ += 1;
        host.contin_err = 0;
    }
}

fn head_to_tail(queue: &mut Vec<ModelHost>) -> HostAddr {
    let host = queue.remove(0);
    let addr = host.addr;
    queue.push(host);
    addr
}

/// The hosts whose windows are over, the oldest window first.
fn due(queue: &[ModelHost], is_over: impl Fn(&ModelHost) -> bool) -> Vec<HostAddr> {
    let mut due: Vec<&ModelHost> = queue.iter().filter(|host| is_over(host)).collect();
    due.sort_by_key(|host| host.serial);
    due.into_iter().map(|host| host.addr).collect()
}
