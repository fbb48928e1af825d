//! `cargo bench`: what the cores of Lars cost, without any IO. `cargo bench -- balancer` runs one group.
//!
//! Random input is drawn from fixed seeds, so that every run has the same.

use std::{net::Ipv4Addr, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use lars_proto::{HostAddr, ModuleId};

mod balancer;
mod client;
mod codec;
mod digest;
mod pool;
mod reporter;
mod routes;
mod subscriptions;

/// The `n`th host of a site: addresses from 10.0.0.1 up.
fn host(n: u32) -> HostAddr {
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0001 + n), 8080)
}

fn hosts(count: u32) -> Vec<HostAddr> {
    (0..count).map(host).collect()
}

/// The `n`th module of a site: products with 100 services each, in the order of SQL.
fn module(n: u32) -> ModuleId {
    ModuleId::new(1 + (n / 100) as i32, 1 + (n % 100) as i32)
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
        routes::build, routes::compare, routes::change, routes::encode, subscriptions::publish, digest::hash, digest::answer, pool::take,
        pool::append, reporter::rows, reporter::coalesce, client::questions, client::answers
);
criterion_main!(cores);
