//! A shard that waits in its UDP socket still sees what else there is. Here it would wait there for longer than
//! anybody has patience.

mod support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lars_runtime::{
    ConnId, Datagram, Flow, Handlers, Linger, Mailboxes, ShardContext, Shards, TcpClient, TcpClientConfig,
    TcpServer, TcpServerConfig, UdpConfig, UdpSender, UdpServer, UdpSockets,
};
use lars_testkit::eventually;
use support::{datagrams::*, *};

/// Any two datagrams of these tests make the shard linger.
fn for_ever() -> UdpConfig {
    let linger = Linger { within: Duration::from_secs(3600), at_most: Duration::from_secs(3600) };
    UdpConfig { linger: Some(linger), ..UdpConfig::default() }
}

fn any_socket() -> (UdpSockets, SocketAddr) {
    let sockets = UdpSockets::bind(&[([127, 0, 0, 1], 0).into()]).expect("a socket");
    let addr = sockets.local_addrs()[0];
    (sockets, addr)
}

fn echo(log: &mut Log, _: &mut ShardContext<Log>, request: Datagram<'_>, reply: &mut Vec<u8>) {
    log.datagrams += 1;
    reply.extend_from_slice(request.bytes);
}

#[test]
fn a_job_ends_it() {
    const ROUNDS: usize = 100;
    let shards = shards(1);
    let (sockets, addr) = any_socket();
    let _server = UdpServer::start(&shards, sockets, for_ever(), echo);
    let socket = client(addr);
    let datagrams = || {
        let (counted, count) = flume::bounded(1);
        let job = move |log: &mut Log, _: &mut ShardContext<Log>| {
            let _ = counted.send(log.datagrams);
        };
        shards.shard(0).try_submit(job).expect("there is room");
        count.recv_timeout(PATIENCE).expect("the job is run")
    };
    for round in 1..=ROUNDS {
        assert_eq!(ask(&socket, b"x"), b"x");
        assert_eq!(datagrams(), round);
        // The shard may be back in the socket, or about to.
        assert_eq!(datagrams(), round);
    }
}

#[test]
fn a_message_ends_it() {
    let shards = shards(1);
    let mailboxes = Mailboxes::<flume::Sender<usize>>::new(1, 1);
    shards.install_mailboxes(&mailboxes, |log, _, count| {
        let _ = count.send(log.datagrams);
    });
    let (sockets, addr) = any_socket();
    let _server = UdpServer::start(&shards, sockets, for_ever(), echo);
    let socket = client(addr);
    let datagrams = || {
        let (counted, count) = flume::bounded(1);
        mailboxes.try_send(0, counted).expect("there is room");
        count.recv_timeout(PATIENCE).expect("the message is received")
    };
    for round in 1..=100 {
        assert_eq!(ask(&socket, b"x"), b"x");
        assert_eq!(datagrams(), round);
        assert_eq!(datagrams(), round);
    }
}

/// A state that answers each datagram twice: at once, and a little later.
struct Twice {
    socket: UdpSender,
    later: Option<(Instant, SocketAddr)>,
}

#[test]
fn a_deadline_ends_it() {
    let (sockets, addr) = any_socket();
    let sender = sockets.senders().remove(0);
    let state = move |_| Twice { socket: sender.clone(), later: None };
    let shards = Shards::start(shards_config(1), state).expect("shards start");
    shards.install_timer(
        |twice| twice.later.map(|(at, _)| at),
        |twice, _| {
            let (_, from) = twice.later.take().expect("it is due");
            assert!(twice.socket.send_to(from, b"later"));
        },
    );
    let answer =
        |twice: &mut Twice, net: &mut ShardContext<Twice>, request: Datagram<'_>, reply: &mut Vec<u8>| {
            twice.later = Some((net.now() + Duration::from_millis(2), request.from));
            reply.extend_from_slice(b"now");
        };
    let _server = UdpServer::start(&shards, sockets, for_ever(), answer);
    let socket = client(addr);
    for _ in 0..100 {
        assert_eq!(ask(&socket, b"x"), b"now");
        let mut buffer = [0; 10];
        let len = receive(&socket, &mut buffer).expect("the second answer");
        assert_eq!(&buffer[..len], b"later");
    }
}

/// A state that asks a server over a link on behalf of those who ask it.
struct Relay {
    link: Option<ConnId>,
    socket: UdpSender,
    asking: Option<SocketAddr>,
}

fn relayed() -> Handlers<Relay> {
    Handlers::<Relay>::new(framing)
        .on(ECHO, |relay, _, _, body| {
            let from = relay.asking.take().expect("somebody asked");
            assert!(relay.socket.send_to(from, body));
            Flow::Continue
        })
        .opened(|relay, _, conn| relay.link = Some(conn))
}

/// Answers at once, but asks the link for an answer to `relay`.
fn relay(relay: &mut Relay, net: &mut ShardContext<Relay>, request: Datagram<'_>, reply: &mut Vec<u8>) {
    if request.bytes == b"relay" {
        relay.asking = Some(request.from);
        let link = relay.link.expect("there is a link");
        net.send(link, &frame(ECHO, b"from afar")).expect("there is room");
    } else {
        reply.extend_from_slice(request.bytes);
    }
}

#[test]
fn an_answer_on_a_link_is_not_left_lying() {
    let servers = shards(1);
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let afar = TcpServer::start(&servers, config, handlers()).expect("a server");
    let (sockets, addr) = any_socket();
    let socket = sockets.senders().remove(0);
    let state = move |_| Relay { link: None, socket: socket.clone(), asking: None };
    let shards = Shards::start(shards_config(1), state).expect("shards start");
    let _server = UdpServer::start(&shards, sockets, for_ever(), relay);
    TcpClient::start(shards.shard(0), TcpClientConfig::new(vec![afar.local_addr().to_string()]), relayed());
    eventually("there is a link", || {
        shards.shard(0).call(|relay, _| relay.link.is_some()).expect("the shard runs")
    });

    let socket = client(addr);
    for _ in 0..20 {
        for _ in 0..3 {
            assert_eq!(ask(&socket, b"here"), b"here");
        }
        assert_eq!(ask(&socket, b"relay"), b"from afar");
    }
}
