//! Checks of [`RouteStore`](lars_store::RouteStore).

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use lars_proto::{HostAddr, ModuleId};
use lars_store::{
    EditOutcome, HOSTS_PER_MODULE_MAX, LoadReport, RouteAcceptance, RouteChange,
    RouteEdit::{Add, Remove, RemoveModule, Replace},
    RoutePosition, Store, StoreError,
};

use crate::Database;

const MODULE: ModuleId = ModuleId::new(1, 1);
const OTHER: ModuleId = ModuleId::new(1, 2);

pub(crate) fn host(n: u32) -> HostAddr {
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0000 + n), 8_000)
}

fn hosts(numbers: impl IntoIterator<Item = u32>) -> Vec<HostAddr> {
    numbers.into_iter().map(host).collect()
}

pub(crate) fn load(store: &mut dyn Store) -> (Vec<(ModuleId, HostAddr)>, LoadReport) {
    let mut rows = Vec::new();
    let report = store.load(&mut |module, host| rows.push((module, host))).expect("a load");
    (rows, report)
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    since.as_secs()
}

pub(crate) fn an_empty_database_has_nothing(database: &Database) {
    let mut store = database.open();
    assert_eq!(store.version(), Ok(0));
    assert_eq!(store.hosts(MODULE), Ok(vec![]));
    assert_eq!(store.changes(0, 10), Ok(vec![]));
    assert_eq!(store.newest_change_id(), Ok(0));
    assert_eq!(load(&mut *store), (vec![], LoadReport { rows: 0, skipped: 0 }));
}

pub(crate) fn adding_and_removing(database: &Database) {
    let mut store = database.open();
    let before = unix_now();
    let added =
        store.edit(&[Add(MODULE, host(2)), Add(MODULE, host(1)), Add(OTHER, host(1))]).expect("an edit");
    let first = added.version.expect("a version");
    assert_eq!(added, EditOutcome { version: Some(first), added: 3, removed: 0, modules_changed: 2 });
    assert!(first >= before, "{first} is the time");
    assert_eq!(store.version(), Ok(first));
    assert_eq!(store.hosts(MODULE), Ok(hosts([1, 2])));

    let removed = store.edit(&[Remove(MODULE, host(2))]).expect("an edit");
    let second = removed.version.expect("a version");
    assert_eq!(removed, EditOutcome { version: Some(second), added: 0, removed: 1, modules_changed: 1 });
    assert!(second > first);
    assert_eq!(store.hosts(MODULE), Ok(hosts([1])));

    let (rows, report) = load(&mut *store);
    assert_eq!(rows, [(MODULE, host(1)), (OTHER, host(1))]);
    assert_eq!(report, LoadReport { rows: 2, skipped: 0 });
    let changes = store.changes(0, 10).expect("changes");
    let told: Vec<_> = changes.iter().map(|change| (change.module, change.version)).collect();
    assert_eq!(told, [(MODULE, first), (OTHER, first), (MODULE, second)]);
}

pub(crate) fn edits_that_change_nothing_leave_the_version(database: &Database) {
    let mut store = database.open();
    let version = store.edit(&[Add(MODULE, host(1))]).expect("an edit").version.expect("a version");
    let idle: [&[_]; 6] = [
        &[],
        &[Add(MODULE, host(1))],
        &[Remove(MODULE, host(2)), Remove(OTHER, host(1)), RemoveModule(OTHER)],
        &[Replace(MODULE, hosts([1, 1]))],
        &[Add(MODULE, host(2)), Remove(MODULE, host(2))],
        &[RemoveModule(MODULE), Add(MODULE, host(1))],
    ];
    for edits in idle {
        assert_eq!(store.edit(edits), Ok(EditOutcome::default()), "{edits:?}");
    }
    assert_eq!(store.version(), Ok(version));
    assert_eq!(store.changes(0, 10).map(|changes| changes.len()), Ok(1));
    assert_eq!(store.hosts(MODULE), Ok(hosts([1])));
}

pub(crate) fn edits_are_made_in_their_order(database: &Database) {
    let mut store = database.open();
    let edits = [
        Replace(MODULE, hosts([1, 2, 3])),
        RemoveModule(MODULE),
        Add(MODULE, host(2)),
        Add(MODULE, host(4)),
        Remove(MODULE, host(2)),
    ];
    let outcome = store.edit(&edits).expect("an edit");
    assert_eq!((outcome.added, outcome.removed, outcome.modules_changed), (1, 0, 1));
    assert_eq!(store.hosts(MODULE), Ok(hosts([4])));
}

pub(crate) fn replacing_and_removing_whole_modules(database: &Database) {
    let mut store = database.open();
    store.edit(&[Replace(MODULE, hosts(0..100)), Replace(OTHER, hosts(0..100))]).expect("an edit");
    let replaced = store.edit(&[Replace(MODULE, hosts(50..130))]).expect("an edit");
    assert_eq!((replaced.added, replaced.removed, replaced.modules_changed), (30, 50, 1));
    assert_eq!(store.hosts(MODULE), Ok(hosts(50..130)));

    let removed = store.edit(&[RemoveModule(MODULE)]).expect("an edit");
    assert_eq!((removed.added, removed.removed, removed.modules_changed), (0, 80, 1));
    assert_eq!(store.hosts(MODULE), Ok(vec![]));
    assert_eq!(store.hosts(OTHER), Ok(hosts(0..100)));
}

pub(crate) fn one_edit_of_many_rows(database: &Database) {
    let mut store = database.open();
    let modules = |from: i32| (from..from + 1_500).map(|cmdid| ModuleId::new(7, cmdid));
    let added: Vec<_> = modules(0).map(|module| Replace(module, hosts(0..3))).collect();
    let outcome = store.edit(&added).expect("an edit");
    assert_eq!((outcome.added, outcome.modules_changed), (4_500, 1_500));
    assert_eq!(load(&mut *store).1.rows, 4_500);
    let asked: Vec<_> = modules(-5).collect();
    let expected = modules(-5).map(|module| (module, if module.cmdid < 0 { vec![] } else { hosts(0..3) }));
    assert_eq!(store.hosts_of_each(&asked), Ok(expected.collect()));

    let removed: Vec<_> =
        modules(0).take(700).map(RemoveModule).chain(modules(700).map(|m| Remove(m, host(1)))).collect();
    let outcome = store.edit(&removed).expect("an edit");
    assert_eq!((outcome.removed, outcome.modules_changed), (2_100 + 800, 1_500));
    assert_eq!(load(&mut *store).1.rows, 1_600);
    assert_eq!(store.changes(0, usize::MAX).map(|changes| changes.len()), Ok(3_000));
}

pub(crate) fn a_refused_edit_leaves_no_trace(database: &Database) {
    let mut store = database.open();
    let port_0 = HostAddr::v4(Ipv4Addr::LOCALHOST, 0);
    let refused = store.edit(&[Add(OTHER, host(1)), Add(MODULE, port_0)]);
    assert_eq!(refused, Err(StoreError::NotAHost { module: MODULE, host: port_0 }));
    let refused = store.edit(&[Add(OTHER, host(1)), Replace(MODULE, vec![host(1), port_0])]);
    assert_eq!(refused, Err(StoreError::NotAHost { module: MODULE, host: port_0 }));
    assert_eq!(store.version(), Ok(0));
    assert_eq!(load(&mut *store).0, []);
    assert_eq!(store.changes(0, 10), Ok(vec![]));
}

pub(crate) fn a_failing_statement_leaves_no_trace(database: &Database) {
    let mut store = database.open();
    let version = store.edit(&[Add(OTHER, host(1))]).expect("an edit").version.expect("a version");
    let changes = store.changes(0, 10);
    // The last statement of an edit writes RouteChange.
    database.refuse("RouteChange", "cmdid", 1);
    let error = store.edit(&[Add(MODULE, host(1)), RemoveModule(OTHER)]).expect_err("a refusal");
    assert!(
        matches!(&error, StoreError::RowRefused { problem, .. } if problem.contains("refusal")),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!(store.version(), Ok(version));
    assert_eq!(load(&mut *store).0, [(OTHER, host(1))]);
    assert_eq!(store.changes(0, 10), changes);
}

pub(crate) fn every_id_and_address_survives(database: &Database) {
    let mut store = database.open();
    let ids = [0, 1, -1, i32::MAX, i32::MIN];
    let modules: BTreeSet<_> = ids.iter().flat_map(|m| ids.map(|c| ModuleId::new(*m, c))).collect();
    let mut addresses = Vec::new();
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::BROADCAST]
    {
        addresses.extend([1, 7_777, u16::MAX].map(|port| HostAddr::v4(ip, port)));
    }
    let edits: Vec<_> = modules.iter().map(|module| Replace(*module, addresses.clone())).collect();
    store.edit(&edits).expect("an edit");

    for module in &modules {
        assert_eq!(store.hosts(*module).as_ref(), Ok(&addresses), "{module}");
    }
    let (rows, report) = load(&mut *store);
    assert_eq!(report, LoadReport { rows: (modules.len() * addresses.len()) as u64, skipped: 0 });
    let expected: BTreeSet<_> = modules.iter().flat_map(|m| addresses.iter().map(|a| (*m, *a))).collect();
    assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), expected);
    assert!(rows.is_sorted_by_key(|(module, host)| (module.to_unsigned(), host.to_unsigned())));
    let changed: BTreeSet<_> = store.changes(0, 100).expect("changes").iter().map(|c| c.module).collect();
    assert_eq!(changed, modules);
}

pub(crate) fn rows_that_name_no_host_are_counted(database: &Database) {
    let mut store = database.open();
    database.execute(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES
         (1, 1, 167772161, 8000), (1, 1, 167772161, 8000), (1, 1, 167772161, 0),
         (1, 1, 167772162, 70000), (1, 1, 167772163, 4294967295), (1, 2, 167772162, 8000)",
    );
    let (rows, report) = load(&mut *store);
    assert_eq!(rows, [(MODULE, host(1)), (OTHER, host(2))]);
    assert_eq!(report, LoadReport { rows: 2, skipped: 3 });
    assert_eq!(store.skipped_row_ids(10).map(|ids| ids.len()), Ok(3));
    assert_eq!(store.skipped_row_ids(2).map(|ids| ids.len()), Ok(2));
    assert_eq!(store.hosts(MODULE), Ok(hosts([1])));

    let outcome = store.edit(&[Remove(MODULE, host(1))]).expect("an edit");
    assert_eq!(outcome.removed, 1, "a row that is there twice is one host");
    assert_eq!(store.hosts(MODULE), Ok(vec![]));
    assert_eq!(load(&mut *store).1, LoadReport { rows: 1, skipped: 3 });
}

pub(crate) fn a_removed_module_leaves_no_rows(database: &Database) {
    let mut store = database.open();
    database.execute(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES
         (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 0), (1, 1, 2, 70000), (1, 2, 1, 70000)",
    );
    let outcome = store.edit(&[RemoveModule(MODULE)]).expect("an edit");
    assert_eq!((outcome.removed, outcome.modules_changed), (1, 1));
    assert_eq!(load(&mut *store).1, LoadReport { rows: 0, skipped: 1 });
    // Nobody could call these hosts, so for everybody else nothing changed.
    assert_eq!(store.edit(&[RemoveModule(OTHER)]), Ok(EditOutcome::default()));
    assert_eq!(load(&mut *store).1, LoadReport { rows: 0, skipped: 0 });
}

pub(crate) fn ten_thousand_modules_load_in_order(database: &Database) {
    let mut store = database.open();
    let edits: Vec<_> = (0..10_000).rev().map(|n| Replace(ModuleId::new(n / 100, n), hosts(0..2))).collect();
    store.edit(&edits).expect("an edit");
    let (rows, report) = load(&mut *store);
    assert_eq!(report, LoadReport { rows: 20_000, skipped: 0 });
    assert!(rows.is_sorted() && rows.windows(2).all(|pair| pair[0] != pair[1]));
}

pub(crate) fn at_most_so_many_hosts(database: &Database) {
    let mut store = database.open();
    let limit = u32::try_from(HOSTS_PER_MODULE_MAX).expect("a small limit");
    let too_many = |count| Err(StoreError::TooManyHosts { module: MODULE, count });
    store.edit(&[Replace(MODULE, hosts(0..limit))]).expect("as many as may be");
    assert_eq!(store.edit(&[Add(MODULE, host(limit))]), too_many(HOSTS_PER_MODULE_MAX + 1));
    assert_eq!(store.edit(&[Replace(MODULE, hosts(0..limit + 5))]), too_many(HOSTS_PER_MODULE_MAX + 5));
    store.edit(&[Remove(MODULE, host(0)), Add(MODULE, host(limit))]).expect("one for one");
    assert_eq!(store.hosts(MODULE), Ok(hosts(1..=limit)));

    // A module that another program made too large can be made smaller, and not larger.
    database.execute(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 1, 1), (1, 1, 2, 1)",
    );
    assert_eq!(store.edit(&[Add(MODULE, host(0))]), too_many(HOSTS_PER_MODULE_MAX + 3));
    assert_eq!(store.edit(&[Remove(MODULE, host(1))]).map(|outcome| outcome.removed), Ok(1));
}

pub(crate) fn changes_after_a_cursor(database: &Database) {
    let mut store = database.open();
    let module = |n| ModuleId::new(3, n);
    for n in 0..10 {
        store.edit(&[Add(module(n), host(1))]).expect("an edit");
    }
    let all = store.changes(0, usize::MAX).expect("changes");
    assert_eq!(
        all.iter().map(|change| change.module).collect::<Vec<_>>(),
        (0..10).map(module).collect::<Vec<_>>()
    );
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].version < pair[1].version));

    let newest = all[9].id;
    assert_eq!(store.newest_change_id(), Ok(newest));
    assert_eq!(store.changes(0, 4).as_deref(), Ok(&all[..4]));
    assert_eq!(store.changes(all[3].id, 4).as_deref(), Ok(&all[4..8]));
    assert_eq!(store.changes(all[7].id, 4).as_deref(), Ok(&all[8..]));
    assert_eq!(store.changes(newest, 4), Ok(vec![]));
    assert_eq!(store.changes(0, 0), Ok(vec![]));
    assert_eq!(store.changes(u64::MAX, 1), Ok(vec![]));
}

pub(crate) fn pruning_by_age(database: &Database) {
    let mut store = database.open();
    for version in [100, 900, 999, 1_000, 1_001] {
        database
            .execute(&format!("INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 1, {version})"));
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_100);
    assert_eq!(store.prune_changes(Duration::from_secs(2_000), now), Ok(0));
    assert_eq!(store.prune_changes(Duration::from_secs(100), now), Ok(3));
    let left: Vec<_> = store.changes(0, 10).expect("changes").iter().map(|change| change.version).collect();
    assert_eq!(left, [1_000, 1_001]);
    assert_eq!(store.prune_changes(Duration::from_secs(100), now), Ok(0));
}

pub(crate) fn pruning_more_than_one_statement_deletes(database: &Database) {
    let mut store = database.open();
    let edits: Vec<_> = (0..10_500).map(|n| Add(ModuleId::new(4, n), host(1))).collect();
    store.edit(&edits).expect("an edit");
    let later = SystemTime::now() + Duration::from_secs(3_600);
    assert_eq!(store.prune_changes(Duration::ZERO, later), Ok(10_500));
    assert_eq!(store.changes(0, 1), Ok(vec![]));
}

pub(crate) fn change_ids_never_come_again(database: &Database) {
    let mut store = database.open();
    store.edit(&[Add(MODULE, host(1)), Add(OTHER, host(1))]).expect("an edit");
    let newest = store.newest_change_id().expect("an id");
    let later = SystemTime::now() + Duration::from_secs(3_600);
    assert_eq!(store.prune_changes(Duration::ZERO, later), Ok(2));
    assert_eq!(store.changes(0, 10), Ok(vec![]));

    let version = store.edit(&[Add(MODULE, host(2))]).expect("an edit").version.expect("a version");
    let after = store.changes(newest, 10).expect("changes");
    assert_eq!(after, [RouteChange { id: after[0].id, module: MODULE, version }]);
}

pub(crate) fn versions_follow_the_clock_and_each_other(database: &Database) {
    let mut store = database.open();
    database.execute("UPDATE RouteVersion SET version = 100 WHERE id = 1");
    let version = store.edit(&[Add(MODULE, host(1))]).expect("an edit").version.expect("a version");
    assert!(version >= 1_700_000_000, "{version} is the time");

    let ahead = unix_now() + 1_000_000;
    database.execute(&format!("UPDATE RouteVersion SET version = {ahead} WHERE id = 1"));
    assert_eq!(store.version(), Ok(ahead));
    assert_eq!(store.edit(&[Add(MODULE, host(2))]).map(|outcome| outcome.version), Ok(Some(ahead + 1)));
    assert_eq!(store.edit(&[Add(MODULE, host(3))]).map(|outcome| outcome.version), Ok(Some(ahead + 2)));
}

pub(crate) fn a_missing_version_row_is_made_again(database: &Database) {
    let mut store = database.open();
    database.execute("DELETE FROM RouteVersion");
    assert_eq!(store.version(), Ok(0));
    let version = store.edit(&[Add(MODULE, host(1))]).expect("an edit").version;
    assert_eq!(store.version().ok(), version);
}

pub(crate) fn a_load_says_how_far_the_database_was(database: &Database) {
    let mut store = database.open();
    for n in 1..4 {
        let version = store.edit(&[Add(MODULE, host(n))]).expect("an edit").version;
        let newest_change_id = store.changes(0, 10).expect("changes").last().expect("a change").id;
        let position = RoutePosition { version, newest_change_id };
        let loaded = store.load_all(&mut |_, _| ()).expect("a load");
        assert_eq!((loaded.position, loaded.report.rows), (position, n.into()));
        assert_eq!(store.position(), Ok(position));
    }
}

pub(crate) fn a_version_that_cannot_be_read_stops_nothing(database: &Database) {
    let mut store = database.open();
    store.edit(&[Add(MODULE, host(1))]).expect("an edit");
    // As old tables have it: signed, and null where it was never set.
    database.execute(
        "DROP TABLE RouteVersion;
         CREATE TABLE RouteVersion (id INT PRIMARY KEY, version BIGINT);
         INSERT INTO RouteVersion VALUES (1, NULL)",
    );
    for unreadable in ["NULL", "-5"] {
        database.execute(&format!("UPDATE RouteVersion SET version = {unreadable}"));
        assert_eq!(store.position().map(|position| position.version), Ok(None), "{unreadable}");
        assert_eq!(store.version(), Ok(0));
        let loaded = store.load_all(&mut |_, _| ()).expect("a load");
        assert_eq!((loaded.position.version, loaded.report.rows), (None, 1));
        store.edit(&[Add(MODULE, host(2))]).expect("an edit");
        assert!(store.version().expect("a version") >= unix_now() - 60, "an edit makes it readable");
        store.edit(&[Remove(MODULE, host(2))]).expect("an edit");
    }
}

pub(crate) fn what_is_accepted_is_told_with_each_load(database: &Database) {
    let mut store = database.open();
    let accepted = |store: &mut dyn Store| store.load_all(&mut |_, _| ()).expect("a load").accepted;
    assert_eq!(accepted(&mut *store), None);
    let version = store.edit(&[Replace(MODULE, hosts(0..3))]).expect("an edit").version.expect("a version");
    // A host that is there twice is one, and what names no host is none: as loads count them.
    database.execute(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 167772160, 8000);
         INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 1, 0)",
    );
    let first = store.accept().expect("an acceptance");
    assert_eq!((first.hosts, load(&mut *store).1.rows), (3, 3));
    assert!(first.version > version);
    assert_eq!(store.version(), Ok(first.version));
    assert_eq!(store.changes(0, 10).map(|changes| changes.len()), Ok(1), "no module has changed");
    assert_eq!(accepted(&mut *store), Some(first));

    database.execute("DELETE FROM RouteData");
    let second = store.accept().expect("an acceptance");
    assert_eq!(second, RouteAcceptance { id: second.id, version: second.version, hosts: 0 });
    assert!(second.id > first.id && second.version > first.version);
    assert_eq!(accepted(&mut *store), Some(second));

    database.execute("DROP TABLE LarsRouteAccept");
    assert_eq!(accepted(&mut *store), None);
    let missing = store.accept().expect_err("no table");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
}
