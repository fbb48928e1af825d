//! [`Limits`]: what keeps ejections from doing more harm than the hosts that they are about.

use super::Census;

/// A cap on ejections and a panic mode, both in percent of a module's hosts and both off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The greatest share of a module's hosts that may be overloaded at once, 0..=100. See
    /// [`Limits::ejected_max`].
    pub max_ejected_percent: u32,
    /// When less than this share of a module's hosts is idle, all are picked in turn, 0..=100; 0: never.
    pub panic_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_ejected_percent: 100, panic_percent: 0 }
    }
}

impl Limits {
    /// How many of `hosts` hosts may be overloaded when one more is ejected: with 100 percent all, with 0
    /// none, and in between the share rounded down, but at least one and never all.
    #[must_use]
    pub fn ejected_max(self, hosts: usize) -> usize {
        match self.max_ejected_percent {
            0 => 0,
            percent @ 1..100 => (hosts * percent as usize / 100).max(1).min(hosts.saturating_sub(1)),
            100.. => hosts,
        }
    }

    /// Whether one more host may be ejected.
    pub(super) fn allow_ejection(self, census: Census) -> bool {
        census.overloaded < self.ejected_max(census.hosts())
    }

    /// Whether so few hosts are idle that all must be picked.
    pub(super) fn demand_panic(self, census: Census) -> bool {
        census.idle * 100 < census.hosts() * self.panic_percent as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_allows_at_least_one_and_never_all() {
        let ejected_max =
            |percent, hosts| Limits { max_ejected_percent: percent, ..Limits::default() }.ejected_max(hosts);
        for (percent, hosts, expected) in [
            (10, 0, 0),
            (10, 1, 0),
            (10, 2, 1),
            (10, 19, 1),
            (10, 20, 2),
            (50, 3, 1),
            (99, 100, 99),
            (99, 3, 2),
            (100, 1, 1),
            (100, 7, 7),
            (0, 7, 0),
        ] {
            assert_eq!(ejected_max(percent, hosts), expected, "{percent} % of {hosts}");
        }
    }

    #[test]
    fn panic_begins_below_the_share() {
        let panics = |percent, idle, overloaded| {
            Limits { panic_percent: percent, ..Limits::default() }.demand_panic(Census { idle, overloaded })
        };
        assert!(!panics(0, 0, 5), "0 turns it off");
        assert!(!panics(50, 5, 5), "half is not less than half");
        assert!(panics(50, 4, 5));
        assert!(panics(100, 9, 1));
        assert!(!panics(100, 9, 0));
        assert!(!panics(100, 0, 0), "no hosts, no panic");
    }
}
