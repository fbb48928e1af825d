//! Each rule of `docs/BALANCER.md` with its exact numbers, then everything at random against the
//! [model](super::model).

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use lars_proto::{Endpoint, HostAddr, Zone};
use proptest::prelude::*;

use super::{
    Balancer, BalancerParams, Batch, Census, Change, Effects, Ejection, EjectionRule, Health, HostStatus,
    Limits, Outcome, Pick, RecoveryRule, model::Model,
};
use crate::core::time::Moment;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(15);
const START: Moment = Moment::ORIGIN;

pub(super) fn host(n: u8) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 8080)
}

fn hosts(numbers: impl IntoIterator<Item = u8>) -> Vec<HostAddr> {
    numbers.into_iter().map(host).collect()
}

fn route(hosts: &[HostAddr]) -> Vec<Endpoint> {
    hosts.iter().copied().map(Endpoint::from).collect()
}

/// A balancer whose clock stands where the test puts it, with its effects added up.
struct Bench {
    balancer: Balancer,
    now: Moment,
    effects: Effects,
}

impl Bench {
    fn new(params: BalancerParams, hosts: &[HostAddr]) -> Self {
        let balancer = Balancer::new(Arc::new(params));
        let mut bench = Self { balancer, now: START, effects: Effects::default() };
        bench.update(hosts);
        bench
    }

    fn with_hosts(count: u8) -> Self {
        Self::new(BalancerParams::default(), &hosts(1..=count))
    }

    fn with_health(health: Health, hosts: &[HostAddr]) -> Self {
        Self::new(BalancerParams { health, ..BalancerParams::default() }, hosts)
    }

    fn with_limits(limits: Limits, count: u8) -> Self {
        Self::new(BalancerParams { limits, ..BalancerParams::default() }, &hosts(1..=count))
    }

    fn update(&mut self, hosts: &[HostAddr]) {
        self.balancer.update(&route(hosts), self.now, &mut self.effects);
    }

    fn ejections(&self) -> usize {
        self.effects.changes.iter().filter(|change| matches!(change, Change::Ejected { .. })).count()
    }

    fn recoveries(&self) -> usize {
        self.effects.changes.iter().filter(|change| matches!(change, Change::Recovered { .. })).count()
    }

    fn pick(&mut self) -> Pick {
        self.balancer.pick(self.now, &mut self.effects)
    }

    fn picks(&mut self, count: usize) -> Vec<Pick> {
        (0..count).map(|_| self.pick()).collect()
    }

    fn report(&mut self, n: u8, outcome: Outcome) {
        assert!(self.balancer.report(host(n), outcome, self.now, &mut self.effects), "host {n} is unknown");
    }

    fn succeed(&mut self, n: u8, times: u32) {
        (0..times).for_each(|_| self.report(n, Outcome::Success));
    }

    fn fail(&mut self, n: u8, times: u32) {
        (0..times).for_each(|_| self.report(n, Outcome::Failure));
    }

    /// Fails a host that is idle until it is not.
    fn eject(&mut self, n: u8) {
        while !self.is_overloaded(n) {
            self.fail(n, 1);
        }
    }

    fn sweep_after(&mut self, time: Duration) {
        self.now = self.now + time;
        self.balancer.sweep(self.now, &mut self.effects);
    }

    fn status(&self, n: u8) -> HostStatus {
        let found = statuses(&self.balancer).into_iter().find(|status| status.host == host(n));
        found.expect("host is there")
    }

    fn is_overloaded(&self, n: u8) -> bool {
        self.status(n).overloaded
    }
}

fn statuses(balancer: &Balancer) -> Vec<HostStatus> {
    balancer.hosts().collect()
}

fn picked(numbers: impl IntoIterator<Item = u8>) -> Vec<Pick> {
    numbers.into_iter().map(|n| Pick::Host(host(n))).collect()
}

mod pick {
    use super::*;

    #[test]
    fn a_module_without_hosts_has_none_to_give() {
        assert_eq!(Bench::with_hosts(0).pick(), Pick::NoHosts);
    }

    #[test]
    fn idle_hosts_take_turns() {
        assert_eq!(Bench::with_hosts(3).picks(7), picked([1, 2, 3, 1, 2, 3, 1]));
    }

    #[test]
    fn with_all_idle_nothing_counts_towards_a_probe() {
        let mut bench = Bench::with_hosts(2);
        bench.picks(100);
        bench.eject(2);
        assert_eq!(bench.picks(11), [picked([1; 10]), picked([2])].concat());
        assert!(bench.effects.probed);
    }

    #[test]
    fn every_eleventh_pick_probes_the_overloaded_in_turn() {
        let mut bench = Bench::with_hosts(4);
        bench.eject(1);
        bench.eject(3);
        let expected =
            [picked([2, 4].repeat(5)), picked([1]), picked([2, 4].repeat(5)), picked([3])].concat();
        assert_eq!(bench.picks(22), expected);
        assert_eq!(bench.picks(22), expected);
    }

    #[test]
    fn all_overloaded_refuses_ten_and_probes_one() {
        let mut bench = Bench::with_hosts(2);
        bench.eject(1);
        bench.eject(2);
        let refused = vec![Pick::Overloaded; 10];
        assert_eq!(bench.picks(22), [refused.clone(), picked([1]), refused, picked([2])].concat());
    }

    #[test]
    fn probe_num_is_configurable() {
        let params = BalancerParams { probe_num: 2, ..BalancerParams::default() };
        let mut bench = Bench::new(params, &hosts(1..=2));
        bench.eject(2);
        assert_eq!(bench.picks(6), picked([1, 1, 2, 1, 1, 2]));
    }

    #[test]
    fn closes_windows_before_it_picks() {
        let mut bench = Bench::with_hosts(1);
        bench.eject(1);
        bench.now = bench.now + TIMEOUT;
        assert_eq!(bench.pick(), Pick::Host(host(1)));
        assert_eq!(bench.recoveries(), 1);
    }
}

mod report {
    use super::*;

    #[test]
    fn the_fifteenth_failure_in_a_row_ejects() {
        let mut bench = Bench::with_hosts(2);
        bench.fail(1, 14);
        assert!(!bench.is_overloaded(1));
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1));
        assert_eq!(bench.ejections(), 1);
    }

    #[test]
    fn a_success_starts_the_row_again() {
        let mut bench = Bench::with_hosts(1);
        bench.fail(1, 14);
        bench.succeed(1, 1);
        // 14 + 6 failures against 181 successes are not more than 0.1 yet.
        bench.fail(1, 6);
        assert!(!bench.is_overloaded(1));
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1), "21 of 202 are");
    }

    #[test]
    fn more_than_a_tenth_of_failures_ejects() {
        let health = Health { contin_err_limit: 1_000, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        // 20 of 200 is exactly 0.1, which is not more.
        bench.fail(1, 20);
        assert!(!bench.is_overloaded(1));
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1));
    }

    #[test]
    fn a_success_never_ejects() {
        let health = Health { init_succ_cnt: 0, contin_err_limit: 1_000, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.succeed(1, 9);
        bench.fail(1, 1);
        assert!(!bench.is_overloaded(1), "1 of 10 is not more than 0.1");
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1));
    }

    #[test]
    fn more_than_half_of_successes_recovers() {
        let mut bench = Bench::with_hosts(1);
        bench.eject(1);
        // 5 virtual failures: 5 of 10 is not more than 0.5, 6 of 11 is.
        bench.succeed(1, 5);
        assert!(bench.is_overloaded(1));
        bench.succeed(1, 1);
        assert!(!bench.is_overloaded(1));
        assert_eq!(bench.recoveries(), 1);
    }

    #[test]
    fn fifteen_successes_in_a_row_recover() {
        let health = Health { init_err_cnt: 1_000, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.eject(1);
        bench.succeed(1, 14);
        bench.fail(1, 1);
        bench.succeed(1, 14);
        assert!(bench.is_overloaded(1));
        bench.succeed(1, 1);
        assert!(!bench.is_overloaded(1));
    }

    #[test]
    fn a_failure_never_recovers() {
        let health = Health { init_err_cnt: 0, succ_rate: 0.0, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.eject(1);
        bench.fail(1, 100);
        assert!(bench.is_overloaded(1));
    }

    #[test]
    fn a_change_of_state_starts_the_counts_again_at_the_tail() {
        let mut bench = Bench::with_hosts(3);
        bench.succeed(1, 5);
        bench.eject(1);
        let expected = HostStatus { host: host(1), succ: 0, err: 0, overloaded: true };
        assert_eq!(bench.status(1), expected);
        bench.succeed(1, 6);
        assert_eq!(bench.status(1), HostStatus { overloaded: false, ..expected });
        assert_eq!(bench.picks(3), picked([2, 3, 1]));
        // As fresh as a new host: it takes 15 failures again.
        bench.fail(1, 14);
        assert!(!bench.is_overloaded(1));
    }

    #[test]
    fn strangers_are_ignored() {
        let mut bench = Bench::with_hosts(1);
        let before = statuses(&bench.balancer);
        assert!(!bench.balancer.report(host(9), Outcome::Failure, START, &mut bench.effects));
        assert_eq!((statuses(&bench.balancer), bench.effects), (before, Effects::default()));
    }

    #[test]
    fn closes_the_windows_of_other_hosts_too() {
        let mut bench = Bench::with_hosts(2);
        bench.eject(2);
        bench.now = bench.now + TIMEOUT;
        bench.succeed(1, 1);
        assert!(!bench.is_overloaded(2));
    }
}

mod windows {
    use super::*;

    /// Failures that leave the host idle although most of its calls fail.
    fn patient() -> Health {
        Health { contin_err_limit: 1_000, init_succ_cnt: 1_000, ..Health::default() }
    }

    #[test]
    fn a_window_with_seven_failures_of_ten_ejects_at_its_end() {
        let mut bench = Bench::with_health(patient(), &hosts([1]));
        bench.fail(1, 7);
        bench.succeed(1, 3);
        bench.sweep_after(TIMEOUT - SECOND);
        assert!(!bench.is_overloaded(1));
        bench.sweep_after(SECOND);
        assert!(bench.is_overloaded(1));
        assert_eq!(bench.ejections(), 1);
    }

    #[test]
    fn a_window_with_fewer_failures_starts_afresh() {
        let mut bench = Bench::with_health(patient(), &hosts([1]));
        bench.fail(1, 6);
        bench.succeed(1, 3);
        bench.sweep_after(TIMEOUT);
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 0, err: 0, overloaded: false });
        // Failures of the last window are forgotten: one failure of one call is over 0.7 of this one.
        bench.fail(1, 1);
        bench.sweep_after(TIMEOUT);
        assert!(bench.is_overloaded(1));
    }

    #[test]
    fn a_window_without_calls_never_ejects() {
        let health = Health { window_err_rate: 0.0, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.sweep_after(TIMEOUT);
        assert!(!bench.is_overloaded(1));
        assert!(!bench.effects.dirty, "nothing was counted, so nothing changed");
    }

    #[test]
    fn failures_in_a_row_do_not_outlive_the_window() {
        let mut bench = Bench::with_hosts(1);
        bench.succeed(1, 10);
        bench.fail(1, 14);
        bench.sweep_after(TIMEOUT);
        bench.fail(1, 14);
        assert!(!bench.is_overloaded(1));
    }

    #[test]
    fn an_overloaded_host_that_nobody_reports_on_recovers_by_time() {
        let mut bench = Bench::with_hosts(1);
        bench.eject(1);
        bench.sweep_after(TIMEOUT - SECOND);
        assert!(bench.is_overloaded(1));
        bench.sweep_after(SECOND);
        assert!(!bench.is_overloaded(1));
        assert_eq!(bench.balancer.census(), Census { idle: 1, overloaded: 0 });
    }

    #[test]
    fn a_fresh_window_moves_the_host_to_the_tail() {
        let mut bench = Bench::with_hosts(2);
        bench.sweep_after(SECOND);
        bench.update(&hosts(1..=3));
        // 1 and 2 end their windows a second before 3 does.
        bench.sweep_after(TIMEOUT - SECOND);
        assert_eq!(bench.picks(3), picked([3, 1, 2]));
    }

    #[test]
    fn a_clock_that_steps_back_prolongs_nothing() {
        let mut bench = Bench::with_hosts(1);
        bench.now = START + 1_000 * SECOND;
        bench.eject(1);
        bench.now = START + 100 * SECOND;
        bench.pick();
        bench.sweep_after(TIMEOUT);
        assert!(!bench.is_overloaded(1));
    }

    #[test]
    fn windows_of_no_length_do_not_hang() {
        let health =
            Health { idle_timeout: Duration::ZERO, overload_timeout: Duration::ZERO, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts(1..=3));
        bench.picks(10);
        bench.now = Moment::since_origin(Duration::MAX);
        bench.picks(10);
    }
}

mod update {
    use super::*;

    #[test]
    fn new_hosts_join_the_tail_and_the_others_keep_state_and_place() {
        let mut bench = Bench::with_hosts(3);
        bench.eject(2);
        bench.succeed(1, 4);
        bench.pick();
        bench.update(&hosts([5, 3, 2, 1, 4]));
        assert_eq!(bench.picks(4), picked([3, 1, 5, 4]));
        assert!(bench.is_overloaded(2));
        assert_eq!(bench.status(1).succ, 4);
    }

    #[test]
    fn vanished_hosts_leave_at_once_and_entirely() {
        let mut bench = Bench::with_hosts(3);
        bench.eject(1);
        bench.fail(2, 1);
        bench.update(&hosts([3]));
        assert_eq!(bench.balancer.census(), Census { idle: 1, overloaded: 0 });
        assert_eq!(bench.picks(2), picked([3, 3]));
        assert!(!bench.balancer.report(host(1), Outcome::Success, START, &mut bench.effects));
        assert!(!bench.balancer.has_dirty());
        bench.update(&[]);
        assert_eq!(bench.pick(), Pick::NoHosts);
    }

    #[test]
    fn a_host_that_comes_back_is_new() {
        let mut bench = Bench::with_hosts(1);
        bench.eject(1);
        bench.update(&[]);
        bench.update(&hosts([1]));
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 0, err: 0, overloaded: false });
    }

    #[test]
    fn a_host_listed_twice_counts_once() {
        let bench = Bench::new(BalancerParams::default(), &hosts([1, 2, 1, 1]));
        assert_eq!(bench.balancer.census(), Census { idle: 2, overloaded: 0 });
    }

    #[test]
    fn what_the_route_says_of_a_host_is_kept() {
        let mut bench = Bench::with_hosts(1);
        let version = bench.balancer.version();
        let endpoint = Endpoint { addr: host(1), weight: 7, zone: Zone::new(2) };
        bench.balancer.update(&[endpoint], START, &mut bench.effects);
        assert_eq!(bench.balancer.endpoint(host(1)), Some(endpoint));
        assert_eq!(bench.balancer.endpoint(host(2)), None);
        assert!(bench.balancer.version() > version);
    }

    #[test]
    fn the_version_moves_with_hosts_and_states_only() {
        let mut bench = Bench::with_hosts(2);
        let version = bench.balancer.version();
        bench.picks(5);
        bench.fail(1, 14);
        bench.update(&hosts([2, 1]));
        assert_eq!(bench.balancer.version(), version);
        bench.fail(1, 1);
        assert!(bench.balancer.version() > version);
        let version = bench.balancer.version();
        bench.update(&hosts([2]));
        assert!(bench.balancer.version() > version);
    }
}

mod dirty {
    use super::*;

    fn take(bench: &mut Bench, limit: usize) -> Vec<HostStatus> {
        let mut dirty = vec![];
        bench.balancer.take_dirty(limit, &mut dirty);
        dirty
    }

    #[test]
    fn only_hosts_with_something_to_send() {
        let mut bench = Bench::with_hosts(3);
        assert!(!bench.balancer.has_dirty());
        bench.succeed(2, 7);
        bench.fail(2, 1);
        assert_eq!(take(&mut bench, 10), [HostStatus { host: host(2), succ: 7, err: 1, overloaded: false }]);
        assert_eq!(take(&mut bench, 10), []);
    }

    #[test]
    fn a_window_that_ends_takes_its_counts_along() {
        let mut bench = Bench::with_hosts(2);
        bench.succeed(1, 7);
        take(&mut bench, 10);
        bench.sweep_after(TIMEOUT);
        assert_eq!(take(&mut bench, 10), [HostStatus { host: host(1), succ: 0, err: 0, overloaded: false }]);
    }

    #[test]
    fn portions() {
        let mut bench = Bench::with_hosts(5);
        (1..=5).for_each(|n| bench.succeed(n, 1));
        let portions: Vec<usize> = (0..4).map(|_| take(&mut bench, 2).len()).collect();
        assert_eq!(portions, [2, 2, 1, 0]);
    }

    #[test]
    fn what_may_be_lost_is_sent_again() {
        let mut bench = Bench::with_hosts(3);
        bench.succeed(1, 1);
        take(&mut bench, 10);
        bench.succeed(2, 1);
        bench.balancer.resend();
        assert_eq!(take(&mut bench, 10).len(), 2);
    }
}

/// Which rule fired, and since when a host is ejected.
mod reasons {
    use super::*;

    fn ejected(rule: EjectionRule) -> Change {
        Change::Ejected { host: host(1), rule }
    }

    fn recovered(rule: RecoveryRule) -> Change {
        Change::Recovered { host: host(1), rule }
    }

    #[test]
    fn failures_and_successes_in_a_row() {
        let health = Health { init_err_cnt: 1_000, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.fail(1, 15);
        bench.succeed(1, 15);
        let expected = [ejected(EjectionRule::ErrorsInARow), recovered(RecoveryRule::SuccessesInARow)];
        assert_eq!(bench.effects.changes, expected);
    }

    #[test]
    fn rates_of_failures_and_successes() {
        let mut bench =
            Bench::with_health(Health { contin_err_limit: 1_000, ..Health::default() }, &hosts([1]));
        bench.fail(1, 21);
        bench.succeed(1, 6);
        let expected = [ejected(EjectionRule::ErrorRate), recovered(RecoveryRule::SuccessRate)];
        assert_eq!(bench.effects.changes, expected);
    }

    #[test]
    fn windows_and_timeouts() {
        let health = Health { contin_err_limit: 1_000, init_succ_cnt: 1_000, ..Health::default() };
        let mut bench = Bench::with_health(health, &hosts([1]));
        bench.fail(1, 7);
        bench.sweep_after(TIMEOUT);
        bench.sweep_after(TIMEOUT);
        let expected = [ejected(EjectionRule::WindowErrorRate), recovered(RecoveryRule::Timeout)];
        assert_eq!(bench.effects.changes, expected);
    }

    #[test]
    fn are_kept_with_their_time_while_the_host_is_ejected() {
        let mut bench = Bench::with_hosts(3);
        bench.now = START + SECOND;
        bench.fail(2, 15);
        bench.now = START + 2 * SECOND;
        bench.fail(1, 15);
        let ejection = |n, seconds| Ejection {
            host: host(n),
            rule: EjectionRule::ErrorsInARow,
            since: START + seconds * SECOND,
        };
        assert_eq!(bench.balancer.ejections().collect::<Vec<_>>(), [ejection(2, 1), ejection(1, 2)]);
        bench.succeed(2, 6);
        assert_eq!(bench.balancer.ejections().collect::<Vec<_>>(), [ejection(1, 2)]);
    }

    #[test]
    fn read_well_in_a_log() {
        let lines = [
            ejected(EjectionRule::ErrorsInARow).to_string(),
            recovered(RecoveryRule::Timeout).to_string(),
            Change::PanicEntered.to_string(),
        ];
        let expected = [
            "ejected 10.0.0.1:8080: too many failures in a row (contin_err_limit)",
            "10.0.0.1:8080 recovered: its time is over (overload_timeout)",
            "too few hosts are idle: all are picked (panic_percent)",
        ];
        assert_eq!(lines, expected);
    }
}

mod cap {
    use super::*;

    fn capped(percent: u32, count: u8) -> Bench {
        Bench::with_limits(Limits { max_ejected_percent: percent, ..Limits::default() }, count)
    }

    #[test]
    fn a_host_beyond_it_stays_idle_and_goes_on_counting() {
        let mut bench = capped(10, 5);
        bench.fail(1, 15);
        bench.fail(2, 17);
        assert_eq!(bench.balancer.census(), Census { idle: 4, overloaded: 1 });
        assert_eq!(bench.status(2), HostStatus { host: host(2), succ: 0, err: 17, overloaded: false });
        assert_eq!(bench.effects.spared, 3, "the 15th, 16th and 17th failure");
    }

    #[test]
    fn the_next_failure_ejects_once_there_is_room() {
        let mut bench = capped(10, 5);
        bench.fail(1, 15);
        bench.fail(2, 15);
        bench.succeed(1, 6);
        assert!(!bench.is_overloaded(2), "room alone ejects nobody");
        bench.fail(2, 1);
        assert!(bench.is_overloaded(2));
    }

    #[test]
    fn a_window_that_ends_beyond_it_starts_afresh() {
        let health = Health { overload_timeout: 100 * SECOND, ..Health::default() };
        let limits = Limits { max_ejected_percent: 10, ..Limits::default() };
        let mut bench =
            Bench::new(BalancerParams { health, limits, ..BalancerParams::default() }, &hosts(1..=5));
        bench.fail(1, 15);
        bench.fail(2, 14);
        bench.sweep_after(TIMEOUT);
        assert_eq!(bench.status(2), HostStatus { host: host(2), succ: 0, err: 0, overloaded: false });
        assert_eq!(bench.effects.spared, 1);
    }

    #[test]
    fn the_last_idle_host_stays() {
        let mut bench = capped(99, 2);
        bench.fail(1, 15);
        bench.fail(2, 100);
        assert_eq!(bench.balancer.census(), Census { idle: 1, overloaded: 1 });
        let mut alone = capped(99, 1);
        alone.fail(1, 100);
        assert!(!alone.is_overloaded(1));
    }

    #[test]
    fn none_are_ejected_with_0_percent() {
        let mut bench = capped(0, 5);
        (1..=5).for_each(|n| bench.fail(n, 100));
        assert_eq!(bench.balancer.census(), Census { idle: 5, overloaded: 0 });
    }

    #[test]
    fn who_is_ejected_stays_so_when_the_module_shrinks() {
        let mut bench = capped(50, 4);
        bench.fail(1, 15);
        bench.fail(2, 15);
        bench.update(&hosts([1, 2]));
        assert_eq!(bench.balancer.census(), Census { idle: 0, overloaded: 2 });
    }
}

mod panic {
    use super::*;

    fn panics_below(percent: u32, count: u8) -> Bench {
        Bench::with_limits(Limits { panic_percent: percent, ..Limits::default() }, count)
    }

    #[test]
    fn all_hosts_take_turns_while_too_few_are_idle() {
        let mut bench = panics_below(50, 4);
        bench.fail(1, 15);
        bench.fail(2, 15);
        assert!(!bench.balancer.is_panicking(), "half is not below half");
        bench.fail(3, 15);
        assert!(bench.balancer.is_panicking());
        assert_eq!(bench.picks(8), picked([1, 2, 3, 4, 1, 2, 3, 4]));
        assert!(!bench.effects.probed);
        bench.succeed(2, 6);
        assert!(!bench.balancer.is_panicking());
        assert_eq!(bench.picks(11), [picked([4, 2].repeat(5)), picked([1])].concat());
        let panics: Vec<Change> =
            bench.effects.changes.drain(..).filter(|change| !is_of_a_host(change)).collect();
        assert_eq!(panics, [Change::PanicEntered, Change::PanicLeft]);
    }

    fn is_of_a_host(change: &Change) -> bool {
        matches!(change, Change::Ejected { .. } | Change::Recovered { .. })
    }

    #[test]
    fn nothing_is_refused_although_no_host_is_idle() {
        let mut bench = panics_below(1, 2);
        bench.eject(1);
        bench.eject(2);
        assert_eq!(bench.picks(4), picked([1, 2, 1, 2]));
    }

    #[test]
    fn hosts_that_come_and_go_change_it() {
        let mut bench = panics_below(50, 3);
        bench.eject(1);
        bench.update(&hosts([1]));
        assert!(bench.balancer.is_panicking());
        bench.update(&hosts([1, 2]));
        assert!(!bench.balancer.is_panicking());
        bench.update(&hosts([1]));
        bench.update(&[]);
        assert!(!bench.balancer.is_panicking(), "no hosts, no panic");
        assert_eq!(bench.pick(), Pick::NoHosts);
    }

    #[test]
    fn a_probe_comes_no_nearer_meanwhile() {
        let mut bench = panics_below(50, 3);
        bench.eject(1);
        bench.picks(5);
        bench.eject(2);
        bench.picks(100);
        bench.succeed(2, 6);
        assert_eq!(bench.picks(6), [picked([3, 2, 3, 2, 3]), picked([1])].concat());
    }
}

mod batch {
    use super::*;

    fn batch(calls: u32, failures: u32, newest: u32, newest_len: u32) -> Batch {
        Batch::new(calls, failures, newest, newest_len).expect("consistent")
    }

    fn report(bench: &mut Bench, batch: Batch) {
        assert!(bench.balancer.report_batch(host(1), batch, bench.now, &mut bench.effects));
    }

    #[test]
    fn a_threshold_crossed_in_the_middle_starts_the_new_window_there() {
        let mut bench = Bench::with_hosts(1);
        // 15 failures eject; 5 more weigh on the recovery.
        report(&mut bench, batch(20, 20, 0, 0));
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 0, err: 5, overloaded: true });
        // 5 virtual and 5 real failures: 11 successes of 21 are more than half, and 9 are left for the window after.
        report(&mut bench, batch(20, 0, 0, 0));
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 9, err: 0, overloaded: false });
    }

    #[test]
    fn any_number_of_calls_that_went_alike_is_exact() {
        let mut bench = Bench::with_hosts(1);
        report(&mut bench, batch(u32::MAX, u32::MAX, 0, 0));
        let failures = u32::MAX - 15;
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 0, err: failures, overloaded: true });
        assert_eq!(bench.ejections(), 1);
    }

    #[test]
    fn calls_of_unknown_order_are_judged_together_by_the_rates_alone() {
        let mut bench = Bench::with_hosts(1);
        bench.fail(1, 14);
        report(&mut bench, batch(100, 9, 0, 0));
        assert!(!bench.is_overloaded(1), "23 of 294 are not more than a tenth, whatever was in a row");
        bench.fail(1, 7);
        assert!(!bench.is_overloaded(1), "30 of 301 are not either, and the row has begun anew");
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1), "31 of 302 are");
    }

    #[test]
    fn a_module_that_does_not_know_the_host_says_so() {
        let mut bench = Bench::with_hosts(1);
        let stranger = Batch::single(Outcome::Failure);
        assert!(!bench.balancer.report_batch(host(9), stranger, START, &mut bench.effects));
        assert_eq!(bench.effects, Effects::default());
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Pick,
    Report(u8, Outcome),
    Reports(u8, Outcome, u16),
    /// As one batch here, as single reports there.
    Batch(u8, Vec<Outcome>),
    /// So many that went alike, then some in known order.
    LongBatch(u8, Outcome, u16, Vec<Outcome>),
    Update(Vec<u8>),
    Sweep,
    Forward(u64),
    Back(u64),
    Send,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Success), Just(Outcome::Failure)]
}

/// Outcomes as programs see them: often alike for a while. No more than a batch knows the order of.
fn outcomes() -> impl Strategy<Value = Vec<Outcome>> {
    let runs = prop::collection::vec((outcome(), 1usize..20), 1..6);
    let flatten = |runs: Vec<(Outcome, usize)>| {
        let outcomes = runs.into_iter().flat_map(|(outcome, times)| std::iter::repeat_n(outcome, times));
        outcomes.take(Batch::NEWEST_MAX as usize).collect()
    };
    runs.prop_map(flatten)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => Just(Step::Pick),
        10 => (0u8..12, outcome()).prop_map(|(n, outcome)| Step::Report(n, outcome)),
        4 => (0u8..12, outcome(), 1u16..20).prop_map(|(n, outcome, times)| Step::Reports(n, outcome, times)),
        6 => (0u8..12, outcomes()).prop_map(|(n, outcomes)| Step::Batch(n, outcomes)),
        2 => (0u8..12, outcome(), 0u16..300, outcomes())
            .prop_map(|(n, outcome, times, outcomes)| Step::LongBatch(n, outcome, times, outcomes)),
        1 => prop::collection::vec(0u8..12, 0..12).prop_map(Step::Update),
        2 => Just(Step::Sweep),
        3 => (0u64..9_000).prop_map(Step::Forward),
        1 => (0u64..40_000).prop_map(Step::Back),
        2 => Just(Step::Send),
    ]
}

fn health() -> impl Strategy<Value = Health> {
    let small = (0u32..200, 0u32..9, 1u32..20, 1u32..20);
    let rates = (0.0..1.0, 0.0..1.0, 0.0..1.0);
    prop_oneof![
        Just(Health::default()),
        (small, rates, 1u64..20_000, 1u64..20_000).prop_map(|(small, rates, idle_ms, overload_ms)| Health {
            init_succ_cnt: small.0,
            init_err_cnt: small.1,
            contin_err_limit: small.2,
            contin_succ_limit: small.3,
            err_rate: rates.0,
            succ_rate: rates.1,
            window_err_rate: rates.2,
            idle_timeout: Duration::from_millis(idle_ms),
            overload_timeout: Duration::from_millis(overload_ms),
        })
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let percents = (0u32..=100, 0u32..=100);
    prop_oneof![
        Just(Limits::default()),
        percents
            .prop_map(|(max_ejected_percent, panic_percent)| Limits { max_ejected_percent, panic_percent }),
    ]
}

fn params() -> impl Strategy<Value = BalancerParams> {
    let probe_num = prop_oneof![Just(BalancerParams::default().probe_num), 1u32..12];
    (probe_num, health(), limits()).prop_map(|(probe_num, health, limits)| BalancerParams {
        probe_num,
        health,
        limits,
    })
}

/// The batch of these outcomes, the oldest first, after `older.1` calls that all went like `older.0`.
fn batch_of(older: (Outcome, u16), outcomes: &[Outcome]) -> Batch {
    let is_failure = |outcome: Outcome| u32::from(outcome == Outcome::Failure);
    let newest = outcomes.iter().fold(0u32, |bits, &outcome| bits << 1 | is_failure(outcome));
    let (older, older_calls) = (older.0, u32::from(older.1));
    let calls = older_calls + outcomes.len() as u32;
    let failures = older_calls * is_failure(older) + newest.count_ones();
    Batch::new(calls, failures, newest, outcomes.len() as u32).expect("consistent")
}

/// Both sides of the comparison, fed the same steps.
pub(super) struct Pair {
    balancer: Balancer,
    model: Model,
    now: Moment,
}

impl Pair {
    pub(super) fn new(params: BalancerParams) -> Self {
        let balancer = Balancer::new(Arc::new(params.clone()));
        Self { balancer, model: Model::new(params), now: START + 100 * SECOND }
    }

    pub(super) fn pick(&mut self) -> Result<Pick, TestCaseError> {
        let mut effects = Effects::default();
        let pick = self.balancer.pick(self.now, &mut effects);
        prop_assert_eq!(pick, self.model.pick(self.now));
        self.compare(effects)?;
        Ok(pick)
    }

    pub(super) fn census(&self) -> Census {
        self.balancer.census()
    }

    pub(super) fn is_panicking(&self) -> bool {
        self.balancer.is_panicking()
    }

    pub(super) fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (now, mut effects) = (self.now, Effects::default());
        match step {
            Step::Pick => _ = self.pick()?,
            Step::Report(n, outcome) => {
                let known = self.balancer.report(host(n), outcome, now, &mut effects);
                prop_assert_eq!(known, self.model.report(host(n), outcome, now));
            }
            Step::Reports(n, outcome, times) => {
                for _ in 0..times {
                    self.run(Step::Report(n, outcome))?;
                }
            }
            Step::Batch(n, outcomes) => {
                self.report_batch(n, (Outcome::Success, 0), &outcomes, &mut effects)?;
            }
            Step::LongBatch(n, outcome, times, outcomes) => {
                self.report_batch(n, (outcome, times), &outcomes, &mut effects)?;
            }
            Step::Update(numbers) => {
                let hosts = hosts(numbers);
                self.balancer.update(&route(&hosts), now, &mut effects);
                self.model.update(&hosts, now);
            }
            Step::Sweep => {
                self.balancer.sweep(now, &mut effects);
                self.model.windows(now);
            }
            Step::Forward(ms) => self.now = now + Duration::from_millis(ms),
            Step::Back(ms) => self.now = now.saturating_sub(Duration::from_millis(ms)),
            Step::Send => {
                self.balancer.take_dirty(usize::MAX, &mut vec![]);
                self.model.send();
            }
        }
        self.compare(effects)
    }

    fn report_batch(
        &mut self,
        n: u8,
        older: (Outcome, u16),
        outcomes: &[Outcome],
        effects: &mut Effects,
    ) -> Result<(), TestCaseError> {
        let known = self.balancer.report_batch(host(n), batch_of(older, outcomes), self.now, effects);
        let singles = std::iter::repeat_n(older.0, older.1.into()).chain(outcomes.iter().copied());
        for outcome in singles {
            prop_assert_eq!(self.model.report(host(n), outcome, self.now), known);
        }
        Ok(())
    }

    fn compare(&mut self, effects: Effects) -> Result<(), TestCaseError> {
        let statuses = statuses(&self.balancer);
        prop_assert_eq!(&statuses, &self.model.statuses(), "same hosts in the same order");
        prop_assert_eq!((effects.changes, effects.spared), self.model.take_effects());
        prop_assert_eq!(self.balancer.is_panicking(), self.model.is_panicking());
        let overloaded = statuses.iter().filter(|status| status.overloaded).count();
        let census = Census { idle: statuses.len() - overloaded, overloaded };
        prop_assert_eq!(self.balancer.census(), census);
        prop_assert_eq!(self.balancer.ejections().count(), overloaded);
        // A host may be marked although its counts are back at what was sent; never the other way round.
        let marked: BTreeSet<_> = self.balancer.hosts.dirty_addrs().collect();
        prop_assert!(self.model.differing().iter().all(|host| marked.contains(host)));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_rules(params in params(), steps in prop::collection::vec(step(), 1..250)) {
        let mut pair = Pair::new(params);
        pair.run(Step::Update((0..8).collect()))?;
        for step in steps {
            pair.run(step)?;
        }
    }

    #[test]
    fn exactly_one_pick_in_probe_num_and_one_is_a_probe(
        probe_num in 1u32..30, healthy in 1u8..6, sick in 1u8..6, rounds in 1usize..5,
    ) {
        let params = BalancerParams { probe_num, ..BalancerParams::default() };
        let mut bench = Bench::new(params, &hosts(1..=healthy + sick));
        (1..=sick).for_each(|n| bench.eject(n));
        let probes_in = |picks: Vec<Pick>| {
            picks.iter().filter(|pick| picked(1..=sick).contains(pick)).count()
        };
        for _ in 0..rounds {
            prop_assert_eq!(probes_in(bench.picks(probe_num as usize)), 0);
            prop_assert_eq!(probes_in(bench.picks(1)), 1);
        }
    }
}
