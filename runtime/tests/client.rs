//! TCP clients: reconnect, failover, bounds.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use lars_runtime::{
    Backoff, Flow, Handlers, SendError, Shards, TcpClient, TcpClientConfig, TcpServer, TcpServerConfig,
};
use lars_testkit::{Fault, Proxy, eventually, reserved_addr};
use socket2::{Domain, Socket, Type};
use support::*;

/// A state that asks "who" whenever it gets a link.
#[derive(Default)]
struct Asking {
    link: Option<lars_runtime::ConnId>,
    opened: usize,
    closed: usize,
    answers: usize,
}

fn asking() -> Handlers<Asking> {
    Handlers::<Asking>::new(framing)
        .on(ECHO, |state, _, _, body| {
            assert_eq!(body, b"who");
            state.answers += 1;
            Flow::Continue
        })
        .opened(|state, net, conn| {
            assert_eq!(state.link.replace(conn), None, "one link at a time");
            state.opened += 1;
            net.send(conn, &frame(ECHO, b"who")).expect("a new link has room");
        })
        .closed(|state, _, conn, _| {
            assert_eq!(state.link.take(), Some(conn));
            state.closed += 1;
        })
}

fn clients() -> Shards<Asking> {
    let config = shards_config(1);
    Shards::start(config, |_| Asking::default()).expect("shards start")
}

fn quick(servers: Vec<String>) -> TcpClientConfig {
    let backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_millis(50) };
    TcpClientConfig { backoff, connect_timeout: Duration::from_secs(60), ..TcpClientConfig::new(servers) }
}

fn server(shards: &Shards<Log>) -> TcpServer {
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    TcpServer::start(shards, config, handlers()).expect("a server")
}

fn answers(shards: &Shards<Asking>) -> usize {
    shards.shard(0).call(|state, _| state.answers).expect("the shard runs")
}

/// A listener whose queue is full, so that further connections wait for an answer, and those that fill it.
fn deaf_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    socket.listen(0).expect("listens");
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().expect("bound");
    let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(200)).ok();
    let waiting = std::iter::from_fn(connect).collect();
    (listener, waiting)
}

#[test]
fn a_server_that_comes_later_is_found() {
    let later = reserved_addr();
    let doorstep = TcpListener::bind("127.0.0.1:0").expect("a port");
    let doorstep_addr = doorstep.local_addr().expect("bound");
    let clients = clients();
    let servers = vec![doorstep_addr.to_string(), later.to_string()];
    let _link = TcpClient::start(clients.shard(0), quick(servers), asking());
    // One that hangs up is passed over, so between its two visits the other server was tried in vain.
    for _ in 0..2 {
        drop(doorstep.accept().expect("a visit"));
    }
    drop(doorstep);
    let shards = shards(1);
    let _server = TcpServer::start(&shards, TcpServerConfig::new(later), handlers()).expect("a server");
    eventually("it is found", || answers(&clients) == 1);
}

#[test]
fn a_lost_link_comes_back_and_each_loss_is_told_once() {
    let shards = shards(1);
    let server = server(&shards);
    let proxy = Proxy::start(server.local_addr());
    let clients = clients();
    let link = TcpClient::start(clients.shard(0), quick(vec![proxy.addr().to_string()]), asking());
    for round in 1..=3 {
        eventually("the link is there", || answers(&clients) == round);
        proxy.cut_all();
    }
    eventually("and again", || answers(&clients) == 4);
    let (opened, closed) =
        clients.shard(0).call(|state, _| (state.opened, state.closed)).expect("the shard runs");
    assert_eq!(opened, closed + 1);
    assert_eq!(link.stats().opened, opened as u64);
}

#[test]
fn the_next_server_takes_over_and_the_first_is_preferred() {
    let (first, second) = (shards(1), shards(1));
    let (first_server, second_server) = (server(&first), server(&second));
    let proxy = Proxy::start(first_server.local_addr());
    let clients = clients();
    let servers = vec![proxy.addr().to_string(), second_server.local_addr().to_string()];
    let link = TcpClient::start(clients.shard(0), quick(servers), asking());
    eventually("the first is preferred", || total(&first, |log| log.frames) == 1);

    drop(proxy);
    eventually("the second takes over", || total(&second, |log| log.frames) >= 1);
    assert!(link.stats().opened >= 2);
}

#[test]
fn a_server_that_drops_its_connections_is_passed_over() {
    let shards = shards(1);
    let server = server(&shards);
    let flapping = Proxy::start(server.local_addr());
    flapping.set(Fault::Refuse);
    let clients = clients();
    let servers = vec![flapping.addr().to_string(), server.local_addr().to_string()];
    let _link = TcpClient::start(clients.shard(0), quick(servers), asking());
    eventually("the other one is used", || answers(&clients) == 1);
}

#[test]
fn a_server_that_is_given_up_is_passed_over_however_long_it_held() {
    let (first, second) = (shards(1), shards(1));
    let (first_server, second_server) = (server(&first), server(&second));
    let clients = clients();
    let servers = vec![first_server.local_addr().to_string(), second_server.local_addr().to_string()];
    let config = TcpClientConfig { stable_after: Duration::ZERO, ..quick(servers) };
    let give_up_once = asking().opened(|state, net, conn| {
        state.link = Some(conn);
        state.opened += 1;
        if state.opened == 1 {
            net.close(conn, "it hangs");
        } else {
            net.send(conn, &frame(ECHO, b"who")).expect("a new link has room");
        }
    });
    let _link = TcpClient::start(clients.shard(0), config, give_up_once);
    eventually("the second answers", || answers(&clients) == 1);
    assert_eq!((total(&first, |log| log.frames), total(&second, |log| log.frames)), (0, 1));
}

#[test]
fn names_are_resolved() {
    let shards = shards(1);
    let server = server(&shards);
    let clients = clients();
    let name = format!("localhost:{}", server.local_addr().port());
    let unknown = "no-such-host.invalid:1".to_owned();
    let _link = TcpClient::start(clients.shard(0), quick(vec![unknown, name]), asking());
    eventually("the name is found", || answers(&clients) >= 1);
}

/// What a lost link had not sent is gone: a new one begins with a frame, not with the rest of one.
#[test]
fn no_half_frame_is_sent_on_a_new_link() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let clients = clients();
    let config = TcpClientConfig { output_bytes_max: 64 << 20, ..quick(vec![addr.to_string()]) };
    let _link = TcpClient::start(clients.shard(0), config, asking());
    let (mut first, _) = listener.accept().expect("a link");
    let mut begin = [0; 11];
    first.read_exact(&mut begin).expect("the first frame");
    assert_eq!(begin[..], frame(ECHO, b"who"));

    // More than the sockets can buffer, so that the loss comes in the middle of a frame.
    let sent = clients
        .shard(0)
        .call(|state, net| {
            let link = state.link.expect("a link");
            let large = frame(SINK, &vec![0xEE; 1 << 20]);
            (0..40)
                .map(|_| net.send(link, &large))
                .collect::<Result<Vec<_>, SendError>>()
                .map(|sent| sent.len())
        })
        .expect("the shard runs");
    assert_eq!(sent, Ok(40));
    let mut some = vec![0; 100_000];
    first.read_exact(&mut some).expect("a part of it");
    drop(first);

    let (mut second, _) = listener.accept().expect("a new link");
    second.read_exact(&mut begin).expect("its first frame");
    assert_eq!(begin[..], frame(ECHO, b"who"));
    second.write_all(&frame(ECHO, b"who")).expect("write");
    eventually("the new link works", || answers(&clients) == 1);
    eventually("the old one's output is released", || {
        clients.shard(0).call(|_, net| net.pool().stats().bytes_in_use) == Ok(0)
    });
}

#[test]
fn a_link_in_any_state_ends_with_its_shard() {
    let refused = reserved_addr().to_string();
    let silent = Proxy::start(reserved_addr());
    silent.set(Fault::Blackhole);
    let (deaf, _waiting) = deaf_listener();
    let deaf = deaf.local_addr().expect("bound").to_string();
    for servers in
        [vec![refused], vec![silent.addr().to_string()], vec![deaf], vec!["nohost.invalid:1".into()]]
    {
        let clients = clients();
        let config = TcpClientConfig { connect_timeout: Duration::from_secs(3600), ..quick(servers) };
        let link = TcpClient::start(clients.shard(0), config, asking());
        clients.shard(0).call(|_, _| ()).expect("the shard runs");
        drop(clients);
        assert_eq!(link.stats().opened, link.stats().closed);
    }
}
