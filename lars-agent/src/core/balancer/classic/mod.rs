//! The classic policy: round robin over the idle hosts, every so often a probe of an overloaded one
//! (`DESIGN` section 7).
//!
//! The hosts of each state are kept in two orders: the one they are picked in, and the one their windows
//! began in. All windows of a state are equally long, so the second order is also the one they end in, and
//! looking for ended windows costs one comparison when there are none. Thus every pick and every report
//! checks the windows of *all* the module's hosts in constant amortised time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ahash::RandomState;
use lars_proto::HostAddr;
use slab::Slab;

use self::host::{Counts, Host, State};
use super::{Census, Effects, HostStatus, Outcome, Pick, Policy, ring::Ring};
use crate::core::time::Moment;

mod host;
mod params;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use params::ClassicParams;

/// Modules with more hosts than this are not checked after each call, even in debug builds.
const CHECKED_HOSTS_MAX: usize = 256;

/// The hosts of one state.
#[derive(Debug, Default)]
struct Band {
    /// Round robin: the head is picked next and goes to the tail.
    pick_order: Ring<0>,
    /// By the start of their windows, the oldest first.
    window_order: Ring<1>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Classic {
    params: Arc<ClassicParams>,
    hosts: Slab<Host>,
    by_addr: HashMap<HostAddr, u32, RandomState>,
    idle: Band,
    overloaded: Band,
    /// Lookups since the last probe.
    access_count: u32,
    /// The latest `now`, to notice a clock that steps back.
    clock: Moment,
    /// Hosts with news.
    news_len: usize,
    /// Updates so far, wrapping; hosts not listed in the latest one leave.
    update_count: u32,
    version: u64,
}

impl Policy for Classic {
    fn pick(&mut self, now: Moment, effects: &mut Effects) -> Pick {
        self.close_windows(now, effects);
        let pick = if self.overloaded.pick_order.is_empty() {
            self.next_idle().map_or(Pick::NoHosts, Pick::Host)
        } else if self.access_count >= self.params.probe_num {
            self.access_count = 0;
            effects.probed = true;
            self.next_overloaded().map_or(Pick::NoHosts, Pick::Host)
        } else {
            self.access_count += 1;
            self.next_idle().map_or(Pick::Overloaded, Pick::Host)
        };
        self.check_invariants();
        pick
    }

    fn report(&mut self, host: HostAddr, outcome: Outcome, now: Moment, effects: &mut Effects) -> bool {
        self.observe(now);
        let Some(&key) = self.by_addr.get(&host) else {
            return false;
        };
        let host = &mut self.hosts[key as usize];
        let (before, after) = (host.state, host.count(outcome, &self.params));
        self.mark_news(key, effects);
        if after != before {
            self.open_window(key, after, now, effects);
        }
        self.close_windows(now, effects);
        self.check_invariants();
        true
    }

    fn update(&mut self, hosts: &[HostAddr], now: Moment) {
        self.observe(now);
        self.update_count = self.update_count.wrapping_add(1);
        for &addr in hosts {
            match self.by_addr.get(&addr) {
                Some(&key) => self.hosts[key as usize].listed_in = self.update_count,
                None => self.join(addr, now),
            }
        }
        let is_listed = |host: &Host| host.listed_in == self.update_count;
        let vanished: Vec<usize> =
            self.hosts.iter().filter(|(_, host)| !is_listed(host)).map(|(key, _)| key).collect();
        for key in vanished {
            self.leave(key as u32);
        }
        self.check_invariants();
    }

    fn sweep(&mut self, now: Moment, effects: &mut Effects) {
        self.close_windows(now, effects);
        self.check_invariants();
    }

    fn census(&self) -> Census {
        Census { idle: self.idle.pick_order.len(), overloaded: self.overloaded.pick_order.len() }
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn each_host(&self, visit: &mut dyn FnMut(HostStatus)) {
        for band in [&self.idle, &self.overloaded] {
            band.pick_order.iter(&self.hosts).for_each(|key| visit(self.hosts[key as usize].status()));
        }
    }

    fn has_news(&self) -> bool {
        self.news_len > 0
    }

    fn take_news(&mut self, limit: usize, out: &mut Vec<HostStatus>) {
        let taken = limit.min(self.news_len);
        for (_, host) in self.hosts.iter_mut().filter(|(_, host)| host.news).take(taken) {
            host.news = false;
            host.told = true;
            out.push(host.status());
        }
        self.news_len -= taken;
        self.check_invariants();
    }

    fn retell(&mut self) {
        for (_, host) in &mut self.hosts {
            host.news |= host.told;
        }
        self.news_len = self.hosts.iter().filter(|(_, host)| host.news).count();
        self.check_invariants();
    }
}

impl Classic {
    /// A module without hosts.
    #[must_use]
    pub fn new(params: Arc<ClassicParams>) -> Self {
        Self {
            params,
            hosts: Slab::new(),
            by_addr: HashMap::default(),
            idle: Band::default(),
            overloaded: Band::default(),
            access_count: 0,
            clock: Moment::ORIGIN,
            news_len: 0,
            update_count: 0,
            version: 0,
        }
    }

    fn next_idle(&mut self) -> Option<HostAddr> {
        let key = self.idle.pick_order.rotate(&self.hosts)?;
        Some(self.hosts[key as usize].addr)
    }

    fn next_overloaded(&mut self) -> Option<HostAddr> {
        let key = self.overloaded.pick_order.rotate(&self.hosts)?;
        Some(self.hosts[key as usize].addr)
    }

    const fn band(&self, state: State) -> &Band {
        match state {
            State::Idle => &self.idle,
            State::Overloaded => &self.overloaded,
        }
    }

    fn window_len(&self, state: State) -> Duration {
        match state {
            State::Idle => self.params.idle_timeout,
            State::Overloaded => self.params.overload_timeout,
        }
    }

    fn window_end(&self, key: u32) -> Moment {
        let host = &self.hosts[key as usize];
        host.window_start + self.window_len(host.state)
    }

    /// Takes note of the time. If the clock stepped back, windows that would now begin in the future begin
    /// now: no host stays in a state longer than its timeout, and the window orders stay sorted.
    fn observe(&mut self, now: Moment) {
        if now < self.clock {
            for (_, host) in &mut self.hosts {
                host.window_start = host.window_start.min(now);
            }
        }
        self.clock = now;
    }

    /// Judges every host whose window has ended.
    fn close_windows(&mut self, now: Moment, effects: &mut Effects) {
        self.observe(now);
        for state in [State::Idle, State::Overloaded] {
            // Bounded, because a window of no length ends as soon as it begins.
            for _ in 0..self.band(state).window_order.len() {
                match self.band(state).window_order.head() {
                    Some(oldest) if self.window_end(oldest) <= now => {
                        let after = self.hosts[oldest as usize].state_after_window(&self.params);
                        self.open_window(oldest, after, now, effects);
                    }
                    Some(_) | None => break,
                }
            }
        }
    }

    /// Puts a host into `state`, which may be the one it is in, with a fresh window and at the tail.
    fn open_window(&mut self, key: u32, state: State, now: Moment, effects: &mut Effects) {
        self.unlink(key);
        let host = &mut self.hosts[key as usize];
        let is_news = host.state != state || host.has_calls();
        match (host.state, state) {
            (State::Idle, State::Overloaded) => effects.ejected += 1,
            (State::Overloaded, State::Idle) => effects.recovered += 1,
            (State::Idle, State::Idle) | (State::Overloaded, State::Overloaded) => {}
        }
        self.version += u64::from(host.state != state);
        host.state = state;
        host.counts = Counts::fresh(state, &self.params);
        host.window_start = now;
        self.link(key);
        if is_news {
            self.mark_news(key, effects);
        }
    }

    fn mark_news(&mut self, key: u32, effects: &mut Effects) {
        effects.news = true;
        let host = &mut self.hosts[key as usize];
        self.news_len += usize::from(!host.news);
        host.news = true;
    }

    fn join(&mut self, addr: HostAddr, now: Moment) {
        let key = self.hosts.insert(Host::new(addr, self.update_count, &self.params, now)) as u32;
        self.by_addr.insert(addr, key);
        self.link(key);
        self.version += 1;
    }

    fn leave(&mut self, key: u32) {
        self.unlink(key);
        let host = self.hosts.remove(key as usize);
        self.by_addr.remove(&host.addr);
        self.news_len -= usize::from(host.news);
        self.version += 1;
    }

    /// Appends a host to both orders of the state it is in.
    fn link(&mut self, key: u32) {
        let band = match self.hosts[key as usize].state {
            State::Idle => &mut self.idle,
            State::Overloaded => &mut self.overloaded,
        };
        band.pick_order.push_back(&mut self.hosts, key);
        band.window_order.push_back(&mut self.hosts, key);
    }

    fn unlink(&mut self, key: u32) {
        let band = match self.hosts[key as usize].state {
            State::Idle => &mut self.idle,
            State::Overloaded => &mut self.overloaded,
        };
        band.pick_order.remove(&mut self.hosts, key);
        band.window_order.remove(&mut self.hosts, key);
    }

    /// Every host is in the two orders of its own state and in no other; the orders are sound; counters and
    /// map agree with the hosts. In debug builds only, and not for modules so large that it would take long.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.hosts.len() > CHECKED_HOSTS_MAX {
            return;
        }
        let listed = self.idle.pick_order.len() + self.overloaded.pick_order.len();
        assert_eq!(listed, self.hosts.len(), "each host is in one queue");
        assert_eq!(self.by_addr.len(), self.hosts.len(), "each host is in the map");
        for (key, host) in &self.hosts {
            assert_eq!(self.by_addr.get(&host.addr), Some(&(key as u32)), "the map leads to the host");
            assert!(host.window_start <= self.clock, "windows begin in the past");
        }
        let news = self.hosts.iter().filter(|(_, host)| host.news).count();
        assert_eq!(news, self.news_len, "hosts with news are counted");
        assert!(self.access_count <= self.params.probe_num, "a probe is due after probe_num lookups");
        self.check_band(State::Idle);
        self.check_band(State::Overloaded);
    }

    fn check_band(&self, state: State) {
        let band = self.band(state);
        assert!(band.pick_order.is_well_formed(&self.hosts), "{state:?}: pick order");
        assert!(band.window_order.is_well_formed(&self.hosts), "{state:?}: window order");
        assert_eq!(band.pick_order.len(), band.window_order.len(), "{state:?}: both orders");
        let host = |key: u32| &self.hosts[key as usize];
        assert!(band.pick_order.iter(&self.hosts).all(|key| host(key).state == state), "{state:?}: members");
        let windows = || band.window_order.iter(&self.hosts).map(host);
        assert!(windows().all(|host| host.state == state), "{state:?}: members");
        assert!(windows().is_sorted_by_key(|host| host.window_start), "{state:?}: windows by age");
    }
}
