//! Whether an agent's connection has what it should have: sums over the routes that it is subscribed to.
//!
//! They are computed from the snapshot that is served and never from what was sent, so they find whatever went wrong
//! on the way. A connection with many subscriptions is summed up over several turns; it is not read from meanwhile, so
//! that the answer is about what the agent had asked for before. Whoever drives this gives the snapshot with each turn:
//! when it is another one, the sum starts anew.

use std::{hash::Hash, num::NonZeroU64, sync::Arc};

use lars_proto::{
    ModuleId,
    digest::{BUCKETS, BucketSums, Digest, Held, MODULES_PER_ANSWER_MAX, bucket},
    messages::{self, SubscriptionDigestAnswer},
};

use super::{snapshot::Snapshot, subscriptions::Subscriptions};

/// Modules that are looked up in one turn.
pub const MODULES_PER_TURN: usize = 8_192;

/// Modules that an answer names, if there are more in several buckets.
pub const MODULES_PER_ANSWER: usize = 1_024;

/// There are too many modules in one bucket to be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many modules have the same bucket")]
pub struct BucketTooLarge;

/// The subscriptions of one connection, being summed up.
#[derive(Debug)]
pub struct Tally {
    modules: Vec<ModuleId>,
    /// Of as many modules as have had their turn.
    hashes: Vec<NonZeroU64>,
    snapshot: Arc<Snapshot>,
}

impl Tally {
    /// Sums up what `connection` is subscribed to now. To be [advanced](Tally::advance) until it is done.
    #[must_use]
    pub fn new<C: Copy + Eq + Hash>(
        subscriptions: &Subscriptions<C>,
        connection: C,
        snapshot: &Arc<Snapshot>,
    ) -> Self {
        let modules: Vec<_> = subscriptions.of(connection).collect();
        Self { hashes: Vec::with_capacity(modules.len()), modules, snapshot: Arc::clone(snapshot) }
    }

    /// Goes on for a turn, with the snapshot that is served. Whether it is done.
    pub fn advance(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        if !Arc::ptr_eq(&self.snapshot, snapshot) {
            self.snapshot = Arc::clone(snapshot);
            self.hashes.clear();
        }
        let turn = self.modules[self.hashes.len()..].iter().take(MODULES_PER_TURN);
        self.hashes.extend(turn.map(|&module| snapshot.route_hash(module)));
        self.hashes.len() == self.modules.len()
    }

    /// The answer to an agent that has `theirs`.
    #[must_use]
    pub fn answer(&self, theirs: Digest) -> SubscriptionDigestAnswer {
        let mut ours = Digest::default();
        self.hashes.iter().for_each(|&hash| ours.add(hash));
        if ours == theirs {
            return SubscriptionDigestAnswer::default();
        }
        SubscriptionDigestAnswer { differs: true, count: ours.count, sum: ours.sum }
    }

    /// The answer to an agent that has these sums: all modules in the buckets that differ, or of as many buckets as an
    /// answer has room for.
    ///
    /// # Errors
    /// If one bucket alone has more modules than that: an honest agent has none such, because modules spread.
    pub fn answer_buckets(&self, theirs: &messages::BucketSums) -> Result<Held, BucketTooLarge> {
        let (mut ours, mut counts) = (BucketSums::default(), [0; BUCKETS]);
        for (module, hash) in self.iter() {
            ours.add(module, hash);
            counts[bucket(module)] += 1;
        }
        let first = theirs.first as usize;
        let pairs = ours.sums().iter().skip(first).zip(&theirs.sums);
        let mut held = Held { end: first.saturating_add(pairs.len()).min(BUCKETS), ..Held::default() };
        let (mut differs, mut named) = ([false; BUCKETS], 0);
        for (bucket, _) in (first..).zip(pairs).filter(|(_, (ours, theirs))| ours != theirs) {
            if counts[bucket] > MODULES_PER_ANSWER_MAX {
                return Err(BucketTooLarge);
            }
            if named > 0 && named + counts[bucket] > MODULES_PER_ANSWER {
                held.end = bucket;
                break;
            }
            named += counts[bucket];
            differs[bucket] = true;
            held.buckets.push(bucket as u8);
        }
        let modules = self.iter().filter(|(module, _)| differs[bucket(*module)]);
        held.modules = modules.map(|(module, hash)| (module, hash.get())).collect();
        Ok(held)
    }

    fn iter(&self) -> impl Iterator<Item = (ModuleId, NonZeroU64)> {
        self.modules.iter().copied().zip(self.hashes.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::{HostAddr, digest::route_hash};

    use super::*;

    fn module(n: usize) -> ModuleId {
        ModuleId::new(7, n as i32)
    }

    fn host(n: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, n)
    }

    /// Each of these modules has this host.
    fn serving(modules: &[ModuleId], port: u16) -> Arc<Snapshot> {
        let routes = modules.iter().map(|&module| (module, vec![host(port)])).collect();
        Arc::new(Snapshot::default().apply(routes).0)
    }

    fn subscribed(modules: &[ModuleId]) -> Subscriptions<u8> {
        let mut subscriptions = Subscriptions::default();
        modules.iter().for_each(|&module| _ = subscriptions.subscribe(1, module));
        subscriptions
    }

    /// What an agent has that knows these modules to have this host.
    fn sums(modules: &[ModuleId], port: u16) -> (Digest, BucketSums) {
        let mut sums = <(Digest, BucketSums)>::default();
        for &module in modules {
            let hash = route_hash(module, [host(port)]);
            sums.0.add(hash);
            sums.1.add(module, hash);
        }
        sums
    }

    fn tallied(modules: &[ModuleId], port: u16) -> Tally {
        let snapshot = serving(modules, port);
        let mut tally = Tally::new(&subscribed(modules), 1, &snapshot);
        while !tally.advance(&snapshot) {}
        tally
    }

    #[test]
    fn a_sum_is_of_one_snapshot_however_many_turns_it_takes() {
        let modules: Vec<_> = (0..3 * MODULES_PER_TURN).map(module).collect();
        let (before, after) = (serving(&modules, 1), serving(&modules, 2));
        let mut tally = Tally::new(&subscribed(&modules), 1, &before);
        assert!(!tally.advance(&before) && !tally.advance(&before));
        assert!(!tally.advance(&after), "all is to be done again");
        assert!(!tally.advance(&after) && tally.advance(&after));
        let (theirs, _) = sums(&modules, 2);
        assert_eq!(tally.answer(theirs), SubscriptionDigestAnswer::default());
        assert!(tally.answer(sums(&modules, 1).0).differs);
    }

    #[test]
    fn a_connection_without_subscriptions_has_nothing() {
        let snapshot = serving(&[module(1)], 1);
        let mut tally = Tally::new(&subscribed(&[module(1)]), 9, &snapshot);
        assert!(tally.advance(&snapshot));
        assert!(!tally.answer(Digest::default()).differs);
    }

    #[test]
    fn modules_of_several_buckets_are_told_in_parts_and_each_part_is_complete() {
        let modules: Vec<_> = (0..5_000).map(module).collect();
        let tally = tallied(&modules, 1);
        let (mut told, mut first) = (vec![], 0);
        while first < BUCKETS {
            let question = sums(&modules[..10], 1).1.question(first);
            let held = tally.answer_buckets(&question).expect("no bucket is large");
            assert!(held.modules.len() <= MODULES_PER_ANSWER && held.end > first);
            first = held.end;
            told.extend(held.modules.into_iter().map(|(module, _)| module));
        }
        told.sort_unstable();
        let alone_in_its_bucket = |of: &ModuleId| {
            modules[..10].contains(of) && modules.iter().filter(|m| bucket(**m) == bucket(*of)).count() == 1
        };
        let expected: Vec<_> =
            modules.iter().copied().filter(|module| !alone_in_its_bucket(module)).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_bucket_that_cannot_be_told_is_an_error() {
        let same_bucket: Vec<_> =
            (0..).map(module).filter(|m| bucket(*m) == 0).take(MODULES_PER_ANSWER_MAX + 1).collect();
        let question = BucketSums::default().question(0);
        assert_eq!(tallied(&same_bucket, 1).answer_buckets(&question), Err(BucketTooLarge));
        let held = tallied(&same_bucket[1..], 1).answer_buckets(&question).expect("as many as may be");
        assert_eq!((held.modules.len(), held.end), (MODULES_PER_ANSWER_MAX, BUCKETS));
    }
}
