//! The text of `DESIGN` section 7 as plainly as it can be written: two vectors, everything looked up and
//! shifted by hand. What [`Classic`](super::Classic) is held against.

use std::collections::BTreeMap;

use lars_proto::HostAddr;

use super::ClassicParams;
use crate::core::{
    balancer::{HostStatus, Outcome, Pick},
    time::Moment,
};

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
    params: ClassicParams,
    idle: Vec<ModelHost>,
    overloaded: Vec<ModelHost>,
    access_count: u32,
    serial: u64,
    told: BTreeMap<HostAddr, (u32, u32, bool)>,
}

impl Model {
    pub(super) fn new(params: ClassicParams) -> Self {
        Self { params, idle: vec![], overloaded: vec![], access_count: 0, serial: 0, told: BTreeMap::new() }
    }

    pub(super) fn pick(&mut self, now: Moment) -> Pick {
        self.windows(now);
        if self.idle.is_empty() && self.overloaded.is_empty() {
            return Pick::NoHosts;
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
            if failed && (rate > self.params.err_rate || host.contin_err >= self.params.contin_err_limit) {
                let host = self.idle.remove(i);
                self.becomes_overloaded(host, now);
            }
        } else if let Some(i) = self.overloaded.iter().position(|host| host.addr == addr) {
            let host = &mut self.overloaded[i];
            count(host, failed);
            let rate = f64::from(host.vsucc) / f64::from(host.vsucc + host.verr);
            if !failed && (rate > self.params.succ_rate || host.contin_succ >= self.params.contin_succ_limit)
            {
                let host = self.overloaded.remove(i);
                self.becomes_idle(host, now);
            }
        } else {
            return false;
        }
        self.windows(now);
        true
    }

    pub(super) fn windows(&mut self, now: Moment) {
        self.step_back(now);
        let idle_timeout = self.params.idle_timeout;
        for host in take_if(&mut self.idle, |host| host.timestamp + idle_timeout <= now) {
            let calls = host.rsucc + host.rerr;
            if calls > 0 && f64::from(host.rerr) / f64::from(calls) >= self.params.window_err_rate {
                self.becomes_overloaded(host, now);
            } else {
                self.becomes_idle(host, now);
            }
        }
        let overload_timeout = self.params.overload_timeout;
        for host in take_if(&mut self.overloaded, |host| host.timestamp + overload_timeout <= now) {
            self.becomes_idle(host, now);
        }
    }

    pub(super) fn update(&mut self, hosts: &[HostAddr], now: Moment) {
        self.step_back(now);
        for &addr in hosts {
            if !self.idle.iter().chain(&self.overloaded).any(|host| host.addr == addr) {
                self.becomes_idle(ModelHost::new(addr), now);
            }
        }
        self.idle.retain(|host| hosts.contains(&host.addr));
        self.overloaded.retain(|host| hosts.contains(&host.addr));
        self.told.retain(|addr, _| hosts.contains(addr));
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

    /// Hosts whose status differs from what was told last; a new host was told as idle and without calls.
    pub(super) fn differing(&self) -> Vec<HostAddr> {
        let last = |addr| self.told.get(&addr).copied().unwrap_or_default();
        let statuses = self.statuses().into_iter();
        statuses.filter(|s| (s.succ, s.err, s.overloaded) != last(s.host)).map(|s| s.host).collect()
    }

    pub(super) fn tell(&mut self) {
        for s in self.statuses() {
            self.told.insert(s.host, (s.succ, s.err, s.overloaded));
        }
    }

    fn becomes_idle(&mut self, host: ModelHost, now: Moment) {
        self.serial += 1;
        let fresh = ModelHost { timestamp: now, serial: self.serial, ..ModelHost::new(host.addr) };
        self.idle.push(ModelHost { vsucc: self.params.init_succ_cnt, ..fresh });
    }

    fn becomes_overloaded(&mut self, host: ModelHost, now: Moment) {
        self.serial += 1;
        let fresh = ModelHost { timestamp: now, serial: self.serial, ..ModelHost::new(host.addr) };
        self.overloaded.push(ModelHost { verr: self.params.init_err_cnt, ..fresh });
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

/// Takes out the hosts that `due` is true for, the oldest window first.
fn take_if(queue: &mut Vec<ModelHost>, due: impl Fn(&ModelHost) -> bool) -> Vec<ModelHost> {
    let mut taken: Vec<ModelHost> = queue.extract_if(.., |host| due(host)).collect();
    taken.sort_by_key(|host| host.serial);
    taken
}
