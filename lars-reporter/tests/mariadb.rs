//! The reporter on a real MariaDB server, also while that goes away.

mod rig;

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
    time::Duration,
};

use lars_proto::{HostAddr, ModuleId};
use lars_reporter::{Drained, Reporter, ReporterConfig};
use lars_store::{CallStatus, OpenMode, StoreUrl};
use lars_testkit::{Fault, MariaDb, Proxy, eventually};
use rig::{AgentLink, config, host, message, result, row, rows};

const MODULES: i32 = 16;
const HOSTS: u16 = 50;

fn start(store: &StoreUrl) -> Reporter {
    let config = ReporterConfig { writers: 4, shards: 2, ..config(store.clone()) };
    Reporter::start(config).expect("the reporter starts")
}

fn url(text: &str) -> StoreUrl {
    text.parse().expect("a URL")
}

/// Reports on every host of every module, with `ts` for the count of successes.
fn report_all(agent: &mut AgentLink, ts: u32) {
    for modid in 0..MODULES {
        let results = (0..HOSTS).map(|n| result(host(n), ts)).collect();
        agent.send(&message(ModuleId::new(modid, -1), ts, results));
    }
}

/// The table after [`report_all`].
fn all_rows(ts: u32) -> Vec<CallStatus> {
    let modules = (0..MODULES).map(|modid| ModuleId::new(modid, -1));
    modules.flat_map(|module| (0..HOSTS).map(move |n| row(module, host(n), ts.into(), ts))).collect()
}

fn assert_all_written(reporter: &Reporter, store: &StoreUrl, ts: u32) {
    eventually("all is written", || rows(store, None) == all_rows(ts));
    eventually("nothing is held", || reporter.stats().pending_keys == 0);
    assert_eq!((reporter.stats().dropped_at_cap, reporter.tcp_stats().malformed), (0, 0));
}

#[test]
fn rows_arrive_by_several_writers() {
    let store = url(&MariaDb::shared().url("several_writers"));
    let reporter = start(&store);
    let mut agent = AgentLink::to(&reporter);
    report_all(&mut agent, 100);
    assert_all_written(&reporter, &store, 100);
    report_all(&mut agent, 99);
    report_all(&mut agent, 101);
    assert_all_written(&reporter, &store, 101);
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn what_was_accepted_survives_a_crash_of_the_server() {
    let mut server = MariaDb::start();
    let store = url(&server.url("crash"));
    let reporter = start(&store);
    let mut agent = AgentLink::to(&reporter);
    let mut ts = 100;
    let mut report_until = |what: &str, done: &dyn Fn() -> bool| {
        eventually(what, || {
            ts += 1;
            report_all(&mut agent, ts);
            done()
        });
        ts
    };
    report_until("rows are written", &|| reporter.stats().rows_written > 0);
    server.kill9();
    report_until("writing fails again and again", &|| reporter.stats().flush_failures > 8);
    let written = reporter.stats().rows_written;
    server.restart();
    let newest = report_until("rows are written again", &|| reporter.stats().rows_written > written);
    assert_all_written(&reporter, &store, newest);
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn rows_that_a_table_does_not_take_hold_up_no_others() {
    let server = MariaDb::shared();
    let store = url(&server.url("signed"));
    drop(lars_store::open(&store, OpenMode::Create).expect("the tables are made"));
    server.execute(
        "signed",
        "ALTER TABLE ServerCallStatus MODIFY ip INT NOT NULL, MODIFY caller BIGINT NOT NULL",
    );
    let reporter = start(&store);
    let high = |n: u8| HostAddr::v4(Ipv4Addr::new(192, 168, 0, n), 80);
    let module = ModuleId::new(1, 1);
    let mut results: Vec<_> = (0..HOSTS).map(|n| result(host(n), 1)).collect();
    results.insert(10, result(high(1), 1));
    results.push(result(high(2), 1));
    AgentLink::to(&reporter).send(&message(module, 100, results));
    eventually("all others are written", || rows(&store, None).len() == usize::from(HOSTS));
    eventually("nothing is held", || reporter.stats().pending_keys == 0);
    let stats = reporter.stats();
    assert_eq!((stats.dropped_refused, stats.flush_failures), (2, 0));
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn a_table_that_another_session_locks_stops_no_intake() {
    const LOCKED_S: u32 = 2;
    let server = MariaDb::shared();
    let store = url(&server.url("locked"));
    drop(lars_store::open(&store, OpenMode::Create).expect("the tables are made"));
    let reporter = start(&store);
    let mut agent = AgentLink::to(&reporter);
    let mut ts = 100;
    thread::scope(|scope| {
        let lock = format!("LOCK TABLES ServerCallStatus WRITE; SELECT SLEEP({LOCKED_S})");
        let locking = scope.spawn(move || server.execute("locked", &lock));
        while !locking.is_finished() {
            ts += 1;
            report_all(&mut agent, ts);
            let sent = u64::from(ts - 100) * all_rows(ts).len() as u64;
            eventually("it is taken", || reporter.stats().results == sent);
        }
    });
    assert_all_written(&reporter, &store, ts);
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn a_database_that_is_dropped_and_made_anew_gets_what_was_kept() {
    let server = MariaDb::shared();
    let store = url(&server.url("dropped"));
    let reporter = start(&store);
    let mut agent = AgentLink::to(&reporter);
    report_all(&mut agent, 100);
    assert_all_written(&reporter, &store, 100);
    server.execute("", "DROP DATABASE dropped");
    report_all(&mut agent, 101);
    eventually("it is noticed", || reporter.stats().flush_failures > 2);
    server.execute("", "CREATE DATABASE dropped");
    assert_all_written(&reporter, &store, 101);
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn a_server_that_hangs_up_in_the_middle_loses_nothing() {
    let server = MariaDb::shared();
    let proxy = Proxy::start(server.addr());
    let store = url(&server.url("hang_up"));
    let reporter = start(&url(&server.url_at(proxy.addr(), "hang_up")));
    let mut agent = AgentLink::to(&reporter);
    for ts in 101..=105 {
        // Somewhere in a transaction, or between two of them.
        report_all(&mut agent, ts);
        proxy.set(Fault::Refuse);
        proxy.cut_all();
        let before = reporter.stats();
        eventually("a write fails", || {
            report_all(&mut agent, ts);
            reporter.stats().flush_failures > before.flush_failures
        });
        proxy.set(Fault::Pass);
        eventually("rows are written again", || {
            report_all(&mut agent, ts);
            reporter.stats().flushes > before.flushes
        });
    }
    assert_all_written(&reporter, &store, 105);
}

#[test]
fn a_server_that_says_nothing_keeps_nobody_from_stopping() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let drain_timeout = Duration::from_millis(50);
    let store = url(&format!("mysql://lars@{addr}/lars"));
    let reporter =
        Reporter::start(ReporterConfig { writers: 1, drain_timeout, ..config(store) }).expect("it starts");
    let _silent = listener.accept().expect("the writer connects");
    AgentLink::to(&reporter).send(&message(ModuleId::new(1, 1), 1, vec![result(host(1), 1)]));
    eventually("the row is queued", || reporter.stats().results == 1);
    let stopping = thread::spawn(move || reporter.stop());
    eventually("it has stopped, whatever the server does", || stopping.is_finished());
}

#[test]
fn it_starts_while_the_server_refuses_and_stops_in_time() {
    let server = MariaDb::shared();
    let proxy = Proxy::start(server.addr());
    proxy.set(Fault::Refuse);
    let store = url(&server.url_at(proxy.addr(), "refused"));
    let drain_timeout = Duration::from_millis(50);
    let config = ReporterConfig { writers: 2, drain_timeout, ..config(store) };
    let reporter = Reporter::start(config).expect("a database that is away is no reason not to start");
    AgentLink::to(&reporter).send(&message(ModuleId::new(1, 1), 1, vec![result(host(1), 1)]));
    eventually("the row is held", || reporter.stats().pending_keys == 1);
    assert_eq!(reporter.stop(), Drained { keys_lost: 1 });
}

/// Rows of module 2 are what the table does not take.
fn drops_what_is_refused(database: &str, refusal: &str) {
    let server = MariaDb::shared();
    let store = url(&server.url(database));
    drop(lars_store::open(&store, OpenMode::Create).expect("the tables are made"));
    server.execute(database, refusal);
    let reporter =
        Reporter::start(ReporterConfig { writers: 1, ..config(store.clone()) }).expect("it starts");
    let mut agent = AgentLink::to(&reporter);
    for modid in 1..=4 {
        let results = (0..HOSTS).map(|n| result(host(n), 1)).collect();
        agent.send(&message(ModuleId::new(modid, 1), 100, results));
    }
    eventually("all others are written", || rows(&store, None).len() == 3 * usize::from(HOSTS));
    eventually("nothing is held", || {
        let stats = reporter.stats();
        (stats.results, stats.queued_rows, stats.pending_keys) == (4 * u64::from(HOSTS), 0, 0)
    });
    assert_eq!(reporter.stats().dropped_refused, u64::from(HOSTS));
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn a_row_that_no_partition_takes_holds_up_no_others() {
    drops_what_is_refused(
        "partitions",
        "ALTER TABLE ServerCallStatus PARTITION BY LIST (modid) (PARTITION some VALUES IN (1, 3, 4))",
    );
}

#[test]
fn a_refusal_that_nobody_knows_holds_up_no_others() {
    drops_what_is_refused(
        "unknown_refusal",
        "DELIMITER //
         CREATE TRIGGER refusal BEFORE INSERT ON ServerCallStatus FOR EACH ROW
         IF NEW.modid = 2 THEN
             SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1005, MESSAGE_TEXT = 'whatever it is';
         END IF//",
    );
}
