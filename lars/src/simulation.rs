//! What `lars simulate` decides and counts; the calls themselves are made by its command.

use std::{collections::BTreeMap, net::Ipv4Addr, ops::AddAssign};

use fastrand::Rng;
use lars_client::{GetHostError, HostAddr};
use lars_store::CallStatus;

/// A call that was drawn to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SimulatedFailure;

/// Draws how calls go.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: u64,
    error_rate: f64,
    error_rates: BTreeMap<HostAddr, f64>,
    /// One generator per host: whether the tenth call of a host fails does not depend on the calls of others.
    hosts: BTreeMap<HostAddr, Rng>,
}

impl Dice {
    /// Calls fail with `error_rate`, on the hosts of `error_rates` with that one.
    pub(crate) fn new(seed: u64, error_rate: f64, error_rates: BTreeMap<HostAddr, f64>) -> Self {
        Self { seed, error_rate, error_rates, hosts: BTreeMap::new() }
    }

    /// How the next call of `host` goes.
    pub(crate) fn roll(&mut self, host: HostAddr) -> Result<(), SimulatedFailure> {
        let error_rate = self.error_rates.get(&host).copied().unwrap_or(self.error_rate);
        let rng = self.hosts.entry(host).or_insert_with(|| Rng::with_seed(host_seed(self.seed, host)));
        if rng.f64() < error_rate { Err(SimulatedFailure) } else { Ok(()) }
    }
}

fn host_seed(seed: u64, host: HostAddr) -> u64 {
    let (ip, port) = host.to_unsigned();
    // Drawn once, so that neighbouring numbers lead to unlike generators.
    Rng::with_seed(seed ^ (u64::from(ip) << 16 | u64::from(port))).u64(..)
}

/// What became of the lookups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) hosts: BTreeMap<HostAddr, HostTally>,
    pub(crate) overloaded: u64,
    pub(crate) not_found: u64,
    pub(crate) timed_out: u64,
    pub(crate) other_failures: u64,
}

/// The calls of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostTally {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
}

impl HostTally {
    pub(crate) fn count(&mut self, failed: bool) {
        self.calls += 1;
        self.failed += u64::from(failed);
    }
}

impl Tally {
    /// Every host of the route is listed, called or not.
    pub(crate) fn of(hosts: &[HostAddr]) -> Self {
        Self { hosts: hosts.iter().map(|host| (*host, HostTally::default())).collect(), ..Self::default() }
    }

    pub(crate) fn count_call(&mut self, host: HostAddr, failed: bool) {
        self.hosts.entry(host).or_default().count(failed);
    }

    pub(crate) fn count_failure(&mut self, error: &GetHostError) {
        let counter = match error {
            GetHostError::Overloaded(_) => &mut self.overloaded,
            GetHostError::NotFound(_) => &mut self.not_found,
            GetHostError::Timeout { .. } => &mut self.timed_out,
            GetHostError::AgentUnreachable { .. } | GetHostError::Protocol { .. } | _ => {
                &mut self.other_failures
            }
        };
        counter.add_assign(1);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.hosts.values().map(|host| host.calls).sum()
    }

    pub(crate) fn lookups(&self) -> u64 {
        self.calls() + self.overloaded + self.not_found + self.timed_out + self.other_failures
    }
}

/// A host became overloaded or idle in the eyes of an agent, as far as the stored rows tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateChange {
    /// Lookups made when it was seen. It happened a little earlier: rows take a moment to be stored.
    pub(crate) lookups: u64,
    pub(crate) host: HostAddr,
    /// The agent's address.
    pub(crate) caller: Ipv4Addr,
    pub(crate) overload: bool,
}

/// Finds changes of state by looking at the stored rows from time to time. What changes there and back
/// between two looks is not seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateWatch {
    /// With the time of each row.
    states: BTreeMap<(HostAddr, Ipv4Addr), (bool, u64)>,
    changes: Vec<StateChange>,
}

impl StateWatch {
    /// Begins with the rows that are stored before the first call.
    pub(crate) fn new(rows: &[CallStatus]) -> Self {
        let states =
            rows.iter().map(|row| ((row.key.host, row.key.caller), (row.overload, row.ts))).collect();
        Self { states, changes: Vec::new() }
    }

    /// Compares `rows` with those seen before. A host that had none was idle.
    pub(crate) fn look(&mut self, lookups: u64, rows: &[CallStatus]) {
        for row in rows {
            let (host, caller, overload) = (row.key.host, row.key.caller, row.overload);
            let before = self.states.insert((host, caller), (overload, row.ts));
            if before.is_some_and(|(state, _)| state) != overload {
                self.changes.push(StateChange { lookups, host, caller, overload });
            }
        }
    }

    pub(crate) fn changes(&self) -> &[StateChange] {
        &self.changes
    }

    /// The state of a host in the youngest row about it that is not older than `since`, in unix seconds.
    pub(crate) fn state(&self, host: HostAddr, since: u64) -> Option<bool> {
        let rows = self.states.range((host, Ipv4Addr::UNSPECIFIED)..=(host, Ipv4Addr::BROADCAST));
        let fresh = rows.map(|(_, row)| *row).filter(|(_, ts)| *ts >= since);
        fresh.max_by_key(|(_, ts)| *ts).map(|(overload, _)| overload)
    }
}

#[cfg(test)]
mod tests {
    use lars_client::ModuleId;
    use lars_store::CallStatusKey;
    use proptest::prelude::*;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(1, 1);

    fn host(n: u8) -> HostAddr {
        HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 80)
    }

    fn row(n: u8, ts: u64, overload: bool) -> CallStatus {
        let key = CallStatusKey { module: MODULE, host: host(n), caller: Ipv4Addr::LOCALHOST };
        CallStatus { key, succ: 0, err: 0, ts, overload }
    }

    fn failures(dice: &mut Dice, host: HostAddr, calls: usize) -> usize {
        (0..calls).filter(|_| dice.roll(host).is_err()).count()
    }

    #[test]
    fn dice_keep_to_the_rates() {
        let mut dice = Dice::new(7, 0.2, BTreeMap::from([(host(2), 1.0), (host(3), 0.0)]));
        assert_eq!(failures(&mut dice, host(2), 1_000), 1_000);
        assert_eq!(failures(&mut dice, host(3), 1_000), 0);
        // Six standard deviations around 2,000.
        let failed = failures(&mut dice, host(1), 10_000);
        assert!((1_760..=2_240).contains(&failed), "{failed} of 10,000");
    }

    proptest! {
        #[test]
        fn the_calls_of_others_do_not_change_how_a_call_goes(seed: u64, others in 0usize..50) {
            let dice = || Dice::new(seed, 0.5, BTreeMap::new());
            let mut alone = dice();
            let mut among_others = dice();
            failures(&mut among_others, host(2), others);
            for _ in 0..50 {
                prop_assert_eq!(alone.roll(host(1)), among_others.roll(host(1)));
            }
        }
    }

    #[test]
    fn every_lookup_is_counted_once() {
        let mut tally = Tally::of(&[host(1), host(2)]);
        tally.count_call(host(1), false);
        tally.count_call(host(1), true);
        tally.count_call(host(3), false);
        tally.count_failure(&GetHostError::Overloaded(MODULE));
        tally.count_failure(&GetHostError::NotFound(MODULE));
        assert_eq!((tally.calls(), tally.lookups()), (3, 5));
        assert_eq!(tally.hosts[&host(1)], HostTally { calls: 2, failed: 1 });
        assert_eq!(tally.hosts[&host(2)], HostTally::default());
    }

    #[test]
    fn changes_of_state_are_found_in_the_rows() {
        let mut watch = StateWatch::new(&[row(1, 10, true)]);
        watch.look(100, &[row(1, 10, true), row(2, 20, false)]);
        assert_eq!(watch.changes(), []);
        watch.look(200, &[row(1, 21, false), row(2, 21, true), row(3, 21, true)]);
        let change =
            |n, overload| StateChange { lookups: 200, host: host(n), caller: Ipv4Addr::LOCALHOST, overload };
        assert_eq!(watch.changes(), [change(1, false), change(2, true), change(3, true)]);
    }

    #[test]
    fn an_old_row_says_nothing_about_now() {
        let watch = StateWatch::new(&[row(1, 10, true)]);
        assert_eq!(watch.state(host(1), 10), Some(true));
        assert_eq!(watch.state(host(1), 11), None);
        assert_eq!(watch.state(host(2), 0), None);
    }
}
