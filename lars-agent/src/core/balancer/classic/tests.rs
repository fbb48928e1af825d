//! Each line of the text with its exact numbers, then everything at random against the [model](super::model).

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use lars_proto::HostAddr;
use proptest::prelude::*;

use super::{Classic, ClassicParams, model::Model};
use crate::core::{
    balancer::{Census, Effects, HostStatus, Outcome, Pick, Policy},
    time::Moment,
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(15);
const START: Moment = Moment::ORIGIN;

fn host(n: u8) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 8080)
}

fn hosts(numbers: impl IntoIterator<Item = u8>) -> Vec<HostAddr> {
    numbers.into_iter().map(host).collect()
}

/// A policy whose clock stands where the test puts it, with its effects added up.
struct Bench {
    policy: Classic,
    now: Moment,
    effects: Effects,
}

impl Bench {
    fn new(params: ClassicParams, hosts: &[HostAddr]) -> Self {
        let mut policy = Classic::new(Arc::new(params));
        policy.update(hosts, START);
        Self { policy, now: START, effects: Effects::default() }
    }

    fn with_hosts(count: u8) -> Self {
        Self::new(ClassicParams::default(), &hosts(1..=count))
    }

    fn pick(&mut self) -> Pick {
        self.policy.pick(self.now, &mut self.effects)
    }

    fn picks(&mut self, count: usize) -> Vec<Pick> {
        (0..count).map(|_| self.pick()).collect()
    }

    fn report(&mut self, n: u8, outcome: Outcome) {
        assert!(self.policy.report(host(n), outcome, self.now, &mut self.effects), "host {n} is unknown");
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
        self.policy.sweep(self.now, &mut self.effects);
    }

    fn status(&self, n: u8) -> HostStatus {
        let found = statuses(&self.policy).into_iter().find(|status| status.host == host(n));
        found.expect("host is there")
    }

    fn is_overloaded(&self, n: u8) -> bool {
        self.status(n).overloaded
    }
}

fn statuses(policy: &Classic) -> Vec<HostStatus> {
    let mut statuses = vec![];
    policy.each_host(&mut |status| statuses.push(status));
    statuses
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
        let params = ClassicParams { probe_num: 2, ..ClassicParams::default() };
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
        assert_eq!(bench.effects.recovered, 1);
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
        assert_eq!(bench.effects.ejected, 1);
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
        let params = ClassicParams { contin_err_limit: 1_000, ..ClassicParams::default() };
        let mut bench = Bench::new(params, &hosts([1]));
        // 20 of 200 is exactly 0.1, which is not more.
        bench.fail(1, 20);
        assert!(!bench.is_overloaded(1));
        bench.fail(1, 1);
        assert!(bench.is_overloaded(1));
    }

    #[test]
    fn a_success_never_ejects() {
        let params = ClassicParams { init_succ_cnt: 0, contin_err_limit: 1_000, ..ClassicParams::default() };
        let mut bench = Bench::new(params, &hosts([1]));
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
        assert_eq!(bench.effects.recovered, 1);
    }

    #[test]
    fn fifteen_successes_in_a_row_recover() {
        let params = ClassicParams { init_err_cnt: 1_000, ..ClassicParams::default() };
        let mut bench = Bench::new(params, &hosts([1]));
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
        let params = ClassicParams { init_err_cnt: 0, succ_rate: 0.0, ..ClassicParams::default() };
        let mut bench = Bench::new(params, &hosts([1]));
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
        let before = statuses(&bench.policy);
        assert!(!bench.policy.report(host(9), Outcome::Failure, START, &mut bench.effects));
        assert_eq!((statuses(&bench.policy), bench.effects), (before, Effects::default()));
    }

    #[test]
    fn closes_the_windows_of_other_hosts_too() {
        let mut bench = Bench::with_hosts(2);
        bench.eject(2);
        bench.now = bench.now + TIMEOUT;
        bench.succeed(1, 1);
        assert!(!bench.is_overloaded(2));
    }

    #[test]
    fn return_codes() {
        assert_eq!(Outcome::from_retcode(0), Outcome::Success);
        for retcode in [1, -1, i32::MIN, i32::MAX] {
            assert_eq!(Outcome::from_retcode(retcode), Outcome::Failure);
        }
    }
}

mod windows {
    use super::*;

    /// Failures that leave the host idle although most of its calls fail.
    fn patient() -> ClassicParams {
        ClassicParams { contin_err_limit: 1_000, init_succ_cnt: 1_000, ..ClassicParams::default() }
    }

    #[test]
    fn a_window_with_seven_failures_of_ten_ejects_at_its_end() {
        let mut bench = Bench::new(patient(), &hosts([1]));
        bench.fail(1, 7);
        bench.succeed(1, 3);
        bench.sweep_after(TIMEOUT - SECOND);
        assert!(!bench.is_overloaded(1));
        bench.sweep_after(SECOND);
        assert!(bench.is_overloaded(1));
        assert_eq!(bench.effects.ejected, 1);
    }

    #[test]
    fn a_window_with_fewer_failures_starts_afresh() {
        let mut bench = Bench::new(patient(), &hosts([1]));
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
        let params = ClassicParams { window_err_rate: 0.0, ..ClassicParams::default() };
        let mut bench = Bench::new(params, &hosts([1]));
        bench.sweep_after(TIMEOUT);
        assert!(!bench.is_overloaded(1));
        assert!(!bench.effects.news, "nothing was counted, so nothing changed");
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
        assert_eq!(bench.policy.census(), Census { idle: 1, overloaded: 0 });
    }

    #[test]
    fn a_fresh_window_moves_the_host_to_the_tail() {
        let mut bench = Bench::with_hosts(2);
        bench.sweep_after(SECOND);
        bench.policy.update(&hosts(1..=3), bench.now);
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
        let params = ClassicParams {
            idle_timeout: Duration::ZERO,
            overload_timeout: Duration::ZERO,
            ..ClassicParams::default()
        };
        let mut bench = Bench::new(params, &hosts(1..=3));
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
        bench.policy.update(&hosts([5, 3, 2, 1, 4]), START);
        assert_eq!(bench.picks(4), picked([3, 1, 5, 4]));
        assert!(bench.is_overloaded(2));
        assert_eq!(bench.status(1).succ, 4);
    }

    #[test]
    fn vanished_hosts_leave_at_once_and_entirely() {
        let mut bench = Bench::with_hosts(3);
        bench.eject(1);
        bench.fail(2, 1);
        bench.policy.update(&hosts([3]), START);
        assert_eq!(bench.policy.census(), Census { idle: 1, overloaded: 0 });
        assert_eq!(bench.picks(2), picked([3, 3]));
        assert!(!bench.policy.report(host(1), Outcome::Success, START, &mut bench.effects));
        assert!(!bench.policy.has_news());
        bench.policy.update(&[], START);
        assert_eq!(bench.pick(), Pick::NoHosts);
    }

    #[test]
    fn a_host_that_comes_back_is_new() {
        let mut bench = Bench::with_hosts(1);
        bench.eject(1);
        bench.policy.update(&[], START);
        bench.policy.update(&hosts([1]), START);
        assert_eq!(bench.status(1), HostStatus { host: host(1), succ: 0, err: 0, overloaded: false });
    }

    #[test]
    fn a_host_listed_twice_counts_once() {
        let bench = Bench::new(ClassicParams::default(), &hosts([1, 2, 1, 1]));
        assert_eq!(bench.policy.census(), Census { idle: 2, overloaded: 0 });
    }

    #[test]
    fn the_version_moves_with_hosts_and_states_only() {
        let mut bench = Bench::with_hosts(2);
        let version = bench.policy.version();
        bench.picks(5);
        bench.fail(1, 14);
        bench.policy.update(&hosts([2, 1]), START);
        assert_eq!(bench.policy.version(), version);
        bench.fail(1, 1);
        assert!(bench.policy.version() > version);
        let version = bench.policy.version();
        bench.policy.update(&hosts([2]), START);
        assert!(bench.policy.version() > version);
    }
}

mod news {
    use super::*;

    fn take(bench: &mut Bench, limit: usize) -> Vec<HostStatus> {
        let mut news = vec![];
        bench.policy.take_news(limit, &mut news);
        news
    }

    #[test]
    fn only_hosts_with_something_to_tell() {
        let mut bench = Bench::with_hosts(3);
        assert!(!bench.policy.has_news());
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
    fn what_may_be_lost_is_told_again() {
        let mut bench = Bench::with_hosts(3);
        bench.succeed(1, 1);
        take(&mut bench, 10);
        bench.succeed(2, 1);
        bench.policy.retell();
        assert_eq!(take(&mut bench, 10).len(), 2);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pick,
    Report(u8, Outcome),
    Reports(u8, Outcome, u8),
    Update(Vec<u8>),
    Sweep,
    Forward(u64),
    Back(u64),
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = || prop_oneof![Just(Outcome::Success), Just(Outcome::Failure)];
    prop_oneof![
        10 => Just(Step::Pick),
        10 => (0u8..12, outcome()).prop_map(|(n, outcome)| Step::Report(n, outcome)),
        4 => (0u8..12, outcome(), 1u8..20).prop_map(|(n, outcome, times)| Step::Reports(n, outcome, times)),
        1 => prop::collection::vec(0u8..12, 0..12).prop_map(Step::Update),
        2 => Just(Step::Sweep),
        3 => (0u64..9_000).prop_map(Step::Forward),
        1 => (0u64..40_000).prop_map(Step::Back),
        2 => Just(Step::Tell),
    ]
}

fn params() -> impl Strategy<Value = ClassicParams> {
    let small = (1u32..12, 0u32..200, 0u32..9, 1u32..20, 1u32..20);
    let rates = (0.0..1.0, 0.0..1.0, 0.0..1.0);
    let defaults = ClassicParams::default();
    prop_oneof![
        Just(defaults),
        (small, rates, 1u64..20_000, 1u64..20_000).prop_map(|(small, rates, idle_ms, overload_ms)| {
            ClassicParams {
                probe_num: small.0,
                init_succ_cnt: small.1,
                init_err_cnt: small.2,
                contin_err_limit: small.3,
                contin_succ_limit: small.4,
                err_rate: rates.0,
                succ_rate: rates.1,
                window_err_rate: rates.2,
                idle_timeout: Duration::from_millis(idle_ms),
                overload_timeout: Duration::from_millis(overload_ms),
            }
        })
    ]
}

/// Both sides of the comparison, fed the same steps.
struct Pair {
    classic: Classic,
    model: Model,
    now: Moment,
}

impl Pair {
    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (now, mut effects) = (self.now, Effects::default());
        match step {
            Step::Pick => {
                let pick = self.classic.pick(now, &mut effects);
                prop_assert_eq!(pick, self.model.pick(now));
                if let Pick::Host(host) = pick {
                    prop_assert!(self.model.statuses().iter().any(|status| status.host == host));
                }
            }
            Step::Report(n, outcome) => {
                let known = self.classic.report(host(n), outcome, now, &mut effects);
                prop_assert_eq!(known, self.model.report(host(n), outcome, now));
            }
            Step::Reports(n, outcome, times) => {
                for _ in 0..times {
                    self.run(Step::Report(n, outcome))?;
                }
            }
            Step::Update(numbers) => {
                self.classic.update(&hosts(numbers.clone()), now);
                self.model.update(&hosts(numbers), now);
            }
            Step::Sweep => {
                self.classic.sweep(now, &mut effects);
                self.model.windows(now);
            }
            Step::Forward(ms) => self.now = now + Duration::from_millis(ms),
            Step::Back(ms) => self.now = now.saturating_sub(Duration::from_millis(ms)),
            Step::Tell => self.tell(usize::MAX),
        }
        self.compare()
    }

    fn tell(&mut self, limit: usize) {
        let mut news = vec![];
        self.classic.take_news(limit, &mut news);
        self.model.tell();
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let statuses = statuses(&self.classic);
        prop_assert_eq!(&statuses, &self.model.statuses(), "same hosts in the same order");
        let overloaded = statuses.iter().filter(|status| status.overloaded).count();
        let census = Census { idle: statuses.len() - overloaded, overloaded };
        prop_assert_eq!(self.classic.census(), census);
        // A host may be marked although its counts are back at what was told; never the other way round.
        let marked: BTreeSet<_> =
            self.classic.hosts.iter().filter(|(_, h)| h.news).map(|(_, h)| h.addr).collect();
        prop_assert!(self.model.differing().iter().all(|host| marked.contains(host)));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_text(params in params(), steps in prop::collection::vec(step(), 1..250)) {
        let classic = Classic::new(Arc::new(params.clone()));
        let mut pair = Pair { classic, model: Model::new(params), now: START + 100 * SECOND };
        pair.run(Step::Update((0..8).collect()))?;
        for step in steps {
            pair.run(step)?;
        }
    }

    #[test]
    fn exactly_one_pick_in_probe_num_and_one_is_a_probe(
        probe_num in 1u32..30, healthy in 1u8..6, sick in 1u8..6, rounds in 1usize..5,
    ) {
        let params = ClassicParams { probe_num, ..ClassicParams::default() };
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
