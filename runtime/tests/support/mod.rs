//! A framed echo service and a client for it, shared by the tests of this crate.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod datagrams;

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use lars_runtime::{CloseReason, ConnId, Flow, Handlers, ShardContext, Shards, ShardsConfig};

/// Echoed back as it is.
pub const ECHO: i32 = 1;
/// Answered with the index of the shard and the number of the connection's frames so far.
pub const WHERE: i32 = 2;
/// The function panics.
pub const PANIC: i32 = 3;
/// Swallowed.
pub const SINK: i32 = 4;
/// Busy until [`Log::open_gate`]; then counted and echoed.
pub const GATED: i32 = 5;
/// Refused by its function.
pub const REFUSED: i32 = 6;
/// Answered with as many bytes as the body says (`u32`).
pub const GIVE: i32 = 7;

#[derive(Debug)]
pub struct BadLength(i32);

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad length {}", self.0)
    }
}

impl std::error::Error for BadLength {}

/// Lars's framing: two little-endian `i32`s, id and body length, then the body.
pub fn framing(input: &[u8]) -> Result<Option<(i32, Range<usize>)>, BadLength> {
    let Some(header) = input.first_chunk::<8>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h] = *header;
    let (id, len) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
    let end = 8 + usize::try_from(len).map_err(|_| BadLength(len))?;
    Ok((input.len() >= end).then_some((id, 8..end)))
}

pub fn frame(id: i32, body: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &(body.len() as i32).to_le_bytes(), body].concat()
}

/// A shard's state: what happened.
#[derive(Debug, Default)]
pub struct Log {
    pub opened: usize,
    pub closed: Vec<CloseReason>,
    pub writable: usize,
    pub frames: usize,
    pub gate_open: bool,
    pub ticks: usize,
    pub jobs: usize,
    pub datagrams: usize,
}

pub fn handlers() -> Handlers<Log> {
    Handlers::<Log>::new(framing)
        .on(ECHO, |log, net, conn, body| {
            log.frames += 1;
            answer(net, conn, &frame(ECHO, body))
        })
        .on(WHERE, |log, net, conn, _| {
            log.frames += 1;
            let shard = net.shard_index() as u8;
            answer(net, conn, &frame(WHERE, &[shard]))
        })
        .on(PANIC, |_, _, _, _| panic!("on demand"))
        .on(SINK, |log, _, _, _| {
            log.frames += 1;
            Flow::Continue
        })
        .on(GATED, |log, net, conn, body| {
            if !log.gate_open {
                return Flow::Busy;
            }
            log.frames += 1;
            answer(net, conn, &frame(GATED, body))
        })
        .on(REFUSED, |_, _, _, _| Flow::Close("not wanted"))
        .on(GIVE, |_, net, conn, body| {
            let len = u32::from_le_bytes(body.try_into().expect("a u32")) as usize;
            answer(net, conn, &frame(GIVE, &vec![7; len]))
        })
        .opened(|log, _, _| log.opened += 1)
        .writable(|log, _, _| log.writable += 1)
        .closed(|log, net, conn, reason| {
            assert!(net.peer(conn).is_some(), "the peer is known to the last");
            log.closed.push(reason.clone());
        })
}

fn answer(net: &mut ShardContext<Log>, conn: ConnId, reply: &[u8]) -> Flow {
    match net.send(conn, reply) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Close("the reply does not fit"),
    }
}

pub fn shards(count: usize) -> Shards<Log> {
    shards_with(shards_config(count))
}

/// With the driver under test.
pub fn shards_config(count: usize) -> ShardsConfig {
    let tcp_driver = lars_testkit::tcp_driver().parse().expect("the name of a driver");
    ShardsConfig { shards: count, tcp_driver, ..ShardsConfig::default() }
}

pub fn shards_with(config: ShardsConfig) -> Shards<Log> {
    Shards::start(config, |_| Log::default()).expect("shards start")
}

/// What all shards' logs say together.
pub fn total<T: Send + 'static + std::iter::Sum>(shards: &Shards<Log>, f: fn(&mut Log) -> T) -> T {
    shards.handles().iter().map(|shard| shard.call(move |log, _| f(log)).expect("the shard runs")).sum()
}

pub fn connections(shards: &Shards<Log>) -> usize {
    shards
        .handles()
        .iter()
        .map(|shard| shard.call(|_, net| net.connection_count()).expect("the shard runs"))
        .sum()
}

pub fn pool_bytes_in_use(shards: &Shards<Log>) -> u64 {
    let in_use = |_: &mut Log, net: &mut ShardContext<Log>| net.pool().stats().bytes_in_use;
    shards.handles().iter().map(|shard| shard.call(in_use).expect("the shard runs")).sum()
}

pub fn closed_reasons(shards: &Shards<Log>) -> Vec<CloseReason> {
    let logs = shards.handles().iter().map(|shard| shard.call(|log, _| log.closed.clone()));
    logs.flat_map(|closed| closed.expect("the shard runs")).collect()
}

/// Long enough for the slowest machine: a reply that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A blocking client.
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).expect("connect"))
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("nodelay can be set");
        Self(stream)
    }

    pub fn send(&mut self, id: i32, body: &[u8]) {
        self.0.write_all(&frame(id, body)).expect("write");
    }

    pub fn receive(&mut self) -> (i32, Vec<u8>) {
        self.try_receive().expect("a frame")
    }

    pub fn try_receive(&mut self) -> io::Result<(i32, Vec<u8>)> {
        let mut header = [0; 8];
        self.0.read_exact(&mut header)?;
        let [a, b, c, d, e, f, g, h] = header;
        let mut body = vec![0; i32::from_le_bytes([e, f, g, h]) as usize];
        self.0.read_exact(&mut body)?;
        Ok((i32::from_le_bytes([a, b, c, d]), body))
    }

    pub fn ask(&mut self, id: i32, body: &[u8]) -> Vec<u8> {
        self.try_ask(id, body).expect("an answer")
    }

    pub fn try_ask(&mut self, id: i32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(&frame(id, body))?;
        let (reply, body) = self.try_receive()?;
        assert_eq!(reply, id);
        Ok(body)
    }

    /// Whether the server has ended the connection (without sending anything more).
    pub fn is_ended(&mut self) -> bool {
        // Unlike `read`, this goes on after an interruption.
        match self.0.read_exact(&mut [0; 1]).map_err(|error| error.kind()) {
            Ok(()) => false,
            Err(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => true,
            Err(error) => panic!("waiting for the end: {error}"),
        }
    }
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// Closes with a reset instead of an end of stream.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
}
