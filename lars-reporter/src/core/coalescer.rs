//! [`Coalescer`]: the rows one writer has accepted and not yet written, one per key.
//!
//! It decides when how many rows are written, and keeps each until the table has it. The writer's thread
//! drives it: [`Coalescer::add`] what came in, [`Coalescer::poll`] for a batch, write that, and say how it
//! went with [`Coalescer::flushed`], [`Coalescer::failed`] or [`Coalescer::refused`].
//!
//! A transaction fails whole, also if the table does not take one of its rows. Then batches are halved until
//! that row is alone, which is dropped, and grow again with each success: the other rows are written.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ahash::AHashMap;

use super::row::{Status, StatusKey, StatusRow};

/// Delay before the first retry, at most; it doubles with each further failure in a row.
pub const RETRY_BASE: Duration = Duration::from_millis(100);

/// The longest delay between two tries.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// Keys that memory is kept for when nothing is held: a busy interval's, not a long outage's.
const CAPACITY_KEPT: usize = 16_384;

/// When to write and how much to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest a row waits for others to be written with, while writing works.
    pub flush_interval: Duration,
    /// The most rows in a batch; so many are written without further waiting. At least 1.
    pub flush_rows: usize,
    /// The most keys held. A row of a further key is dropped and counted; rows of keys that are held are
    /// always taken.
    pub pending_keys_max: usize,
}

/// Rows to be written in one go. It goes back to the coalescer, whatever becomes of it.
#[must_use = "its rows are held until `flushed` or `failed` is called"]
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    rows: Vec<StatusRow>,
}

impl Batch {
    /// At least one row, no key twice.
    #[must_use]
    pub fn rows(&self) -> &[StatusRow] {
        &self.rows
    }
}

/// A row that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    status: Status,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In `waiting`.
    Waiting,
    /// In the batch that is out, as it is held.
    Out,
    /// In the batch that is out, and changed since.
    OutChanged,
}

/// Rows that wait to be written. See the module.
#[derive(Debug)]
pub struct Coalescer {
    limits: Limits,
    /// Every row accepted and not known to be written.
    held: AHashMap<StatusKey, Held>,
    /// The keys to write, the longest waiting first, with the time since when they wait.
    waiting: VecDeque<(StatusKey, Instant)>,
    batch_is_out: bool,
    /// The most rows in the next batch: [`Limits::flush_rows`], less after a refusal.
    batch_rows_max: usize,
    failures_in_a_row: u32,
    /// After a failure: then, neither earlier nor, having waited already, later.
    retry_at: Option<Instant>,
    draining: bool,
    dropped_at_cap: u64,
    dropped_refused: u64,
}

impl Coalescer {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        debug_assert!(limits.flush_rows > 0, "a batch would never hold a row");
        Self {
            limits,
            held: AHashMap::new(),
            waiting: VecDeque::new(),
            batch_is_out: false,
            batch_rows_max: limits.flush_rows,
            failures_in_a_row: 0,
            retry_at: None,
            draining: false,
            dropped_at_cap: 0,
            dropped_refused: 0,
        }
    }

    /// Keys that are held.
    #[must_use]
    pub fn pending_keys(&self) -> usize {
        self.held.len()
    }

    /// Rows dropped because [`Limits::pending_keys_max`] other keys were held.
    #[must_use]
    pub fn dropped_at_cap(&self) -> u64 {
        self.dropped_at_cap
    }

    /// Rows dropped because the table does not take them.
    #[must_use]
    pub fn dropped_refused(&self) -> u64 {
        self.dropped_refused
    }

    /// Takes a row in. If its key is held already, the newer `ts` stays; of equal ones, the later arrival.
    pub fn add(&mut self, row: StatusRow, now: Instant) {
        if let Some(held) = self.held.get_mut(&row.key) {
            held.update(row.status);
        } else if self.held.len() < self.limits.pending_keys_max {
            self.held.insert(row.key, Held { status: row.status, place: Place::Waiting });
            self.waiting.push_back((row.key, now));
        } else {
            self.dropped_at_cap += 1;
        }
        self.check_invariants();
    }

    /// The rows to write now, if it is time. One batch is out at a time.
    pub fn poll(&mut self, now: Instant) -> Option<Batch> {
        if self.next_deadline()? > now {
            return None;
        }
        let count = self.waiting.len().min(self.batch_rows_max);
        let mut rows = Vec::with_capacity(count);
        for (key, _) in self.waiting.drain(..count) {
            let held = self.held.get_mut(&key).expect("what waits is held");
            held.place = Place::Out;
            rows.push(StatusRow { key, status: held.status });
        }
        self.batch_is_out = true;
        self.check_invariants();
        Some(Batch { rows })
    }

    /// When [`Coalescer::poll`] has a batch, which may be in the past. `None` while nothing waits or a batch
    /// is out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.batch_is_out {
            return None;
        }
        let &(_, since) = self.waiting.front()?;
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        let enough = self.draining || self.waiting.len() >= self.batch_rows_max;
        Some(if enough { since } else { since + self.limits.flush_interval })
    }

    /// The batch is in the table. Rows that changed meanwhile wait for the next one.
    pub fn flushed(&mut self, batch: Batch, now: Instant) {
        for row in batch.rows {
            if self.held.get(&row.key).is_some_and(|held| held.place == Place::Out) {
                self.held.remove(&row.key);
            } else {
                self.wait(row.key, now);
            }
        }
        self.answered();
        self.batch_rows_max = (self.batch_rows_max * 2).min(self.limits.flush_rows);
        if self.held.is_empty() {
            self.held.shrink_to(CAPACITY_KEPT);
            self.waiting.shrink_to(CAPACITY_KEPT);
        }
        self.check_invariants();
    }

    /// The batch is not in the table, or nobody knows. Its rows, or what newer ones came meanwhile, wait for
    /// a retry, behind the others.
    ///
    /// `random` is any number; the delay is drawn with it from the whole range up to the exponential
    /// backoff, so that writers that failed together do not come back together.
    pub fn failed(&mut self, batch: Batch, now: Instant, random: u64) {
        for row in batch.rows {
            self.wait(row.key, now);
        }
        self.batch_is_out = false;
        self.retry_at = Some(now + retry_delay(self.failures_in_a_row, random));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.check_invariants();
    }

    /// The table does not take one of the batch's rows. If it is the only one, it is dropped, unless a newer
    /// one came meanwhile. Otherwise all are due again, in smaller batches and before the others, so that the
    /// one is found soon.
    pub fn refused(&mut self, batch: Batch, now: Instant) {
        self.answered();
        self.batch_rows_max = batch.rows.len().div_ceil(2);
        match batch.rows[..] {
            [row] if self.held.get(&row.key).is_some_and(|held| held.place == Place::Out) => {
                self.held.remove(&row.key);
                self.dropped_refused += 1;
            }
            _ => {
                for row in batch.rows.into_iter().rev() {
                    self.mark_waiting(row.key);
                    self.waiting.push_front((row.key, now));
                }
            }
        }
        self.check_invariants();
    }

    /// From now on everything held is due at once; only failures still delay.
    pub fn drain(&mut self) {
        self.draining = true;
        self.retry_at = None;
    }

    /// The database has said yes or no to a batch.
    fn answered(&mut self) {
        self.batch_is_out = false;
        self.failures_in_a_row = 0;
        self.retry_at = None;
    }

    fn wait(&mut self, key: StatusKey, now: Instant) {
        self.mark_waiting(key);
        self.waiting.push_back((key, now));
    }

    fn mark_waiting(&mut self, key: StatusKey) {
        self.held.get_mut(&key).expect("what is out is held").place = Place::Waiting;
    }

    fn check_invariants(&self) {
        debug_assert!(self.held.len() <= self.limits.pending_keys_max);
        debug_assert!(self.waiting.len() <= self.held.len());
        debug_assert!((1..=self.limits.flush_rows).contains(&self.batch_rows_max));
        debug_assert!(self.batch_is_out || self.waiting.len() == self.held.len(), "a key is forgotten");
    }
}

impl Held {
    fn update(&mut self, status: Status) {
        if status.ts < self.status.ts {
            return;
        }
        self.status = status;
        if self.place == Place::Out {
            self.place = Place::OutChanged;
        }
    }
}

/// Anything from nothing to `RETRY_BASE · 2^failures`, which itself stops at [`RETRY_MAX`].
fn retry_delay(failures: u32, random: u64) -> Duration {
    let ceiling = RETRY_BASE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(RETRY_MAX);
    // `RETRY_MAX` in nanoseconds fits by far.
    let nanos = ceiling.as_nanos() as u64;
    Duration::from_nanos(random % (nanos + 1))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use lars_proto::{HostAddr, ModuleId};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { flush_interval: Duration::from_millis(200), flush_rows: 3, pending_keys_max: 5 };

    fn key(n: u8) -> StatusKey {
        let host = HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 80);
        StatusKey { module: ModuleId::new(1, 1), host, caller: Ipv4Addr::LOCALHOST }
    }

    fn row(n: u8, ts: u64, succ: u32) -> StatusRow {
        StatusRow { key: key(n), status: Status { succ, err: 0, ts, overload: false } }
    }

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn rows_of(batch: Option<Batch>) -> Vec<StatusRow> {
        batch.map(|batch| batch.rows).unwrap_or_default()
    }

    #[test]
    fn a_row_waits_for_the_interval() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        assert_eq!(coalescer.next_deadline(), None);
        coalescer.add(row(1, 10, 1), start);
        coalescer.add(row(2, 10, 1), start + millis(50));
        assert_eq!(coalescer.next_deadline(), Some(start + millis(200)));
        assert_eq!(coalescer.poll(start + millis(199)), None);
        assert_eq!(rows_of(coalescer.poll(start + millis(200))), [row(1, 10, 1), row(2, 10, 1)]);
        assert_eq!(coalescer.next_deadline(), None, "one batch at a time");
    }

    #[test]
    fn enough_rows_do_not_wait_and_the_rest_waits_its_own_time() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        for n in 0..4 {
            coalescer.add(row(n, 10, 1), start + millis(u64::from(n)));
        }
        let batch = coalescer.poll(start + millis(3)).expect("three are enough");
        assert_eq!(batch.rows(), [row(0, 10, 1), row(1, 10, 1), row(2, 10, 1)]);
        coalescer.flushed(batch, start + millis(5));
        assert_eq!(coalescer.next_deadline(), Some(start + millis(203)));
        assert_eq!(coalescer.pending_keys(), 1);
    }

    #[test]
    fn the_latest_time_stamp_wins_and_of_equal_ones_the_later_arrival() {
        let check = |incoming: &[(u64, u32)], kept: (u64, u32)| {
            let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
            for &(ts, succ) in incoming {
                coalescer.add(row(1, ts, succ), start);
            }
            let rows = rows_of(coalescer.poll(start + LIMITS.flush_interval));
            assert_eq!(rows, [row(1, kept.0, kept.1)], "{incoming:?}");
        };
        check(&[(10, 1), (11, 2)], (11, 2));
        check(&[(11, 1), (10, 2)], (11, 1));
        check(&[(10, 1), (10, 2)], (10, 2));
        check(&[(10, 1), (12, 2), (11, 3), (12, 4)], (12, 4));
    }

    #[test]
    fn a_row_that_comes_while_its_key_is_out_is_written_next() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        coalescer.add(row(1, 10, 1), start);
        coalescer.add(row(2, 10, 1), start);
        let out = coalescer.poll(start + millis(200)).expect("due");
        coalescer.add(row(1, 11, 2), start + millis(210));
        coalescer.add(row(2, 9, 9), start + millis(210));
        coalescer.flushed(out, start + millis(220));
        assert_eq!(coalescer.pending_keys(), 1, "the older row has nothing to add");
        assert_eq!(rows_of(coalescer.poll(start + millis(420))), [row(1, 11, 2)]);
    }

    #[test]
    fn a_failed_batch_comes_back_behind_the_others_and_with_what_is_newer() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        for n in 1..=4 {
            coalescer.add(row(n, 10, 1), start);
        }
        let out = coalescer.poll(start).expect("enough");
        coalescer.add(row(1, 11, 2), start);
        coalescer.add(row(2, 9, 2), start);
        coalescer.failed(out, start, 0);
        assert_eq!(rows_of(coalescer.poll(start)), [row(4, 10, 1), row(1, 11, 2), row(2, 10, 1)]);
    }

    /// Writes to a table that does not take the rows of `refused`, until nothing is held; returns the sizes
    /// of the batches.
    fn settle_with_refusals(coalescer: &mut Coalescer, refused: &[u8]) -> Vec<usize> {
        let mut sizes = Vec::new();
        while let Some(due) = coalescer.next_deadline() {
            let batch = coalescer.poll(due).expect("due");
            sizes.push(batch.rows().len());
            if batch.rows().iter().any(|row| refused.iter().any(|&n| row.key == key(n))) {
                coalescer.refused(batch, due);
            } else {
                coalescer.flushed(batch, due);
            }
        }
        sizes
    }

    #[test]
    fn a_refused_row_is_found_and_dropped_and_the_others_are_written() {
        let limits = Limits { flush_rows: 8, pending_keys_max: 100, ..LIMITS };
        let check = |refused: &[u8], sizes: &[usize]| {
            let (start, mut coalescer) = (Instant::now(), Coalescer::new(limits));
            (0..8).for_each(|n| coalescer.add(row(n, 10, 1), start));
            assert_eq!(settle_with_refusals(&mut coalescer, refused), sizes, "{refused:?}");
            assert_eq!(coalescer.dropped_refused(), refused.len() as u64);
            assert_eq!(coalescer.pending_keys(), 0);
            coalescer.add(row(9, 10, 1), start);
            assert_eq!(settle_with_refusals(&mut coalescer, &[]), [1]);
        };
        check(&[], &[8]);
        check(&[0], &[8, 4, 2, 1, 1, 2, 4]);
        check(&[7], &[8, 4, 4, 2, 2, 1, 1]);
        check(&[0, 1, 2, 3, 4, 5, 6, 7], &[8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn a_newer_row_is_not_dropped_with_the_one_that_was_refused() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        coalescer.add(row(1, 10, 1), start);
        let out = coalescer.poll(start + LIMITS.flush_interval).expect("due");
        coalescer.add(row(1, 11, 2), start);
        coalescer.refused(out, start);
        assert_eq!((coalescer.dropped_refused(), coalescer.pending_keys()), (0, 1));
        assert_eq!(rows_of(coalescer.poll(start)), [row(1, 11, 2)]);
    }

    #[test]
    fn failures_delay_more_and_more_until_one_success() {
        let (mut now, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        for n in 0..4 {
            coalescer.add(row(n, 10, 1), now);
        }
        for ceiling_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let batch = coalescer.poll(now).expect("due");
            // `random` picks the very end of the range.
            coalescer.failed(batch, now, ceiling_ms * 1_000_000);
            assert_eq!(coalescer.next_deadline(), Some(now + millis(ceiling_ms)));
            assert_eq!(coalescer.poll(now + millis(ceiling_ms - 1)), None);
            now += millis(ceiling_ms);
        }
        let batch = coalescer.poll(now).expect("due");
        coalescer.flushed(batch, now);
        let batch = coalescer.poll(now + LIMITS.flush_interval).expect("no delay is left");
        coalescer.failed(batch, now, 100_000_000);
        assert_eq!(coalescer.retry_at, Some(now + RETRY_BASE), "the backoff begins anew");
    }

    #[test]
    fn a_retry_does_not_wait_for_the_interval_again() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        coalescer.add(row(1, 10, 1), start);
        let due = start + LIMITS.flush_interval;
        let out = coalescer.poll(due).expect("due");
        coalescer.failed(out, due, 1_000_000);
        assert_eq!(coalescer.next_deadline(), Some(due + millis(1)));
        assert_eq!(rows_of(coalescer.poll(due + millis(1))), [row(1, 10, 1)]);
    }

    #[test]
    fn the_delay_is_never_longer_than_its_ceiling() {
        for failures in [0, 1, 5, 31, 32, u32::MAX] {
            for random in [0, 1, u64::MAX / 3, u64::MAX] {
                let ceiling = RETRY_BASE.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_MAX);
                assert!(retry_delay(failures, random) <= ceiling, "{failures} failures, random {random}");
            }
        }
    }

    #[test]
    fn the_cap_drops_new_keys_only_and_counts_them() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        for n in 0..7 {
            coalescer.add(row(n, 10, 1), start);
        }
        assert_eq!((coalescer.pending_keys(), coalescer.dropped_at_cap()), (5, 2));
        coalescer.add(row(0, 11, 2), start);
        assert_eq!((coalescer.pending_keys(), coalescer.dropped_at_cap()), (5, 2));

        let out = coalescer.poll(start).expect("enough");
        assert_eq!(out.rows()[0], row(0, 11, 2));
        coalescer.add(row(8, 10, 1), start);
        assert_eq!(coalescer.dropped_at_cap(), 3, "what is out may come back and is still held");
        coalescer.flushed(out, start);
        coalescer.add(row(8, 10, 1), start);
        assert_eq!((coalescer.pending_keys(), coalescer.dropped_at_cap()), (3, 3));
    }

    #[test]
    fn the_memory_of_an_outage_is_given_back() {
        const BACKLOG: u32 = 100_000;
        let limits = Limits { flush_rows: 5_000, pending_keys_max: BACKLOG as usize, ..LIMITS };
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(limits));
        for caller in 0..BACKLOG {
            let mut row = row(1, 10, 1);
            row.key.caller = Ipv4Addr::from_bits(caller);
            coalescer.add(row, start);
        }
        while let Some(batch) = coalescer.poll(start) {
            coalescer.flushed(batch, start);
        }
        assert_eq!(coalescer.pending_keys(), 0);
        assert!(coalescer.held.capacity() < 4 * CAPACITY_KEPT);
        assert!(coalescer.waiting.capacity() < 4 * CAPACITY_KEPT);
    }

    #[test]
    fn draining_does_not_wait() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        coalescer.add(row(1, 10, 1), start);
        coalescer.drain();
        let batch = coalescer.poll(start).expect("at once");
        coalescer.failed(batch, start, 50_000_000);
        assert_eq!(coalescer.next_deadline(), Some(start + millis(50)), "a failure still delays");
        coalescer.drain();
        assert_eq!(rows_of(coalescer.poll(start)), [row(1, 10, 1)]);
    }

    /// The call status table, which guards `ts` itself.
    type Table = HashMap<StatusKey, Status>;

    fn upsert(table: &mut Table, row: StatusRow) {
        let status = table.entry(row.key).or_insert(row.status);
        if row.status.ts >= status.ts {
            *status = row.status;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add { n: u8, ts: u64 },
        Poll,
        Flushed,
        Failed { in_the_table: bool, random: u64 },
        Wait(Duration),
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..8, 0_u64..5).prop_map(|(n, ts)| Step::Add { n, ts }),
            3 => Just(Step::Poll),
            2 => Just(Step::Flushed),
            2 => (any::<bool>(), any::<u64>()).prop_map(|(in_the_table, random)| Step::Failed { in_the_table, random }),
            2 => (0_u64..6_000).prop_map(|ms| Step::Wait(millis(ms))),
            1 => Just(Step::Drain),
        ]
    }

    /// A coalescer, the table it is written to, and what must be in the table in the end.
    struct World {
        now: Instant,
        coalescer: Coalescer,
        out: Option<Batch>,
        table: Table,
        expected: Table,
        arrivals: u32,
    }

    impl World {
        fn new() -> Self {
            Self {
                now: Instant::now(),
                coalescer: Coalescer::new(LIMITS),
                out: None,
                table: Table::new(),
                expected: Table::new(),
                arrivals: 0,
            }
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Add { n, ts } => self.add(n, ts),
                Step::Poll => self.poll(),
                Step::Flushed => self.flushed(),
                Step::Failed { in_the_table, random } => self.failed(in_the_table, random),
                Step::Wait(duration) => self.now += duration,
                Step::Drain => self.coalescer.drain(),
            }
            assert!(self.coalescer.pending_keys() <= LIMITS.pending_keys_max);
        }

        fn add(&mut self, n: u8, ts: u64) {
            self.arrivals += 1;
            let (row, dropped) = (row(n, ts, self.arrivals), self.coalescer.dropped_at_cap());
            self.coalescer.add(row, self.now);
            if self.coalescer.dropped_at_cap() == dropped {
                upsert(&mut self.expected, row);
            }
        }

        fn poll(&mut self) {
            if let Some(batch) = self.coalescer.poll(self.now) {
                assert!((1..=LIMITS.flush_rows).contains(&batch.rows().len()));
                assert!(self.out.replace(batch).is_none(), "one batch at a time");
            }
        }

        fn flushed(&mut self) {
            if let Some(batch) = self.out.take() {
                batch.rows().iter().for_each(|&row| upsert(&mut self.table, row));
                self.coalescer.flushed(batch, self.now);
            }
        }

        /// A transaction may have been committed although its answer was lost.
        fn failed(&mut self, in_the_table: bool, random: u64) {
            if let Some(batch) = self.out.take() {
                if in_the_table {
                    batch.rows().iter().for_each(|&row| upsert(&mut self.table, row));
                }
                self.coalescer.failed(batch, self.now, random);
            }
        }

        /// The table works from now on.
        fn settle(&mut self) {
            self.flushed();
            while let Some(deadline) = self.coalescer.next_deadline() {
                self.now = self.now.max(deadline);
                self.poll();
                self.flushed();
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_ends_with_the_newest_row_of_every_key(steps in prop::collection::vec(step(), 0..200)) {
            let mut world = World::new();
            for step in steps {
                world.take(step);
            }
            world.settle();
            prop_assert_eq!(world.coalescer.pending_keys(), 0);
            prop_assert_eq!(world.table, world.expected);
        }
    }
}
