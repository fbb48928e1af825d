//! An agent that follows a script: one UDP socket and one thread per shard.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lars_client::{ClientConfig, HostAddr, ModuleId};
use lars_proto::{
    frame,
    messages::{ApiGetRouteRequest, GetHostRequest, GetHostResponse, MessageId, ReportRequest, RetCode},
    route::{self, Extensions, RouteReply},
};
use prost::Message;

/// Long enough for the slowest machine: a lookup that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    GetHost(GetHostRequest),
    GetRoute(ApiGetRouteRequest),
    Report(ReportRequest),
}

impl Request {
    fn decode(datagram: &[u8]) -> Self {
        let frame = frame::decode_datagram(datagram).expect("clients send frames");
        match MessageId::try_from(frame.id) {
            Ok(MessageId::GetHostRequest) => Self::GetHost(decode(frame.body)),
            Ok(MessageId::ApiGetRouteRequest) => Self::GetRoute(decode(frame.body)),
            Ok(MessageId::ReportRequest) => Self::Report(decode(frame.body)),
            _ => panic!("clients do not send message {}", frame.id),
        }
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> M {
    M::decode(body).expect("clients send well-formed messages")
}

/// A request as the script sees it.
pub(crate) struct Call<'a> {
    socket: &'a UdpSocket,
    pub(crate) from: SocketAddr,
    pub(crate) shard: usize,
    /// How many requests this shard had before.
    pub(crate) nth: usize,
    pub(crate) request: Request,
}

impl Call<'_> {
    pub(crate) fn reply(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.from).expect("a datagram on loopback");
    }

    /// From another port than the one the client asked.
    pub(crate) fn reply_from_nowhere(&self, datagram: &[u8]) {
        let elsewhere = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        elsewhere.send_to(datagram, self.from).expect("a datagram on loopback");
    }

    pub(crate) fn reply_route(&self, hosts: &[HostAddr]) {
        self.reply_route_with(hosts, Extensions::default());
    }

    pub(crate) fn reply_route_with(&self, hosts: &[HostAddr], extensions: Extensions) {
        let Request::GetRoute(asked) = self.request else { panic!("{:?} is no route request", self.request) };
        let (module, mut datagram) = (asked.module(), Vec::new());
        route::encode_extended(RouteReply::Api, module, hosts.iter().copied(), extensions, &mut datagram);
        self.reply(&datagram);
    }

    /// How long the client lets the agent wait.
    pub(crate) fn wait_ms(&self) -> u32 {
        match &self.request {
            Request::GetHost(asked) => asked.wait_ms,
            Request::GetRoute(asked) => asked.wait_ms,
            Request::Report(report) => panic!("{report:?} is no question"),
        }
    }

    /// The right answer to a lookup, with the host that every test expects for this module.
    pub(crate) fn right_answer(&self) -> GetHostResponse {
        let Request::GetHost(asked) = &self.request else { panic!("{:?} is no lookup", self.request) };
        GetHostResponse {
            seq: asked.seq,
            modid: asked.modid,
            cmdid: asked.cmdid,
            retcode: RetCode::Succ as i32,
            host: Some(host_of(asked.module()).to_wire()),
        }
    }
}

/// A host that tells which module it belongs to.
pub(crate) fn host_of(module: ModuleId) -> HostAddr {
    let port = 1 + (module.modid.wrapping_mul(31).wrapping_add(module.cmdid)).rem_euclid(65_535);
    HostAddr::v4(Ipv4Addr::new(10, 0, 0, 1), port as u16)
}

pub(crate) fn datagram(response: &GetHostResponse) -> Vec<u8> {
    let mut datagram = Vec::new();
    frame::encode(MessageId::GetHostResponse, response, &mut datagram).expect("fits");
    datagram
}

/// Dropping it closes its ports.
pub(crate) struct FakeAgent {
    base: SocketAddr,
    shards: Vec<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl FakeAgent {
    /// On free consecutive ports of 127.0.0.1.
    pub(crate) fn start(shards: u16, script: impl Fn(&Call<'_>) + Send + Sync + 'static) -> Self {
        Self::run(consecutive_sockets(shards), script)
    }

    /// On one port that was used before.
    pub(crate) fn start_at(addr: SocketAddr, script: impl Fn(&Call<'_>) + Send + Sync + 'static) -> Self {
        Self::run(vec![UdpSocket::bind(addr).expect("the port is still free")], script)
    }

    fn run(sockets: Vec<UdpSocket>, script: impl Fn(&Call<'_>) + Send + Sync + 'static) -> Self {
        let base = sockets[0].local_addr().expect("bound");
        let script = Arc::new(script);
        let stopped = Arc::new(AtomicBool::new(false));
        let shard = |(shard, socket)| {
            let (script, stopped) = (Arc::clone(&script), Arc::clone(&stopped));
            thread::spawn(move || serve(shard, &socket, &*script, &stopped))
        };
        Self { base, shards: sockets.into_iter().enumerate().map(shard).collect(), stopped }
    }

    /// A client's configuration for this agent; it waits for a reply rather than time out on a slow machine.
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig { shards: self.shards.len() as u16, ..config_for(self.base) }
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for shard in self.shards.drain(..) {
            let ended = shard.join();
            assert!(ended.is_ok() || thread::panicking(), "the script panicked");
        }
    }
}

/// As [`FakeAgent::config`], for an agent of one shard that need not be there yet.
pub(crate) fn config_for(agent: SocketAddr) -> ClientConfig {
    let SocketAddr::V4(agent) = agent else { panic!("{agent} is not IPv4") };
    ClientConfig { agent_ip: *agent.ip(), base_port: agent.port(), shards: 1, timeout: PATIENCE, retries: 1 }
}

fn serve(shard: usize, socket: &UdpSocket, script: &dyn Fn(&Call<'_>), stopped: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let mut buffer = [0; 2048];
    let mut nth = 0;
    while !stopped.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                script(&Call { socket, from, shard, nth, request: Request::decode(&buffer[..len]) });
                nth += 1;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => panic!("fake agent: {error}"),
        }
    }
}

fn consecutive_sockets(count: u16) -> Vec<UdpSocket> {
    for _ in 0..1_000 {
        let first = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let base = first.local_addr().expect("bound").port();
        let bind = |i| UdpSocket::bind((Ipv4Addr::LOCALHOST, base.checked_add(i)?)).ok();
        if let Some(others) = (1..count).map(bind).collect::<Option<Vec<_>>>() {
            return std::iter::once(first).chain(others).collect();
        }
    }
    panic!("no {count} consecutive free ports");
}
