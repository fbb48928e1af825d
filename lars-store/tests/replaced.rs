//! An SQLite file that somebody puts another one in the place of.

use std::{fs, path::Path};

use lars_proto::{HostAddr, ModuleId};
use lars_store::{CallStatus, CallStatusKey, OpenMode, RouteEdit::Add, Store, StoreError, StoreUrl};
use tempfile::TempDir;

const MODULE: ModuleId = ModuleId::new(1, 1);

fn host(n: u8) -> HostAddr {
    HostAddr::v4([10, 0, 0, n].into(), 80)
}

fn status(n: u8) -> CallStatus {
    let key = CallStatusKey { module: MODULE, host: host(n), caller: [10, 1, 0, n].into() };
    CallStatus { key, succ: 1, err: 0, ts: 100, overload: false }
}

fn open(path: &Path, mode: OpenMode) -> Box<dyn Store> {
    lars_store::open(&StoreUrl::Sqlite(path.to_owned()), mode).expect("the store opens")
}

/// A folder with two files, in which host 1 and host 2 serve the module.
fn two_files() -> (TempDir, [std::path::PathBuf; 2]) {
    let folder = TempDir::new().expect("a folder");
    let paths = ["lars.db", "backup.db"].map(|name| folder.path().join(name));
    for (path, n) in paths.iter().zip(1..) {
        open(path, OpenMode::Create).edit(&[Add(MODULE, host(n))]).expect("an edit");
    }
    (folder, paths)
}

/// What somebody who comes later finds, in a file that is whole.
fn assert_holds(path: &Path, routes: &[HostAddr], statuses: &[CallStatus]) {
    let mut store = open(path, OpenMode::Existing);
    assert_eq!(store.hosts(MODULE).as_deref(), Ok(routes));
    assert_eq!(store.call_status(None).as_deref(), Ok(statuses));
    let connection = rusqlite::Connection::open(path).expect("the file");
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok");
}

#[test]
fn a_backup_that_is_put_in_place_is_read_and_written() {
    let (_folder, [path, backup]) = two_files();
    let (mut polls, mut loads) = (open(&path, OpenMode::Existing), open(&path, OpenMode::Existing));
    let mut writer = open(&path, OpenMode::Create);
    writer.upsert(&[status(1)]).expect("an upsert");
    assert_eq!(polls.hosts(MODULE), Ok(vec![host(1)]));

    let kept = path.with_extension("kept");
    fs::hard_link(&path, &kept).expect("the old file stays");
    fs::rename(&backup, &path).expect("the backup is put in place");
    let mut loaded = Vec::new();
    loads.load(&mut |_, host| loaded.push(host)).expect("a load");
    assert_eq!(loaded, [host(2)]);
    writer.upsert(&[status(2)]).expect("an upsert");
    polls.version().expect("a version");
    assert_eq!(polls.hosts(MODULE), Ok(vec![host(2)]));
    assert_holds(&path, &[host(2)], &[status(2)]);
    drop((polls, loads, writer));
    assert_holds(&path, &[host(2)], &[status(2)]);
    assert_holds(&kept, &[host(1)], &[status(1)]);
}

#[test]
fn a_file_that_is_gone_is_missed_by_readers_and_made_anew_by_who_writes_statistics() {
    let (_folder, [path, backup]) = two_files();
    let mut reader = open(&path, OpenMode::Existing);
    let mut writer = open(&path, OpenMode::Create);
    fs::rename(&path, path.with_extension("away")).expect("the file is moved away");
    let missing = reader.load(&mut |_, _| ()).expect_err("no file");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(matches!(writer.hosts(MODULE), Err(StoreError::Missing { .. })), "an empty file is no answer");
    assert!(!path.exists());

    fs::rename(path.with_extension("away"), &path).expect("it is moved back");
    assert_eq!(reader.hosts(MODULE), Ok(vec![host(1)]));
    writer.upsert(&[status(1)]).expect("an upsert");
    assert_eq!(reader.call_status(None), Ok(vec![status(1)]));

    fs::remove_file(&path).expect("the file is removed");
    writer.upsert(&[status(2)]).expect("an upsert");
    assert_holds(&path, &[], &[status(2)]);
    assert_eq!(reader.hosts(MODULE), Ok(vec![]));
    fs::rename(&backup, &path).expect("the backup is put in place");
    assert_eq!(reader.hosts(MODULE), Ok(vec![host(2)]));
}
