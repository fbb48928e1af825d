//! The reporter's face, on real sockets and an SQLite file.

mod rig;

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lars_proto::{HostAddr, ModuleId, frame::BODY_LEN_MAX, messages::HostCallResult};
use lars_reporter::{Drained, Reporter, ReporterConfig, StartError, core::coalescer::Limits};
use lars_store::{CallStatus, CallStatusKey, OpenMode, StoreUrl};
use lars_testkit::eventually;
use prost::Message;
use rig::{AgentLink, SqliteFile, assert_eventually_rows, config, framed, host, message, result, row, rows};

const MODULE: ModuleId = ModuleId::new(1, 1);

fn start(config: ReporterConfig) -> Reporter {
    Reporter::start(config).expect("the reporter starts")
}

fn with_limits(config: ReporterConfig, change: fn(&mut Limits)) -> ReporterConfig {
    let mut limits = config.limits;
    change(&mut limits);
    ReporterConfig { limits, ..config }
}

#[test]
fn what_agents_report_is_in_the_table() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let module = ModuleId::new(-1, i32::MIN);
    let high = HostAddr::v4(Ipv4Addr::BROADCAST, 65_535);
    let wire = high.to_wire();
    let overloaded =
        HostCallResult { ip: wire.ip, port: wire.port, succ: u32::MAX, err: u32::MAX, overload: true };
    AgentLink::to(&reporter).send(&message(module, 1_000, vec![result(host(1), 5), overloaded]));

    let key = CallStatusKey { module, host: high, caller: rig::CALLER };
    let overloaded = CallStatus { key, succ: u32::MAX, err: u32::MAX, ts: 1_000, overload: true };
    assert_eventually_rows(&file.url(), module, &[row(module, host(1), 1_000, 5), overloaded]);
    let stats = reporter.stats();
    assert_eq!((stats.requests, stats.results, stats.invalid_results, stats.busy), (1, 2, 0, 0));
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
}

#[test]
fn a_row_never_goes_back_in_time() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, 100, vec![result(host(1), 1)]));
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);

    agent.send(&message(MODULE, 99, vec![result(host(1), 2), result(host(2), 2)]));
    let (first, second) = (row(MODULE, host(1), 100, 1), row(MODULE, host(2), 99, 2));
    assert_eventually_rows(&file.url(), MODULE, &[first, second]);

    agent.send(&message(MODULE, 100, vec![result(host(1), 3)]));
    agent.send(&message(MODULE, 101, vec![result(host(2), 4)]));
    agent.send(&message(MODULE, 100, vec![result(host(2), 5)]));
    let (first, second) = (row(MODULE, host(1), 100, 3), row(MODULE, host(2), 101, 4));
    assert_eventually_rows(&file.url(), MODULE, &[first, second]);
}

#[test]
fn many_agents_report_on_many_modules() {
    const AGENTS: u16 = 40;
    const MODULES: u16 = 20;
    const HOSTS: u16 = 10;
    let file = SqliteFile::new();
    let reporter = start(ReporterConfig { shards: 2, ..config(file.url()) });
    let mut agents: Vec<_> = (0..AGENTS).map(|_| AgentLink::to(&reporter)).collect();
    for module in 0..MODULES {
        for (n, agent) in agents.iter_mut().enumerate() {
            let results = (0..HOSTS).map(|n| result(host(n), u32::from(module))).collect();
            let mut report = message(ModuleId::new(i32::from(module), -7), 50, results);
            report.caller = i32::try_from(n).expect("few agents");
            agent.send(&report);
        }
    }
    let expected = usize::from(AGENTS * MODULES * HOSTS);
    eventually("all rows are there", || rows(&file.url(), None).len() == expected);
    for row in rows(&file.url(), None) {
        assert_eq!((row.ts, row.key.module.cmdid), (50, -7));
        assert_eq!(row.succ.cast_signed(), row.key.module.modid);
    }
    let stats = reporter.stats();
    assert_eq!((stats.requests, stats.results), (u64::from(AGENTS * MODULES), expected as u64));
    assert!(stats.flushes < stats.rows_written, "rows are written together");
    eventually("each agent has a connection", || reporter.tcp_stats().open == u64::from(AGENTS));
    drop(agents);
    eventually("the connections are gone", || reporter.tcp_stats().open == 0);
}

#[test]
fn a_full_frame_is_taken_whole() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let mut report = message(MODULE, 100, Vec::new());
    for n in 0.. {
        report.results.push(result(host(n), 7));
        if report.encoded_len() > BODY_LEN_MAX {
            report.results.pop();
            break;
        }
    }
    AgentLink::to(&reporter).send(&report);
    let expected: Vec<_> = (0..report.results.len()).map(|n| row(MODULE, host(n as u16), 100, 7)).collect();
    assert!(expected.len() > 3_000);
    assert_eventually_rows(&file.url(), MODULE, &expected);
}

#[test]
fn malformed_input_costs_its_own_connection_only() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let mut healthy = AgentLink::to(&reporter);
    let header = |id: i32, len: i32| [id.to_le_bytes(), len.to_le_bytes()].concat();
    let not_protobuf = [header(3, 3), vec![0xff; 3]].concat();
    let malformed =
        [not_protobuf, header(3, -1), header(3, 65_528), header(1, 0), header(4, 0), header(99, 0)];
    for bytes in &malformed {
        AgentLink::to(&reporter).assert_closed_by(bytes);
    }
    healthy.send(&message(MODULE, 100, vec![result(host(1), 1)]));
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);
    eventually("each is counted", || reporter.tcp_stats().malformed == malformed.len() as u64);
    assert_eq!(reporter.stats().requests, 1);
}

#[test]
fn what_came_before_malformed_input_counts() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let good = framed(&message(MODULE, 100, vec![result(host(1), 1)]));
    AgentLink::to(&reporter).assert_closed_by(&[good, vec![0xff; 8]].concat());
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);
}

#[test]
fn an_empty_body_is_a_message_without_results() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let mut agent = AgentLink::to(&reporter);
    agent.send_bytes(&[3, 0, 0, 0, 0, 0, 0, 0]);
    agent.send(&message(MODULE, 100, vec![result(host(1), 1)]));
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);
    assert_eq!((reporter.stats().requests, reporter.stats().results), (2, 1));
}

#[test]
fn impossible_ports_are_left_out_and_counted() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let with_port = |port| HostCallResult { port, ..result(host(9), 1) };
    let results = vec![with_port(0), result(host(1), 1), with_port(-1), with_port(65_536)];
    AgentLink::to(&reporter).send(&message(MODULE, 100, results));
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);
    assert_eq!((reporter.stats().results, reporter.stats().invalid_results), (1, 3));
}

#[test]
fn a_wrong_clock_cannot_block_a_row() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, u32::MAX, vec![result(host(1), 1)]));
    agent.send(&message(MODULE, 0, vec![result(host(2), 1)]));
    eventually("both are there", || rows(&file.url(), Some(MODULE)).len() == 2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for row in rows(&file.url(), Some(MODULE)) {
        assert!((now - 120..=now + 60).contains(&row.ts), "{} is not about {now}", row.ts);
    }
    assert_eq!(reporter.stats().ts_corrected, 2);
}

/// A reporter that would wait for a minute before it writes.
fn patient(store: StoreUrl) -> ReporterConfig {
    with_limits(config(store), |limits| limits.flush_interval = Duration::from_secs(60))
}

#[test]
fn stopping_writes_what_is_held() {
    let file = SqliteFile::new();
    let reporter = start(patient(file.url()));
    let mut agent = AgentLink::to(&reporter);
    let results = (0..1_100).map(|n| result(host(n), 1)).collect();
    agent.send(&message(MODULE, 100, results));
    eventually("full batches are written, the rest is held", || {
        let stats = reporter.stats();
        (stats.rows_written, stats.pending_keys) == (1_000, 100)
    });
    assert_eq!(reporter.stop(), Drained { keys_lost: 0 });
    assert_eq!(rows(&file.url(), None).len(), 1_100);
    agent.assert_closed();
}

#[test]
fn dropping_writes_what_is_held_in_the_background() {
    let file = SqliteFile::new();
    let reporter = start(patient(file.url()));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, 100, vec![result(host(1), 1)]));
    eventually("the row is held", || reporter.stats().pending_keys == 1);
    drop(reporter);
    agent.assert_closed();
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(1), 100, 1)]);
}

#[test]
fn it_starts_without_a_database_and_writes_when_there_is_one() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url_that_is_away()));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, 100, vec![result(host(1), 1), result(host(2), 1)]));
    eventually("writing was tried more than once", || reporter.stats().flush_failures > 1);
    agent.send(&message(MODULE, 101, vec![result(host(2), 2)]));
    agent.send(&message(MODULE, 99, vec![result(host(1), 3)]));
    eventually("all is taken", || reporter.stats().results == 4);
    assert_eq!((reporter.stats().pending_keys, reporter.stats().rows_written), (2, 0));

    file.come_back();
    let expected = [row(MODULE, host(1), 100, 1), row(MODULE, host(2), 101, 2)];
    eventually("nothing is held", || reporter.stats().pending_keys == 0);
    assert_eq!(rows(&file.url_that_is_away(), None), expected);
}

#[test]
fn the_cap_drops_rows_of_new_keys_and_counts_them() {
    let file = SqliteFile::new();
    let away = file.url_that_is_away();
    let reporter = start(with_limits(config(away.clone()), |limits| limits.pending_keys_max = 10));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, 100, (0..15).map(|n| result(host(n), 1)).collect()));
    agent.send(&message(MODULE, 101, (0..3).map(|n| result(host(n), 2)).collect()));
    eventually("ten are held", || {
        let stats = reporter.stats();
        (stats.results, stats.queued_rows, stats.pending_keys, stats.dropped_at_cap) == (18, 0, 10, 5)
    });

    file.come_back();
    let newer = (0..3).map(|n| row(MODULE, host(n), 101, 2));
    let expected: Vec<_> = newer.chain((3..10).map(|n| row(MODULE, host(n), 100, 1))).collect();
    eventually("nothing is held", || reporter.stats().pending_keys == 0);
    assert_eq!(rows(&away, None), expected);
}

#[test]
fn stopping_without_a_database_ends_and_says_what_is_lost() {
    let file = SqliteFile::new();
    let drain_timeout = Duration::from_millis(50);
    let reporter = start(ReporterConfig { drain_timeout, ..config(file.url_that_is_away()) });
    AgentLink::to(&reporter).send(&message(MODULE, 100, (0..7).map(|n| result(host(n), 1)).collect()));
    eventually("all is held", || reporter.stats().pending_keys == 7);
    assert_eq!(reporter.stop(), Drained { keys_lost: 7 });
}

#[test]
fn while_a_writer_is_behind_agents_wait_and_nothing_is_lost() {
    let file = SqliteFile::new();
    // The file is made before it is locked.
    drop(lars_store::open(&file.url(), OpenMode::Create).expect("a new file"));
    let StoreUrl::Sqlite(path) = file.url() else { unreachable!("it is a file") };
    let lock = rusqlite::Connection::open(path).expect("the file");
    lock.execute_batch("BEGIN IMMEDIATE").expect("the write lock");

    let small = ReporterConfig { queue_rows: 16_381, ..config(file.url()) };
    let reporter = start(with_limits(small, |limits| limits.flush_rows = 10_000));
    let addr = reporter.local_addr();
    // Messages until one has to wait. Each is sent when the one before is taken: more than the kernel has room for
    // could not be sent at all.
    let mut agent = AgentLink::connect(addr);
    let mut sent = 0;
    while reporter.stats().busy == 0 {
        let results = (0..2_000).map(|n| result(host(n), 1)).collect();
        agent.send(&message(ModuleId::new(sent, 0), 100, results));
        sent += 1;
        eventually("the message is taken or has to wait", || {
            let stats = reporter.stats();
            stats.requests == sent as u64 || stats.busy > 0
        });
    }
    lock.execute_batch("ROLLBACK").expect("no write lock");
    eventually("all is taken and written", || {
        let stats = reporter.stats();
        (stats.requests, stats.queued_rows, stats.pending_keys) == (sent as u64, 0, 0)
    });
    assert_eq!(rows(&file.url(), None).len(), sent as usize * 2_000);
}

#[test]
fn a_second_copy_is_refused_and_touches_nothing() {
    let (first, second) = (SqliteFile::new(), SqliteFile::new());
    let reporter = start(config(first.url()));
    let server = rig::listening_on(reporter.local_addr());
    let error =
        Reporter::start(ReporterConfig { server, ..config(second.url()) }).expect_err("the address is taken");
    assert!(matches!(error, StartError::Listen(_)), "{error}");
    assert!(error.to_string().contains(&reporter.local_addr().to_string()), "{error}");
    let StoreUrl::Sqlite(path) = second.url() else { unreachable!("it is a file") };
    assert!(!path.exists());
}

#[test]
fn rows_that_are_too_old_are_deleted() {
    let file = SqliteFile::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let now = u32::try_from(now).expect("fits the wire");
    let day = Duration::from_secs(24 * 3600);
    let reporter = start(config(file.url()));
    let mut agent = AgentLink::to(&reporter);
    agent.send(&message(MODULE, now - 2 * 24 * 3600, vec![result(host(1), 1)]));
    agent.send(&message(MODULE, now, vec![result(host(2), 1)]));
    eventually("both are written", || reporter.stats().rows_written == 2);
    reporter.stop();

    // Right at its start it looks for them.
    let reporter = start(ReporterConfig { status_max_age: Some(day), ..config(file.url()) });
    assert_eventually_rows(&file.url(), MODULE, &[row(MODULE, host(2), now.into(), 1)]);
    eventually("it is counted", || reporter.stats().rows_expired == 1);
}

#[test]
fn two_agents_that_report_as_one_caller_are_noticed_and_one_that_comes_back_is_not() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    let report = |agent: &mut AgentLink| {
        let taken = reporter.stats().requests;
        agent.send(&message(MODULE, 100, vec![result(host(1), 1)]));
        eventually("it is taken", || reporter.stats().requests == taken + 1);
        reporter.stats().callers_shared
    };
    let (mut first, mut second) = (AgentLink::to(&reporter), AgentLink::to(&reporter));
    assert_eq!(report(&mut first), 0);
    assert_eq!(report(&mut second), 0, "the same agent, connected again");
    assert_eq!(report(&mut second), 0);
    eventually("the first one still speaks", || report(&mut first) == 1);
    eventually("and the second", || report(&mut second) == 2);
    drop(first);
    eventually("its end is noticed", || reporter.tcp_stats().open == 1);
    assert_eq!(report(&mut second), 2);
}

#[test]
fn everything_that_is_counted_has_a_name() {
    let file = SqliteFile::new();
    let reporter = start(config(file.url()));
    AgentLink::to(&reporter).send(&message(MODULE, 100, vec![result(host(1), 1)]));
    let value = |name: &str| {
        reporter.samples().into_iter().find(|sample| sample.name == name).map(|sample| sample.value)
    };
    eventually("rows", || value("rows_written") == Some(1));
    assert_eq!((value("requests"), value("accepted")), (Some(1), Some(1)));
}
