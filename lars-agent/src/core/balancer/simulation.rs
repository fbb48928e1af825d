//! One module for days: hosts that fall ill and get well, programs that call what they are given and report one by
//! one or in batches, routes that change, a clock that is not quite monotonic. At each step the balancer is held
//! against the [model](super::model), with random parameters, cap and panic mode among them.
//!
//! A failure prints its seed; `LARS_SIM_SEED=<seed>` runs that seed alone.

use std::time::Duration;

use fastrand::Rng;
use lars_testkit::run_seeds;

use super::{
    BalancerParams, Batch, Health, Limits, Outcome, Pick,
    tests::{Pair, Step, host},
};

const STEPS: usize = 20_000;
/// Seeds are tried until so much time has passed; at least one is.
const BUDGET: Duration = Duration::from_secs(3);
const HOSTS_MAX: u8 = 30;

struct World {
    rng: Rng,
    pair: Pair,
    idle_timeout: Duration,
    overload_timeout: Duration,
    /// How many calls of a thousand fail, by host.
    failing_per_mille: Vec<u32>,
    /// Calls that a program has not reported yet, by host, the oldest first.
    unreported: Vec<Vec<Outcome>>,
}

fn any_params(rng: &mut Rng) -> BalancerParams {
    let health = Health {
        contin_err_limit: rng.u32(1..20),
        contin_succ_limit: rng.u32(1..20),
        init_succ_cnt: rng.u32(0..300),
        idle_timeout: Duration::from_millis(rng.u64(1..20_000)),
        overload_timeout: Duration::from_millis(rng.u64(1..20_000)),
        ..Health::default()
    };
    let limits = Limits { max_ejected_percent: rng.u32(0..=100), panic_percent: rng.u32(0..=100) };
    BalancerParams { probe_num: rng.u32(1..12), health, limits }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let params = any_params(&mut rng);
        let (idle_timeout, overload_timeout) = (params.health.idle_timeout, params.health.overload_timeout);
        let mut world = Self {
            rng,
            pair: Pair::new(params),
            idle_timeout,
            overload_timeout,
            failing_per_mille: vec![0; HOSTS_MAX.into()],
            unreported: vec![vec![]; HOSTS_MAX.into()],
        };
        world.edit();
        world
    }

    fn run(&mut self, step: Step) {
        self.pair.run(step).expect("balancer and model agree");
    }

    fn edit(&mut self) {
        let count = self.rng.usize(0..=HOSTS_MAX.into());
        let listed = (0..count).map(|_| self.rng.u8(0..HOSTS_MAX)).collect();
        self.run(Step::Update(listed));
    }

    fn step(&mut self) {
        match self.rng.u32(0..1_000) {
            0..900 => self.call(),
            900..950 => {
                let ms = self.rng.u64(0..2_000);
                self.run(Step::Forward(ms));
                self.run(Step::Sweep);
            }
            950..970 => {
                let n = self.rng.u8(0..HOSTS_MAX);
                self.report_batch(n);
            }
            970..985 => {
                let n = self.rng.usize(0..HOSTS_MAX.into());
                self.failing_per_mille[n] = [0, 10, 150, 600, 1_000][self.rng.usize(0..5)];
            }
            985..990 => self.run(Step::Send),
            990..996 => self.edit(),
            996..998 => {
                let ms = self.rng.u64(0..30_000);
                self.run(Step::Back(ms));
            }
            _ => self.failing_per_mille.fill(self.rng.u32(0..=1_000)),
        }
    }

    fn call(&mut self) {
        let Pick::Host(picked) = self.pair.pick().expect("balancer and model agree") else {
            return;
        };
        let n = (0..HOSTS_MAX).find(|&n| host(n) == picked).expect("only hosts of the route are picked");
        let failed = self.rng.u32(0..1_000) < self.failing_per_mille[usize::from(n)];
        let outcome = if failed { Outcome::Failure } else { Outcome::Success };
        if self.rng.bool() {
            self.run(Step::Report(n, outcome));
        } else {
            self.unreported[usize::from(n)].push(outcome);
            if self.rng.u32(0..20) == 0 {
                self.report_batch(n);
            }
        }
    }

    fn report_batch(&mut self, n: u8) {
        let mut outcomes = std::mem::take(&mut self.unreported[usize::from(n)]);
        // More than a batch knows the order of: the oldest wait for the next one.
        let rest = outcomes.split_off(outcomes.len().min(Batch::NEWEST_MAX as usize));
        self.unreported[usize::from(n)] = rest;
        if !outcomes.is_empty() {
            self.run(Step::Batch(n, outcomes));
        }
    }

    /// All hosts are well and everything reported: within two windows all are idle, whatever the parameters.
    fn get_well(&mut self) {
        self.failing_per_mille.fill(0);
        for timeout in [self.idle_timeout, self.overload_timeout] {
            self.run(Step::Forward(timeout.as_millis() as u64));
            self.run(Step::Sweep);
        }
        let census = self.pair.census();
        assert_eq!(census.overloaded, 0, "without calls every host comes back in time");
        assert!(!self.pair.is_panicking(), "with all hosts idle there is no reason to panic");
    }
}

#[test]
fn one_module_in_the_long_run() {
    let mut seeds = Rng::new();
    run_seeds(
        BUDGET,
        || seeds.u64(..),
        |seed, step| {
            let mut world = World::new(seed);
            while *step < STEPS {
                world.step();
                *step += 1;
            }
            world.get_well();
        },
    );
}
