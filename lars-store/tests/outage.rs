//! A server that goes away and comes back, seen by a store that stays.

use std::{net::TcpListener, thread};

use lars_proto::{HostAddr, ModuleId};
use lars_store::{
    LoadReport, OpenMode,
    RouteEdit::{Add, Remove},
    Store, StoreError,
};
use lars_testkit::{Fault, MariaDb, Proxy, eventually, eventually_some, reserved_addr};

const MODULE: ModuleId = ModuleId::new(1, 1);

fn host() -> HostAddr {
    "10.0.0.1:80".parse().expect("a host")
}

/// The error of each operation.
fn errors(store: &mut dyn Store) -> Vec<StoreError> {
    [
        store.version().err(),
        store.load(&mut |_, _| ()).err(),
        store.hosts(MODULE).err(),
        store.changes(0, 1).err(),
        store.newest_change_id().err(),
        store.edit(&[Add(MODULE, host())]).err(),
        store.prune_changes(std::time::Duration::ZERO, std::time::SystemTime::UNIX_EPOCH).err(),
        store.upsert(&[]).err(),
        store.call_status(None).err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The first value that comes; until then every error must be one that asks to try again.
fn when_back<T>(mut call: impl FnMut() -> Result<T, StoreError>) -> T {
    eventually_some("the store works again", || match call() {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            None
        }
    })
}

#[test]
fn a_killed_server_comes_back() {
    let mut server = MariaDb::start();
    let mut store = lars_store::open(&server.url("lars").parse().expect("a URL"), OpenMode::Create)
        .expect("the store opens");
    let version = store.edit(&[Add(MODULE, host())]).expect("an edit").version;

    server.kill9();
    let failures = errors(&mut *store);
    assert_eq!(failures.len(), 9, "{failures:?}");
    assert!(failures.iter().all(StoreError::is_retryable), "{failures:?}");
    assert!(failures[0].to_string().contains("127.0.0.1"), "{} names the server", failures[0]);

    server.restart();
    assert_eq!(Some(when_back(|| store.version())), version);
    assert_eq!(store.hosts(MODULE), Ok(vec![host()]));
    assert_eq!(errors(&mut *store), []);
}

#[test]
fn a_cut_connection_is_made_again() {
    let server = MariaDb::shared();
    let proxy = Proxy::start(server.addr());
    let url = server.url_at(proxy.addr(), "cut").parse().expect("a URL");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    store.edit(&[Add(MODULE, host())]).expect("an edit");

    proxy.cut_all();
    let error = store.edit(&[Remove(MODULE, host())]).expect_err("a cut connection");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(store.hosts(MODULE), Ok(vec![host()]), "nothing of the edit is there");

    proxy.set(Fault::Refuse);
    proxy.cut_all();
    assert!(errors(&mut *store).iter().all(StoreError::is_retryable));
    proxy.set(Fault::Pass);
    assert_eq!(when_back(|| store.edit(&[Remove(MODULE, host())])).removed, 1);
}

#[test]
fn a_cut_load_is_an_error_and_not_a_short_table() {
    let server = MariaDb::shared();
    let proxy = Proxy::start(server.addr());
    let url = server.url_at(proxy.addr(), "cut_load").parse().expect("a URL");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    server.execute(
        "cut_load",
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport)
         SELECT 1, 1, seq, 80 FROM seq_1_to_1000000",
    );
    // Some 22 MB in all.
    proxy.set(Fault::CutAfter(1_000_000));
    let error = store.load(&mut |_, _| ()).expect_err("an error");
    assert!(error.is_retryable(), "{error}");
    proxy.set(Fault::Pass);
    assert_eq!(store.load(&mut |_, _| ()), Ok(LoadReport { rows: 1_000_000, skipped: 0 }));
}

#[test]
fn nobody_listens() {
    let addr = reserved_addr();
    let url = format!("mysql://lars:secret@{addr}/lars").parse().expect("a URL");
    let error = lars_store::open(&url, OpenMode::Create).map(drop).expect_err("nobody listens");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let url = format!("mysql://lars@{addr}/lars").parse().expect("a URL");
    let opening = thread::spawn(move || lars_store::open(&url, OpenMode::Create).map(drop));
    let _silent = listener.accept().expect("the store connects");
    eventually("it is given up", || opening.is_finished());
    let error = opening.join().expect("no panic").expect_err("no answer");
    assert!(error.is_retryable(), "{error}");
}

#[test]
fn a_wrong_password_is_not_tried_again() {
    let url = MariaDb::shared().url("password").replacen("p%40ss", "wrong", 1);
    let error =
        lars_store::open(&url.parse().expect("a URL"), OpenMode::Create).map(drop).expect_err("a refusal");
    assert!(!error.is_retryable(), "{error}");
    assert!(error.to_string().contains("Access denied") && !error.to_string().contains("wrong"), "{error}");
}

#[test]
fn a_silent_server_is_not_waited_for() {
    let server = MariaDb::shared();
    let proxy = Proxy::start(server.addr());
    let url = server.url_at(proxy.addr(), "silent").parse().expect("a URL");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    store.edit(&[Add(MODULE, host())]).expect("an edit");

    proxy.set(Fault::Blackhole);
    let error = store.edit(&[Remove(MODULE, host())]).expect_err("no answer");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().ends_with("no answer in time"), "{error}");
    proxy.set(Fault::Pass);
    assert_eq!(when_back(|| store.edit(&[Remove(MODULE, host())])).removed, 1);
}

#[test]
fn a_connection_is_not_used_again_after_an_error_that_nobody_knows() {
    const UNKNOWN: u16 = 1005;
    let server = MariaDb::shared();
    let url = server.url("unknown").parse().expect("a URL");
    let mut store = lars_store::open(&url, OpenMode::Create).expect("the store opens");
    let connection = || {
        let ids =
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = 'unknown' AND ID <> CONNECTION_ID()";
        server.query("", ids).trim().to_owned()
    };
    store.edit(&[Add(MODULE, host())]).expect("an edit");
    let first = connection();
    server.execute(
        "unknown",
        &format!(
            "CREATE TRIGGER refusal BEFORE INSERT ON RouteData FOR EACH ROW
             SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {UNKNOWN}, MESSAGE_TEXT = 'whatever it is'"
        ),
    );
    let other = "10.0.0.2:80".parse().expect("a host");
    let error = store.edit(&[Add(MODULE, other)]).expect_err("a refusal");
    assert!(matches!(&error, StoreError::Refused { problem, .. } if problem.contains("whatever")), "{error}");
    assert_eq!(store.hosts(MODULE), Ok(vec![host()]));
    eventually("another connection is used", || ![String::new(), first.clone()].contains(&connection()));

    server.execute("unknown", "DROP TRIGGER refusal");
    server.execute("unknown", "ALTER TABLE RouteData ADD CONSTRAINT refusal CHECK (serverip <> 0x0a000002)");
    let second = connection();
    let refused = store.edit(&[Add(MODULE, other)]).expect_err("a refusal");
    assert!(matches!(refused, StoreError::RowRefused { .. }), "{refused}");
    store.version().expect("a version");
    assert_eq!(connection(), second, "that says nothing about the connection");
}
