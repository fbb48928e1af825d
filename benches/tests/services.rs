//! The loads of the services, against the services: small, and everything accounted for.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use lars_agent::{Agent, AgentConfig};
use lars_benches::load::Measurement;
use lars_dns::{Dns, DnsConfig};
use lars_proto::{HostAddr, ModuleId};
use lars_reporter::{Reporter, ReporterConfig};
use lars_store::{OpenMode, RouteEdit, Store, StoreUrl};
use lars_testkit::{MariaDb, eventually};
use tempfile::TempDir;

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A database in a folder of its own.
struct Database {
    _folder: TempDir,
    url: String,
}

impl Database {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("lars.db").display());
        Self { _folder: folder, url }
    }

    fn url(&self) -> StoreUrl {
        self.url.parse().expect("a URL")
    }

    fn open(&self) -> Box<dyn Store> {
        lars_store::open(&self.url(), OpenMode::Create).expect("it opens")
    }

    /// Modules 1/1 to `modules`/1, each with `hosts`.
    fn add(&self, modules: i32, hosts: u16) {
        let host = |n| HostAddr::v4(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8), 8_000);
        let route = |modid| RouteEdit::Replace(ModuleId::new(modid, 1), (1..=hosts).map(host).collect());
        self.open().edit(&(1..=modules).map(route).collect::<Vec<_>>()).expect("it is accepted");
    }

    fn dns(&self) -> Dns {
        let mut config = DnsConfig { store: self.url(), shards: 1, ..DnsConfig::default() };
        config.server.listen = ANY_PORT.into();
        Dns::start(config).expect("lars-dns starts")
    }
}

fn reporter(store: StoreUrl) -> Reporter {
    let mut config = ReporterConfig { store, ..ReporterConfig::default() };
    config.server.listen = ANY_PORT.into();
    Reporter::start(config).expect("lars-reporter starts")
}

fn agent(dns: &Dns, reporter: &Reporter) -> (Agent, SocketAddr) {
    let mut config = AgentConfig {
        dns_servers: vec![dns.local_addr().to_string()],
        reporter_servers: vec![reporter.local_addr().to_string()],
        ..AgentConfig::default()
    };
    (config.api.base_port, config.api.shards) = (0, 1);
    let agent = Agent::start(config).expect("lars-agent starts");
    let addr = agent.local_addrs()[0];
    (agent, addr)
}

/// `lars-bench load`, in a process of its own as `compare` runs it.
fn load(flags: &str) -> Measurement {
    let output = Command::new(env!("CARGO_BIN_EXE_lars-bench"))
        .arg("load")
        .args(flags.split(' '))
        .args(["--timeout", "30", "--json", "--label", "test"])
        .output()
        .expect("lars-bench starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

/// Everything that was asked has been answered, and nothing else.
fn check(flags: &str) -> Measurement {
    let measurement = load(&format!("{flags} --seconds 0.2 --warmup 0.05"));
    let counts = &measurement.counts;
    assert!(counts.requests > 0, "{flags}: {measurement:?}");
    assert_eq!(counts.requests, counts.replies, "{flags}: {measurement:?}");
    assert_eq!((counts.lost, counts.stale, counts.refusals), (0, 0, 0), "{flags}: {measurement:?}");
    measurement
}

#[test]
fn an_agent_is_asked_for_hosts_and_routes_and_told_of_calls() {
    let database = Database::new();
    database.add(3, 2_000);
    let (dns, reporter) = (database.dns(), reporter(database.url()));
    let (agent, addr) = agent(&dns, &reporter);
    eventually("the agent knows the modules", || {
        let ask = format!("udp-get-host --agent {addr} --shards 1 --module 1..3/1 --sockets 3");
        load(&format!("{ask} --seconds 0.02 --warmup 0")).counts.refusals == 0
    });
    for io in ["ring", "epoll"] {
        check(&format!("udp-get-route --agent {addr} --shards 1 --module 1..3/1 --sockets 3 --io {io}"));
        check(&format!("udp-get-route --agent {addr} --shards 1 --sockets 1 --in-flight 4 --io {io}"));
        let reported =
            check(&format!("udp-get-host --agent {addr} --shards 1 --sockets 4 --report --io {io}"));
        assert_eq!(reported.counts.reports, reported.counts.replies);
    }
    agent.stop();
    reporter.stop();
    dns.stop();
}

#[test]
fn routes_are_queried_over_tcp() {
    let database = Database::new();
    database.add(50, 3);
    let dns = database.dns();
    let addr = dns.local_addr();
    for flags in ["--connections 10", "--connections 3 --in-flight 20", "--connections 2 --rate 2000"] {
        for io in ["ring", "epoll"] {
            check(&format!("dns-query --dns {addr} --module 1..50/1 {flags} --io {io}"));
        }
    }
    let unknown = load(&format!("dns-query --dns {addr} --module 99/1 --seconds 0.05 --warmup 0"));
    assert_eq!(unknown.counts.refusals, unknown.counts.replies);
    dns.stop();
}

#[test]
fn every_subscriber_has_every_change() {
    let database = Database::new();
    database.add(1, 2);
    let dns = database.dns();
    for io in ["ring", "epoll"] {
        let (addr, url) = (dns.local_addr(), &database.url);
        let flags =
            format!("dns-subscribe --dns {addr} --store {url} --connections 200 --changes 2 --io {io}");
        let measurement = load(&flags);
        assert_eq!((measurement.completed, measurement.counts.lost), (400, 0), "{measurement:?}");
        let pushes = measurement.pushes.expect("pushes");
        assert_eq!(pushes.subscribers, 200);
        assert!(pushes.to_first_ms.max <= pushes.to_last_ms.max, "{pushes:?}");
    }
    dns.stop();
}

#[test]
fn more_subscribers_than_files_may_be_open_are_refused_with_the_number_needed() {
    let database = Database::new();
    let flags = ["load", "dns-subscribe", "--connections", "9000000000", "--store", &database.url];
    let output =
        Command::new(env!("CARGO_BIN_EXE_lars-bench")).args(flags).output().expect("lars-bench starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("9000000064 are needed"), "{errors}");
}

/// As much as it takes, then each row once until it is stored.
fn report_to(url: &str) {
    let reporter = reporter(url.parse().expect("a URL"));
    let addr = reporter.local_addr();
    let flood = load(&format!(
        "reporter-ingest --reporter {addr} --connections 2 --modules 20 --seconds 1 --warmup 0.05"
    ));
    assert!(flood.completed > 0, "{flood:?}");
    let shape = "--connections 3 --modules 20 --hosts 7";
    let measurement = load(&format!("reporter-ingest --reporter {addr} {shape} --store {url}"));
    assert_eq!((measurement.completed, measurement.counts.lost), (420, 0), "{measurement:?}");
    assert_eq!(measurement.stored.expect("rows were waited for").rows, 420);
    reporter.stop();
    let single = load(&format!("sql-upserts --store {url} --seconds 0.1 --warmup 0"));
    assert!(single.counts.replies > 0, "{single:?}");
}

#[test]
fn statistics_are_taken_and_stored_in_sqlite() {
    report_to(&Database::new().url);
}

#[test]
fn statistics_are_taken_and_stored_in_mariadb() {
    report_to(&MariaDb::shared().url("lars_bench_ingest"));
}
