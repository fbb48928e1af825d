//! What it costs to find out whether agents have what they should have.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput};
use fastrand::Rng;
use lars_dns::core::{
    digest::Tally,
    snapshot::{Snapshot, SnapshotBuilder},
    subscriptions::Subscriptions,
};
use lars_proto::digest::{self, Digest};

use super::{hosts, module};

const HOSTS_PER_MODULE: u32 = 10;

fn snapshot(modules: u32) -> Arc<Snapshot> {
    let (hosts, mut builder) = (hosts(HOSTS_PER_MODULE), SnapshotBuilder::default());
    for n in 0..modules {
        hosts.iter().for_each(|&host| builder.push(module(n), host));
    }
    Arc::new(builder.finish())
}

/// The hash of a route: made for each module with a snapshot, and for each route that an agent gets.
pub(super) fn hash(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest/route hash");
    for count in [1, HOSTS_PER_MODULE, 1_000] {
        let hosts = hosts(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(format!("{count} host(s)"), |b| {
            b.iter(|| digest::route_hash(black_box(module(1)), hosts.iter().copied()));
        });
    }
    group.finish();
}

/// The answer of lars-dns to one digest; each time another connection's, of many, so that little is in a cache.
pub(super) fn answer(c: &mut Criterion) {
    const CONNECTIONS: u32 = 1_000;
    for of in [100_000, 1_000_000] {
        let mut group = c.benchmark_group(format!("digest/answer, table of {of} modules"));
        let mut site = None;
        for count in [50, 5_000] {
            group.throughput(Throughput::Elements(count.into()));
            group.bench_function(format!("{count} modules"), |b| {
                let snapshot = site.get_or_insert_with(|| snapshot(of));
                let (mut subscriptions, mut next) = (Subscriptions::default(), 0);
                let connections = CONNECTIONS * 50 / count;
                for connection in 0..connections {
                    let mut rng = Rng::with_seed(connection.into());
                    (0..count).for_each(|_| _ = subscriptions.subscribe(connection, module(rng.u32(..of))));
                }
                b.iter(|| {
                    next = (next + 1) % connections;
                    let mut tally = Tally::new(&subscriptions, next, snapshot);
                    while !tally.advance(snapshot) {}
                    tally.answer(black_box(Digest::default()))
                });
            });
        }
        group.finish();
    }
}
