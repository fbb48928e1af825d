//! Any sequence of edits leaves the store as it leaves a map from modules to sets of hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use lars_proto::{HostAddr, ModuleId};
use lars_store::{LoadReport, OpenMode, RouteEdit, Store, StoreUrl};
use proptest::prelude::*;

type Model = BTreeMap<ModuleId, BTreeSet<HostAddr>>;

fn module() -> impl Strategy<Value = ModuleId> {
    (-1..2, 0..2).prop_map(|(modid, cmdid)| ModuleId::new(modid, cmdid))
}

fn host() -> impl Strategy<Value = HostAddr> {
    (0u32..4, 1u16..3).prop_map(|(ip, port)| HostAddr::v4(Ipv4Addr::from_bits(ip << 30), port))
}

fn edit() -> impl Strategy<Value = RouteEdit> {
    prop_oneof![
        4 => (module(), host()).prop_map(|(module, host)| RouteEdit::Add(module, host)),
        2 => (module(), host()).prop_map(|(module, host)| RouteEdit::Remove(module, host)),
        1 => module().prop_map(RouteEdit::RemoveModule),
        1 => (module(), prop::collection::vec(host(), 0..4))
            .prop_map(|(module, hosts)| RouteEdit::Replace(module, hosts)),
    ]
}

fn make(model: &mut Model, edit: &RouteEdit) {
    let hosts = model.entry(edit.module()).or_default();
    match edit {
        RouteEdit::Add(_, host) => drop(hosts.insert(*host)),
        RouteEdit::Remove(_, host) => drop(hosts.remove(host)),
        RouteEdit::RemoveModule(_) => hosts.clear(),
        RouteEdit::Replace(_, all) => *hosts = all.iter().copied().collect(),
    }
    model.retain(|_, hosts| !hosts.is_empty());
}

fn loaded(store: &mut dyn Store) -> Model {
    let mut routes = Model::new();
    let mut rows = 0;
    let report = store.load(&mut |module, host| {
        rows += 1;
        routes.entry(module).or_default().insert(host);
    });
    assert_eq!(report, Ok(LoadReport { rows, skipped: 0 }));
    routes
}

/// The hosts that `to` has and `from` has not.
fn gained(from: &Model, to: &Model) -> usize {
    let nothing = BTreeSet::new();
    to.iter().map(|(module, hosts)| hosts.difference(from.get(module).unwrap_or(&nothing)).count()).sum()
}

fn changed(before: &Model, after: &Model) -> BTreeSet<ModuleId> {
    let all = before.keys().chain(after.keys());
    all.filter(|module| before.get(module) != after.get(module)).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn edits_do_what_they_do_to_a_map(
        transactions in prop::collection::vec(prop::collection::vec(edit(), 0..6), 1..12),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = lars_store::open(&StoreUrl::Sqlite(folder.path().join("db")), OpenMode::Create).expect("a store");
        let mut model = Model::new();
        for edits in transactions {
            let (before, version) = (model.clone(), store.version().expect("a version"));
            let cursor = store.newest_change_id().expect("an id");
            edits.iter().for_each(|edit| make(&mut model, edit));
            let outcome = store.edit(&edits).expect("an edit");

            prop_assert_eq!(&loaded(&mut *store), &model);
            prop_assert_eq!(outcome.added, gained(&before, &model));
            prop_assert_eq!(outcome.removed, gained(&model, &before));
            let changed = changed(&before, &model);
            prop_assert_eq!(outcome.modules_changed, changed.len());
            prop_assert_eq!(outcome.version.is_some(), !changed.is_empty());
            let now = store.version().expect("a version");
            prop_assert_eq!(outcome.version.unwrap_or(version), now);
            prop_assert!(outcome.version.is_none_or(|new| new > version));
            let told = store.changes(cursor, usize::MAX).expect("changes");
            prop_assert_eq!(told.iter().map(|change| change.module).collect::<Vec<_>>(), Vec::from_iter(changed));
            prop_assert!(told.iter().all(|change| change.version == now));
        }
    }
}
