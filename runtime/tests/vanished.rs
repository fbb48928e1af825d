//! A peer that vanishes while something is sent to it. In a network of its own, which can be taken away: this test
//! binary, run again under `unshare`, where that is allowed.

mod support;

use std::{
    env,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use lars_runtime::{CloseReason, TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use support::*;

const CHILD: &str = "LARS_TEST_VANISHED_CHILD";

/// Whether this worked.
fn run(program: &str, args: &[&str]) -> bool {
    let quiet = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

#[test]
fn a_peer_that_vanishes_while_it_is_sent_to_is_noticed() {
    if env::var_os(CHILD).is_some() {
        return lose_a_peer();
    }
    const UNSHARE: [&str; 3] = ["--map-root-user", "--net", "--"];
    if !run("unshare", &[&UNSHARE[..], &["ip", "link", "set", "lo", "up"]].concat()) {
        return eprintln!("skipped: there is no network to be had that could be taken away");
    }
    let this = env::current_exe().expect("this binary has a path");
    let output = Command::new("unshare")
        .args(UNSHARE)
        .arg(this)
        .args(["--exact", "a_peer_that_vanishes_while_it_is_sent_to_is_noticed", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("the child runs");
    // Passed on, to be seen when this test fails.
    std::io::stderr().write_all(&output.stderr).expect("stderr");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn lose_a_peer() {
    assert!(run("ip", &["link", "set", "lo", "up"]));
    let shards = shards(1);
    let mut config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.unacknowledged_timeout = Duration::from_millis(500);
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    let mut client = Client::connect(server.local_addr());
    client.ask(ECHO, b"here");
    assert!(run("ip", &["link", "set", "lo", "down"]));
    let send = |_: &mut Log, net: &mut lars_runtime::ShardContext<Log>| {
        for conn in net.connection_ids().collect::<Vec<_>>() {
            net.send(conn, &frame(ECHO, b"still there?")).expect("there is room");
        }
    };
    shards.shard(0).call(send).expect("the shard runs");
    eventually("it is noticed", || server.stats().closed == 1);
    assert_eq!(closed_reasons(&shards), [CloseReason::Failed(std::io::ErrorKind::TimedOut)]);
}
