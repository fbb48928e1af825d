//! What lars-dns does with its route table when it loads everything and when little has changed.

use std::{collections::BTreeMap, hint::black_box};

use criterion::{BatchSize, Criterion, Throughput};
use fastrand::Rng;
use lars_benches::scale::cores;
use lars_dns::core::{
    push::Push,
    snapshot::{Snapshot, SnapshotBuilder},
};
use lars_proto::{HostAddr, ModuleId};

use super::{group, hosts, module};

const MODULES: u32 = 100_000;
const HOSTS_PER_MODULE: u32 = 10;
const HOSTS: u64 = MODULES as u64 * HOSTS_PER_MODULE as u64;

/// A million rows in the order of the store.
fn rows() -> Vec<(ModuleId, HostAddr)> {
    let hosts = hosts(HOSTS_PER_MODULE);
    (0..MODULES).flat_map(|n| hosts.iter().map(move |&host| (module(n), host))).collect()
}

fn built(rows: &[(ModuleId, HostAddr)], like: &Snapshot) -> Snapshot {
    let mut builder = SnapshotBuilder::sized_like(like);
    for &(module, host) in rows {
        builder.push(module, host);
    }
    builder.finish()
}

/// One host less in each of `count` modules that are strewn over the table.
fn changes(count: u32) -> BTreeMap<ModuleId, Vec<HostAddr>> {
    let mut rng = Rng::with_seed(4);
    let mut changes = BTreeMap::new();
    while changes.len() < count as usize {
        changes.insert(module(rng.u32(..MODULES)), hosts(HOSTS_PER_MODULE - 1));
    }
    changes
}

pub(super) fn build(c: &mut Criterion) {
    let mut group = group(c, "snapshot/build", HOSTS);
    group.sample_size(20);
    let mut input = None;
    group.bench_function("1000000 hosts in 100000 modules", |b| {
        let (rows, previous) = input.get_or_insert_with(|| {
            let rows = rows();
            let previous = built(&rows, &Snapshot::default());
            (rows, previous)
        });
        b.iter_with_large_drop(|| built(black_box(rows), previous));
    });
}

/// A full load against what is known.
pub(super) fn compare(c: &mut Criterion) {
    let mut group = group(c, "snapshot/diff of 1000000 hosts", HOSTS);
    group.sample_size(20);
    for count in [0, 100] {
        let mut input = None;
        group.bench_function(format!("{count} changes"), |b| {
            let (old, new) = input.get_or_insert_with(|| {
                let mut rows = rows();
                let old = built(&rows, &Snapshot::default());
                let changes = changes(count);
                rows.retain(|(module, host)| changes.get(module).is_none_or(|hosts| hosts.contains(host)));
                (old, built(&rows, &Snapshot::default()))
            });
            b.iter(|| black_box(&*old).diff(black_box(new)));
        });
    }
}

/// The snapshot that follows from what a poll has read.
pub(super) fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot/apply to 1000000 hosts");
    let mut snapshot = None;
    for count in [1, 1_000] {
        let changes = changes(count);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("{count} changed module(s)"), |b| {
            let snapshot =
                snapshot.get_or_insert_with(|| cores::snapshot(MODULES as usize, HOSTS_PER_MODULE as usize));
            b.iter_batched(|| changes.clone(), |changes| snapshot.apply(changes), BatchSize::SmallInput);
        });
    }
}

/// A changed module made ready for its subscribers.
pub(super) fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("push/encode");
    for count in [10, 1_000] {
        let (hosts, mut scratch) = (hosts(count), Vec::new());
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("{count} hosts"), |b| {
            b.iter(|| Push::encode(module(1), black_box(&hosts), &mut scratch));
        });
    }
}
