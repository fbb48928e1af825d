//! What the tests on real sockets share: an agent on free ports, a client made of a plain socket, and
//! stand-ins for lars-dns and lars-reporter made of plain threads.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    collections::{BTreeSet, HashMap},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use lars_agent::{Agent, RawConfig};
use lars_proto::{
    HostAddr, ModuleId,
    digest::{BUCKETS, BucketSums, Digest, Held, bucket, route_hash},
    frame,
    messages::{
        self, ApiGetRouteRequest, Forget, GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse,
        MessageId, ReportRequest, ReportStatusRequest, RetCode, SubscriptionDigest, SubscriptionDigestAnswer,
    },
    route::{self, RouteReply},
};
use lars_testkit::{eventually, reserved_addr};
use prost::Message;

/// Long enough for the slowest machine: a reply that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const HOUR_MS: u64 = 3_600_000;

pub(crate) fn host(port: u16) -> HostAddr {
    HostAddr::v4(Ipv4Addr::LOCALHOST, port)
}

pub(crate) fn hosts(ports: impl IntoIterator<Item = u16>) -> Vec<HostAddr> {
    ports.into_iter().map(host).collect()
}

/// The defaults, but for ports that are free and these servers, for windows so long that on the slowest machine none
/// ends by itself, and without doubt about empty routes: the stand-in for lars-dns says of none that it is meant.
pub(crate) fn config(dns: SocketAddr, reporter: SocketAddr) -> RawConfig {
    let tcp_driver = lars_testkit::tcp_driver().parse().expect("the name of a driver");
    let mut raw = RawConfig { tcp_driver, ..RawConfig::default() };
    raw.api.base_port = 0;
    raw.dns.servers = vec![dns.to_string()];
    raw.dns.empty_hold_ms = 0;
    raw.reporter.servers = vec![reporter.to_string()];
    raw.balance.idle_timeout_ms = HOUR_MS;
    raw.balance.overload_timeout_ms = HOUR_MS;
    raw.balance.update_timeout_ms = HOUR_MS;
    raw
}

/// The first IPv4 address of this machine that is not a loopback one.
pub(crate) fn machine_address() -> Option<Ipv4Addr> {
    let interfaces = nix::ifaddrs::getifaddrs().expect("the kernel tells");
    let addresses = interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    addresses.into_iter().find(|ip| !ip.is_loopback())
}

pub(crate) fn start(raw: &RawConfig) -> Agent {
    Agent::start(raw.validate().expect("a valid configuration")).expect("the agent starts")
}

/// An agent and the stand-ins that it is connected to.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) dns: FakeDns,
    pub(crate) reporter: FakeReporter,
}

impl Stage {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut RawConfig)) -> Self {
        let (dns, reporter) = (FakeDns::start(), FakeReporter::start());
        let mut raw = config(dns.addr(), reporter.addr());
        adjust(&mut raw);
        let agent = start(&raw);
        eventually("both links are up", || agent.stats().dns.is_up + agent.stats().reporter.is_up == 2);
        // A link is up before its other end has heard of it, and nothing can be pushed before that.
        eventually("both are accepted", || dns.accepted() > 0 && reporter.accepted() > 0);
        Self { agent, dns, reporter }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.agent.local_addrs())
    }

    /// Gives `module` these hosts and waits until the agent knows.
    pub(crate) fn serve(&self, module: ModuleId, ports: impl IntoIterator<Item = u16>) {
        let hosts = hosts(ports);
        self.dns.set_route(module, &hosts);
        self.dns.push(module);
        let client = self.client();
        eventually("the agent has the route", || client.get_route(module).len() == hosts.len());
    }
}

/// A client made of a plain socket.
pub(crate) struct Client {
    socket: UdpSocket,
    agent: Vec<SocketAddr>,
}

impl Client {
    pub(crate) fn new(agent: Vec<SocketAddr>) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), agent)
    }

    /// A client with an address of its own.
    pub(crate) fn at(addr: SocketAddr, agent: Vec<SocketAddr>) -> Self {
        let socket = UdpSocket::bind(addr).expect("a free port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, agent }
    }

    pub(crate) fn send_to_shard(&self, shard: usize, datagram: &[u8]) {
        self.socket.send_to(datagram, self.agent[shard]).expect("sent");
    }

    /// The next reply, which must come from that shard's socket.
    #[track_caller]
    pub(crate) fn receive_from_shard(&self, shard: usize) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let (len, from) = loop {
            match self.socket.recv_from(&mut buffer) {
                // A socket with a timeout is not taken up again after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a reply"),
            }
        };
        assert_eq!(from, self.agent[shard], "a reply leaves by the socket its request came in by");
        buffer.truncate(len);
        buffer
    }

    /// Asks the shard that owns the module.
    #[track_caller]
    pub(crate) fn get_host(&self, module: ModuleId) -> GetHostResponse {
        self.get_host_by(module.shard(self.agent.len()), 7, module)
    }

    #[track_caller]
    pub(crate) fn get_host_by(&self, shard: usize, seq: u32, module: ModuleId) -> GetHostResponse {
        self.ask_host_by(shard, seq, module, 0);
        let response: GetHostResponse = unframed(MessageId::GetHostResponse, &self.receive_from_shard(shard));
        assert_eq!((response.seq, response.module()), (seq, module));
        response
    }

    /// Asks for a host without waiting for it here; the agent may take so long.
    pub(crate) fn ask_host_by(&self, shard: usize, seq: u32, module: ModuleId, wait_ms: u32) {
        let request = GetHostRequest { seq, modid: module.modid, cmdid: module.cmdid, wait_ms };
        self.send_to_shard(shard, &framed(MessageId::GetHostRequest, &request));
    }

    /// The port of the host that a lookup gives, if it gives one.
    #[track_caller]
    pub(crate) fn pick(&self, module: ModuleId) -> Option<u16> {
        let response = self.get_host(module);
        assert_eq!(response.host.is_some(), response.retcode == RetCode::Succ as i32);
        response.host.map(|host| host.port as u16)
    }

    /// Asks for a route without waiting for it. Gives the shard that was asked.
    pub(crate) fn ask_route(&self, module: ModuleId) -> usize {
        let shard = module.shard(self.agent.len());
        let request = ApiGetRouteRequest { modid: module.modid, cmdid: module.cmdid, wait_ms: 0 };
        self.send_to_shard(shard, &framed(MessageId::ApiGetRouteRequest, &request));
        shard
    }

    #[track_caller]
    pub(crate) fn get_route(&self, module: ModuleId) -> Vec<HostAddr> {
        let shard = self.ask_route(module);
        let response: GetRouteResponse =
            unframed(MessageId::ApiGetRouteResponse, &self.receive_from_shard(shard));
        assert_eq!(response.module(), module);
        response.host.iter().map(|host| HostAddr::from_wire(host).expect("a host")).collect()
    }

    pub(crate) fn report(&self, module: ModuleId, port: u16, retcode: i32) {
        let host = Some(host(port).to_wire());
        let request = ReportRequest { modid: module.modid, cmdid: module.cmdid, host, retcode };
        self.send_to_shard(module.shard(self.agent.len()), &framed(MessageId::ReportRequest, &request));
    }

    /// Reports a call `times` times and waits until the agent has counted them: datagrams may get lost.
    pub(crate) fn report_all(&self, agent: &Agent, module: ModuleId, port: u16, retcode: i32, times: u64) {
        let before = agent.stats().table.reports;
        (0..times).for_each(|_| self.report(module, port, retcode));
        eventually("the reports are counted", || agent.stats().table.reports == before + times);
    }
}

pub(crate) fn framed(id: MessageId, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(id, message, &mut bytes).expect("fits");
    bytes
}

#[track_caller]
pub(crate) fn unframed<M: Message + Default>(id: MessageId, datagram: &[u8]) -> M {
    let frame = frame::decode_datagram(datagram).expect("a frame");
    assert_eq!(frame.id, id as i32);
    M::decode(frame.body).expect("a message")
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex")).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// A TCP server that keeps every frame it gets and may answer it. Dropping it cuts all connections and
/// frees the port.
struct FrameServer {
    addr: SocketAddr,
    shared: Arc<Mutex<Connections>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Connections {
    streams: Vec<TcpStream>,
    accepted: usize,
    is_stopped: bool,
}

impl FrameServer {
    /// `on_frame` takes a frame and gives the bytes to answer with.
    fn start(addr: SocketAddr, on_frame: impl Fn(i32, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(addr).expect("the port is free");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Mutex::new(Connections::default()));
        let (connections, on_frame) = (Arc::clone(&shared), Arc::new(on_frame));
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut connections = lock(&connections);
                if connections.is_stopped {
                    return;
                }
                connections.accepted += 1;
                connections.streams.push(stream.try_clone().expect("a second handle"));
                let on_frame = Arc::clone(&on_frame);
                thread::spawn(move || serve(stream, &*on_frame));
            }
        });
        Self { addr, shared, acceptor: Some(acceptor) }
    }

    /// Connections so far.
    fn accepted(&self) -> usize {
        lock(&self.shared).accepted
    }

    fn send_to_all(&self, bytes: &[u8]) {
        for stream in &mut lock(&self.shared).streams {
            // One that is gone gets nothing.
            let _ = stream.write_all(bytes);
        }
    }
}

impl Drop for FrameServer {
    fn drop(&mut self) {
        {
            let mut connections = lock(&self.shared);
            connections.is_stopped = true;
            for stream in connections.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes the acceptor, which then ends and frees the port.
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor ends");
        }
    }
}

fn serve(mut stream: TcpStream, on_frame: &dyn Fn(i32, &[u8]) -> Vec<u8>) {
    let (mut input, mut chunk) = (Vec::new(), vec![0; 65_536]);
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        input.extend_from_slice(&chunk[..len]);
        while let Some((id, body)) = frame::next(&input).expect("the agent sends frames") {
            let answer = on_frame(id, &input[body.clone()]);
            input.drain(..body.end);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Routes {
    hosts: HashMap<ModuleId, Vec<HostAddr>>,
    queries: Vec<ModuleId>,
    /// What each query said of the agent's version.
    peer_versions: Vec<u32>,
    forgotten: Vec<ModuleId>,
    /// What digests are about; there is one connection where there are any.
    subscribed: BTreeSet<ModuleId>,
    /// Answers to an agent that announces itself as lars-dns does; the deployed servers do not.
    announces: bool,
}

impl Routes {
    /// As lars-dns answers digests and bucket sums; `None` if it is something else.
    fn answer_digest(&self, id: i32, body: &[u8]) -> Option<Vec<u8>> {
        let hosts = |module| self.hosts.get(module).into_iter().flatten().copied();
        let hashes = || self.subscribed.iter().map(|module| (*module, route_hash(*module, hosts(module))));
        if id == MessageId::SubscriptionDigest as i32 {
            let mut ours = Digest::default();
            hashes().for_each(|(_, hash)| ours.add(hash));
            let theirs = SubscriptionDigest::decode(body).expect("a digest");
            let Digest { count, sum } = ours;
            let differs = ours != theirs.into();
            let answer = SubscriptionDigestAnswer { differs, count, sum };
            return Some(framed(MessageId::SubscriptionDigestAnswer, &answer));
        }
        if id != MessageId::BucketSums as i32 {
            return None;
        }
        let mut ours = BucketSums::default();
        hashes().for_each(|(module, hash)| ours.add(module, hash));
        let theirs = messages::BucketSums::decode(body).expect("sums").sums;
        let differs = |of: &usize| ours.sums()[*of] != theirs[*of];
        let buckets = (0..BUCKETS).filter(differs).map(|bucket| bucket as u8).collect();
        let modules = hashes().filter(|(module, _)| differs(&bucket(*module)));
        let modules = modules.map(|(module, hash)| (module, hash.get())).collect();
        let held = Held { end: BUCKETS, buckets, modules };
        Some(framed(MessageId::BucketSumsAnswer, &held.into_wire()))
    }
}

/// Stands in for lars-dns.
pub(crate) struct FakeDns {
    server: FrameServer,
    routes: Arc<Mutex<Routes>>,
}

impl FakeDns {
    pub(crate) fn start() -> Self {
        Self::start_at(reserved_addr())
    }

    pub(crate) fn start_at(addr: SocketAddr) -> Self {
        Self::serving(addr, HashMap::new())
    }

    /// Has these routes before anybody can ask.
    pub(crate) fn serving(addr: SocketAddr, hosts: HashMap<ModuleId, Vec<HostAddr>>) -> Self {
        let routes = Arc::new(Mutex::new(Routes { hosts, ..Routes::default() }));
        let shared = Arc::clone(&routes);
        let server = FrameServer::start(addr, move |id, body| {
            let mut routes = lock(&shared);
            if id == MessageId::Forget as i32 {
                let Forget { modid, cmdid } = Forget::decode(body).expect("a module");
                routes.forgotten.push(ModuleId::new(modid, cmdid));
                routes.subscribed.remove(&ModuleId::new(modid, cmdid));
                return Vec::new();
            }
            if let Some(answer) = routes.answer_digest(id, body) {
                return answer;
            }
            assert_eq!(id, MessageId::GetRouteRequest as i32);
            let request = GetRouteRequest::decode(body).expect("a request");
            routes.queries.push(request.module());
            routes.subscribed.insert(request.module());
            routes.peer_versions.push(request.peer_version);
            let peer_version = if routes.announces { request.peer_version } else { 0 };
            encoded_route(&routes, request.module(), peer_version)
        });
        Self { server, routes }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// What queries of `module` are answered with from now on.
    pub(crate) fn set_route(&self, module: ModuleId, hosts: &[HostAddr]) {
        lock(&self.routes).hosts.insert(module, hosts.to_vec());
    }

    /// Tells every connection the route of `module`.
    pub(crate) fn push(&self, module: ModuleId) {
        let bytes = encoded_route(&lock(&self.routes), module, 0);
        self.server.send_to_all(&bytes);
    }

    /// From now on it believes that this is not subscribed to, or that it is.
    pub(crate) fn confuse(&self, module: ModuleId) {
        let subscribed = &mut lock(&self.routes).subscribed;
        if !subscribed.remove(&module) {
            subscribed.insert(module);
        }
    }

    /// What is subscribed to.
    pub(crate) fn subscribed(&self) -> Vec<ModuleId> {
        lock(&self.routes).subscribed.iter().copied().collect()
    }

    /// Sends anything to every connection.
    pub(crate) fn push_bytes(&self, bytes: &[u8]) {
        self.server.send_to_all(bytes);
    }

    /// Every query so far.
    pub(crate) fn queries(&self) -> Vec<ModuleId> {
        lock(&self.routes).queries.clone()
    }

    /// What each query said of the agent's version.
    pub(crate) fn peer_versions(&self) -> Vec<u32> {
        lock(&self.routes).peer_versions.clone()
    }

    /// Announces itself from now on, as lars-dns does.
    pub(crate) fn announce(&self) {
        lock(&self.routes).announces = true;
    }

    /// The modules that the agent has unsubscribed from.
    pub(crate) fn forgotten(&self) -> Vec<ModuleId> {
        lock(&self.routes).forgotten.clone()
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.server.accepted()
    }
}

fn encoded_route(routes: &Routes, module: ModuleId, peer_version: u32) -> Vec<u8> {
    let hosts = routes.hosts.get(&module).cloned().unwrap_or_default();
    if peer_version == 0 {
        let mut bytes = Vec::new();
        route::encode(RouteReply::Dns, module, hosts, &mut bytes);
        return bytes;
    }
    let host = hosts.iter().map(|host| host.to_wire()).collect();
    let ModuleId { modid, cmdid } = module;
    let response = GetRouteResponse { modid, cmdid, host, peer_version, ..Default::default() };
    framed(MessageId::GetRouteResponse, &response)
}

/// Stands in for lars-reporter.
pub(crate) struct FakeReporter {
    server: FrameServer,
    messages: Arc<Mutex<Vec<ReportStatusRequest>>>,
}

impl FakeReporter {
    pub(crate) fn start() -> Self {
        Self::start_at(reserved_addr())
    }

    pub(crate) fn start_at(addr: SocketAddr) -> Self {
        let messages = Arc::<Mutex<Vec<ReportStatusRequest>>>::default();
        let shared = Arc::clone(&messages);
        let server = FrameServer::start(addr, move |id, body| {
            assert_eq!(id, MessageId::ReportStatusRequest as i32);
            lock(&shared).push(ReportStatusRequest::decode(body).expect("a report"));
            Vec::new()
        });
        Self { server, messages }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.server.accepted()
    }

    /// Every message so far.
    pub(crate) fn messages(&self) -> Vec<ReportStatusRequest> {
        lock(&self.messages).clone()
    }

    /// What was said last of a host of `module`: successes, failures, whether it is overloaded.
    pub(crate) fn last(&self, module: ModuleId, port: u16) -> Option<(u32, u32, bool)> {
        let wire = host(port).to_wire();
        let messages = self.messages();
        let mut results =
            messages.iter().filter(|message| message.module() == module).flat_map(|m| &m.results);
        let last = results.rfind(|result| (result.ip, result.port) == (wire.ip, wire.port))?;
        Some((last.succ, last.err, last.overload))
    }
}
