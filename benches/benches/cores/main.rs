//! `cargo bench`: what the cores of Lars cost, without any IO. `cargo bench -- balancer` runs one group.
//!
//! Random input is drawn from fixed seeds, so that every run has the same.

use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use lars_benches::scale::fleet;
use lars_proto::{HostAddr, ModuleId};

mod balancer;
mod client;
mod codec;
mod digest;
mod pool;
mod reporter;
mod routes;
mod state;
mod subscriptions;

fn host(n: u32) -> HostAddr {
    fleet::host(n as usize)
}

fn hosts(count: u32) -> Vec<HostAddr> {
    fleet::hosts(count as usize)
}

fn module(n: u32) -> ModuleId {
    fleet::module(n as usize)
}

/// A group whose benches do so many things at a time.
fn group<'a>(c: &'a mut Criterion, name: &str, elements: impl Into<u64>) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(elements.into()));
    group
}

/// Shorter than criterion's own, because there are many; the slow ones choose fewer samples.
fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
}

criterion_group!(
    name = cores;
    config = settings();
    targets = codec::frames, codec::messages, codec::lookups, codec::routes, balancer::picks, balancer::calls, balancer::tables,
        routes::build, routes::compare, routes::change, routes::encode, subscriptions::publish, digest::hash, digest::answer, digest::ask, pool::take,
        pool::append, reporter::rows, reporter::coalesce, state::write, state::read, client::questions, client::answers
);
criterion_main!(cores);
