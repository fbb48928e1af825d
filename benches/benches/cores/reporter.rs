//! What lars-reporter does with rows before they reach SQL.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion};
use lars_proto::{
    CallStatus, CallStatusKey,
    messages::{HostCallResult, ReportStatusRequest},
};
use lars_reporter::core::{
    coalescer::{Coalescer, Limits},
    ingest,
};

use super::{group, host, module};

const ROWS: u32 = 10_000;
const HOSTS_PER_MODULE: u32 = 10;
const NOW: u64 = 1_700_000_000;

/// As configured by default.
const LIMITS: Limits =
    Limits { flush_interval: Duration::from_millis(200), flush_rows: 500, pending_keys_max: 1_000_000 };

/// The rows of a thousand modules, each with other keys, as one agent has them at `ts`.
fn rows_at(ts: u64) -> Vec<CallStatus> {
    let row = |n: u32| CallStatus {
        key: CallStatusKey {
            module: module(n / HOSTS_PER_MODULE),
            host: host(n % HOSTS_PER_MODULE),
            caller: Ipv4Addr::new(10, 1, 2, 3),
        },
        succ: n % 1_000,
        err: n % 7,
        ts,
        overload: false,
    };
    (0..ROWS).map(row).collect()
}

fn add_all(coalescer: &mut Coalescer, rows: &[CallStatus], now: Instant) {
    for &row in rows {
        coalescer.add(row, now);
    }
}

/// One that has held this many rows before, as one that runs for a while has, and has written them.
fn empty(now: Instant) -> Coalescer {
    let mut coalescer = holding(NOW, now);
    write_all(&mut coalescer, now);
    coalescer
}

fn holding(ts: u64, now: Instant) -> Coalescer {
    let mut coalescer = Coalescer::new(LIMITS);
    add_all(&mut coalescer, &rows_at(ts), now);
    coalescer
}

fn write_all(coalescer: &mut Coalescer, now: Instant) {
    while let Some(batch) = coalescer.poll(now + LIMITS.flush_interval) {
        black_box(batch.rows());
        coalescer.flushed(batch, now);
    }
}

/// A message, decoded, into rows.
pub(super) fn rows(c: &mut Criterion) {
    let result = |n: u32| {
        let host = host(n).to_wire();
        HostCallResult { ip: host.ip, port: host.port, succ: 300, err: 2, overload: false }
    };
    let message = ReportStatusRequest {
        modid: 1,
        cmdid: 2,
        caller: host(0).to_wire().ip,
        results: (0..HOSTS_PER_MODULE).map(result).collect(),
        ts: NOW as u32,
    };
    let mut group = group(c, "reporter/ingest::rows", HOSTS_PER_MODULE);
    group.bench_function("10 hosts", |b| b.iter(|| ingest::rows(black_box(&message), NOW)));
}

pub(super) fn coalesce(c: &mut Criterion) {
    let now = Instant::now();
    let mut group = group(c, "reporter/coalesce 10000 rows", ROWS);
    let rows = rows_at(NOW);
    group.bench_function("new keys", |b| {
        let add = |coalescer: &mut Coalescer| add_all(coalescer, &rows, now);
        b.iter_batched_ref(|| empty(now), add, BatchSize::LargeInput);
    });
    for (name, ts) in [("same keys", NOW), ("older rows", NOW - 1)] {
        let (mut coalescer, rows) = (holding(NOW, now), rows_at(ts));
        group.bench_function(name, |b| b.iter(|| add_all(&mut coalescer, &rows, now)));
    }
    let mut coalescer = empty(now);
    group.bench_function("new keys, and writing them", |b| {
        b.iter(|| {
            add_all(&mut coalescer, &rows, now);
            write_all(&mut coalescer, now);
        });
    });
}
