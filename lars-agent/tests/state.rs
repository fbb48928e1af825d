//! An agent that starts knows what the one before it knew, on real sockets and a real disk.

mod support;

use std::fs;

use lars_agent::RawConfig;
use lars_proto::{ModuleId, messages::RetCode};
use lars_testkit::{eventually, reserved_addr};
use tempfile::TempDir;

use self::support::{Client, FakeDns, config, hosts, start};

/// On shard 2 of 3, and on shard 0.
const ONE: ModuleId = ModuleId::new(1, 1);
const TWO: ModuleId = ModuleId::new(1, 2);

/// With lars-dns at this address, which may be nobody's.
fn with_state(dir: &TempDir, dns: std::net::SocketAddr) -> RawConfig {
    let mut raw = config(dns, reserved_addr());
    raw.state.dir = dir.path().join("made/by/the/agent").display().to_string();
    raw
}

fn state_file(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("made/by/the/agent/lars-agent.state")
}

/// Runs an agent that learns both modules, whose host 9 of the first is overloaded, and stops it.
fn run_one(dir: &TempDir) {
    let routes = [(ONE, hosts([7, 8, 9])), (TWO, hosts([5]))];
    let dns = FakeDns::serving(reserved_addr(), routes.into());
    let agent = start(&with_state(dir, dns.addr()));
    let client = Client::new(agent.local_addrs());
    for module in [ONE, TWO] {
        eventually("it is learned", || client.pick(module).is_some());
    }
    client.report_all(&agent, ONE, 9, -1, 15);
    eventually("the host is overloaded", || agent.stats().table.hosts_overloaded == 1);
    agent.stop();
}

#[test]
fn without_lars_dns_it_answers_at_once_what_the_agent_before_it_knew() {
    let dir = TempDir::new().expect("a folder");
    run_one(&dir);
    let dns_addr = reserved_addr();
    let agent = start(&with_state(&dir, dns_addr));
    let client = Client::new(agent.local_addrs());
    assert_eq!(client.pick(TWO), Some(5), "the first lookup");
    assert!(client.pick(ONE).is_some_and(|port| port != 9));
    let mut route = client.get_route(ONE);
    route.sort_unstable();
    assert_eq!(route, hosts([7, 8, 9]));
    let table = agent.stats().table;
    assert_eq!((table.unconfirmed, table.hosts_idle, table.hosts_overloaded), (2, 3, 1));

    // Nobody has to look them up for lars-dns to be asked.
    let dns = FakeDns::serving(dns_addr, [(ONE, hosts([7])), (TWO, hosts([5]))].into());
    eventually("lars-dns has confirmed them", || agent.stats().table.unconfirmed == 0);
    assert_eq!(client.get_route(ONE), hosts([7]));
    drop(dns);
    agent.stop();
}

#[test]
fn a_file_that_is_damaged_is_moved_aside() {
    let dir = TempDir::new().expect("a folder");
    run_one(&dir);
    let mut bytes = fs::read(state_file(&dir)).expect("it was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(state_file(&dir), &bytes).expect("it is ours");
    let agent = start(&with_state(&dir, reserved_addr()));
    let response = Client::new(agent.local_addrs()).get_host(ONE);
    assert_eq!(response.retcode, RetCode::Noexist as i32);
    agent.stop();
    assert_eq!(fs::read(state_file(&dir).with_extension("state.bad")).expect("to be looked at"), bytes);
    assert!(!state_file(&dir).exists(), "an agent that has learned nothing writes nothing");
}

#[test]
fn changes_are_on_disk_while_it_runs_and_a_disk_that_refuses_costs_nothing_else() {
    let dir = TempDir::new().expect("a folder");
    let dns = FakeDns::serving(reserved_addr(), [(ONE, hosts([7]))].into());
    let raw = with_state(&dir, dns.addr());
    // Nobody, not even root, can make a folder where a file is.
    let obstacle = dir.path().join("made");
    fs::write(&obstacle, b"").expect("it is ours");
    let agent = start(&raw);
    let client = Client::new(agent.local_addrs());
    eventually("it is learned", || client.pick(ONE) == Some(7));
    eventually("it cannot be written", || agent.stats().state.write_failures > 0);
    assert_eq!(client.pick(ONE), Some(7));
    fs::remove_file(&obstacle).expect("it is ours");
    eventually("it is written", || agent.stats().state.writes > 0);
    assert!(state_file(&dir).exists());
    // As after `kill -9`: nothing is written any more.
    drop(agent);
    let agent = start(&with_state(&dir, reserved_addr()));
    assert_eq!(Client::new(agent.local_addrs()).pick(ONE), Some(7));
    agent.stop();
}
