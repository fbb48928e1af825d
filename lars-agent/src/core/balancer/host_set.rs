//! [`HostSet`]: the hosts of one module, in the orders in which they are picked and judged.
//!
//! The hosts of each state are kept in two orders: the one they are picked in, and the one their windows
//! began in. All windows of a state are equally long, so the second order is also the one they end in, and
//! looking for ended windows costs one comparison when there are none. A third order holds all hosts, for
//! picks that make no difference between the states.
//!
//! It decides nothing: which host changes its state is for others to say.

use std::collections::HashMap;

use ahash::RandomState;
use lars_proto::{Endpoint, HostAddr};
use slab::Slab;

use super::{
    Census, Ejection, HostStatus,
    batch::Part,
    effects::EjectionRule,
    health::{Counts, State},
    linked_order::{Linked, LinkedOrder, Links},
};
use crate::core::time::Moment;

/// Modules with more hosts than this are not checked after each call, even in debug builds.
const CHECKED_HOSTS_MAX: usize = 256;

/// The orders, by the links they use.
const PICK: usize = 0;
const WINDOW: usize = 1;
const ALL: usize = 2;

#[derive(Clone, Debug)]
pub(super) struct Host {
    endpoint: Endpoint,
    /// What ejected it; `None` while it is idle.
    ejected_by: Option<EjectionRule>,
    /// Its status is not what was taken last.
    dirty: bool,
    /// Its status was taken at least once.
    sent: bool,
    /// The update that goes on lists it.
    listed: bool,
    window_start: Moment,
    counts: Counts,
    links: [Links; 3],
}

impl Host {
    /// A host that joins, in no order yet.
    fn new(endpoint: Endpoint, now: Moment) -> Self {
        Self {
            endpoint,
            ejected_by: None,
            dirty: false,
            sent: false,
            listed: true,
            window_start: now,
            counts: Counts::default(),
            links: [Links::NONE; 3],
        }
    }

    pub(super) const fn addr(&self) -> HostAddr {
        self.endpoint.addr
    }

    pub(super) const fn state(&self) -> State {
        if self.ejected_by.is_some() { State::Overloaded } else { State::Idle }
    }

    /// What was counted in the current window.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    const fn status(&self) -> HostStatus {
        HostStatus {
            host: self.endpoint.addr,
            succ: self.counts.succ,
            err: self.counts.err,
            overloaded: self.ejected_by.is_some(),
        }
    }

    fn ejection(&self) -> Option<Ejection> {
        let rule = self.ejected_by?;
        Some(Ejection { host: self.endpoint.addr, rule, since: self.window_start })
    }
}

impl Linked for Host {
    fn links(&self, which: usize) -> &Links {
        &self.links[which]
    }

    fn links_mut(&mut self, which: usize) -> &mut Links {
        &mut self.links[which]
    }
}

/// The hosts of one state.
#[derive(Debug, Default)]
struct Orders {
    /// Round robin: the head is picked next and goes to the tail.
    pick: LinkedOrder<PICK>,
    /// By the start of their windows, the oldest first.
    window: LinkedOrder<WINDOW>,
}

/// See the module's documentation. Hosts are named by their slab keys.
#[derive(Debug)]
pub(super) struct HostSet {
    hosts: Slab<Host>,
    by_addr: HashMap<HostAddr, u32, RandomState>,
    idle: Orders,
    overloaded: Orders,
    /// Round robin over all.
    all: LinkedOrder<ALL>,
    /// The latest `now`, to notice a clock that steps back.
    clock: Moment,
    dirty_len: usize,
    version: u64,
}

impl HostSet {
    pub(super) fn new() -> Self {
        Self {
            hosts: Slab::new(),
            by_addr: HashMap::default(),
            idle: Orders::default(),
            overloaded: Orders::default(),
            all: LinkedOrder::default(),
            clock: Moment::ORIGIN,
            dirty_len: 0,
            version: 0,
        }
    }

    pub(super) fn find(&self, addr: HostAddr) -> Option<u32> {
        self.by_addr.get(&addr).copied()
    }

    pub(super) fn host(&self, key: u32) -> &Host {
        &self.hosts[key as usize]
    }

    pub(super) fn endpoint(&self, addr: HostAddr) -> Option<Endpoint> {
        Some(self.host(self.find(addr)?).endpoint)
    }

    pub(super) const fn census(&self) -> Census {
        Census { idle: self.idle.pick.len(), overloaded: self.overloaded.pick.len() }
    }

    pub(super) const fn len_of(&self, state: State) -> usize {
        self.orders(state).pick.len()
    }

    /// Grows whenever the set of hosts, what a route says of one, or the state of one changes.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// All hosts: the idle ones first, each state in the order in which it will be picked.
    pub(super) fn statuses(&self) -> impl Iterator<Item = HostStatus> {
        let of = |orders: &Orders| orders.pick.iter(&self.hosts).map(|key| self.host(key).status());
        of(&self.idle).chain(of(&self.overloaded))
    }

    /// The overloaded hosts, those ejected first before the others.
    pub(super) fn ejections(&self) -> impl Iterator<Item = Ejection> {
        self.overloaded.window.iter(&self.hosts).filter_map(|key| self.host(key).ejection())
    }

    /// The next host of this state, which goes to the tail.
    pub(super) fn next_of(&mut self, state: State) -> Option<HostAddr> {
        let orders = match state {
            State::Idle => &mut self.idle,
            State::Overloaded => &mut self.overloaded,
        };
        let key = orders.pick.rotate(&self.hosts)?;
        Some(self.host(key).addr())
    }

    /// The next host of any state, in an order of its own.
    pub(super) fn next_of_all(&mut self) -> Option<HostAddr> {
        let key = self.all.rotate(&self.hosts)?;
        Some(self.host(key).addr())
    }

    /// The host of this state whose window began first, and when that was.
    pub(super) fn oldest_window(&self, state: State) -> Option<(u32, Moment)> {
        let key = self.orders(state).window.head()?;
        Some((key, self.host(key).window_start))
    }

    /// Takes note of the time. If the clock stepped back, windows that would now begin in the future begin
    /// now: no host stays in a state longer than its timeout, and the window orders stay sorted.
    pub(super) fn observe(&mut self, now: Moment) {
        if now < self.clock {
            for (_, host) in &mut self.hosts {
                host.window_start = host.window_start.min(now);
            }
        }
        self.clock = now;
    }

    /// Makes `route` the hosts of the set: new ones join idle at the tail, vanished ones leave, the others
    /// keep their state and place. Of a host that is listed twice the first entry counts.
    pub(super) fn update(&mut self, route: &[Endpoint]) {
        for (_, host) in &mut self.hosts {
            host.listed = false;
        }
        for &endpoint in route {
            match self.find(endpoint.addr) {
                Some(key) => self.list(key, endpoint),
                None => self.join(endpoint),
            }
        }
        let is_vanished = |(key, host): (usize, &Host)| (!host.listed).then_some(key as u32);
        let vanished: Vec<u32> = self.hosts.iter().filter_map(is_vanished).collect();
        for key in vanished {
            self.leave(key);
        }
    }

    fn list(&mut self, key: u32, endpoint: Endpoint) {
        let host = &mut self.hosts[key as usize];
        if !host.listed && host.endpoint != endpoint {
            host.endpoint = endpoint;
            self.version += 1;
        }
        host.listed = true;
    }

    fn join(&mut self, endpoint: Endpoint) {
        let key = self.hosts.insert(Host::new(endpoint, self.clock)) as u32;
        self.by_addr.insert(endpoint.addr, key);
        self.all.push_back(&mut self.hosts, key);
        self.link(key);
        self.version += 1;
    }

    fn leave(&mut self, key: u32) {
        self.unlink(key);
        self.all.remove(&mut self.hosts, key);
        let host = self.hosts.remove(key as usize);
        self.by_addr.remove(&host.addr());
        self.dirty_len -= usize::from(host.dirty);
        self.version += 1;
    }

    /// Counts calls of a host.
    pub(super) fn count(&mut self, key: u32, part: Part) {
        self.hosts[key as usize].counts.add(part);
        self.mark_dirty(key);
    }

    /// Puts a host into the state that `ejected_by` says, which may be the one it is in, with a fresh window
    /// and at the tail. True if that changed what its status says.
    pub(super) fn open_window(&mut self, key: u32, ejected_by: Option<EjectionRule>) -> bool {
        self.unlink(key);
        let host = &mut self.hosts[key as usize];
        let before = host.state();
        host.ejected_by = ejected_by;
        let has_changed_state = host.state() != before;
        let is_dirty = has_changed_state || !host.counts.is_empty();
        host.counts = Counts::default();
        host.window_start = self.clock;
        self.version += u64::from(has_changed_state);
        self.link(key);
        if is_dirty {
            self.mark_dirty(key);
        }
        is_dirty
    }

    /// Puts an idle host that nobody has called yet into the state of one that was ejected at `since`. To be called with
    /// those ejected first before the others.
    pub(super) fn eject_since(&mut self, key: u32, rule: EjectionRule, since: Moment) {
        self.open_window(key, Some(rule));
        self.hosts[key as usize].window_start = since.min(self.clock);
    }

    fn mark_dirty(&mut self, key: u32) {
        let host = &mut self.hosts[key as usize];
        self.dirty_len += usize::from(!host.dirty);
        host.dirty = true;
    }

    pub(super) const fn has_dirty(&self) -> bool {
        self.dirty_len > 0
    }

    /// Appends up to `limit` hosts whose status is not what was taken last to `out`.
    pub(super) fn take_dirty(&mut self, limit: usize, out: &mut Vec<HostStatus>) {
        let taken = limit.min(self.dirty_len);
        for (_, host) in self.hosts.iter_mut().filter(|(_, host)| host.dirty).take(taken) {
            host.dirty = false;
            host.sent = true;
            out.push(host.status());
        }
        self.dirty_len -= taken;
    }

    /// All hosts ever taken are dirty again.
    pub(super) fn resend(&mut self) {
        for (_, host) in &mut self.hosts {
            host.dirty |= host.sent;
        }
        self.dirty_len = self.hosts.iter().filter(|(_, host)| host.dirty).count();
    }

    const fn orders(&self, state: State) -> &Orders {
        match state {
            State::Idle => &self.idle,
            State::Overloaded => &self.overloaded,
        }
    }

    /// Appends a host to both orders of the state it is in.
    fn link(&mut self, key: u32) {
        let orders = match self.hosts[key as usize].state() {
            State::Idle => &mut self.idle,
            State::Overloaded => &mut self.overloaded,
        };
        orders.pick.push_back(&mut self.hosts, key);
        orders.window.push_back(&mut self.hosts, key);
    }

    fn unlink(&mut self, key: u32) {
        let orders = match self.hosts[key as usize].state() {
            State::Idle => &mut self.idle,
            State::Overloaded => &mut self.overloaded,
        };
        orders.pick.remove(&mut self.hosts, key);
        orders.window.remove(&mut self.hosts, key);
    }

    /// Every host is in the two orders of its own state and in the order of all; the orders are sound;
    /// counters and map agree with the hosts. In debug builds only, and not for modules so large that it would
    /// take long.
    pub(super) fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.hosts.len() > CHECKED_HOSTS_MAX {
            return;
        }
        assert_eq!(self.census().hosts(), self.hosts.len(), "each host is in one state's orders");
        assert_eq!(self.by_addr.len(), self.hosts.len(), "each host is in the map");
        for (key, host) in &self.hosts {
            assert_eq!(self.by_addr.get(&host.addr()), Some(&(key as u32)), "the map leads to the host");
            assert!(host.window_start <= self.clock, "windows begin in the past");
        }
        let dirty = self.hosts.iter().filter(|(_, host)| host.dirty).count();
        assert_eq!(dirty, self.dirty_len, "dirty hosts are counted");
        assert!(self.all.is_well_formed(&self.hosts), "the order of all");
        assert_eq!(self.all.len(), self.hosts.len(), "each host is in the order of all");
        self.check_orders(State::Idle);
        self.check_orders(State::Overloaded);
    }

    fn check_orders(&self, state: State) {
        let Orders { pick, window } = self.orders(state);
        assert!(pick.is_well_formed(&self.hosts), "{state:?}: pick order");
        assert!(window.is_well_formed(&self.hosts), "{state:?}: window order");
        assert_eq!(pick.len(), window.len(), "{state:?}: both orders");
        assert!(pick.iter(&self.hosts).all(|key| self.host(key).state() == state), "{state:?}: members");
        let windows = || window.iter(&self.hosts).map(|key| self.host(key));
        assert!(windows().all(|host| host.state() == state), "{state:?}: members");
        assert!(windows().is_sorted_by_key(|host| host.window_start), "{state:?}: windows by age");
    }
}

#[cfg(test)]
impl HostSet {
    pub(super) fn dirty_addrs(&self) -> impl Iterator<Item = HostAddr> {
        self.hosts.iter().filter(|(_, host)| host.dirty).map(|(_, host)| host.addr())
    }
}

/// As long as a cache line: a pick touches a host and its neighbours.
const _: () = assert!(size_of::<Host>() <= 64);
