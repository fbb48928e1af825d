//! The program as `compare` uses it, against echoes and the services: small, and everything accounted for.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
};

use lars_agent::{Agent, AgentConfig};
use lars_benches::{load::Measurement, scale::fleet::Site};
use lars_dns::{Dns, DnsConfig};
use lars_reporter::{Reporter, ReporterConfig};
use lars_store::StoreUrl;
use lars_testkit::{MariaDb, eventually, reserved_addr};

const LARS_BENCH: &str = env!("CARGO_BIN_EXE_lars-bench");

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A database with so many modules and hosts of each, and what serves it.
fn dns(modules: usize, hosts: usize) -> (Site, Dns) {
    let mut site = Site::new().expect("a database");
    site.grow(modules, hosts).expect("it is accepted");
    let mut config = DnsConfig { store: site.store_url(), shards: 1, ..DnsConfig::default() };
    config.server.listen = ANY_PORT.into();
    (site, Dns::start(config).expect("lars-dns starts"))
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

/// A server in a process of its own, ended when it is dropped.
struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(flags: &str) -> Self {
        let mut process = Command::new(LARS_BENCH)
            .arg("serve")
            .args(flags.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .expect("lars-bench starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let addr = line.trim().strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
        Self { process, addr: addr.expect("an address") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `lars-bench load`, in a process of its own as `compare` runs it.
fn load(flags: &str) -> Measurement {
    let output = Command::new(LARS_BENCH)
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
fn every_reply_of_a_udp_echo_is_counted() {
    for kind in ["recvfrom", "mmsg"] {
        let server = Server::start(&format!("udp-echo --kind {kind}"));
        for shape in ["--sockets 16", "--sockets 2 --in-flight 70", "--sockets 2 --in-flight 70 --gather 50"]
        {
            let flags = format!("udp-get-host --agent {} --shards 1 {shape}", server.addr);
            check(&flags);
        }
    }
}

#[test]
fn every_frame_of_a_tcp_echo_is_counted() {
    for kind in ["epoll", "tokio", "monoio", "glommio", "uring", "lars", "lars-stream"] {
        let server = Server::start(&format!("tcp-echo --kind {kind}"));
        for shape in
            ["--connections 10", "--connections 10 --gather 50", "--connections 3 --in-flight 50 --body 3000"]
        {
            let flags = format!("tcp-echo --connect {} {shape}", server.addr);
            check(&flags);
        }
    }
}

#[test]
fn nobody_at_the_other_end_is_an_error_that_says_so() {
    let free = reserved_addr();
    for flags in [format!("tcp-echo --connect {free}"), format!("udp-get-host --agent {free} --shards 1")] {
        let output = Command::new(LARS_BENCH).arg("load").args(flags.split(' ')).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{flags}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(&format!("nobody listens at {free}")), "{flags}: {errors}");
    }
}

#[test]
fn an_agent_is_asked_for_hosts_and_routes_and_told_of_calls() {
    let (site, dns) = dns(3, 2_000);
    let reporter = reporter(site.store_url());
    let (agent, addr) = agent(&dns, &reporter);
    eventually("the agent knows the modules", || {
        let ask = format!(
            "udp-get-host --agent {addr} --shards 1 --module 1/1 --module 1/2 --module 1/3 --sockets 3"
        );
        load(&format!("{ask} --seconds 0.02 --warmup 0")).counts.refusals == 0
    });
    check(&format!(
        "udp-get-route --agent {addr} --shards 1 --module 1/1 --module 1/2 --module 1/3 --sockets 3"
    ));
    check(&format!("udp-get-route --agent {addr} --shards 1 --sockets 1 --in-flight 4"));
    let reported = check(&format!("udp-get-host --agent {addr} --shards 1 --sockets 4 --report"));
    assert_eq!(reported.counts.reports, reported.counts.replies);
    agent.stop();
    reporter.stop();
    dns.stop();
}

#[test]
fn routes_are_queried_over_tcp() {
    let (_site, dns) = dns(1_000, 3);
    let addr = dns.local_addr();
    for flags in ["--connections 10", "--connections 3 --in-flight 20"] {
        check(&format!("dns-query --dns {addr} --module 1..10/1 {flags}"));
    }
    let unknown = load(&format!("dns-query --dns {addr} --module 99/1 --seconds 0.05 --warmup 0"));
    assert_eq!(unknown.counts.refusals, unknown.counts.replies);
    dns.stop();
}

#[test]
fn every_subscriber_has_every_change() {
    let (site, dns) = dns(1, 2);
    let (addr, url) = (dns.local_addr(), site.url());
    let measurement =
        load(&format!("dns-subscribe --dns {addr} --store {url} --connections 200 --changes 2"));
    assert_eq!((measurement.completed, measurement.counts.lost), (400, 0), "{measurement:?}");
    let pushes = measurement.pushes.expect("pushes");
    assert_eq!(pushes.subscribers, 200);
    assert!(pushes.to_first_ms.highest <= pushes.to_last_ms.highest, "{pushes:?}");
    dns.stop();
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
    report_to(Site::new().expect("a database").url());
}

#[test]
fn statistics_are_taken_and_stored_in_mariadb() {
    report_to(&MariaDb::shared().url("lars_bench_ingest"));
}
