//! Many connections to one database at once.

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use lars_proto::ModuleId;
use lars_store::{
    RouteEdit::{Add, Replace},
    Store,
};

use crate::{
    Database, call_status,
    routes::{host, load},
};

const WRITERS: u32 = 8;
const ROUNDS: u32 = 12;

/// Runs `work` on a thread and a connection for each writer, all beginning at once.
fn all_at_once<T: Send>(database: &Database, work: impl Fn(u32, &mut dyn Store) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(WRITERS as usize);
    thread::scope(|scope| {
        let spawn = |writer| {
            let (barrier, work) = (&barrier, &work);
            let mut store = database.open();
            scope.spawn(move || {
                barrier.wait();
                work(writer, &mut *store)
            })
        };
        let threads: Vec<_> = (0..WRITERS).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer ends well")).collect()
    })
}

/// No two edits have one version, none is lost, and versions ascend with the ids of changes.
pub(crate) fn eight_editors(database: &Database) {
    let shared = ModuleId::new(5, 5);
    let versions = all_at_once(database, |editor, store| {
        let mut versions = Vec::new();
        for round in 0..ROUNDS {
            let own = ModuleId::new(6, editor.cast_signed());
            let new = host(editor * ROUNDS + round);
            let outcome = store.edit(&[Add(shared, new), Add(own, new)]).expect("an edit");
            assert_eq!((outcome.added, outcome.modules_changed), (2, 2));
            versions.push(outcome.version.expect("a version"));
        }
        assert!(versions.is_sorted(), "{versions:?}");
        versions
    })
    .concat();

    let edits = (WRITERS * ROUNDS) as usize;
    let distinct: BTreeSet<_> = versions.iter().copied().collect();
    assert_eq!(distinct.len(), edits);

    let mut store = database.open();
    assert_eq!(store.version().ok(), distinct.last().copied());
    assert_eq!(store.hosts(shared), Ok((0..WRITERS * ROUNDS).map(host).collect()));
    let changes = store.changes(0, usize::MAX).expect("changes");
    assert_eq!(changes.len(), 2 * edits);
    assert!(changes.is_sorted_by_key(|change| (change.version, change.id)));
    assert_eq!(changes.iter().map(|change| change.version).collect::<BTreeSet<_>>(), distinct);
}

/// The newest row of each key wins, in whatever order they come.
pub(crate) fn eight_writers_of_the_same_rows(database: &Database) {
    let keys = 100;
    all_at_once(database, |writer, store| {
        for round in 0..ROUNDS {
            let stamp = (round * 7 + writer * 5) % (WRITERS * ROUNDS);
            let mut rows: Vec<_> = (0..keys).map(|n| call_status::row(n, u64::from(stamp), stamp)).collect();
            if writer % 2 == 1 {
                rows.reverse();
            }
            store.upsert(&rows).expect("an upsert");
        }
    });
    let newest = (0..WRITERS)
        .flat_map(|writer| (0..ROUNDS).map(move |round| (round * 7 + writer * 5) % (WRITERS * ROUNDS)))
        .max()
        .expect("some rounds");
    let expected: Vec<_> = (0..keys).map(|n| call_status::row(n, u64::from(newest), newest)).collect();
    assert_eq!(database.open().call_status(None), Ok(expected));
}

/// Each edit gives two modules the same hosts; no load may see one of them only.
pub(crate) fn a_load_sees_whole_edits(database: &Database) {
    let modules = [ModuleId::new(1, 1), ModuleId::new(900, 1)];
    let done = AtomicBool::new(false);
    let (mut reader, mut writer) = (database.open(), database.open());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60 {
                let hosts: Vec<_> = (round..round + 40).map(host).collect();
                writer.edit(&modules.map(|module| Replace(module, hosts.clone()))).expect("an edit");
            }
            done.store(true, Ordering::Release);
        });
        let mut last = false;
        while !last {
            last = done.load(Ordering::Acquire);
            let (rows, _) = load(&mut *reader);
            let hosts_of =
                |module| rows.iter().filter(|row| row.0 == module).map(|row| row.1).collect::<Vec<_>>();
            assert_eq!(hosts_of(modules[0]), hosts_of(modules[1]));
        }
    });
    assert_eq!(load(&mut *reader).1.rows, 80);
}
