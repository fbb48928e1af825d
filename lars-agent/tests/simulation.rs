//! A whole agent without its IO: a core for each shard, in a simulated world. Mailboxes between the shards refuse,
//! delay and reorder; connections fill up and break with all that is under way; lars-dns answers late, hangs, is of
//! the deployed kind or of ours, which then forgets subscriptions, invents some, and loses and repeats routes; the reporter comes and goes; the clock jumps in both directions. Every step checks
//! what must always hold; every run ends with a calm in which all sides must come to agree.
//!
//! A failure prints its seed and step; `LARS_SIM_SEED=<seed>` runs that seed alone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use lars_agent::core::{
    agent::{
        AgentCore, Client, CoreConfig, FlushState, Input, Message, Output, Reply, Request, UPLINKS_SHARD,
    },
    balancer::{BalancerParams, Health, HostStatus, Limits, Outcome},
    digest::Question,
    dns_link::DnsMessage,
    pending::WAIT_MAX,
    table::{Answer, TableConfig},
    time::Moment,
};
use lars_proto::{
    HostAddr, ModuleId,
    digest::{BUCKETS, BucketSums, Digest, Held, bucket, route_hash},
    messages::{GetRouteResponse, HostInfo, ReportStatusRequest, SubscriptionDigestAnswer},
};
use lars_testkit::run_seeds;

const STEPS: usize = 3_000;
/// Seeds are tried until so much time has passed; at least one is.
const BUDGET: Duration = Duration::from_secs(5);
const SHARDS: usize = 3;
/// Of each shard. There are more that are looked up.
const MODULES_MAX: usize = 4;
/// Messages that a mailbox or a connection takes.
const ROOM: usize = 3;
const CALLER: i32 = 7;

fn module(n: i32) -> ModuleId {
    ModuleId::new(n - 3, i32::MAX - n * 5)
}

fn any_module(rng: &mut Rng) -> ModuleId {
    module(rng.i32(0..18))
}

fn any_host(rng: &mut Rng) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(192, 168, 0, rng.u8(0..6)), 80)
}

fn any_hosts(rng: &mut Rng) -> Vec<HostAddr> {
    (0..rng.usize(0..6)).map(|_| any_host(rng)).collect()
}

fn client(socket: usize, port: u16) -> Client {
    Client { socket, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
}

/// A lookup that is not answered yet.
#[derive(Debug)]
struct Asked {
    request: Request,
    /// When its client gives up; `None` if it does not wait.
    deadline: Option<Moment>,
    /// The shard that owns the module keeps it.
    is_kept: bool,
}

/// A lars-dns and the connection to it.
#[derive(Default)]
struct Dns {
    is_up: bool,
    /// Of our kind, which knows the extensions.
    announces: bool,
    hangs: bool,
    /// What it would answer.
    routes: BTreeMap<ModuleId, Vec<HostAddr>>,
    /// What has been sent to it and by it; all is lost with the connection.
    to_server: VecDeque<DnsMessage>,
    to_agent: VecDeque<Input>,
    is_agent_refused: bool,
    /// Of this connection.
    subscribed: BTreeSet<ModuleId>,
    queries: usize,
    has_announced: bool,
}

impl Dns {
    /// Takes one message.
    fn serve(&mut self) {
        if self.hangs {
            return;
        }
        match self.to_server.pop_front() {
            Some(DnsMessage::Query { module, peer_version }) => {
                assert_eq!(peer_version, u32::from(self.queries == 0), "the first query announces the agent");
                self.queries += 1;
                self.subscribed.insert(module);
                let says_version = self.announces && peer_version > 0;
                self.has_announced |= says_version;
                self.send(module, u32::from(says_version));
            }
            Some(DnsMessage::Forget(module)) => {
                assert!(self.has_announced, "only a server that knows the message gets it");
                self.subscribed.remove(&module);
            }
            Some(DnsMessage::Digest(question)) => {
                assert!(self.has_announced, "only a server that knows digests gets them");
                let answer = self.answer(&question);
                self.to_agent.push_back(answer);
            }
            None => {}
        }
    }

    fn answer(&self, question: &Question) -> Input {
        let hosts = |module| self.routes.get(module).into_iter().flatten().copied();
        let (mut whole, mut buckets, mut all) = (Digest::default(), BucketSums::default(), vec![]);
        for module in &self.subscribed {
            let hash = route_hash(*module, hosts(module));
            whole.add(hash);
            buckets.add(*module, hash);
            all.push((*module, hash.get()));
        }
        match question {
            Question::Digest(theirs) if *theirs == whole => Input::DigestAnswer(Default::default()),
            Question::Digest(_) => {
                let Digest { count, sum } = whole;
                Input::DigestAnswer(SubscriptionDigestAnswer { differs: true, count, sum })
            }
            Question::Buckets(theirs) => {
                let pairs = buckets.sums().iter().zip(&theirs.sums).zip(0..=u8::MAX);
                let differ: Vec<u8> =
                    pairs.filter(|((ours, theirs), _)| ours != theirs).map(|(_, bucket)| bucket).collect();
                all.retain(|(module, _)| differ.contains(&(bucket(*module) as u8)));
                Input::Held(Held { end: BUCKETS, buckets: differ, modules: all })
            }
        }
    }

    /// Something goes wrong that no connection tells of.
    fn fail(&mut self, rng: &mut Rng) {
        let is_route = |input: &Input| matches!(input, Input::Route(route) if route.peer_version == 0);
        match rng.u32(0..5) {
            0 => _ = self.subscribed.insert(any_module(rng)),
            1 => _ = self.subscribed.remove(&any_module(rng)),
            2 => self.to_agent.retain(|input| !is_route(input) || rng.bool()),
            3 => {
                let repeated = self.to_agent.iter().find(|input| is_route(input)).cloned();
                self.to_agent.extend(repeated);
            }
            _ => self.to_server.retain(|message| !matches!(message, DnsMessage::Forget(_))),
        }
    }

    fn send(&mut self, module: ModuleId, peer_version: u32) {
        let hosts = self.routes.get(&module).cloned().unwrap_or_default();
        let host: Vec<HostInfo> = hosts.iter().map(|host| host.to_wire()).collect();
        let ModuleId { modid, cmdid } = module;
        let confirmed = host.is_empty() && self.has_announced;
        let response = GetRouteResponse { modid, cmdid, host, confirmed, peer_version, ..Default::default() };
        self.to_agent.push_back(Input::Route(response));
    }

    fn edit(&mut self, module: ModuleId, hosts: Vec<HostAddr>) {
        self.routes.insert(module, hosts);
        if self.subscribed.contains(&module) {
            self.send(module, 0);
        }
    }

    fn disconnect(&mut self) {
        let (routes, announces) = (std::mem::take(&mut self.routes), self.announces);
        *self = Self { routes, announces, ..Self::default() };
    }
}

/// A lars-reporter and the connection to it.
#[derive(Default)]
struct Reporter {
    is_up: bool,
    to_server: VecDeque<ReportStatusRequest>,
    is_agent_refused: bool,
    known: BTreeMap<(ModuleId, HostAddr), HostStatus>,
}

impl Reporter {
    /// Takes one message.
    fn serve(&mut self) {
        let Some(message) = self.to_server.pop_front() else { return };
        assert_eq!(message.caller, CALLER);
        assert!(!message.results.is_empty());
        for result in &message.results {
            let host = HostAddr::from_wire(&HostInfo { ip: result.ip, port: result.port }).expect("a host");
            let status = HostStatus { host, succ: result.succ, err: result.err, overloaded: result.overload };
            self.known.insert((message.module(), host), status);
        }
    }
}

struct World {
    rng: Rng,
    now: Moment,
    cores: Vec<AgentCore>,
    /// From each shard to each other; first in, first out between two of them only.
    mail: BTreeMap<(usize, usize), VecDeque<Message>>,
    dns: Dns,
    reporter: Reporter,
    /// The routes that came into force last.
    arrived: BTreeMap<ModuleId, BTreeSet<HostAddr>>,
    /// The modules with hosts that are said to have none, and since when.
    in_doubt: BTreeMap<ModuleId, Moment>,
    empty_hold: Duration,
    /// Hosts never leave a route. If they do, what was said of them may be on its way, and meets a new host.
    only_grows: bool,
    /// Hosts that fail at present.
    sick: BTreeSet<HostAddr>,
    /// The lookups that are not answered yet, by the socket that they came in by and the client's port; each has a
    /// port of its own.
    asked: BTreeMap<(usize, u16), Asked>,
    next_port: u16,
    /// Lookups that came in by another shard than their module's.
    forwarded: u64,
    is_stopping: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let health = Health {
            contin_err_limit: rng.u32(1..16),
            idle_timeout: Duration::from_millis(rng.u64(1..20_000)),
            overload_timeout: Duration::from_millis(rng.u64(1..20_000)),
            ..Health::default()
        };
        let params = BalancerParams { probe_num: rng.u32(1..12), health, limits: Limits::default() };
        let empty_hold = Duration::from_millis(rng.u64(0..10_000));
        let table = TableConfig {
            balancer: Arc::new(params),
            modules_max: MODULES_MAX,
            empty_hold,
            ..TableConfig::default()
        };
        let config = CoreConfig {
            table,
            answer_timeout: Duration::from_secs(15),
            routes_to_anyone: false,
            digest_spread: rng.u32(..),
        };
        let dns = Dns { announces: rng.bool(), ..Dns::default() };
        Self {
            only_grows: rng.bool(),
            rng,
            now: Moment::since_origin(Duration::from_secs(1_000)),
            cores: (0..SHARDS).map(|shard| AgentCore::new(shard, SHARDS, config.clone())).collect(),
            mail: BTreeMap::new(),
            dns,
            reporter: Reporter::default(),
            arrived: BTreeMap::new(),
            in_doubt: BTreeMap::new(),
            empty_hold,
            sick: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_port: 1,
            forwarded: 0,
            is_stopping: false,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..25 => self.look_up(),
            25..30 => self.look_up_again(),
            30..36 => {
                let (module, host) = (any_module(&mut self.rng), any_host(&mut self.rng));
                let outcome = Outcome::from_retcode(self.rng.i32(0..2));
                self.report(module, host, outcome);
            }
            36..50 => {
                self.deliver_mail();
            }
            50..58 => self.dns.serve(),
            58..64 => {
                self.deliver_route();
            }
            64..68 => self.reporter.serve(),
            68..80 => self.pass_up_to(Duration::from_millis(200)),
            80..83 => self.pass_up_to(Duration::from_secs(20)),
            83 => self.pass_up_to(Duration::from_secs(1_000)),
            84 => self.now = self.now.saturating_sub(Duration::from_millis(self.rng.u64(0..50_000))),
            88 if self.dns.has_announced => self.dns.fail(&mut self.rng),
            85..89 => {
                let (module, hosts) = (any_module(&mut self.rng), any_hosts(&mut self.rng));
                self.edit(module, hosts);
            }
            89 => self.sick = any_hosts(&mut self.rng).into_iter().collect(),
            90 => self.disconnect_dns(),
            91..94 => self.connect_dns(),
            94 => self.dns.hangs = self.rng.bool(),
            95 => self.disconnect_reporter(),
            96..98 => self.connect_reporter(),
            _ => self.make_room(),
        }
    }

    /// A lookup by any socket, of a client that waits or not.
    fn look_up(&mut self) {
        let (socket, module, port) = (self.rng.usize(0..SHARDS), any_module(&mut self.rng), self.next_port);
        self.next_port += 1;
        let wait_ms = if self.rng.bool() { self.rng.u32(1..10_000) } else { 0 };
        let request = if self.rng.u32(0..4) == 0 {
            Request::GetRoute { module, wait_ms }
        } else {
            Request::GetHost { seq: self.rng.u32(..), module, wait_ms }
        };
        self.ask(socket, port, request);
    }

    /// A client that has heard nothing asks the same again.
    fn look_up_again(&mut self) {
        let is_kept = |(socket, asked): (usize, &Asked)| asked.request.module().shard(SHARDS) == socket;
        let kept: Vec<_> =
            self.asked.iter().filter(|((socket, _), asked)| is_kept((*socket, asked))).collect();
        if kept.is_empty() {
            return;
        }
        let (&(socket, port), asked) = kept[self.rng.usize(0..kept.len())];
        let (mut request, longer) = (asked.request, self.rng.u32(1..10_000));
        if let Request::GetHost { wait_ms, .. } | Request::GetRoute { wait_ms, .. } = &mut request {
            *wait_ms = longer;
        }
        self.ask(socket, port, request);
    }

    fn ask(&mut self, socket: usize, port: u16, request: Request) {
        let (Request::GetHost { module, wait_ms, .. } | Request::GetRoute { module, wait_ms }) = request
        else {
            panic!("{request:?} is no lookup")
        };
        let wait = Duration::from_millis(wait_ms.into());
        let is_owner = module.shard(SHARDS) == socket;
        let deadline = (wait_ms > 0).then_some(self.now + wait);
        let before = self.asked.insert((socket, port), Asked { request, deadline, is_kept: false });
        let refused = self.cores[socket].stats().table.modules_refused;
        let reply = self.cores[socket].handle_request(&request, client(socket, port), self.now);
        let core = &self.cores[socket];
        if !is_owner {
            assert!(reply.is_none(), "only the owner answers");
            self.forwarded += u64::from(before.is_none());
        } else if reply.is_none() {
            assert!(wait_ms > 0 && !core.table().is_learned(module), "{request:?} is to be answered at once");
        } else if wait_ms > 0 {
            let is_remembered = core.stats().table.modules_refused == refused;
            assert!(core.table().is_learned(module) || !is_remembered, "{request:?} waits");
        }
        match reply {
            Some(reply) => self.take_reply(client(socket, port), &reply),
            None => self.is_kept(client(socket, port), is_owner),
        }
        self.drain(socket);
    }

    fn is_kept(&mut self, client: Client, is_kept: bool) {
        if let Some(asked) = self.asked.get_mut(&(client.socket, client.addr.port())) {
            asked.is_kept = is_kept;
        }
    }

    fn report(&mut self, module: ModuleId, host: HostAddr, outcome: Outcome) {
        let owner = module.shard(SHARDS);
        let request = Request::Report { module, host, outcome };
        assert_eq!(self.cores[owner].handle_request(&request, client(owner, 1), self.now), None);
        self.drain(owner);
    }

    /// One reply to each lookup, the right one, and in time.
    fn take_reply(&mut self, to: Client, reply: &Reply) {
        let asked = self.asked.remove(&(to.socket, to.addr.port()));
        let Some(Asked { request, deadline, is_kept }) = asked else { panic!("{reply:?} is nobody's") };
        let is_found = match (reply, request) {
            (
                Reply::Host { seq, module, answer },
                Request::GetHost { seq: asked_seq, module: asked_for, .. },
            ) => {
                assert_eq!((*seq, *module), (asked_seq, asked_for));
                *answer != Answer::NotFound
            }
            (Reply::Route { module, hosts, confirmed }, Request::GetRoute { module: asked_for, wait_ms }) => {
                assert_eq!(*module, asked_for);
                let is_learned = self.cores[module.shard(SHARDS)].table().is_learned(*module);
                assert!(!confirmed || wait_ms > 0 && is_learned, "only what is learned is sure");
                !hosts.is_empty()
            }
            (reply, request) => panic!("{reply:?} to {request:?}"),
        };
        let is_learned = self.cores[request.module().shard(SHARDS)].table().is_learned(request.module());
        if let Some(at) = deadline.filter(|_| is_kept) {
            let is_due = at <= self.now || at > self.now + WAIT_MAX;
            assert!(is_learned || is_due || self.is_stopping, "{reply:?} at {:?} before {at:?}", self.now);
            assert!(!is_found || at > self.now, "found at {:?}, after {at:?}", self.now);
            if is_due && !is_found {
                // The route may have come together with the end of the wait.
                return;
            }
        }
        self.check_reply(reply);
    }

    fn check_reply(&mut self, reply: &Reply) {
        let (module, answer) = match reply {
            Reply::Host { module, answer, .. } => (*module, *answer),
            Reply::Route { module, hosts, .. } => {
                let hosts: BTreeSet<HostAddr> = hosts.iter().copied().collect();
                assert_eq!(
                    hosts,
                    self.arrived.get(module).cloned().unwrap_or_default(),
                    "the route of {module}"
                );
                return;
            }
        };
        let arrived = self.arrived.get(&module).filter(|hosts| !hosts.is_empty());
        match (answer, arrived) {
            (Answer::Host(host), Some(hosts)) => {
                assert!(hosts.contains(&host), "{host} is not a host of {module}");
                let outcome = if self.sick.contains(&host) { Outcome::Failure } else { Outcome::Success };
                self.report(module, host, outcome);
            }
            (Answer::Overloaded, Some(_)) | (Answer::NotFound, None) => {}
            (answer, arrived) => panic!("{answer:?} for {module} with the route {arrived:?}"),
        }
    }

    /// Something happens to a shard. False if it is too busy for that.
    fn tell(&mut self, shard: usize, input: Input) -> bool {
        let route = if let Input::FromShard(Message::Route { module, route, confirmed }) = &input {
            let hosts: BTreeSet<_> = route.iter().map(|endpoint| endpoint.addr).collect();
            Some((*module, hosts, *confirmed))
        } else if let Input::Route(response) = &input {
            let hosts = response.host.iter().map(|host| HostAddr::from_wire(host).expect("a host"));
            Some((response.module(), hosts.collect(), response.confirmed))
        } else {
            None
        };
        let updates = self.cores[shard].stats().table.updates;
        let is_taken = self.cores[shard].handle(input, self.now).is_ok();
        let is_in_force = self.cores[shard].stats().table.updates > updates;
        if let Some((module, hosts, confirmed)) = route.filter(|(module, ..)| module.shard(SHARDS) == shard) {
            self.check_doubt(module, &hosts, confirmed, is_in_force);
            if is_in_force {
                self.arrived.insert(module, hosts);
            }
        }
        self.drain(shard);
        is_taken
    }

    /// A module keeps its hosts until it is sure that it has none.
    fn check_doubt(
        &mut self,
        module: ModuleId,
        hosts: &BTreeSet<HostAddr>,
        confirmed: bool,
        is_in_force: bool,
    ) {
        let had_hosts = self.arrived.get(&module).is_some_and(|hosts| !hosts.is_empty());
        if !had_hosts || !hosts.is_empty() || confirmed {
            assert!(!had_hosts || is_in_force, "there is no doubt of {hosts:?} of {module}");
            self.in_doubt.remove(&module);
            return;
        }
        let since = *self.in_doubt.entry(module).or_insert(self.now);
        let is_over = self.now.is_due(since + self.empty_hold, self.empty_hold);
        assert_eq!(is_in_force, is_over, "{module} is in doubt since {since:?}, at {:?}", self.now);
        if is_over {
            self.in_doubt.remove(&module);
        }
    }

    /// Does what a core wants done, or refuses.
    fn drain(&mut self, shard: usize) {
        while let Some(output) = self.cores[shard].poll_output() {
            let refused = match output {
                Output::Reply { client: to, reply } => {
                    self.take_reply(to, &reply);
                    None
                }
                Output::ToShard(to, message) => self.post(shard, to, message),
                Output::SendToDns(message) => {
                    assert_eq!(shard, UPLINKS_SHARD);
                    let is_full = !self.dns.is_up || self.dns.to_server.len() >= ROOM;
                    self.dns.is_agent_refused |= is_full;
                    if is_full {
                        Some(Output::SendToDns(message))
                    } else {
                        self.dns.to_server.push_back(message);
                        None
                    }
                }
                Output::SendToReporter(message) => {
                    assert_eq!(shard, UPLINKS_SHARD);
                    let is_full = !self.reporter.is_up || self.reporter.to_server.len() >= ROOM;
                    self.reporter.is_agent_refused |= is_full;
                    if is_full {
                        Some(Output::SendToReporter(message))
                    } else {
                        self.reporter.to_server.push_back(message);
                        None
                    }
                }
                Output::CloseDns(_) => {
                    assert!(self.dns.is_up, "there is something to close");
                    self.dns.disconnect();
                    let taken = self.cores[shard].handle(Input::DnsDown, self.now);
                    assert_eq!(taken, Ok(()));
                    None
                }
                Output::Log(_) => None,
            };
            if let Some(output) = refused {
                self.cores[shard].refused(output);
            }
        }
        assert!(self.cores[shard].stats().table.modules <= MODULES_MAX as u64);
    }

    /// Puts a message into a mailbox, or gives it back if that is full.
    fn post(&mut self, from: usize, to: usize, message: Message) -> Option<Output> {
        assert_ne!(from, to, "a shard does not write to itself");
        let waiting: usize =
            (0..SHARDS).map(|from| self.mail.get(&(from, to)).map_or(0, VecDeque::len)).sum();
        if waiting >= ROOM {
            return Some(Output::ToShard(to, message));
        }
        self.mail.entry((from, to)).or_default().push_back(message);
        None
    }

    /// One message arrives, the oldest of any two shards.
    fn deliver_mail(&mut self) -> bool {
        let pairs: Vec<_> =
            self.mail.iter().filter(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair).collect();
        if pairs.is_empty() {
            return false;
        }
        let (from, to) = pairs[self.rng.usize(0..pairs.len())];
        let message = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("it is not empty");
        let client = if let Message::Request { client, asked_at, .. } = &message {
            let asked = self.asked.get_mut(&(client.socket, client.addr.port()));
            if let Some(at) = asked.and_then(|asked| asked.deadline.as_mut())
                && self.now < *asked_at
            {
                // The clock has stepped back meanwhile: the wait begins now.
                *at = self.now + at.elapsed().saturating_sub(asked_at.elapsed());
            }
            Some(*client)
        } else {
            None
        };
        assert!(self.tell(to, Input::FromShard(message)), "only routes from lars-dns meet a busy core");
        if let Some(client) = client {
            self.is_kept(client, true);
        }
        true
    }

    /// One response arrives, unless the agent is too busy.
    fn deliver_route(&mut self) -> bool {
        let Some(response) = self.dns.to_agent.pop_front() else { return false };
        if !self.tell(UPLINKS_SHARD, response.clone()) {
            self.dns.to_agent.push_front(response);
            return false;
        }
        true
    }

    /// Lets time pass, with the deadlines that belong to it.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for shard in 0..SHARDS {
            self.cores[shard].handle_timeout(self.now);
            self.drain(shard);
            let next = self.cores[shard].poll_timeout();
            assert!(next.is_none_or(|at| at > self.now), "shard {shard} wants to be called for ever");
        }
        for asked in self.asked.values().filter(|asked| asked.is_kept) {
            assert!(asked.deadline.is_some_and(|at| at > self.now), "{asked:?} at {:?}", self.now);
        }
        let waiting: u64 = self.cores.iter().map(|core| core.stats().api.waiting).sum();
        let kept = self.asked.values().filter(|asked| asked.is_kept).count();
        assert_eq!(waiting, kept as u64, "who is not answered waits");
    }

    fn pass_up_to(&mut self, most: Duration) {
        let time = most.mul_f64(self.rng.f64());
        self.pass(time);
    }

    fn edit(&mut self, module: ModuleId, hosts: Vec<HostAddr>) {
        let kept = self.dns.routes.get(&module).filter(|_| self.only_grows).cloned().unwrap_or_default();
        self.dns.edit(module, kept.into_iter().chain(hosts).collect());
    }

    fn connect_dns(&mut self) {
        if !self.dns.is_up {
            self.dns.is_up = true;
            self.tell(UPLINKS_SHARD, Input::DnsUp);
        }
    }

    fn disconnect_dns(&mut self) {
        if self.dns.is_up {
            self.dns.disconnect();
            self.tell(UPLINKS_SHARD, Input::DnsDown);
        }
    }

    fn connect_reporter(&mut self) {
        if !self.reporter.is_up {
            self.reporter.is_up = true;
            self.tell(UPLINKS_SHARD, Input::ReporterUp { caller: CALLER });
        }
    }

    fn disconnect_reporter(&mut self) {
        if self.reporter.is_up {
            self.reporter.is_up = false;
            self.reporter.to_server.clear();
            self.tell(UPLINKS_SHARD, Input::ReporterDown);
        }
    }

    /// Connections that refused something say that they take more.
    fn make_room(&mut self) {
        if std::mem::take(&mut self.dns.is_agent_refused) && self.dns.is_up {
            self.tell(UPLINKS_SHARD, Input::DnsWritable);
        }
        if std::mem::take(&mut self.reporter.is_agent_refused) && self.reporter.is_up {
            self.tell(UPLINKS_SHARD, Input::ReporterWritable);
        }
    }

    /// Whatever is under way arrives.
    fn settle(&mut self) {
        loop {
            let mut moved = self.deliver_mail();
            moved |= self.deliver_route();
            moved |= !self.dns.to_server.is_empty() || !self.reporter.to_server.is_empty();
            self.dns.serve();
            self.reporter.serve();
            if !moved {
                return;
            }
        }
    }

    /// Nothing fails any more, and everything gets the time it needs: all sides must agree.
    fn calm_down(&mut self) {
        self.sick.clear();
        self.dns.hangs = false;
        self.connect_reporter();
        self.connect_dns();
        self.settle();
        // As the last thing, so that nothing but a digest can find it.
        for _ in 0..10 {
            let (module, hosts) = (any_module(&mut self.rng), any_hosts(&mut self.rng));
            self.edit(module, hosts);
            if self.dns.has_announced {
                self.dns.fail(&mut self.rng);
            }
        }
        // A window of 20 s at most may end with an ejection, and that with a recovery 20 s later. Only deadlines drive
        // the cores.
        let end = self.now + Duration::from_secs(45);
        while self.now < end {
            // Where the clock jumped, one that answers was given up.
            self.connect_dns();
            self.settle();
            let next = self.cores.iter().filter_map(AgentCore::poll_timeout).min().unwrap_or(end);
            self.now = self.now.max(next.min(end));
            self.pass(Duration::ZERO);
        }
        // A server of our kind was asked with a digest meanwhile.
        if !self.dns.has_announced {
            for module in self.dns.subscribed.clone() {
                self.dns.send(module, 0);
            }
        }
        self.settle();
        // Those who had waited for that have made calls.
        self.pass(Duration::from_secs(2));
        self.settle();
        for core in &self.cores {
            assert!(!core.has_output());
        }
        self.check_answered();
        self.check_subscriptions();
        for (module, hosts) in self.arrived.clone() {
            if self.dns.subscribed.contains(&module) {
                self.check_agreement(module, &hosts);
            }
        }
    }

    /// Nobody is left waiting.
    fn stop(&mut self) {
        self.disconnect_dns();
        for _ in 0..50 {
            self.look_up();
        }
        self.is_stopping = true;
        // Again and again, because mailboxes may be full.
        for _ in 0..100 {
            self.pass(Duration::from_millis(10));
            self.make_room();
            for shard in 0..SHARDS {
                self.tell(shard, Input::FlushNow);
                assert_eq!(self.cores[shard].stats().api.waiting, 0);
            }
            self.settle();
        }
        self.check_answered();
    }

    fn check_answered(&self) {
        let stats = self.cores.iter().map(|core| core.stats().api);
        let (misrouted, dropped) =
            stats.fold((0, 0), |sum, api| (sum.0 + api.misrouted, sum.1 + api.misrouted_dropped));
        assert_eq!(misrouted, self.forwarded);
        let on_the_way = self.asked.values().filter(|asked| !asked.is_kept).count();
        assert_eq!(on_the_way as u64, dropped, "each was answered, waits, or is counted");
        let flush =
            self.cores.iter().map(AgentCore::flush_state).fold(FlushState::default(), |sum, one| sum + one);
        assert_eq!((flush.behind, flush.passed_on), (0, flush.arrived), "all statistics were sent");
    }

    fn check_subscriptions(&self) {
        let modules: u64 = self.cores.iter().map(|core| core.stats().table.modules).sum();
        let subscribed = self.dns.subscribed.len() as u64;
        assert!(subscribed >= modules, "{modules} modules are known, {subscribed} subscribed to");
        // It learns at the next digest at the latest what nobody wants any more.
        assert!(!self.dns.has_announced || subscribed == modules, "{subscribed} subscribed, {modules} known");
    }

    fn check_agreement(&mut self, module: ModuleId, hosts: &BTreeSet<HostAddr>) {
        let core = &self.cores[module.shard(SHARDS)];
        let mut route = vec![];
        core.table().each_host(module, &mut |status| route.push(status));
        let expected = self.dns.routes.get(&module).cloned().unwrap_or_default();
        let current: BTreeSet<HostAddr> = route.iter().map(|status| status.host).collect();
        if self.dns.has_announced || !current.is_empty() {
            assert_eq!(
                hosts,
                &expected.iter().copied().collect(),
                "lars-dns and the agent disagree on {module}"
            );
            assert_eq!(&current, hosts, "the table's route of {module}");
        }
        assert_eq!(route.len(), current.len(), "a host of {module} counts once");
        for status in route {
            assert!(!status.overloaded, "without calls every host comes back in time: {status:?}");
            let fresh = HostStatus { succ: 0, err: 0, overloaded: false, ..status };
            let known = self.reporter.known.get(&(module, status.host)).copied().unwrap_or(fresh);
            assert!(
                !self.only_grows || known == status,
                "the reporter knows {known:?} of {module}: {status:?}"
            );
        }
    }
}

#[test]
fn all_sides_agree_in_the_end() {
    let mut seeds = Rng::new();
    run_seeds(
        BUDGET,
        || seeds.u64(..),
        |seed, step| {
            let mut world = World::new(seed);
            while *step < STEPS {
                world.step();
                *step += 1;
            }
            world.calm_down();
            world.stop();
        },
    );
}
