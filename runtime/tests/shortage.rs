//! Running out of descriptors. The limit is the process's, so this happens in a process of its own: this test
//! binary, run again.

mod support;

use std::{env, io::Write, net::SocketAddr, process::Command};

use lars_runtime::{TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::*;

const CHILD: &str = "LARS_TEST_SHORTAGE_CHILD";

#[test]
fn a_server_survives_running_out_of_descriptors() {
    if env::var_os(CHILD).is_some() {
        return run_out_of_descriptors();
    }
    let this = env::current_exe().expect("this binary has a path");
    let output = Command::new(this)
        .args(["--exact", "a_server_survives_running_out_of_descriptors", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("the child runs");
    // Passed on, to be seen when this test fails.
    std::io::stderr().write_all(&output.stderr).expect("stderr");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn run_out_of_descriptors() {
    let shards = shards(1);
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    let mut first = Client::connect(server.local_addr());
    first.ask(ECHO, b"");

    // The clients have theirs already, so that they do not compete with the server for those that are left.
    let sockets: Vec<_> = (0..20)
        .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket"))
        .collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, descriptors() as u64 - 1 + 5, hard).expect("lower the limit");
    let connected = sockets.into_iter().map(|socket| {
        socket.connect(&server.local_addr().into()).expect("connect");
        Client::of(socket.into())
    });
    let mut clients: Vec<_> = connected.collect();
    eventually("there is no descriptor left", || server.stats().shortages > 0);
    let served = clients.iter_mut().filter_map(|client| client.try_ask(ECHO, b"?").ok()).count();
    assert!((1..20).contains(&served), "{served} are served");
    assert_eq!(first.ask(ECHO, b"served all the while"), b"served all the while");
    let stats = server.stats();
    assert_eq!(stats.refused, 20 - served as u64, "nobody waits for an answer that never comes");
    assert!(stats.shortages < 100, "{} tries are a spin", stats.shortages);

    clients.clear();
    eventually("places are free again", || server.stats().open == 1);
    assert_eq!(Client::connect(server.local_addr()).ask(ECHO, b"back"), b"back");
}
