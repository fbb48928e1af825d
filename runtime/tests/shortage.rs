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

    // Each connection takes two descriptors of this process; an odd number is left, so that one is had by a
    // client and none by the server.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, descriptors() as u64 - 1 + 21, hard).expect("lower the limit");
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(server.local_addr()) {
        clients.push(stream);
    }
    eventually("accepting pauses", || server.stats().shortages > 0);
    assert_eq!(first.ask(ECHO, b"served all the while"), b"served all the while");
    let shortages = server.stats().shortages;
    assert!(shortages < 100, "{shortages} tries are a spin");

    clients.clear();
    eventually("places are free again", || server.stats().open == 1);
    assert_eq!(Client::connect(server.local_addr()).ask(ECHO, b"back"), b"back");
}
