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
use lars_proto::{CallStatus, CallStatusKey};

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
    rows: Vec<CallStatus>,
}

impl Batch {
    /// At least one row, no key twice.
    #[must_use]
    pub fn rows(&self) -> &[CallStatus] {
        &self.rows
    }
}

/// A row that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    row: CallStatus,
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
    held: AHashMap<CallStatusKey, Held>,
    /// The keys to write, the longest waiting first, with the time since when they wait.
    waiting: VecDeque<(CallStatusKey, Instant)>,
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
    pub fn add(&mut self, row: CallStatus, now: Instant) {
        if let Some(held) = self.held.get_mut(&row.key) {
            held.update(row);
        } else if self.held.len() < self.limits.pending_keys_max {
            self.held.insert(row.key, Held { row, place: Place::Waiting });
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
            rows.push(held.row);
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

    /// Tries that failed since the last one that the database answered, which tells how long to wait.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// The batch is not in the table, or nobody knows. Its rows, or what newer ones came meanwhile, wait for
    /// a retry after `delay`, behind the others.
    pub fn failed(&mut self, batch: Batch, now: Instant, delay: Duration) {
        for row in batch.rows {
            self.wait(row.key, now);
        }
        self.batch_is_out = false;
        self.retry_at = Some(now + delay);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.check_invariants();
    }

    /// The table does not take one of the batch's rows. If it is the only one, it is dropped and returned, unless a
    /// newer one came meanwhile. Otherwise all are due again, in smaller batches and before the others, so that the
    /// one is found soon.
    pub fn refused(&mut self, batch: Batch, now: Instant) -> Option<CallStatus> {
        self.answered();
        self.batch_rows_max = batch.rows.len().div_ceil(2);
        let dropped = match batch.rows[..] {
            [row] if self.held.get(&row.key).is_some_and(|held| held.place == Place::Out) => {
                self.held.remove(&row.key);
                self.dropped_refused += 1;
                Some(row)
            }
            _ => {
                for row in batch.rows.into_iter().rev() {
                    self.mark_waiting(row.key);
                    self.waiting.push_front((row.key, now));
                }
                None
            }
        };
        self.check_invariants();
        dropped
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

    fn wait(&mut self, key: CallStatusKey, now: Instant) {
        self.mark_waiting(key);
        self.waiting.push_back((key, now));
    }

    fn mark_waiting(&mut self, key: CallStatusKey) {
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
    fn update(&mut self, row: CallStatus) {
        if row.ts < self.row.ts {
            return;
        }
        self.row = row;
        if self.place == Place::Out {
            self.place = Place::OutChanged;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use lars_proto::{HostAddr, ModuleId};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { flush_interval: Duration::from_millis(200), flush_rows: 3, pending_keys_max: 5 };

    fn key(n: u8) -> CallStatusKey {
        let host = HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 80);
        CallStatusKey { module: ModuleId::new(1, 1), host, caller: Ipv4Addr::LOCALHOST }
    }

    fn row(n: u8, ts: u64, succ: u32) -> CallStatus {
        CallStatus { key: key(n), succ, err: 0, ts, overload: false }
    }

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn rows_of(batch: Option<Batch>) -> Vec<CallStatus> {
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
        coalescer.failed(out, start, Duration::ZERO);
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
                let dropped = coalescer.refused(batch, due);
                assert!(dropped.is_none_or(|row| refused.iter().any(|&n| row.key == key(n))));
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
        assert_eq!(coalescer.refused(out, start), None);
        assert_eq!((coalescer.dropped_refused(), coalescer.pending_keys()), (0, 1));
        assert_eq!(rows_of(coalescer.poll(start)), [row(1, 11, 2)]);
    }

    #[test]
    fn failures_delay_and_are_counted_until_the_database_answers() {
        let (mut now, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        for n in 0..4 {
            coalescer.add(row(n, 10, 1), now);
        }
        for failures in 1..=3 {
            let batch = coalescer.poll(now).expect("due");
            coalescer.failed(batch, now, millis(100));
            assert_eq!(coalescer.failures_in_a_row(), failures);
            assert_eq!(coalescer.next_deadline(), Some(now + millis(100)));
            assert_eq!(coalescer.poll(now + millis(99)), None);
            now += millis(100);
        }
        let batch = coalescer.poll(now).expect("due");
        coalescer.flushed(batch, now);
        assert_eq!(coalescer.failures_in_a_row(), 0);
        assert_eq!(coalescer.poll(now + LIMITS.flush_interval).map(|batch| batch.rows().len()), Some(1));
    }

    #[test]
    fn a_retry_does_not_wait_for_the_interval_again() {
        let (start, mut coalescer) = (Instant::now(), Coalescer::new(LIMITS));
        coalescer.add(row(1, 10, 1), start);
        let due = start + LIMITS.flush_interval;
        let out = coalescer.poll(due).expect("due");
        coalescer.failed(out, due, millis(1));
        assert_eq!(coalescer.next_deadline(), Some(due + millis(1)));
        assert_eq!(rows_of(coalescer.poll(due + millis(1))), [row(1, 10, 1)]);
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
        coalescer.failed(batch, start, millis(50));
        assert_eq!(coalescer.next_deadline(), Some(start + millis(50)), "a failure still delays");
        coalescer.drain();
        assert_eq!(rows_of(coalescer.poll(start)), [row(1, 10, 1)]);
    }

    /// The call status table, which guards `ts` itself.
    type Table = HashMap<CallStatusKey, CallStatus>;

    fn upsert(table: &mut Table, row: CallStatus) {
        let kept = table.entry(row.key).or_insert(row);
        if row.ts >= kept.ts {
            *kept = row;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add { n: u8, ts: u64 },
        Poll,
        Flushed,
        Failed { in_the_table: bool, delay: Duration },
        Wait(Duration),
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..8, 0_u64..5).prop_map(|(n, ts)| Step::Add { n, ts }),
            3 => Just(Step::Poll),
            2 => Just(Step::Flushed),
            2 => (any::<bool>(), 0_u64..5_000).prop_map(|(in_the_table, ms)| Step::Failed { in_the_table, delay: millis(ms) }),
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
                Step::Failed { in_the_table, delay } => self.failed(in_the_table, delay),
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
        fn failed(&mut self, in_the_table: bool, delay: Duration) {
            if let Some(batch) = self.out.take() {
                if in_the_table {
                    batch.rows().iter().for_each(|&row| upsert(&mut self.table, row));
                }
                self.coalescer.failed(batch, self.now, delay);
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
