//! The buffer pool of a shard against malloc, which is what a `Vec` takes its memory from.

use std::hint::black_box;

use criterion::Criterion;
use lars_runtime::Pool;

use super::group;

const POOL_BYTES_MAX: usize = 64 << 20;

/// A usual reply, and as many as a busy read brings.
const MESSAGE: [u8; 40] = [7; 40];
const MESSAGES: usize = 32;

fn kib(len: usize) -> String {
    format!("{} KiB", len >> 10)
}

pub(super) fn take(c: &mut Criterion) {
    let pool = Pool::new(POOL_BYTES_MAX);
    let mut group = c.benchmark_group("buffer/take+drop");
    for len in [4 << 10, 64 << 10, 1 << 20] {
        group.bench_function(format!("pool/{}", kib(len)), |b| b.iter(|| pool.take(black_box(len))));
        group.bench_function(format!("malloc/{}", kib(len)), |b| {
            b.iter(|| Vec::<u8>::with_capacity(black_box(len)));
        });
    }
}

/// Replies are gathered in a buffer, which is dropped when it is written.
pub(super) fn append(c: &mut Criterion) {
    let pool = Pool::new(POOL_BYTES_MAX);
    let mut group = group(c, "buffer/take+append+drop, 32 times 40 bytes", MESSAGES as u64);
    group.bench_function("pool", |b| {
        b.iter(|| {
            let mut buffer = pool.take(4 << 10).expect("there is room");
            (0..MESSAGES).for_each(|_| buffer.extend_from_slice(black_box(&MESSAGE)).expect("fits"));
            buffer
        });
    });
    group.bench_function("malloc", |b| {
        b.iter(|| {
            let mut buffer = Vec::with_capacity(4 << 10);
            (0..MESSAGES).for_each(|_| buffer.extend_from_slice(black_box(&MESSAGE)));
            buffer
        });
    });
}
