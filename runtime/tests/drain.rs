//! How shards end.

mod support;

use std::{
    io::Write,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{DrainReport, Shards, Stopped, SubmitError, TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use support::*;

/// Longer than any machine needs for the little that these tests leave to do.
const LONG: Duration = Duration::from_secs(60);
/// Enough of it where a test waits for the deadline.
const ENOUGH: Duration = Duration::from_secs(5);

fn server(shards: &Shards<Log>) -> TcpServer {
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    TcpServer::start(shards, config, handlers()).expect("a server")
}

#[test]
fn a_drain_serves_what_was_received_and_flushes_it() {
    let shards = shards(2);
    let server = server(&shards);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(server.local_addr())).collect();
    for client in &mut clients {
        client.ask(ECHO, b"open");
    }
    // What lies in the kernel when the drain begins counts as received.
    for (index, client) in clients.iter_mut().enumerate() {
        let frames: Vec<u8> = (0..50_u8).flat_map(|i| frame(ECHO, &vec![i; 1000 * index])).collect();
        client.0.write_all(&frames).expect("write");
    }
    let report = shards.drain(LONG);
    assert_eq!(report, DrainReport { connections_flushed: 4, connections_cut: 0 });
    for (index, client) in clients.iter_mut().enumerate() {
        for i in 0..50_u8 {
            assert_eq!(client.receive(), (ECHO, vec![i; 1000 * index]));
        }
        assert!(client.is_ended());
    }
}

#[test]
fn a_drain_cuts_at_its_deadline() {
    let shards = shards(1);
    let server = server(&shards);
    let mut stuck = Client::connect(server.local_addr());
    stuck.send(GATED, b"for ever");
    let mut idle = Client::connect(server.local_addr());
    idle.ask(ECHO, b"");
    eventually("one is stuck", || server.stats().busy > 0);
    let handle = shards.shard(0).clone();
    let report = shards.drain(ENOUGH);
    assert_eq!(report, DrainReport { connections_flushed: 1, connections_cut: 1 });
    assert!(stuck.is_ended());
    assert_eq!(server.stats().open, 0);
    assert_eq!(server.stats().opened, server.stats().closed);
    assert_eq!(handle.try_submit(|_, _| {}), Err(SubmitError::Stopped));
    assert_eq!(handle.call(|_, _| ()), Err(Stopped));
}

/// Sends frames that nobody answers until the connection is cut; false if that takes too long.
fn flood(addr: SocketAddr) -> bool {
    let mut client = Client::connect(addr);
    let frames = frame(SINK, b"").repeat(8192);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if client.0.write_all(&frames).is_err() {
            return true;
        }
    }
    false
}

#[test]
fn a_drain_cuts_peers_that_never_pause() {
    let shards = shards(1);
    let server = server(&shards);
    let addr = server.local_addr();
    thread::scope(|scope| {
        let flooding: Vec<_> = (0..4).map(|_| scope.spawn(move || flood(addr))).collect();
        eventually("they flood", || server.stats().open == 4 && server.stats().frames > 100_000);
        shards.drain(Duration::from_secs(1));
        for flooder in flooding {
            assert!(flooder.join().expect("no panic"), "they are cut while they flood");
        }
    });
}

#[test]
fn a_draining_server_accepts_nothing_new() {
    let shards = shards(1);
    let server = server(&shards);
    let addr = server.local_addr();
    shards.drain(LONG);
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn the_last_job_of_a_drain_runs_on_each_shard_after_its_connections() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static CLOSED: AtomicUsize = AtomicUsize::new(0);
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let shards = shards(2);
    let server = server(&shards);
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(server.local_addr())).collect();
    for client in &mut clients {
        client.ask(ECHO, b"");
    }
    shards.drain_with(LONG, |log, _| {
        CLOSED.fetch_add(log.closed.len(), Relaxed);
        RUNS.fetch_add(1, Relaxed);
    });
    assert_eq!((CLOSED.load(Relaxed), RUNS.load(Relaxed)), (6, 2));
}

#[test]
fn an_idle_drain_takes_no_part_of_its_deadline() {
    let begin = Instant::now();
    shards(2).drain(Duration::from_secs(3600));
    assert!(begin.elapsed() < Duration::from_secs(600), "it did not wait for the deadline");
}
