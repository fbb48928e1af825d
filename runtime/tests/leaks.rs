//! That nothing is left behind. The tests of this file count descriptors of the process, so they take turns.

mod support;

use std::{
    io::Write,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use lars_runtime::{Flow, Handlers, Shards, TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use socket2::{Domain, Socket, Type};
use support::*;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config() -> TcpServerConfig {
    TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

#[test]
fn dropping_the_shards_ends_them_with_their_connections_and_states() {
    let _alone = alone();
    const STARTS: usize = 10;
    const SHARDS: usize = 2;
    struct State(Arc<()>);
    let alive = Arc::new(());
    let before = descriptors();
    for _ in 0..STARTS {
        let state = alive.clone();
        let config = shards_config(SHARDS);
        let shards = Shards::start(config, move |_| State(state.clone())).expect("shards start");
        let handlers = Handlers::<State>::new(framing).on(ECHO, |state, net, conn, body| {
            assert!(Arc::strong_count(&state.0) > 1);
            net.send(conn, &frame(ECHO, body)).expect("room");
            Flow::Continue
        });
        let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let server = TcpServer::start(&shards, config, handlers).expect("a server");
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect(server.local_addr())).collect();
        for client in &mut clients {
            client.ask(ECHO, b"");
        }
        drop(shards);
        for client in &mut clients {
            assert!(client.is_ended());
        }
    }
    assert_eq!(Arc::strong_count(&alive), 1, "all states are dropped");
    // glommio 0.9.0 leaks one eventfd per executor that ever ran.
    eventually("all descriptors are closed", || descriptors() <= before + STARTS * SHARDS);
}

#[test]
fn a_hundred_thousand_connections_leave_nothing_behind() {
    let _alone = alone();
    const CYCLES: usize = 100_000;
    const CLIENTS: usize = 4;
    let shards = shards(2);
    let server = TcpServer::start(&shards, config(), handlers()).expect("a server");
    let addr = server.local_addr();
    Client::connect(addr).ask(ECHO, b"warm");
    eventually("the first is released", || server.stats().open == 0);
    let before = descriptors();
    let churning: Vec<_> = (0..CLIENTS)
        .map(|worker| {
            thread::spawn(move || {
                for cycle in 0..CYCLES / CLIENTS {
                    churn(connect_from(cycle / PORTS, worker, addr), cycle);
                }
            })
        })
        .collect();
    for worker in churning {
        worker.join().expect("a worker");
    }
    eventually("all are released", || server.stats().open == 0 && connections(&shards) == 0);
    assert_eq!(pool_bytes_in_use(&shards), 0);
    eventually("all descriptors are closed", || descriptors() <= before);
    let stats = server.stats();
    assert_eq!(stats.opened, stats.closed);
    let logged = closed_reasons(&shards).len();
    assert_eq!(logged as u64, stats.closed, "one closed hook per opened hook");
    assert_eq!(total(&shards, |log| log.opened), logged);
    assert_eq!(stats.accepted, CYCLES as u64 + 1);
}

/// Connections from one address, whose ports the system keeps for a minute.
const PORTS: usize = 5_000;

/// Connects from an address of the loopback network that belongs to the worker.
fn connect_from(block: usize, worker: usize, addr: SocketAddr) -> Client {
    let source = SocketAddr::from(([127, 0, 1 + block as u8, 1 + worker as u8], 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&source.into()).expect("a port");
    socket.connect(&addr.into()).expect("connect");
    Client::of(socket.into())
}

/// One connection, ended in one of four ways.
fn churn(mut client: Client, cycle: usize) {
    match cycle % 4 {
        0 => drop(client.ask(ECHO, b"clean")),
        1 => {
            client.send(ECHO, b"reset");
            reset(client.0);
        }
        2 => {
            client.send(ECHO, b"half");
            client.0.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(client.receive(), (ECHO, b"half".to_vec()));
            assert!(client.is_ended());
        }
        _ => client.0.write_all(&frame(ECHO, &[0; 500])[..200]).expect("write"),
    }
}
