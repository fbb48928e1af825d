//! [`RoundRobin`]: which host is picked, with probes of the overloaded ones (`docs/BALANCER.md`).

use super::{Pick, health::State, host_set::HostSet};

/// Round robin over the idle hosts; every so often the next of the overloaded ones instead.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// Picks since the last probe that could have been one.
    access_count: u32,
}

/// A pick, and whether it probes an overloaded host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) pick: Pick,
    pub(super) probed: bool,
}

impl RoundRobin {
    pub(super) fn select(&mut self, hosts: &mut HostSet, probe_num: u32) -> Selected {
        if hosts.census().overloaded == 0 {
            let pick = hosts.next_of(State::Idle).map_or(Pick::NoHosts, Pick::Host);
            return Selected { pick, probed: false };
        }
        if self.access_count >= probe_num {
            self.access_count = 0;
            let pick = hosts.next_of(State::Overloaded).map_or(Pick::NoHosts, Pick::Host);
            return Selected { pick, probed: true };
        }
        self.access_count += 1;
        let pick = hosts.next_of(State::Idle).map_or(Pick::Overloaded, Pick::Host);
        Selected { pick, probed: false }
    }

    /// The next of all hosts, whatever their state. Probes neither happen nor come nearer.
    pub(super) fn select_any(hosts: &mut HostSet) -> Selected {
        let pick = hosts.next_of_all().map_or(Pick::NoHosts, Pick::Host);
        Selected { pick, probed: false }
    }

    pub(super) fn check_invariants(&self, probe_num: u32) {
        debug_assert!(self.access_count <= probe_num, "a probe is due after probe_num lookups");
    }
}
