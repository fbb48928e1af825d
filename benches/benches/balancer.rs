//! What a lookup and the report on it cost in the agent's balancer, without any IO.

use std::{hint::black_box, net::Ipv4Addr, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lars_agent::core::{
    balancer::{Effects, Outcome, Pick, Policy, PolicyChoice},
    time::Moment,
};
use lars_proto::HostAddr;

/// Between two lookups: a busy module.
const STEP: Duration = Duration::from_micros(10);

const HOSTS: [u32; 3] = [10, 100, 1_000];

/// A module under load, as the agent holds it.
struct Module {
    policy: Box<dyn Policy>,
    now: Moment,
    effects: Effects,
}

impl Module {
    fn new(hosts: u32) -> Self {
        let hosts: Vec<_> = (0..hosts).map(host).collect();
        let mut policy = PolicyChoice::default().build();
        policy.update(&hosts, Moment::ORIGIN);
        Self { policy, now: Moment::ORIGIN, effects: Effects::default() }
    }

    fn pick(&mut self) -> Pick {
        self.now = self.now + STEP;
        self.policy.pick(self.now, &mut self.effects)
    }

    /// One call by a program: a lookup, and how it went.
    fn call(&mut self, outcome: fn(HostAddr) -> Outcome) -> bool {
        match self.pick() {
            Pick::Host(host) => self.policy.report(host, outcome(host), self.now, &mut self.effects),
            Pick::Overloaded | Pick::NoHosts => false,
        }
    }
}

fn host(n: u32) -> HostAddr {
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0001 + n), 8080)
}

fn all_succeed(_: HostAddr) -> Outcome {
    Outcome::Success
}

/// Every tenth host is dead.
fn a_tenth_fails(host: HostAddr) -> Outcome {
    let (ip, _) = host.to_unsigned();
    if ip % 10 == 1 { Outcome::Failure } else { Outcome::Success }
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    group.throughput(Throughput::Elements(1));
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |b| b.iter(|| black_box(module.pick())));
    }
    group.finish();
}

fn pick_and_report(c: &mut Criterion) {
    calls(c, "pick + report, all succeed", all_succeed);
    calls(c, "pick + report, a tenth fails", a_tenth_fails);
}

fn calls(c: &mut Criterion, name: &str, outcome: fn(HostAddr) -> Outcome) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for hosts in HOSTS {
        let mut module = Module::new(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |b| {
            b.iter(|| black_box(module.call(outcome)));
        });
    }
    group.finish();
}

criterion_group!(benches, pick, pick_and_report);
criterion_main!(benches);
