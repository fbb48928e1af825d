//! What a lookup and the report on it cost in the agent: in the balancer of one module, and through the table
//! of all modules of a shard.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput};
use fastrand::Rng;
use lars_agent::core::{
    balancer::{Balancer, Effects, Outcome, Pick},
    table::{Answer, Table, TableConfig},
    time::Moment,
};
use lars_proto::{Endpoint, HostAddr, ModuleId};

use super::{hosts, module};

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
    let mut group = c.benchmark_group("balancer/pick");
    group.throughput(Throughput::Elements(1));
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        group.bench_function(format!("{hosts} hosts"), |b| b.iter(|| black_box(module.pick())));
    }
    group.finish();
}

pub(super) fn calls(c: &mut Criterion) {
    calls_that(c, "balancer/pick+report", all_succeed);
    calls_that(c, "balancer/pick+report with a tenth ejected", a_tenth_fails);
}

fn calls_that(c: &mut Criterion, name: &str, outcome: fn(HostAddr) -> Outcome) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        // By now every host that fails has been ejected.
        (0..200 * hosts).for_each(|_| _ = module.call(outcome));
        group.bench_function(format!("{hosts} hosts"), |b| b.iter(|| black_box(module.call(outcome))));
    }
    group.finish();
}

const HOSTS_PER_MODULE: u32 = 3;

/// An agent's shard whose modules are asked for in no order.
struct Shard {
    table: Table,
    now: Moment,
    order: Vec<ModuleId>,
}

impl Shard {
    fn new(modules: u32) -> Self {
        let mut table = Table::new(TableConfig::default());
        for module in (0..modules).map(module) {
            table.get_host(module, Moment::ORIGIN);
            table.route_update(module, &route(HOSTS_PER_MODULE), Moment::ORIGIN);
            while table.poll_interest().is_some() {}
        }
        let mut rng = Rng::with_seed(3);
        let order = (0..1 << 20).map(|_| module(rng.u32(..modules))).collect();
        Self { table, now: Moment::ORIGIN, order }
    }

    /// What a lookup and a report are to a shard, without the datagrams.
    fn call(&mut self, turn: usize) -> Answer {
        let module = self.order[turn % self.order.len()];
        self.now = self.now + STEP;
        let answer = self.table.get_host(module, self.now);
        if let Answer::Host(host) = answer {
            self.table.report(module, host, Outcome::Success, self.now);
        }
        while let Some(interest) = self.table.poll_interest() {
            black_box(interest);
        }
        answer
    }
}

pub(super) fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/get_host+report");
    group.throughput(Throughput::Elements(1));
    for modules in [1, 10_000, 1_000_000] {
        let (mut shard, mut turn) = (None, 0);
        group.bench_function(format!("{modules} module(s)"), |b| {
            let shard = shard.get_or_insert_with(|| Shard::new(modules));
            b.iter(|| {
                turn += 1;
                shard.call(turn)
            });
        });
    }
    group.finish();
}
