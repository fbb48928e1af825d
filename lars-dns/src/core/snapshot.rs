//! The route table: immutable, cheap to share, cheap to change a little.
//!
//! A [`Snapshot`] is one sorted table in flat arrays (the *base*, shared by every snapshot that grew out
//! of it) and the few modules that changed since (the *overlay*). So a table of a million hosts costs some
//! ten bytes per host and three allocations, dropping the last pointer to it is three `free`s on whatever shard
//! that happens, and the cost of a change follows the size of the change. A module is found by an index, for a
//! few cache lines whatever the size of the table.
//!
//! Hosts of a module are sorted and distinct: two routes are equal exactly if they have the same hosts.
//!
//! Each module's route has its [hash](lars_proto::digest), made when the snapshot is: it says what agents are sent, so
//! hosts that do not fit a frame are not in it.

use std::{
    collections::BTreeMap,
    fmt,
    iter::{self, Peekable},
    num::NonZeroU64,
    sync::Arc,
};

use ahash::AHashMap;
use lars_proto::{HostAddr, ModuleId, digest};

use super::{index::Index, push};

/// Modules an overlay may hold. The change that goes over it pays for a new base, so the price of copying
/// the overlay with each change stays bounded however rarely the whole table is reloaded.
const OVERLAY_MODULES_MAX: usize = 4_096;

/// A module in the order that SQL sorts by: its columns are unsigned.
type Key = (u32, u32);

/// All routes at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    base: Arc<Base>,
    /// What stands in place of the base's entry; an empty list for a module that is gone.
    overlay: AHashMap<Key, Changed>,
    modules: usize,
    hosts: usize,
}

impl Snapshot {
    /// Whether both grew out of the same table by no change at all. Two that were made apart may have the same routes, and
    /// are not the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let is_unchanged = |key| {
            let hosts =
                |snapshot: &Self| snapshot.overlay.get(key).map(|changed| Arc::as_ptr(&changed.hosts));
            hosts(self) == hosts(other)
        };
        Arc::ptr_eq(&self.base, &other.base)
            && self.overlay.len() == other.overlay.len()
            && self.overlay.keys().all(is_unchanged)
    }

    /// The hosts of `module`, sorted and distinct; empty if it is unknown.
    #[must_use]
    pub fn hosts(&self, module: ModuleId) -> &[HostAddr] {
        let key = module.to_unsigned();
        match self.overlay.get(&key) {
            Some(changed) => &changed.hosts,
            None => self.base.hosts(key),
        }
    }

    /// The hash of what an agent that asks for `module` is sent.
    #[must_use]
    pub fn route_hash(&self, module: ModuleId) -> NonZeroU64 {
        let key = module.to_unsigned();
        let changed = self.overlay.get(&key).map(|changed| changed.hash);
        changed.or_else(|| self.base.hash(key)).unwrap_or_else(|| digest::route_hash(module, []))
    }

    /// Modules that have hosts.
    #[must_use]
    pub fn module_count(&self) -> usize {
        self.modules
    }

    /// Hosts of all modules together.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.hosts
    }

    /// Whether changes lie on top of the base; a freshly loaded snapshot has none.
    #[must_use]
    pub fn has_overlay(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// Every module that has hosts, with them, in the order of SQL.
    pub fn iter(&self) -> impl Iterator<Item = (ModuleId, &[HostAddr])> {
        let mut overlay: Vec<_> = self.overlay.iter().map(|(&key, changed)| (key, &*changed.hosts)).collect();
        overlay.sort_unstable_by_key(|&(key, _)| key);
        merge(self.base.iter(), overlay.into_iter())
            .map(|(key, base, overlay)| (module(key), overlay.or(base).unwrap_or_default()))
            .filter(|(_, hosts)| !hosts.is_empty())
    }

    /// The snapshot in which each module of `changes` has exactly the given hosts, in any order, and which
    /// modules that really changed.
    #[must_use]
    pub fn apply(&self, changes: BTreeMap<ModuleId, Vec<HostAddr>>) -> (Self, Vec<ModuleId>) {
        let mut next = self.clone();
        let mut changed = Vec::new();
        for (module, mut hosts) in changes {
            hosts.sort_unstable();
            hosts.dedup();
            if self.hosts(module) != hosts {
                next.replace(module.to_unsigned(), &hosts);
                changed.push(module);
            }
        }
        if next.overlay.len() > OVERLAY_MODULES_MAX {
            next = next.folded();
        }
        next.check_invariants();
        (next, changed)
    }

    /// The modules whose hosts are not the same in `self` and `newer`.
    #[must_use]
    pub fn diff(&self, newer: &Self) -> Vec<ModuleId> {
        let keyed = |(module, hosts): (ModuleId, _)| (module.to_unsigned(), hosts);
        merge(self.iter().map(keyed), newer.iter().map(keyed))
            .filter(|(_, old, new)| old != new)
            .map(|(key, ..)| module(key))
            .collect()
    }

    fn replace(&mut self, key: Key, hosts: &[HostAddr]) {
        let old = self.hosts(module(key)).len();
        self.modules = self.modules + usize::from(!hosts.is_empty()) - usize::from(old > 0);
        self.hosts = self.hosts + hosts.len() - old;
        if self.base.hosts(key) == hosts {
            self.overlay.remove(&key);
        } else {
            self.overlay.insert(key, Changed { hosts: hosts.into(), hash: hash(key, hosts) });
        }
    }

    /// The same routes without an overlay.
    fn folded(&self) -> Self {
        let mut builder = SnapshotBuilder::sized_like(self);
        for (module, hosts) in self.iter() {
            hosts.iter().for_each(|&host| builder.push(module, host));
        }
        builder.finish()
    }

    /// What can be checked in time proportional to the change; the tests compare everything.
    fn check_invariants(&self) {
        debug_assert!(self.overlay.len() <= OVERLAY_MODULES_MAX);
        debug_assert!(self.modules <= self.hosts, "a module without hosts is not a module");
        debug_assert!(self.has_overlay() || self.hosts == self.base.hosts.len());
        debug_assert!(self.has_overlay() || self.modules == self.base.runs.len());
    }
}

impl PartialEq for Snapshot {
    /// The same routes, however they are laid out.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Builds a [`Snapshot`] from rows, without an allocation per module.
///
/// Rows are expected in the order of (modid, cmdid, ip, port), all unsigned, as the store delivers them.
/// Any other order is right too, only slower; equal rows count once.
#[derive(Debug)]
pub struct SnapshotBuilder {
    base: Base,
    last: Option<(Key, HostAddr)>,
    ordered: bool,
}

impl Default for SnapshotBuilder {
    fn default() -> Self {
        Self::sized_like(&Snapshot::default())
    }
}

impl SnapshotBuilder {
    /// Expects about as many rows as `previous` has.
    #[must_use]
    pub fn sized_like(previous: &Snapshot) -> Self {
        let base = Base {
            runs: Vec::with_capacity(previous.module_count()),
            hosts: Vec::with_capacity(previous.host_count()),
            index: Index::default(),
        };
        Self { base, last: None, ordered: true }
    }

    /// Takes one row.
    pub fn push(&mut self, module: ModuleId, host: HostAddr) {
        let row = (module.to_unsigned(), host);
        if self.last == Some(row) {
            return;
        }
        self.ordered &= self.last < Some(row);
        self.last = Some(row);
        self.base.push(row.0, host);
    }

    /// The snapshot of all rows that were pushed.
    #[must_use]
    pub fn finish(mut self) -> Snapshot {
        if !self.ordered {
            return self.sorted().finish();
        }
        self.base.runs.shrink_to_fit();
        self.base.hosts.shrink_to_fit();
        self.base.finish();
        let (modules, hosts) = (self.base.runs.len(), self.base.hosts.len());
        let snapshot = Snapshot { base: Arc::new(self.base), overlay: AHashMap::new(), modules, hosts };
        snapshot.check_invariants();
        snapshot
    }

    fn sorted(self) -> Self {
        let rows = self.base.iter().flat_map(|(key, hosts)| hosts.iter().map(move |&host| (key, host)));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable();
        let mut sorted = Self::default();
        rows.into_iter().for_each(|(key, host)| sorted.push(module(key), host));
        sorted
    }
}

/// A module in the overlay.
#[derive(Clone)]
struct Changed {
    hosts: Arc<[HostAddr]>,
    hash: NonZeroU64,
}

/// The sorted table: one run of hosts per module.
#[derive(Debug, Default)]
struct Base {
    runs: Vec<Run>,
    hosts: Vec<HostAddr>,
    /// Empty while the table is being built.
    index: Index,
}

/// A module and where its hosts end; they begin where those of the module before it end.
#[derive(Clone, Copy, Debug)]
struct Run {
    key: Key,
    end: usize,
    /// None while the table is being built.
    hash: Option<NonZeroU64>,
}

impl Base {
    fn push(&mut self, key: Key, host: HostAddr) {
        self.hosts.push(host);
        let end = self.hosts.len();
        match self.runs.last_mut() {
            Some(run) if run.key == key => run.end = end,
            _ => self.runs.push(Run { key, end, hash: None }),
        }
    }

    fn hosts(&self, key: Key) -> &[HostAddr] {
        self.find(key).map_or(&[], |at| self.run(at))
    }

    fn hash(&self, key: Key) -> Option<NonZeroU64> {
        self.find(key).and_then(|at| self.runs[at].hash)
    }

    fn find(&self, key: Key) -> Option<usize> {
        self.index.find(digest::spread(module(key)), |at| self.runs[at].key == key)
    }

    /// Makes what is made of all rows.
    fn finish(&mut self) {
        self.index = Index::of(self.runs.iter().map(|run| digest::spread(module(run.key))));
        let mut start = 0;
        for run in &mut self.runs {
            run.hash = Some(hash(run.key, &self.hosts[start..run.end]));
            start = run.end;
        }
    }

    fn run(&self, at: usize) -> &[HostAddr] {
        let start = at.checked_sub(1).map_or(0, |before| self.runs[before].end);
        &self.hosts[start..self.runs[at].end]
    }

    fn iter(&self) -> impl Iterator<Item = (Key, &[HostAddr])> {
        self.runs.iter().enumerate().map(|(at, run)| (run.key, self.run(at)))
    }
}

fn module((modid, cmdid): Key) -> ModuleId {
    ModuleId::from_unsigned(modid, cmdid)
}

/// The hash of a route as agents get it.
fn hash(key: Key, hosts: &[HostAddr]) -> NonZeroU64 {
    let module = module(key);
    digest::route_hash(module, hosts[..push::hosts_that_fit(module, hosts)].iter().copied())
}

/// Walks two tables side by side, in key order: what each has for a key.
fn merge<'a>(
    left: impl Iterator<Item = (Key, &'a [HostAddr])>,
    right: impl Iterator<Item = (Key, &'a [HostAddr])>,
) -> impl Iterator<Item = (Key, Option<&'a [HostAddr]>, Option<&'a [HostAddr]>)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    iter::from_fn(move || {
        let key = match (left.peek(), right.peek()) {
            (Some(&(left, _)), Some(&(right, _))) => left.min(right),
            (Some(&(key, _)), None) | (None, Some(&(key, _))) => key,
            (None, None) => return None,
        };
        Some((key, hosts_if(&mut left, key), hosts_if(&mut right, key)))
    })
}

fn hosts_if<'a>(
    table: &mut Peekable<impl Iterator<Item = (Key, &'a [HostAddr])>>,
    key: Key,
) -> Option<&'a [HostAddr]> {
    table.next_if(|&(next, _)| next == key).map(|(_, hosts)| hosts)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<ModuleId, BTreeSet<HostAddr>>;

    fn host(n: u8) -> HostAddr {
        HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 80)
    }

    fn built(rows: impl IntoIterator<Item = (ModuleId, HostAddr)>) -> Snapshot {
        let mut builder = SnapshotBuilder::default();
        rows.into_iter().for_each(|(module, host)| builder.push(module, host));
        builder.finish()
    }

    fn of_model(model: &Model) -> Snapshot {
        built(model.iter().flat_map(|(&module, hosts)| hosts.iter().map(move |&host| (module, host))))
    }

    fn check(snapshot: &Snapshot, model: &Model) {
        let mut expect: Vec<(ModuleId, Vec<HostAddr>)> =
            model.iter().map(|(&module, hosts)| (module, hosts.iter().copied().collect())).collect();
        expect.retain(|(_, hosts)| !hosts.is_empty());
        expect.sort_by_key(|(module, _)| module.to_unsigned());
        let seen: Vec<_> = snapshot.iter().map(|(module, hosts)| (module, hosts.to_vec())).collect();
        assert_eq!(seen, expect);
        assert_eq!(snapshot.module_count(), expect.len());
        assert_eq!(snapshot.host_count(), expect.iter().map(|(_, hosts)| hosts.len()).sum::<usize>());
        for (module, hosts) in &expect {
            assert_eq!(snapshot.hosts(*module), hosts);
            assert_eq!(snapshot.route_hash(*module), digest::route_hash(*module, hosts.iter().copied()));
        }
        let gone = model.iter().filter(|(_, hosts)| hosts.is_empty());
        for (&module, _) in gone {
            assert_eq!(snapshot.route_hash(module), digest::route_hash(module, []));
        }
    }

    #[test]
    fn an_unknown_module_has_no_hosts() {
        assert_eq!(Snapshot::default().hosts(ModuleId::new(0, 0)), &[]);
        let snapshot = built([(ModuleId::new(1, 1), host(1))]);
        assert_eq!(snapshot.hosts(ModuleId::new(1, 0)), &[]);
        assert_eq!(snapshot.hosts(ModuleId::new(1, 1)), &[host(1)]);
        assert_eq!(snapshot.hosts(ModuleId::new(1, 2)), &[]);
    }

    #[test]
    fn a_host_costs_some_ten_bytes_with_ten_per_module() {
        let bytes = size_of::<HostAddr>() * 10 + size_of::<Run>() + Index::BYTES_PER_MODULE_MAX;
        assert!(bytes < 110, "{bytes} bytes for ten hosts");
    }

    #[test]
    fn a_change_back_to_the_base_leaves_no_overlay() {
        let module = ModuleId::new(1, 1);
        let first = built([(module, host(1))]);
        let (second, changed) = first.apply([(module, vec![])].into());
        assert_eq!((second.has_overlay(), changed), (true, vec![module]));
        assert_eq!((second.module_count(), second.host_count()), (0, 0));
        let (third, changed) = second.apply([(module, vec![host(1), host(1)])].into());
        assert_eq!((third.has_overlay(), changed), (false, vec![module]));
        assert_eq!(third, first);
    }

    #[test]
    fn a_hash_is_of_the_hosts_that_are_sent() {
        let module = ModuleId::new(1, 1);
        let addr = |n| HostAddr::v4(Ipv4Addr::from_bits(0xc0a8_0000 + n), 65_000);
        let hosts: Vec<HostAddr> = (0..10_000u32).map(addr).collect();
        let push = push::Push::encode(module, &hosts, &mut Vec::new());
        assert!(push.hosts_cut > 0);
        let sent = hosts[..hosts.len() - push.hosts_cut].iter().copied();
        let expected = digest::route_hash(module, sent);
        let built = built(hosts.iter().map(|&host| (module, host)));
        assert_eq!(built.route_hash(module), expected);
        let (changed, _) = Snapshot::default().apply([(module, hosts)].into());
        assert!(changed.has_overlay());
        assert_eq!(changed.route_hash(module), expected);
    }

    #[test]
    fn the_same_hosts_in_another_order_are_no_change() {
        let module = ModuleId::new(1, 1);
        let first = built([(module, host(1)), (module, host(2))]);
        let (second, changed) = first.apply([(module, vec![host(2), host(1), host(2)])].into());
        assert_eq!(changed, []);
        assert_eq!(second, first);
    }

    #[test]
    fn an_overlay_over_its_bound_becomes_a_base() {
        let modules = 0..=OVERLAY_MODULES_MAX as i32;
        let changes = modules.map(|modid| (ModuleId::new(modid, 0), vec![host(1)])).collect();
        let (snapshot, changed) = Snapshot::default().apply(changes);
        assert!(!snapshot.has_overlay());
        assert_eq!(changed.len(), OVERLAY_MODULES_MAX + 1);
        assert_eq!(snapshot.module_count(), OVERLAY_MODULES_MAX + 1);
        assert_eq!(snapshot.hosts(ModuleId::new(7, 0)), &[host(1)]);
    }

    /// Few ids, so that they collide; negative ones, which SQL sorts behind the positive.
    fn any_module() -> impl Strategy<Value = ModuleId> {
        (-2i32..3, -1i32..2).prop_map(|(modid, cmdid)| ModuleId::new(modid, cmdid))
    }

    fn any_hosts() -> impl Strategy<Value = Vec<HostAddr>> {
        prop::collection::vec((0u8..6).prop_map(host), 0..5)
    }

    fn any_model() -> impl Strategy<Value = Model> {
        prop::collection::btree_map(any_module(), any_hosts().prop_map(BTreeSet::from_iter), 0..8)
    }

    proptest! {
        #[test]
        fn rows_in_any_order_make_the_same_table(
            rows in prop::collection::vec((any_module(), (0u8..6).prop_map(host)), 0..40),
        ) {
            let mut model = Model::new();
            for &(module, host) in &rows {
                model.entry(module).or_default().insert(host);
            }
            check(&built(rows), &model);
        }

        #[test]
        fn changes_follow_the_model(
            mut model in any_model(),
            steps in prop::collection::vec(prop::collection::btree_map(any_module(), any_hosts(), 0..4), 0..10),
        ) {
            let mut snapshot = of_model(&model);
            for step in steps {
                let before = model.clone();
                for (&module, hosts) in &step {
                    model.insert(module, hosts.iter().copied().collect());
                }
                let (next, changed) = snapshot.apply(step.clone());
                let hosts = |model: &Model, module: &ModuleId| model.get(module).cloned().unwrap_or_default();
                let expect: Vec<_> =
                    step.into_keys().filter(|m| hosts(&before, m) != hosts(&model, m)).collect();
                prop_assert_eq!(changed, expect);
                check(&snapshot, &before);
                check(&next, &model);
                prop_assert_eq!(&next.folded(), &next);
                snapshot = next;
            }
        }

        #[test]
        fn a_diff_is_what_differs(old in any_model(), new in any_model(), change in any_model()) {
            let change = change.into_iter().map(|(module, hosts)| (module, hosts.into_iter().collect()));
            let (old, _) = of_model(&old).apply(change.collect());
            let new = of_model(&new);
            let mut expect: Vec<_> = old.iter().chain(new.iter()).map(|(module, _)| module).collect();
            expect.sort_by_key(|module| module.to_unsigned());
            expect.dedup();
            expect.retain(|&module| old.hosts(module) != new.hosts(module));
            prop_assert_eq!(old.diff(&new), expect);
            prop_assert_eq!(old.diff(&old), vec![]);
        }
    }
}
