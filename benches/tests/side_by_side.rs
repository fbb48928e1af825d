//! The program as `compare` uses it: a server, a load, and whether everything was counted.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use lars_benches::load::Measurement;
use lars_testkit::reserved_addr;

const LARS_BENCH: &str = env!("CARGO_BIN_EXE_lars-bench");

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

fn load(flags: &str) -> Measurement {
    let output = Command::new(LARS_BENCH)
        .arg("load")
        .args(flags.split(' '))
        .args(["--seconds", "0.2", "--warmup", "0.05", "--timeout", "30", "--json", "--label", "test"])
        .output()
        .expect("lars-bench starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

/// Neither the loopback nor these servers lose anything.
fn check(what: &str, measurement: &Measurement) {
    let counts = &measurement.counts;
    assert!(counts.requests > 0, "{what}: {measurement:?}");
    assert_eq!(counts.requests, counts.replies, "{what}: {measurement:?}");
    assert_eq!((counts.lost, counts.stale, counts.refusals), (0, 0, 0), "{what}: {measurement:?}");
    assert!(measurement.completed <= counts.replies, "{what}: {measurement:?}");
}

#[test]
fn every_reply_of_a_udp_echo_is_counted() {
    for kind in ["recvfrom", "mmsg"] {
        let server = Server::start(&format!("udp-echo --kind {kind}"));
        for shape in [
            "--sockets 16",
            "--sockets 16 --io epoll",
            "--sockets 2 --in-flight 70",
            "--sockets 2 --in-flight 70 --io epoll",
            "--sockets 2 --in-flight 70 --gather 50",
            "--sockets 3 --rate 2000",
            "--sockets 3 --rate 2000 --io epoll",
        ] {
            let flags = format!("udp-get-host --agent {} --shards 1 {shape}", server.addr);
            check(&format!("{kind} {shape}"), &load(&flags));
        }
    }
}

#[test]
fn every_frame_of_a_tcp_echo_is_counted() {
    for kind in ["epoll", "tokio", "monoio", "glommio", "uring", "lars", "lars-stream"] {
        let server = Server::start(&format!("tcp-echo --kind {kind}"));
        for shape in [
            "--connections 10",
            "--connections 10 --io epoll",
            "--connections 10 --gather 50",
            "--connections 3 --in-flight 50 --body 3000",
            "--connections 3 --in-flight 50 --body 3000 --io epoll",
            "--connections 2 --rate 2000",
        ] {
            let flags = format!("tcp-echo --connect {} {shape}", server.addr);
            check(&format!("{kind} {shape}"), &load(&flags));
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
