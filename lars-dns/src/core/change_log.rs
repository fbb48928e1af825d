//! Which rows of `RouteChange` have been dealt with.
//!
//! Ids are given out when a row is written and become visible when its transaction commits, so a smaller id
//! may show up after a larger one. Rows are therefore read again for [`OVERLAP`] after they were first
//! seen, and what was dealt with is remembered for as long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lars_store::RouteChange;

/// How much later than a larger id a smaller one may commit and still be found in the log. What is later
/// than that is found by the next full reload.
pub const OVERLAP: Duration = Duration::from_secs(10);

/// When there is nothing to remember, at the start, this many ids before the newest are in the overlap.
const RESTART_OVERLAP_IDS: u64 = 256;

/// A position in `RouteChange`.
#[derive(Debug, Default)]
pub struct ChangeLog {
    /// Nothing up to here is read again.
    floor: u64,
    /// The rows above the floor that were dealt with, by their ids.
    handled: BTreeMap<u64, Handled>,
}

#[derive(Clone, Copy, Debug)]
struct Handled {
    change: RouteChange,
    first_seen: Instant,
}

impl ChangeLog {
    /// The log whose newest row has the id `newest`; nothing in it was dealt with.
    #[must_use]
    pub fn starting_at(newest: u64) -> Self {
        Self { floor: newest.saturating_sub(RESTART_OVERLAP_IDS), handled: BTreeMap::new() }
    }

    /// The log of which everything up to `id` was dealt with before this program began.
    #[must_use]
    pub fn behind(id: u64) -> Self {
        Self { floor: id, handled: BTreeMap::new() }
    }

    /// Rows with larger ids are to be read.
    #[must_use]
    pub fn read_after(&self) -> u64 {
        self.floor
    }

    /// The largest id that was dealt with. A log that ends before it is not the log it was.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.handled.last_key_value().map_or(self.floor, |(&id, _)| id)
    }

    /// Whether the row is yet to be dealt with. Ids are given out anew after a truncation, so a row with a
    /// known id is the row it was only if it says the same.
    #[must_use]
    pub fn is_fresh(&self, change: &RouteChange) -> bool {
        let handled = self.handled.get(&change.id);
        change.id > self.floor && handled.is_none_or(|handled| handled.change != *change)
    }

    /// All of these are dealt with.
    pub fn handle(&mut self, changes: &[RouteChange], now: Instant) {
        for &change in changes {
            if self.is_fresh(&change) {
                self.handled.insert(change.id, Handled { change, first_seen: now });
            }
        }
        let is_settled = |handled: &Handled| now.duration_since(handled.first_seen) >= OVERLAP;
        if let Some((&id, _)) = self.handled.iter().rev().find(|(_, handled)| is_settled(handled)) {
            self.floor = id;
            self.handled = self.handled.split_off(&(id + 1));
        }
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.handled.keys().all(|&id| id > self.floor));
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::ModuleId;

    use super::*;

    fn change(id: u64) -> RouteChange {
        RouteChange { id, module: ModuleId::new(1, 1), version: 7 }
    }

    fn fresh(log: &ChangeLog, ids: impl IntoIterator<Item = u64>) -> Vec<u64> {
        ids.into_iter().filter(|&id| log.is_fresh(&change(id))).collect()
    }

    #[test]
    fn an_id_that_shows_up_late_is_fresh() {
        let start = Instant::now();
        let mut log = ChangeLog::default();
        log.handle(&[change(1), change(3)], start);
        let later = start + OVERLAP - Duration::from_millis(1);
        log.handle(&[change(1), change(3)], later);
        assert_eq!(log.read_after(), 0);
        assert_eq!(fresh(&log, [1, 2, 3, 4]), [2, 4]);
    }

    #[test]
    fn an_id_that_was_given_out_anew_is_fresh() {
        let start = Instant::now();
        let mut log = ChangeLog::default();
        log.handle(&[change(1), change(2)], start);
        let anew = RouteChange { module: ModuleId::new(1, 2), ..change(1) };
        assert!(log.is_fresh(&anew));
        log.handle(&[anew, change(2)], start);
        assert!(!log.is_fresh(&anew) && !log.is_fresh(&change(2)));
    }

    #[test]
    fn what_is_old_enough_is_not_read_again() {
        let start = Instant::now();
        let mut log = ChangeLog::default();
        log.handle(&[change(1), change(3)], start);
        log.handle(&[change(1), change(3), change(5)], start + OVERLAP);
        assert_eq!((log.read_after(), log.newest()), (3, 5));
        assert_eq!(fresh(&log, 1..=6), [4, 6]);
        log.handle(&[change(5)], start + OVERLAP * 2);
        assert_eq!((log.read_after(), log.newest(), log.handled.len()), (5, 5, 0));
    }

    #[test]
    fn a_start_reads_a_little_of_what_is_there() {
        let log = ChangeLog::starting_at(1_000);
        assert_eq!(log.read_after(), 1_000 - RESTART_OVERLAP_IDS);
        assert_eq!(ChangeLog::starting_at(3).read_after(), 0);
    }
}
