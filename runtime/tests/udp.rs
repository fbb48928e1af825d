//! UDP servers, from the outside.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use lars_runtime::{
    Datagram, Linger, ListenError, ShardContext, Shards, TcpServer, TcpServerConfig, UdpConfig, UdpSender,
    UdpServer, UdpSockets,
};
use lars_testkit::eventually;
use support::{datagrams::*, *};

const ANY: &str = "127.0.0.1:0";

fn sockets(count: usize) -> UdpSockets {
    UdpSockets::bind(&vec![ANY.parse().expect("an address"); count]).expect("sockets")
}

/// Echoes, with the shard and the socket in front; `panic!` and `large` are what they say.
fn echo(log: &mut Log, net: &mut ShardContext<Log>, request: Datagram<'_>, reply: &mut Vec<u8>) {
    log.datagrams += 1;
    match request.bytes {
        b"panic!" => {
            reply.extend(b"half a rep");
            panic!("on demand")
        }
        b"silence" => {}
        b"large" => reply.resize(65_507, 1),
        b"too large" => reply.resize(65_508, 1),
        bytes => {
            reply.extend([net.shard_index() as u8, request.socket as u8]);
            reply.extend(bytes);
        }
    }
}

fn server(shards: &Shards<Log>, count: usize) -> (UdpServer, Vec<SocketAddr>) {
    server_with(shards, count, UdpConfig::default())
}

fn server_with(shards: &Shards<Log>, count: usize, config: UdpConfig) -> (UdpServer, Vec<SocketAddr>) {
    let sockets = sockets(count);
    let addrs = sockets.local_addrs();
    (UdpServer::start(shards, sockets, config, echo), addrs)
}

/// Every way to wait for datagrams. What lingers does so between any two datagrams of these tests.
fn ways_to_wait() -> [UdpConfig; 4] {
    let second = Duration::from_secs(1);
    let (spin, linger) = (Duration::from_micros(50), Some(Linger { within: second, at_most: second }));
    let plain = UdpConfig::default();
    let [lingers, spins] = [UdpConfig { linger, ..plain.clone() }, UdpConfig { spin, ..plain.clone() }];
    [plain, lingers, spins, UdpConfig { spin, linger, ..UdpConfig::default() }]
}

#[test]
fn each_socket_is_served_by_its_shard() {
    let shards = shards(2);
    let (_server, addrs) = server(&shards, 3);
    for (index, addr) in addrs.iter().enumerate() {
        assert_eq!(ask(&client(*addr), b"x"), [(index % 2) as u8, index as u8, b'x']);
    }
}

#[test]
fn odd_datagrams_are_answered_dropped_and_counted() {
    ways_to_wait().into_iter().for_each(check_odd_datagrams);
}

fn check_odd_datagrams(config: UdpConfig) {
    let shards = shards(1);
    let (server, addrs) = server_with(&shards, 1, config);
    let socket = client(addrs[0]);
    assert_eq!(ask(&socket, b""), [0, 0], "an empty datagram is one");
    assert_eq!(ask(&socket, &[7; 2048]).len(), 2050, "the longest one");
    for _ in 0..3 {
        // Alone, and in a batch.
        socket.send(&[7; 2049]).expect("send");
        socket.send(b"silence").expect("send");
    }
    eventually("too long ones are counted", || server.stats().oversized == 3);
    assert_eq!(ask(&socket, b"large").len(), 65_507);
    assert_eq!(server.stats().unsent, 0);
    socket.send(b"too large").expect("send");
    eventually("a reply that UDP cannot carry is counted", || server.stats().unsent == 1);
    assert_eq!(ask(&socket, b"fine"), b"\0\0fine");
}

#[test]
fn a_panic_costs_one_reply() {
    let shards = shards(1);
    let (server, addrs) = server(&shards, 1);
    let socket = client(addrs[0]);
    for _ in 0..3 {
        socket.send(b"panic!").expect("send");
    }
    assert_eq!(ask(&socket, b"alive"), b"\0\0alive", "and no half reply came before");
    assert_eq!(server.stats().panics, 3);
}

#[test]
fn replies_can_leave_through_another_shards_socket() {
    static SENDERS: OnceLock<Vec<UdpSender>> = OnceLock::new();
    /// Hands the datagram to the other shard, which answers through the socket it came in by.
    fn hand_over(_: &mut Log, net: &mut ShardContext<Log>, request: Datagram<'_>, _: &mut Vec<u8>) {
        let (from, socket, bytes) = (request.from, request.socket, request.bytes.to_vec());
        let other = net.shard(1 - net.shard_index());
        let handed = other.try_submit(move |log, _| {
            log.jobs += 1;
            let senders = SENDERS.get().expect("set before");
            assert!(senders[socket].send_to(from, &bytes));
        });
        handed.expect("room in the mailbox");
    }
    let shards = shards(2);
    let sockets = sockets(2);
    SENDERS.set(sockets.senders()).expect("set once");
    let addrs = sockets.local_addrs();
    let _server = UdpServer::start(&shards, sockets, UdpConfig::default(), hand_over);
    for addr in addrs {
        // A connected client takes nothing from any other address.
        assert_eq!(ask(&client(addr), b"round about"), b"round about");
    }
    assert!(total(&shards, |log| log.jobs) >= 2);
}

#[test]
fn thousands_in_flight_are_all_answered() {
    ways_to_wait().into_iter().for_each(check_thousands);
}

fn check_thousands(config: UdpConfig) {
    const CLIENTS: usize = 8;
    /// So many small datagrams fit the smallest default receive buffer.
    const WINDOW: usize = 100;
    const ROUNDS: usize = 20;
    let shards = shards(2);
    let (server, addrs) = server_with(&shards, 2, config);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for index in 0..CLIENTS {
            let (addr, answered) = (addrs[index % addrs.len()], &answered);
            scope.spawn(move || {
                let socket = client(addr);
                let mut buffer = [0; 64];
                for _ in 0..ROUNDS {
                    for _ in 0..WINDOW {
                        socket.send(b"many").expect("send");
                    }
                    for _ in 0..WINDOW {
                        receive(&socket, &mut buffer).expect("a reply");
                        answered.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    let sent = CLIENTS * WINDOW * ROUNDS;
    assert_eq!(answered.load(Relaxed), sent);
    assert_eq!(total(&shards, |log| log.datagrams), sent);
    eventually("all are counted", || server.stats().replied == sent as u64);
    assert_eq!(server.stats().received, sent as u64);
}

#[test]
fn datagrams_and_connections_share_a_shard() {
    ways_to_wait().into_iter().for_each(check_sharing);
}

fn check_sharing(config: UdpConfig) {
    let shards = shards(1);
    let (_server, addrs) = server_with(&shards, 1, config);
    let config = TcpServerConfig::new(ANY.parse().expect("an address"));
    let tcp = TcpServer::start(&shards, config, handlers()).expect("a server");
    let flooding = AtomicUsize::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = client(addrs[0]);
            while flooding.load(Relaxed) == 1 {
                // A full send buffer is as good as a datagram here.
                let _ = socket.send(b"flood");
            }
        });
        let mut client = Client::connect(tcp.local_addr());
        for _ in 0..200 {
            assert_eq!(client.ask(ECHO, b"in between"), b"in between");
        }
        flooding.store(0, Relaxed);
    });
}

#[test]
fn a_caller_that_never_pauses_leaves_jobs_their_turn() {
    for config in ways_to_wait() {
        let shards = shards(1);
        let (_server, addrs) = server_with(&shards, 1, config);
        let asking = AtomicUsize::new(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                let socket = client(addrs[0]);
                while asking.load(Relaxed) == 1 {
                    assert_eq!(ask(&socket, b"next"), b"\0\0next");
                }
            });
            let datagrams = || shards.shard(0).call(|log, _| log.datagrams).expect("the shard runs");
            eventually("the caller is served, and so are jobs", || datagrams() > 100);
            asking.store(0, Relaxed);
        });
    }
}

#[test]
fn a_shard_with_two_sockets_lingers_in_neither() {
    let shards = shards(1);
    // Were it to, it would be for longer than the client has patience.
    let linger = Linger { within: 2 * PATIENCE, at_most: 2 * PATIENCE };
    let config = UdpConfig { linger: Some(linger), ..UdpConfig::default() };
    let (_server, addrs) = server_with(&shards, 2, config);
    let sockets = [client(addrs[0]), client(addrs[1])];
    for _ in 0..10 {
        assert_eq!(ask(&sockets[0], b"x"), b"\0\0x");
        assert_eq!(ask(&sockets[1], b"x"), b"\0\x01x");
    }
}

#[test]
fn a_second_copy_is_told_that_the_port_is_in_use() {
    let first = sockets(1);
    let addr = first.local_addrs()[0];
    let error = UdpSockets::bind(&[addr]).expect_err("the port is taken");
    assert!(matches!(error, ListenError::InUse { .. }));
    // Whose it is, is not always found in a table that changes meanwhile.
    assert!(error.to_string().starts_with(&format!("{addr} is in use")), "{error}");
}

#[test]
fn a_drain_ends_servers_that_wait() {
    ways_to_wait().into_iter().for_each(check_drain);
}

fn check_drain(config: UdpConfig) {
    let shards = shards(2);
    let (server, addrs) = server_with(&shards, 2, config);
    let socket = client(addrs[0]);
    for _ in 0..3 {
        ask(&socket, b"x");
    }
    shards.drain(Duration::from_secs(3600));
    drop(server);
    UdpSockets::bind(&addrs).expect("the ports are free again");
}
