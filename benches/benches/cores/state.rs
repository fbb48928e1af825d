//! What it costs to keep the state of an agent on disk, and to go on from it.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use criterion::Criterion;
use lars_agent::core::{
    saved,
    table::{Table, TableConfig},
    time::Moment,
};
use lars_proto::Endpoint;
use lars_service::StateFile;

use super::{group, hosts, module};

const MODULES: u32 = 10_000;
const HOSTS_PER_MODULE: u32 = 10;
/// As many as a shard shows in a turn.
const MODULES_PER_TURN: usize = 256;

fn table() -> Table {
    let mut table = Table::new(TableConfig::default());
    let route: Vec<Endpoint> = hosts(HOSTS_PER_MODULE).into_iter().map(Endpoint::from).collect();
    for id in (0..MODULES).map(module) {
        table.get_host(id, Moment::ORIGIN);
        table.route_update(id, &route, Moment::ORIGIN);
        while table.poll_interest().is_some() {}
    }
    table
}

fn collect(table: &Table) -> Vec<u8> {
    let (mut parts, mut from) = (Vec::new(), Some(0));
    while let Some(place) = from {
        let (mut frames, mut records) = (Vec::new(), Vec::new());
        from = table.visit_saved(place, MODULES_PER_TURN, |id, hosts, ejections| {
            saved::encode_frame(id, hosts, &mut frames);
            saved::encode_records(id, ejections, Moment::ORIGIN, &mut records);
        });
        parts.push((frames, records));
    }
    saved::join(&parts)
}

/// On the disk of the folder for temporary files.
pub(super) fn write(c: &mut Criterion) {
    let (dir, table) = (tempfile::tempdir().expect("a folder"), table());
    let file = StateFile::new(dir.path(), "state", saved::FORMAT);
    let mut group = group(c, &format!("state/{MODULES} modules of {HOSTS_PER_MODULE} hosts"), MODULES);
    group.sample_size(20);
    group.bench_function("collect", |b| b.iter(|| collect(black_box(&table))));
    group.bench_function("collect and write", |b| {
        b.iter(|| file.write(&collect(&table), SystemTime::now()).expect("it is written"));
    });
}

/// From the file to a table that answers.
pub(super) fn read(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = StateFile::new(dir.path(), "state", saved::FORMAT);
    file.write(&collect(&table()), SystemTime::now()).expect("it is written");
    let mut group = group(c, &format!("state/{MODULES} modules of {HOSTS_PER_MODULE} hosts"), MODULES);
    group.sample_size(20);
    group.bench_function("read and restore", |b| {
        b.iter(|| {
            let state = file.read(SystemTime::now()).expect("it is whole").expect("it is there");
            let mut table = Table::new(TableConfig::default());
            for saved in saved::decode(&state.body, Duration::ZERO).expect("it is ours") {
                assert!(table.restore(&saved, Moment::ORIGIN).is_continue());
            }
            table
        });
    });
}
