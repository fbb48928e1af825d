//! SQL goes away and comes back.

use std::{
    net::{TcpListener, TcpStream},
    thread,
};

use lars_dns::{Dns, StartError, run};
use lars_proto::HostAddr;
use lars_service::Shutdown;
use lars_store::StoreUrl;
use lars_testkit::{MariaDb, eventually};

use crate::{
    database::{Database, Maria, Sqlite, config, host, module, start, without_full_reload},
    peer::Peer,
};

#[test]
fn a_crash_of_the_database_goes_unnoticed_and_changes_are_pushed_after_it() {
    let mut server = MariaDb::start();
    Maria::new(&server, "lars").add(module(1), host(1));
    let dns = start(without_full_reload(Maria::new(&server, "lars").url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);

    server.kill9();
    eventually("it is noticed", || dns.stats().store_errors >= 2);
    assert_eq!(peer.query(module(1)), [host(1)]);
    assert_eq!(Peer::connect(&dns).query(module(1)), [host(1)]);

    server.restart();
    Maria::new(&server, "lars").add(module(1), host(2));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    Maria::new(&server, "lars").remove(module(1), host(1));
    assert_eq!(peer.next_route(), (module(1), vec![host(2)]));
    dns.stop();
}

#[test]
fn a_database_that_is_dropped_leaves_the_routes_and_is_found_when_it_is_back() {
    let server = MariaDb::shared();
    let database = Maria::new(server, "dropped");
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);

    server.execute("", "DROP DATABASE dropped");
    eventually("it is noticed", || dns.stats().store_errors >= 2);
    server.execute("", "CREATE DATABASE dropped");
    let errors = dns.stats().store_errors;
    eventually("tables are missed", || dns.stats().store_errors >= errors + 2);
    assert_eq!(peer.query(module(1)), [host(1)], "a table that is not there is not an empty one");

    // As from a dump: all at once.
    let copy = Maria::new(server, "dropped_copy");
    copy.add(module(1), host(2));
    let tables = ["RouteData", "RouteChange", "RouteVersion"];
    let moves = tables.map(|table| format!("dropped_copy.{table} TO dropped.{table}")).join(", ");
    server.execute("", &format!("RENAME TABLE {moves}"));
    assert_eq!(peer.next_route(), (module(1), vec![host(2)]));
    dns.stop();
}

#[test]
fn an_account_that_is_locked_out_leaves_the_routes_and_is_heard_again() {
    let server = MariaDb::start();
    let database = Maria::new(&server, "lars");
    database.add(module(1), host(1));
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);

    server.execute("", "ALTER USER lars@'%' ACCOUNT LOCK; KILL USER lars");
    let errors = dns.stats().store_errors;
    eventually("it is refused again and again", || dns.stats().store_errors >= errors + 3);
    assert_eq!(peer.query(module(1)), [host(1)]);
    database.execute("UPDATE RouteData SET serverport = 7778");
    server.execute("", "ALTER USER lars@'%' ACCOUNT UNLOCK");
    assert_eq!(peer.next_route().0, module(1));
    dns.stop();
}

#[test]
fn a_table_that_another_session_locks_stops_no_lookups() {
    let server = MariaDb::shared();
    let database = Maria::new(server, "locked");
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    thread::scope(|scope| {
        let locking = scope.spawn(|| {
            database.execute(
                "LOCK TABLES RouteData WRITE, RouteChange WRITE, RouteVersion WRITE;
                 UPDATE RouteData SET serverport = 7778;
                 SELECT SLEEP(2)",
            );
        });
        while !locking.is_finished() {
            peer.query_any(module(1));
        }
    });
    let port = |hosts: &[HostAddr]| hosts[0].to_unsigned().1;
    eventually("the change is seen", || port(&peer.query_any(module(1))) == 7778);
    dns.stop();
}

#[test]
fn a_database_that_is_away_at_the_start_is_waited_for() {
    let mut server = MariaDb::start();
    let database = Maria::new(&server, "lars");
    database.add(module(1), host(1));
    let StoreUrl::Mysql(url) = database.url() else { panic!("MariaDB has a MySQL URL") };
    server.kill9();

    let out_of_order = TcpListener::bind(("127.0.0.1", url.port)).expect("the port is free");
    let starting = thread::spawn(move || Dns::start(config(StoreUrl::Mysql(url))));
    hang_up_twice(&out_of_order);
    assert!(!starting.is_finished(), "it gave up");
    drop(out_of_order);

    server.restart();
    let dns = starting.join().expect("no panic").expect("lars-dns starts");
    assert!(dns.stats().store_errors >= 1);
    assert_eq!(Peer::connect(&dns).query(module(1)), [host(1)]);
    dns.stop();
}

/// The second connection tells that the first was not the last.
fn hang_up_twice(listener: &TcpListener) {
    (0..2).for_each(|_| drop(listener.accept().expect("somebody connects")));
}

/// Whoever connects is cut off, or hears nothing: either way the end does not wait for the database.
#[test]
fn ends_while_it_waits_for_a_database() {
    let hears_nothing = |listener: &TcpListener| listener.accept().map(|(stream, _)| stream).ok();
    let is_cut_off = |listener: &TcpListener| {
        hang_up_twice(listener);
        None
    };
    check_end_of_wait(hears_nothing);
    check_end_of_wait(is_cut_off);
}

fn check_end_of_wait(serve: impl FnOnce(&TcpListener) -> Option<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let url: StoreUrl = format!("mysql://lars@127.0.0.1:{port}/lars").parse().expect("a URL");
    let shutdown = Shutdown::new();
    let running = thread::spawn({
        let shutdown = shutdown.clone();
        move || run(config(url), &shutdown)
    });
    let held_open = serve(&listener);
    assert!(!running.is_finished(), "it waits");
    shutdown.trigger();
    eventually("it has ended", || running.is_finished());
    running.join().expect("no panic").expect("to be told to end is no error");
    drop(held_open);
}

#[test]
fn a_file_that_is_no_database_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lars.db");
    std::fs::write(&file, "a shopping list, which is not what SQLite writes".repeat(100))
        .expect("it is written");
    let error = Dns::start(config(StoreUrl::Sqlite(file))).expect_err("it is no database");
    assert!(matches!(error, StartError::Store(_)), "{error}");
    assert!(error.to_string().contains("lars.db"), "{error}");
}

#[test]
fn a_wrong_password_is_an_error() {
    let StoreUrl::Mysql(mut url) = Maria::new(MariaDb::shared(), "locked_up").url() else {
        panic!("a MySQL URL")
    };
    url.password = Some("guessed".to_owned());
    let error = Dns::start(config(StoreUrl::Mysql(url))).expect_err("access is denied");
    assert!(matches!(error, StartError::Store(_)), "{error}");
}

/// Only the large statement takes longer than the server allows: what polls read is a few rows.
#[test]
fn a_table_that_cannot_be_loaded_in_time_stops_no_changes() {
    let server = MariaDb::start();
    let database = Maria::new(&server, "lars");
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);

    // Each row of an answer takes its time: all of them longer than a statement may, those of one module not.
    server.execute("", "SET GLOBAL max_statement_time = 1");
    database.execute(
        "RENAME TABLE RouteData TO StoredRoutes;
         INSERT INTO StoredRoutes (modid, cmdid, serverip, serverport) SELECT 2, seq, 1, 1 FROM seq_1_to_100;
         CREATE FUNCTION slowly(x INT UNSIGNED) RETURNS INT UNSIGNED RETURN x + SLEEP(0.05);
         CREATE VIEW RouteData AS
             SELECT id, modid, cmdid, slowly(serverip) AS serverip, serverport FROM StoredRoutes",
    );
    let errors = dns.stats().store_errors;
    eventually("loads fail again and again", || dns.stats().store_errors >= errors + 2);
    for n in 2..5 {
        database.execute(&format!(
            "INSERT INTO StoredRoutes (modid, cmdid, serverip, serverport) VALUES (1, 1, {}, 7777);
             INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 1, {n});
             UPDATE RouteVersion SET version = {n} WHERE id = 1",
            0x0a00_0000 + u32::from(n),
        ));
        peer.wait_for(module(1), &(1..=n).map(host).collect::<Vec<_>>());
    }
    let reloads = dns.stats().full_reloads;
    server.execute("", "SET GLOBAL max_statement_time = 0");
    eventually("everything is loaded again", || dns.stats().full_reloads > reloads);
    dns.stop();
}

/// As `mv backup lars.db` does it.
#[test]
fn a_file_that_is_replaced_is_followed() {
    let (database, backup) = (Sqlite::new(), Sqlite::new());
    database.add(module(1), host(1));
    backup.add(module(1), host(2));
    backup.execute("PRAGMA journal_mode = DELETE");
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);

    let (StoreUrl::Sqlite(from), StoreUrl::Sqlite(to)) = (backup.url(), database.url()) else {
        panic!("files")
    };
    std::fs::rename(from, to).expect("the same file system");
    assert_eq!(peer.next_route(), (module(1), vec![host(2)]));
    database.add(module(1), host(3));
    assert_eq!(peer.next_route(), (module(1), vec![host(2), host(3)]));
    dns.stop();
}
