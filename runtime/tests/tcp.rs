//! TCP servers, from the outside.

mod support;

use std::{
    io::Write,
    mem,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{
    CloseReason, Flow, Handlers, ListenError, SendError, Shards, ShardsConfig, TcpServer, TcpServerConfig,
};
use lars_testkit::eventually;
use socket2::{Domain, Socket, Type};
use support::*;

fn config() -> TcpServerConfig {
    TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn server(shards: &Shards<Log>) -> TcpServer {
    server_with(shards, config())
}

fn server_with(shards: &Shards<Log>, config: TcpServerConfig) -> TcpServer {
    TcpServer::start(shards, config, handlers()).expect("a server")
}

#[test]
fn connections_are_dealt_round_robin() {
    let shards = shards(2);
    let server = server(&shards);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(server.local_addr())).collect();
    let places: Vec<u8> = clients.iter_mut().map(|client| client.ask(WHERE, b"")[0]).collect();
    assert_eq!(places, [0, 1, 0, 1, 0, 1, 0, 1]);
    assert_eq!(server.stats().open, 8);
    drop(clients);
    eventually("all connections are released", || server.stats().open == 0 && connections(&shards) == 0);
    assert_eq!(total(&shards, |log| log.opened), 8);
    assert_eq!(closed_reasons(&shards), vec![CloseReason::PeerClosed; 8]);
}

#[test]
fn frames_may_come_byte_by_byte_and_many_at_once() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    for byte in frame(ECHO, b"slow") {
        client.0.write_all(&[byte]).expect("write");
        thread::yield_now();
    }
    assert_eq!(client.receive(), (ECHO, b"slow".to_vec()));

    let bodies: Vec<Vec<u8>> = (0..2000_usize).map(|i| vec![i as u8; i % 300]).collect();
    let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(ECHO, body)).collect();
    let mut writer = client.0.try_clone().expect("a second handle");
    let writing = thread::spawn(move || {
        for piece in stream.chunks(7919) {
            writer.write_all(piece).expect("write");
        }
    });
    for body in &bodies {
        assert_eq!(client.receive(), (ECHO, body.clone()));
    }
    writing.join().expect("written");
    assert_eq!(client.ask(ECHO, b""), b"", "an empty body is a frame");
    assert_eq!(total(&shards, |log| log.frames), 2002);
    eventually("an idle connection holds no buffer", || pool_bytes_in_use(&shards) == 0);
}

#[test]
fn impossible_frames_close_their_connection_and_no_other() {
    let shards = shards(1);
    let server = server_with(&shards, TcpServerConfig { frame_len_max: 1000, ..config() });
    let mut bystander = Client::connect(server.local_addr());
    let header = |id: i32, len: i32| [id.to_le_bytes(), len.to_le_bytes()].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("negative length", header(ECHO, -1)),
        ("whole, but over the limit", frame(ECHO, &[0; 993])),
        ("over the limit before it is whole", [header(ECHO, i32::MAX), vec![0; 2000]].concat()),
        ("unknown id", frame(999, b"")),
        ("refused by its function", frame(REFUSED, b"")),
        ("malformed behind a good one", [frame(SINK, b""), header(ECHO, i32::MIN)].concat()),
    ];
    for (what, bytes) in &cases {
        let mut client = Client::connect(server.local_addr());
        client.0.write_all(bytes).expect("write");
        assert!(client.is_ended(), "{what}");
        assert_eq!(bystander.ask(ECHO, b"fine"), b"fine", "{what}");
    }
    assert_eq!(server.stats().malformed, cases.len() as u64);
    assert_eq!(bystander.ask(ECHO, &[1; 992]).len(), 992, "the limit itself is allowed");
}

#[test]
fn replies_before_a_malformed_frame_are_flushed() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    client.0.write_all(&[frame(ECHO, b"last words"), frame(999, b"")].concat()).expect("write");
    assert_eq!(client.receive(), (ECHO, b"last words".to_vec()));
    assert!(client.is_ended());
    eventually("the hook has run", || closed_reasons(&shards) == [CloseReason::UnknownMessage(999)]);
}

#[test]
fn a_panicking_function_costs_one_connection() {
    let shards = shards(1);
    let server = server(&shards);
    let mut bystander = Client::connect(server.local_addr());
    let mut client = Client::connect(server.local_addr());
    client.send(PANIC, b"");
    assert!(client.is_ended());
    assert_eq!(bystander.ask(ECHO, b"alive"), b"alive");
    assert_eq!(server.stats().panics, 1);
    assert_eq!(closed_reasons(&shards), [CloseReason::Panicked]);
}

#[test]
fn a_panicking_hook_costs_one_connection_which_still_ends() {
    let shards = shards(1);
    let sound = TcpServer::start(&shards, config(), handlers()).expect("a server");
    let broken = Handlers::<Log>::new(framing)
        .on(ECHO, |_, _, _, _| Flow::Continue)
        .opened(|_, _, _| panic!("on demand"))
        .closed(|log, _, _, reason| {
            log.closed.push(reason.clone());
            panic!("on demand")
        });
    let broken = TcpServer::start(&shards, config(), broken).expect("a server");
    let mut other = Client::connect(sound.local_addr());
    for round in 1..=3 {
        assert!(Client::connect(broken.local_addr()).is_ended());
        eventually("it has ended", || closed_reasons(&shards) == vec![CloseReason::Panicked; round]);
        assert_eq!(other.ask(ECHO, b"still here"), b"still here");
    }
    eventually("nothing is left", || connections(&shards) == 1 && broken.stats().open == 0);
    assert_eq!((broken.stats().closed, broken.stats().panics), (3, 6));
}

#[test]
fn a_slow_reader_is_held_back_and_loses_nothing() {
    let shards = shards(1);
    let server = server_with(&shards, TcpServerConfig { output_bytes_max: 256 << 10, ..config() });
    let slow = Client::connect(server.local_addr());
    let body = vec![5; 60_000];
    let count = 500;
    let writing = thread::spawn({
        let (mut writer, frame) = (slow.0.try_clone().expect("a second handle"), frame(ECHO, &body));
        move || {
            for _ in 0..count {
                writer.write_all(&frame).expect("write");
            }
        }
    });
    // 30 MB of replies cannot all be in the two sockets' buffers: at some point the server stops reading.
    eventually("the server stops serving the slow one", || {
        let before = server.stats().frames;
        thread::sleep(Duration::from_millis(50));
        before > 0 && server.stats().frames == before
    });
    let queued = shards.shard(0).call(|_, net| net.pool().stats().bytes_in_use).expect("the shard runs");
    assert!(queued <= 1 << 20, "{queued} bytes are held for one connection");
    let mut bystander = Client::connect(server.local_addr());
    assert_eq!(bystander.ask(ECHO, b"not held back"), b"not held back");
    let mut slow = slow;
    for _ in 0..count {
        assert_eq!(slow.receive(), (ECHO, body.clone()));
    }
    writing.join().expect("written");
}

#[test]
fn floods_starve_nobody_of_buffers() {
    let shards = shards(1);
    let server = server(&shards);
    let flooding: Vec<_> = (0..8)
        .map(|_| {
            let client = Client::connect(server.local_addr());
            let mut writer = client.0.try_clone().expect("a second handle");
            (client, thread::spawn(move || while writer.write_all(&frame(SINK, &[0; 50_000])).is_ok() {}))
        })
        .collect();
    eventually("they flood", || server.stats().frames > 1_000);
    let mut bystander = Client::connect(server.local_addr());
    for round in 0..100_u8 {
        assert_eq!(bystander.ask(ECHO, &[round; 10_000]), [round; 10_000]);
    }
    for (client, writing) in flooding {
        client.0.shutdown(Shutdown::Both).expect("it is connected");
        writing.join().expect("writing ends");
    }
    eventually("nothing is left of them", || connections(&shards) == 1 && pool_bytes_in_use(&shards) == 0);
}

#[test]
fn a_reader_that_stays_stuck_is_cut() {
    let shards = shards(1);
    let config =
        TcpServerConfig { output_bytes_max: 64 << 10, stall_timeout: Duration::from_millis(200), ..config() };
    let server = server_with(&shards, config);
    let stuck = Client::connect(server.local_addr());
    let mut bystander = Client::connect(server.local_addr());
    let mut writer = stuck.0.try_clone().expect("a second handle");
    let writing = thread::spawn(move || while writer.write_all(&frame(ECHO, &[0; 10_000])).is_ok() {});
    eventually("it is cut", || closed_reasons(&shards) == [CloseReason::Stalled]);
    writing.join().expect("writing ends");
    assert_eq!(server.stats().timed_out, 1);
    assert_eq!(bystander.ask(ECHO, b"fine"), b"fine");
}

#[test]
fn pushes_are_bounded_and_the_service_is_told_when_there_is_room() {
    let shards = shards(1);
    let server = server_with(&shards, TcpServerConfig { output_bytes_max: 1 << 20, ..config() });
    let mut client = Client::connect(server.local_addr());
    client.ask(ECHO, b"hello");
    let shared: Arc<[u8]> = frame(GIVE, &[9; 40_000]).into();
    // Fills the connection with pushes until it refuses one.
    let pushed = shards
        .shard(0)
        .call(move |_, net| {
            let conn = net.connection_ids().next().expect("one connection");
            let mut pushed = 0;
            while net.send_shared(conn, &shared).is_ok() {
                pushed += 1;
            }
            assert_eq!(net.send(conn, &[0; 40_008]), Err(SendError::Full));
            pushed
        })
        .expect("the shard runs");
    assert_eq!(pushed, (1 << 20) / 40_008);
    for _ in 0..pushed {
        assert_eq!(client.receive(), (GIVE, vec![9; 40_000]));
    }
    eventually("the hook has run", || total(&shards, |log| log.writable) == 1);
    assert_eq!(client.ask(ECHO, b"still there"), b"still there");
}

#[test]
fn a_stale_id_is_gone_even_if_its_slot_is_taken() {
    let shards = shards(1);
    let server = server(&shards);
    let first = Client::connect(server.local_addr());
    eventually("it is open", || connections(&shards) == 1);
    let ids = |shards: &Shards<Log>| {
        shards.shard(0).call(|_, net| net.connection_ids().collect::<Vec<_>>()).expect("the shard runs")
    };
    let old = ids(&shards)[0];
    drop(first);
    eventually("it is closed", || connections(&shards) == 0);
    let mut second = Client::connect(server.local_addr());
    second.ask(ECHO, b"");
    assert_ne!(ids(&shards)[0], old);
    let stale =
        shards.shard(0).call(move |_, net| (net.send(old, b"x"), net.peer(old))).expect("the shard runs");
    assert_eq!(stale, (Err(SendError::Gone), None));
}

#[test]
fn a_busy_function_gets_its_frame_again_and_nothing_is_lost() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    for i in 0..100_u8 {
        client.send(GATED, &[i]);
    }
    let mut bystander = Client::connect(server.local_addr());
    eventually("it was offered several times", || server.stats().busy >= 3);
    assert_eq!(bystander.ask(ECHO, b"fine"), b"fine");
    assert_eq!(server.stats().frames, 1, "nothing is served past the busy one");
    shards.shard(0).call(|log, _| log.gate_open = true).expect("the shard runs");
    for i in 0..100_u8 {
        assert_eq!(client.receive(), (GATED, vec![i]));
    }
}

#[test]
fn half_closed_connections_get_their_replies() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    let body = vec![3; 50_000];
    let writing = thread::spawn({
        let (mut writer, frame) = (client.0.try_clone().expect("a second handle"), frame(ECHO, &body));
        move || {
            for _ in 0..100 {
                writer.write_all(&frame).expect("write");
            }
            writer.write_all(&frame[..100]).expect("a partial frame at the end");
            writer.shutdown(Shutdown::Write).expect("half-close");
        }
    });
    for _ in 0..100 {
        assert_eq!(client.receive(), (ECHO, body.clone()));
    }
    assert!(client.is_ended());
    writing.join().expect("written");
    eventually("it is released", || closed_reasons(&shards) == [CloseReason::PeerClosed]);
}

#[test]
fn busy_frames_of_a_half_closed_connection_are_served_in_the_end() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    client.send(GATED, b"patience");
    client.0.shutdown(Shutdown::Write).expect("half-close");
    eventually("it was offered", || server.stats().busy >= 2);
    shards.shard(0).call(|log, _| log.gate_open = true).expect("the shard runs");
    assert_eq!(client.receive(), (GATED, b"patience".to_vec()));
    assert!(client.is_ended());
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    eventually("this test is not idle itself", idle_alone_is_closed);
}

/// False if a slow machine kept this test from being busy on the other connection all the time.
fn idle_alone_is_closed() -> bool {
    const IDLE_TIMEOUT: Duration = Duration::from_millis(600);
    let shards = shards(1);
    let server = server_with(&shards, TcpServerConfig { idle_timeout: Some(IDLE_TIMEOUT), ..config() });
    let mut idle = Client::connect(server.local_addr());
    let mut asked_at = Instant::now();
    let mut busy = Client::connect(server.local_addr());
    let reasons = loop {
        let asked_before = mem::replace(&mut asked_at, Instant::now());
        if busy.try_ask(ECHO, b"tick").is_err() {
            assert!(asked_before.elapsed() >= IDLE_TIMEOUT, "the busy one is closed");
            return false;
        }
        let reasons = closed_reasons(&shards);
        if !reasons.is_empty() {
            break reasons;
        }
    };
    if reasons.len() > 1 {
        assert!(asked_at.elapsed() >= IDLE_TIMEOUT, "the busy one is closed");
        return false;
    }
    assert_eq!(reasons, [CloseReason::Idle]);
    assert!(idle.is_ended());
    true
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let shards = shards(2);
    let server = server_with(&shards, TcpServerConfig { connections_max: 3, ..config() });
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(server.local_addr())).collect();
    for client in &mut clients {
        client.ask(ECHO, b"");
    }
    assert!(Client::connect(server.local_addr()).is_ended());
    assert_eq!(server.stats().refused, 1);
    clients.pop();
    eventually("the place is free again", || server.stats().open == 2);
    assert_eq!(Client::connect(server.local_addr()).ask(ECHO, b"in"), b"in");
}

#[test]
fn one_address_cannot_have_all_connections() {
    let shards = shards(2);
    let server = server_with(&shards, TcpServerConfig { connections_per_peer_max: Some(2), ..config() });
    let mut clients: Vec<_> = (0..2).map(|_| Client::connect(server.local_addr())).collect();
    for client in &mut clients {
        client.ask(ECHO, b"");
    }
    assert!(Client::connect(server.local_addr()).is_ended());
    let elsewhere = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    elsewhere.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("all of 127/8 is here");
    elsewhere.connect(&server.local_addr().into()).expect("connect");
    assert_eq!(Client::of(elsewhere.into()).ask(ECHO, b"in"), b"in");
    assert_eq!(server.stats().refused, 1);
}

#[test]
fn a_frame_that_trickles_is_not_waited_for() {
    let shards = shards(1);
    let server =
        server_with(&shards, TcpServerConfig { frame_timeout: Duration::from_millis(200), ..config() });
    let mut client = Client::connect(server.local_addr());
    let bytes = [frame(ECHO, b"whole"), frame(ECHO, &[0; 60_000])].concat();
    // Each byte would keep an idle connection.
    for byte in bytes {
        if client.0.write_all(&[byte]).is_err() || server.stats().closed > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    eventually("it is cut", || closed_reasons(&shards) == [CloseReason::FrameTimeout]);
    assert_eq!((server.stats().frames, server.stats().timed_out), (1, 1));
}

#[test]
fn a_second_copy_is_told_that_the_port_is_in_use() {
    let (first, others) = (shards(1), shards(1));
    let server = server(&first);
    let addr = server.local_addr();
    let error =
        TcpServer::start(&others, TcpServerConfig::new(addr), handlers()).expect_err("the port is taken");
    assert!(matches!(error, ListenError::InUse { .. }));
    // Whose it is, is not always found in a table that changes meanwhile.
    assert!(error.to_string().starts_with(&format!("{addr} is in use")), "{error}");
    drop(first);
    TcpServer::start(&others, TcpServerConfig::new(addr), handlers()).expect("stopping frees the port");
}

#[test]
fn an_exhausted_pool_is_an_error_to_the_caller_and_costs_one_connection() {
    let pool_bytes_max = 16 << 10;
    let shards = shards_with(ShardsConfig { pool_bytes_max, ..shards_config(1) });
    let server = server(&shards);
    let mut small = Client::connect(server.local_addr());
    assert_eq!(small.ask(ECHO, b"fits"), b"fits");
    let sent = shards
        .shard(0)
        .call(|_, net| {
            let conn = net.connection_ids().next().expect("one connection");
            net.send(conn, &[0; 17 << 10])
        })
        .expect("the shard runs");
    assert!(matches!(sent, Err(SendError::Pool(exhausted)) if exhausted.bytes_max == 16 << 10), "{sent:?}");

    let mut large = Client::connect(server.local_addr());
    let partial = &frame(SINK, &[0; 40_000])[..30_000];
    // The server may close it before all is written.
    let _ = large.0.write_all(partial);
    assert!(large.is_ended());
    assert_eq!(closed_reasons(&shards), [CloseReason::PoolExhausted]);
    assert_eq!(small.ask(ECHO, b"still"), b"still");
}

#[test]
fn a_reset_releases_everything() {
    let shards = shards(1);
    let server = server(&shards);
    let mut client = Client::connect(server.local_addr());
    client.ask(ECHO, b"");
    client.0.write_all(&frame(ECHO, &[0; 100])[..50]).expect("write");
    reset(client.0);
    eventually("it is released", || server.stats().open == 0 && pool_bytes_in_use(&shards) == 0);
    let reasons = closed_reasons(&shards);
    assert!(matches!(reasons[..], [CloseReason::Failed(_)]), "{reasons:?}");
}
