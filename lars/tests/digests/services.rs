//! A whole agent and a whole lars-dns: digests in place of queries.

use std::{net::Ipv4Addr, time::Duration};

use lars_agent::{Agent, RawConfig};
use lars_client::{Client, ClientConfig};
use lars_dns::{Dns, DnsConfig};
use lars_proto::{HostAddr, ModuleId};
use lars_store::{OpenMode, RouteEdit, StoreUrl};
use lars_testkit::{eventually, reserved_addr, reserved_ports, tcp_driver};
use tempfile::TempDir;

const MODULES: i32 = 50;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn module(n: i32) -> ModuleId {
    ModuleId::new(1, n)
}

fn host(n: u8) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 8_000)
}

fn start_dns(url: &StoreUrl) -> Dns {
    let driver = tcp_driver().parse().expect("the name of a driver");
    let mut config = DnsConfig { shards: 2, tcp_driver: driver, store: url.clone(), ..DnsConfig::default() };
    config.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.timing.poll_interval = Duration::from_millis(10);
    Dns::start(config).expect("lars-dns starts")
}

/// An agent that sends a digest each 20 ms, and on whose base port a client finds it.
fn start_agent(dns: &Dns) -> (Agent, u16) {
    let base_port = reserved_ports(3);
    let mut raw =
        RawConfig { tcp_driver: tcp_driver().parse().expect("the name of a driver"), ..RawConfig::default() };
    raw.api.base_port = base_port;
    raw.dns.servers = vec![dns.local_addr().to_string()];
    raw.reporter.servers = vec![reserved_addr().to_string()];
    raw.balance.update_timeout_ms = 20;
    let agent = Agent::start(raw.validate().expect("a valid configuration")).expect("the agent starts");
    (agent, base_port)
}

#[test]
fn a_fleet_that_is_well_asks_for_each_module_once() {
    let folder = TempDir::new().expect("a folder");
    let url = StoreUrl::Sqlite(folder.path().join("lars.db"));
    let mut editor = lars_store::open(&url, OpenMode::Create).expect("the database is there");
    // Every other one has hosts.
    let edits = (0..MODULES).step_by(2).map(|n| RouteEdit::Replace(module(n), vec![host(1), host(2)]));
    editor.edit(&edits.collect::<Vec<_>>()).expect("the edit is accepted");
    let dns = start_dns(&url);
    let (agent, base_port) = start_agent(&dns);
    let client =
        Client::with_config(ClientConfig { base_port, timeout: PATIENCE, ..ClientConfig::default() });
    let client = client.expect("a client");

    let look_all_up = || (0..MODULES).filter(|&n| client.get_host(module(n)).is_ok()).count() as i32;
    eventually("all modules are known", || look_all_up() == MODULES / 2);
    let wait_for_digests = |count: u64| {
        let before = agent.stats().dns.digests;
        eventually("digests", || {
            look_all_up();
            agent.stats().dns.digests >= before + count
        });
    };
    wait_for_digests(5);
    let (asked, answered) = (agent.stats().dns, dns.stats());
    assert_eq!((asked.queries, asked.digest_buckets, asked.given_up), (MODULES as u64, 0, 0), "{asked:?}");
    assert_eq!((answered.queries, answered.subscriptions), (MODULES as u64, MODULES as u64));
    assert!(answered.digests >= 5 && answered.digest_modules == 0, "{answered:?}");

    editor.edit(&[RouteEdit::Replace(module(1), vec![host(3)])]).expect("the edit is accepted");
    eventually("the change is pushed", || {
        client.get_host(module(1)).is_ok_and(|found| found.addr == host(3))
    });
    wait_for_digests(5);
    let asked = agent.stats().dns;
    // A digest may have come when the change was served and not pushed yet: that costs one query.
    assert_eq!(asked.queries, MODULES as u64 + asked.digest_modules, "{asked:?}");
    assert!(asked.digest_modules <= 1 && asked.digest_unwanted == 0, "{asked:?}");
    agent.stop();
    dns.stop();
}
