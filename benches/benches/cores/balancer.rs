//! What a lookup and the report on it cost in the agent: in the balancer of one module, and through the table
//! of all modules of a shard.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::Criterion;
use fastrand::Rng;
use lars_agent::core::{
    balancer::{Balancer, Effects, Outcome, Pick},
    time::Moment,
};
use lars_benches::scale::cores;
use lars_proto::{Endpoint, HostAddr, ModuleId};

use super::{group, hosts, module};

/// Between two lookups: a busy module.
const STEP: Duration = Duration::from_micros(10);

const HOSTS: [u32; 3] = [10, 100, 1_000];

fn route(host_count: u32) -> Vec<Endpoint> {
    hosts(host_count).into_iter().map(Endpoint::from).collect()
}

/// A module under load, as the agent holds it.
struct Module {
    balancer: Balancer,
    now: Moment,
}

impl Module {
    fn new(host_count: u32) -> Self {
        let mut balancer = Balancer::new(Arc::default());
        balancer.update(&route(host_count), Moment::ORIGIN, &mut Effects::default());
        Self { balancer, now: Moment::ORIGIN }
    }

    fn pick(&mut self) -> Pick {
        self.now = self.now + STEP;
        self.balancer.pick(self.now, &mut Effects::default())
    }

    /// One call by a program: a lookup, and how it went.
    fn call(&mut self, outcome: fn(HostAddr) -> Outcome) -> bool {
        match self.pick() {
            Pick::Host(host) => self.balancer.report(host, outcome(host), self.now, &mut Effects::default()),
            Pick::Overloaded | Pick::NoHosts => false,
        }
    }
}

fn all_succeed(_: HostAddr) -> Outcome {
    Outcome::Success
}

/// Every tenth host is dead.
fn a_tenth_fails(host: HostAddr) -> Outcome {
    let (ip, _) = host.to_unsigned();
    if ip % 10 == 1 { Outcome::Failure } else { Outcome::Success }
}

pub(super) fn picks(c: &mut Criterion) {
    let mut group = group(c, "balancer/pick", 1_u64);
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        group.bench_function(format!("{hosts} hosts"), |b| b.iter(|| black_box(module.pick())));
    }
}

pub(super) fn calls(c: &mut Criterion) {
    calls_that(c, "balancer/pick+report", all_succeed);
    calls_that(c, "balancer/pick+report with a tenth ejected", a_tenth_fails);
}

fn calls_that(c: &mut Criterion, name: &str, outcome: fn(HostAddr) -> Outcome) {
    let mut group = group(c, name, 1_u64);
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        // By now every host that fails has been ejected.
        (0..200 * hosts).for_each(|_| _ = module.call(outcome));
        group.bench_function(format!("{hosts} hosts"), |b| b.iter(|| black_box(module.call(outcome))));
    }
}

const HOSTS_PER_MODULE: usize = 3;

/// An agent's shard whose modules are asked for in no order: what a lookup and a report are to it, without datagrams.
pub(super) fn tables(c: &mut Criterion) {
    let mut group = group(c, "table/get_host+report", 1_u64);
    for modules in [1, 10_000, 1_000_000] {
        let mut site = None;
        group.bench_function(format!("{modules} module(s)"), |b| {
            let (table, order, turn) = site.get_or_insert_with(|| {
                let mut rng = Rng::with_seed(3);
                let order: Vec<ModuleId> = (0..1 << 20).map(|_| module(rng.u32(..modules))).collect();
                (cores::table(modules as usize, HOSTS_PER_MODULE), order, 0)
            });
            b.iter(|| {
                *turn += 1;
                cores::call(table, order[*turn % order.len()], Moment::ORIGIN + STEP * *turn as u32)
            });
        });
    }
}
