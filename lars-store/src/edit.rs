//! What an edit of routes does: which rows go and come, which modules changed, which version follows.
//!
//! Pure except for [`EditTransaction`], behind which a backend runs the statements. Both backends run
//! [`run`], so the rules are written once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use lars_proto::{HostAddr, ModuleId};

use crate::{EditOutcome, HOSTS_PER_MODULE_MAX, RouteAcceptance, RouteEdit, StoreError, error::Failure};

/// The hosts of some modules; a module without hosts may be absent.
pub(crate) type Routes = BTreeMap<ModuleId, BTreeSet<HostAddr>>;

/// A host of a module: what one row of `RouteData` says.
pub(crate) type RouteRow = (ModuleId, HostAddr);

/// The statements of an edit, inside a transaction that the backend has begun and will end.
pub(crate) trait EditTransaction {
    /// The error of the driver.
    type Error;

    /// The version; from here to the end of the transaction no other editor passes.
    fn lock_version(&mut self) -> Result<u64, Failure<Self::Error>>;
    /// The hosts that these modules have now.
    fn hosts(&mut self, modules: &BTreeSet<ModuleId>) -> Result<Routes, Failure<Self::Error>>;
    /// Sets the version. [`Failure::Overtaken`] if it is not `from` any more, which can be where the tables
    /// know no transactions.
    fn set_version(&mut self, from: u64, to: u64) -> Result<(), Failure<Self::Error>>;
    /// Deletes all rows of these modules.
    fn clear(&mut self, modules: &[ModuleId]) -> Result<(), Failure<Self::Error>>;
    /// Deletes these rows, however often they are there.
    fn delete(&mut self, rows: &[RouteRow]) -> Result<(), Failure<Self::Error>>;
    /// Inserts these rows.
    fn insert(&mut self, rows: &[RouteRow]) -> Result<(), Failure<Self::Error>>;
    /// Inserts one `RouteChange` for each of these modules.
    fn record_changes(&mut self, modules: &[ModuleId], version: u64) -> Result<(), Failure<Self::Error>>;
    /// How many hosts all modules have together, as a load counts them.
    fn host_count(&mut self) -> Result<u64, Failure<Self::Error>>;
    /// Inserts a row of `LarsRouteAccept`, and returns its id.
    fn record_acceptance(&mut self, version: u64, hosts: u64) -> Result<u64, Failure<Self::Error>>;
}

/// Records within the transaction `tx` that the routes are meant as they are.
pub(crate) fn accept<T: EditTransaction + ?Sized>(
    tx: &mut T,
    now: SystemTime,
) -> Result<RouteAcceptance, Failure<T::Error>> {
    let before = tx.lock_version()?;
    let version = next_version(before, now);
    let hosts = tx.host_count()?;
    tx.set_version(before, version)?;
    let id = tx.record_acceptance(version, hosts)?;
    Ok(RouteAcceptance { id, version, hosts })
}

/// Makes all edits within the transaction `tx`.
pub(crate) fn run<T: EditTransaction + ?Sized>(
    tx: &mut T,
    edits: &[RouteEdit],
    now: SystemTime,
) -> Result<EditOutcome, Failure<T::Error>> {
    let version = tx.lock_version()?;
    let before = tx.hosts(&edits.iter().map(RouteEdit::module).collect())?;
    let plan = EditPlan::new(before, edits).map_err(Failure::NotAllowed)?;
    let next = next_version(version, now);
    if !plan.changed.is_empty() {
        tx.set_version(version, next)?;
    }
    tx.clear(&plan.cleared)?;
    tx.delete(&plan.deleted)?;
    tx.insert(&plan.added)?;
    tx.record_changes(&plan.changed, next)?;
    Ok(plan.outcome(next))
}

/// The version after an edit at `now`: the unix time in seconds, as other programs set it, but always higher
/// than the one before.
pub(crate) fn next_version(version: u64, now: SystemTime) -> u64 {
    unix_seconds(now).max(version.saturating_add(1))
}

/// The lowest version that is not older than `now − age`.
pub(crate) fn oldest_version_kept(age: Duration, now: SystemTime) -> u64 {
    unix_seconds(now).saturating_sub(age.as_secs())
}

/// A clock before 1970 counts as 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The rows that have to go and to come.
#[derive(Debug, Default, PartialEq, Eq)]
struct EditPlan {
    /// Modules whose hosts are others than before.
    changed: Vec<ModuleId>,
    /// Modules to be deleted with every row, also rows that name no host.
    cleared: Vec<ModuleId>,
    /// Rows to be deleted of modules that are not cleared.
    deleted: Vec<RouteRow>,
    added: Vec<RouteRow>,
    /// Hosts that serve no more, of cleared modules too.
    removed: usize,
}

impl EditPlan {
    fn new(before: Routes, edits: &[RouteEdit]) -> Result<Self, StoreError> {
        let mut after = before.clone();
        for edit in edits {
            make(&mut after, edit)?;
        }
        let mut plan = Self::default();
        for (module, hosts) in &after {
            plan.add_module(*module, before.get(module).unwrap_or(&BTreeSet::new()), hosts)?;
        }
        plan.clear(cleared(edits, &after));
        Ok(plan)
    }

    fn add_module(
        &mut self,
        module: ModuleId,
        before: &BTreeSet<HostAddr>,
        after: &BTreeSet<HostAddr>,
    ) -> Result<(), StoreError> {
        let row = |host: &HostAddr| (module, *host);
        let added: Vec<RouteRow> = after.difference(before).map(row).collect();
        let removed: Vec<RouteRow> = before.difference(after).map(row).collect();
        // Hosts may always leave, also a module that another program made too large.
        if !added.is_empty() && after.len() > HOSTS_PER_MODULE_MAX {
            return Err(StoreError::TooManyHosts { module, count: after.len() });
        }
        if !added.is_empty() || !removed.is_empty() {
            self.changed.push(module);
        }
        self.removed += removed.len();
        self.added.extend(added);
        self.deleted.extend(removed);
        Ok(())
    }

    fn clear(&mut self, modules: BTreeSet<ModuleId>) {
        self.deleted.retain(|(module, _)| !modules.contains(module));
        self.cleared.extend(modules);
    }

    fn outcome(&self, version: u64) -> EditOutcome {
        EditOutcome {
            version: (!self.changed.is_empty()).then_some(version),
            added: self.added.len(),
            removed: self.removed,
            modules_changed: self.changed.len(),
        }
    }
}

/// Makes one edit of `routes`. Every module that is edited is in `routes` afterwards.
fn make(routes: &mut Routes, edit: &RouteEdit) -> Result<(), StoreError> {
    let module = edit.module();
    let hosts = routes.entry(module).or_default();
    match edit {
        RouteEdit::Add(_, host) => {
            hosts.insert(callable(module, *host)?);
        }
        RouteEdit::Remove(_, host) => {
            hosts.remove(host);
        }
        RouteEdit::RemoveModule(_) => hosts.clear(),
        RouteEdit::Replace(_, replacement) => {
            *hosts = replacement.iter().map(|host| callable(module, *host)).collect::<Result<_, _>>()?;
        }
    }
    Ok(())
}

fn callable(module: ModuleId, host: HostAddr) -> Result<HostAddr, StoreError> {
    if host.port() == 0 { Err(StoreError::NotAHost { module, host }) } else { Ok(host) }
}

/// Modules that an edit removes and that none brings back.
fn cleared(edits: &[RouteEdit], after: &Routes) -> BTreeSet<ModuleId> {
    let removals = edits.iter().filter(|edit| matches!(edit, RouteEdit::RemoveModule(_)));
    let is_empty = |module: &ModuleId| after.get(module).is_none_or(BTreeSet::is_empty);
    removals.map(RouteEdit::module).filter(is_empty).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(1, 1);
    const OTHER: ModuleId = ModuleId::new(2, 1);

    fn host(n: u32) -> HostAddr {
        HostAddr::v4(Ipv4Addr::from_bits(n), 80)
    }

    fn routes(module: ModuleId, hosts: impl IntoIterator<Item = u32>) -> Routes {
        Routes::from([(module, hosts.into_iter().map(host).collect())])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_plan_holds_only_what_differs() {
        let edits = [
            RouteEdit::Add(MODULE, host(3)),
            RouteEdit::Remove(MODULE, host(1)),
            RouteEdit::Add(MODULE, host(2)),
            RouteEdit::Add(OTHER, host(9)),
            RouteEdit::Remove(OTHER, host(9)),
        ];
        let plan = EditPlan::new(routes(MODULE, [1, 2]), &edits);
        let expected = EditPlan {
            changed: vec![MODULE],
            cleared: vec![],
            deleted: vec![(MODULE, host(1))],
            added: vec![(MODULE, host(3))],
            removed: 1,
        };
        assert_eq!(plan, Ok(expected));
    }

    #[test]
    fn a_removed_module_is_cleared_unless_it_comes_back() {
        let remove = RouteEdit::RemoveModule(MODULE);
        let plan = EditPlan::new(routes(MODULE, [1]), std::slice::from_ref(&remove)).expect("a plan");
        assert_eq!((plan.cleared, plan.changed, plan.removed), (vec![MODULE], vec![MODULE], 1));
        assert_eq!(plan.deleted, [], "they are gone with the module");
        let unknown = EditPlan::new(Routes::new(), std::slice::from_ref(&remove)).expect("a plan");
        assert_eq!((unknown.cleared, unknown.changed), (vec![MODULE], vec![]));
        let back = EditPlan::new(routes(MODULE, [1]), &[remove, RouteEdit::Add(MODULE, host(1))]);
        assert_eq!(back, Ok(EditPlan::default()));
    }

    #[test]
    fn too_large_a_module_may_only_shrink() {
        let over = u32::try_from(HOSTS_PER_MODULE_MAX).expect("a small limit") + 1;
        let before = routes(MODULE, 0..over);
        let shrunk = EditPlan::new(before.clone(), &[RouteEdit::Remove(MODULE, host(0))]);
        assert_eq!(shrunk.map(|plan| plan.removed), Ok(1));
        let swapped = [RouteEdit::Remove(MODULE, host(0)), RouteEdit::Add(MODULE, host(over))];
        let refused = StoreError::TooManyHosts { module: MODULE, count: HOSTS_PER_MODULE_MAX + 1 };
        assert_eq!(EditPlan::new(before, &swapped), Err(refused));
    }

    #[test]
    fn versions_are_the_time_but_always_ascend() {
        assert_eq!(next_version(0, at(1_000)), 1_000);
        assert_eq!(next_version(999, at(1_000)), 1_000);
        assert_eq!(next_version(1_000, at(1_000)), 1_001);
        assert_eq!(next_version(5_000, at(1_000)), 5_001);
        assert_eq!(next_version(7, SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 8);
    }

    #[test]
    fn versions_older_than_an_age() {
        assert_eq!(oldest_version_kept(Duration::from_secs(3_600), at(10_000)), 6_400);
        assert_eq!(oldest_version_kept(Duration::from_secs(3_600), at(10)), 0);
        assert_eq!(oldest_version_kept(Duration::MAX, at(10_000)), 0);
    }

    /// A backend that is overtaken or fails where it is told to, and writes down what it is asked to do.
    #[derive(Default)]
    struct Recorder {
        log: Vec<String>,
        fails_at: &'static str,
    }

    impl Recorder {
        fn step(
            &mut self,
            name: &'static str,
            what: impl std::fmt::Debug,
        ) -> Result<(), Failure<&'static str>> {
            self.log.push(format!("{name} {what:?}"));
            if self.fails_at == name { Err(Failure::Sql(name)) } else { Ok(()) }
        }
    }

    impl EditTransaction for Recorder {
        type Error = &'static str;

        fn lock_version(&mut self) -> Result<u64, Failure<&'static str>> {
            self.step("lock_version", ())?;
            Ok(41)
        }
        fn hosts(&mut self, modules: &BTreeSet<ModuleId>) -> Result<Routes, Failure<&'static str>> {
            self.step("hosts", modules.len())?;
            Ok(routes(MODULE, [1]))
        }
        fn set_version(&mut self, from: u64, to: u64) -> Result<(), Failure<&'static str>> {
            self.step("set_version", (from, to))
        }
        fn clear(&mut self, modules: &[ModuleId]) -> Result<(), Failure<&'static str>> {
            self.step("clear", modules.len())
        }
        fn delete(&mut self, rows: &[RouteRow]) -> Result<(), Failure<&'static str>> {
            self.step("delete", rows.len())
        }
        fn insert(&mut self, rows: &[RouteRow]) -> Result<(), Failure<&'static str>> {
            self.step("insert", rows.len())
        }
        fn record_changes(&mut self, modules: &[ModuleId], to: u64) -> Result<(), Failure<&'static str>> {
            self.step("record_changes", (modules.len(), to))
        }
        fn host_count(&mut self) -> Result<u64, Failure<&'static str>> {
            self.step("host_count", ())?;
            Ok(5)
        }
        fn record_acceptance(&mut self, version: u64, hosts: u64) -> Result<u64, Failure<&'static str>> {
            self.step("record_acceptance", (version, hosts))?;
            Ok(9)
        }
    }

    #[test]
    fn the_version_is_locked_before_anything_is_read_and_set_before_anything_is_written() {
        let mut tx = Recorder::default();
        let edits = [RouteEdit::RemoveModule(MODULE), RouteEdit::Add(OTHER, host(1))];
        let outcome = run(&mut tx, &edits, at(7)).expect("an edit");
        let expected = EditOutcome { version: Some(42), added: 1, removed: 1, modules_changed: 2 };
        assert_eq!(outcome, expected);
        assert_eq!(
            tx.log,
            [
                "lock_version ()",
                "hosts 2",
                "set_version (41, 42)",
                "clear 1",
                "delete 0",
                "insert 1",
                "record_changes (2, 42)"
            ]
        );
    }

    #[test]
    fn what_is_accepted_is_counted_while_nobody_edits() {
        let mut tx = Recorder::default();
        let accepted = accept(&mut tx, at(7)).expect("an acceptance");
        assert_eq!(accepted, RouteAcceptance { id: 9, version: 42, hosts: 5 });
        let expected =
            ["lock_version ()", "host_count ()", "set_version (41, 42)", "record_acceptance (42, 5)"];
        assert_eq!(tx.log, expected);
    }

    #[test]
    fn a_failing_step_ends_the_edit() {
        let edits = [RouteEdit::Add(OTHER, host(1))];
        for step in ["lock_version", "hosts", "set_version", "clear", "delete", "insert", "record_changes"] {
            let mut tx = Recorder { fails_at: step, ..Recorder::default() };
            let failed = run(&mut tx, &edits, at(7));
            assert!(matches!(failed, Err(Failure::Sql(at)) if at == step), "{step}");
            assert!(tx.log.last().is_some_and(|last| last.starts_with(step)), "{step}");
        }
    }
}
