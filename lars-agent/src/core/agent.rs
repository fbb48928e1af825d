//! [`AgentCore`]: one shard of the agent, without IO.
//!
//! Each shard has one. It owns the table of the shard's modules; the one on [`UPLINKS_SHARD`] also decides what goes
//! over the two connections of the agent, to lars-dns and to lars-reporter. What happens comes in by
//! [`handle`](AgentCore::handle) and [`handle_timeout`](AgentCore::handle_timeout), what is to be done comes out of
//! [`poll_output`](AgentCore::poll_output), and what of that could not be done goes back by
//! [`refused`](AgentCore::refused). A client's request takes a shorter way and is answered at once, unless its module is
//! not learned yet and the client waits.
//!
//! ```text
//!  any shard:       table ──Interest, Status──▶ outbox ──Message──▶ UPLINKS_SHARD
//!  UPLINKS_SHARD:   DnsLink, ReporterLink ────▶ the connections
//!                   Route ────────────────────▶ outbox ──Message──▶ the module's shard
//! ```
//!
//! Nothing that was accepted is lost: who refuses a message gives it back, who has no room for more is not given more.
//! The exceptions are requests that reached the wrong shard, which are datagrams, and statistics, which are sent again.

use std::{
    collections::VecDeque,
    ops::{Add, ControlFlow},
    time::Duration,
};

use lars_proto::{
    Endpoint, ModuleId,
    digest::{Held, route_hash},
    messages::{GetRouteResponse, ReportStatusRequest, SubscriptionDigestAnswer},
};

mod lookups;

pub use super::api::{Client, Reply, Request};
use super::{
    balancer::Change,
    digest::{Digests, Question},
    dns_link::{DnsLink, DnsMessage},
    outbox::Outbox,
    pending::Pending,
    reporter_link::{ReporterLink, ReporterState},
    saved::{self, SavedModule},
    table::{Interest, Table, TableConfig},
    time::Moment,
};
use crate::stats::{ApiStats, CoreStats, DnsStats};

/// Where the connections to lars-dns and lars-reporter live.
pub const UPLINKS_SHARD: usize = 0;

/// What a core is built with.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub table: TableConfig,
    /// A lars-dns that owes answers and sends none for so long is given up.
    pub answer_timeout: Duration,
    /// Whole routes are told to other machines, too.
    pub routes_to_anyone: bool,
    /// Any number that is another one for each agent: that many of them do not send their digests at the same time.
    pub digest_spread: u32,
}

/// What one shard tells another.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A request that reached the wrong shard, and when it did.
    Request { request: Request, client: Client, asked_at: Moment },
    /// To the uplinks: which routes a table is interested in.
    Interest(Interest),
    /// To the uplinks: for lars-reporter.
    Status(ReportStatusRequest),
    /// From the uplinks to the owner of the module: its route and, if that is empty, whether it is said to be meant.
    Route { module: ModuleId, route: Vec<Endpoint>, confirmed: bool },
    /// From the uplinks to all: what lars-reporter takes.
    Reporter(ReporterState),
    /// From the uplinks to all: whether lars-dns knows digests.
    HasDigests(bool),
}

/// What happens to an agent, besides requests and the passing of time.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Another shard says something.
    FromShard(Message),
    /// To the uplinks: the connection to lars-dns was made, takes more after it had refused something, has ended.
    DnsUp,
    DnsWritable,
    DnsDown,
    /// To the uplinks: a route came, as an answer or a push.
    Route(GetRouteResponse),
    /// To the uplinks: lars-dns answers a digest, or says what it has where that differs.
    DigestAnswer(SubscriptionDigestAnswer),
    Held(Held),
    /// To the uplinks: likewise of lars-reporter. `caller` is this machine's IPv4 address for the statistics, in host
    /// order.
    ReporterUp {
        caller: i32,
    },
    ReporterWritable,
    ReporterDown,
    /// The agent is about to stop: statistics that wait for their interval are due now, and no request waits any more.
    FlushNow,
}

/// Nothing was taken of an input, because it would have to wait where there is no room: offer it again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Reply { client: Client, reply: Reply },
    ToShard(usize, Message),
    SendToDns(DnsMessage),
    SendToReporter(ReportStatusRequest),
    CloseDns(&'static str),
    Log(Event),
}

/// What people should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lars-dns was reached and is asked for so many modules again.
    AsksAgain { modules: usize },
    /// There are more modules than may be; some without hosts are forgotten early, or new ones not remembered.
    TableFull { modules_max: usize },
    /// An empty route of a module with hosts is kept back, because lars-dns does not say that it is meant.
    InDoubt { module: ModuleId },
    /// A host was ejected or has recovered, and by which rule; or a module panics.
    Changed { module: ModuleId, change: Change },
}

/// How far a core is with its last statistics, see [`Input::FlushNow`]; of all shards the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushState {
    /// Shards that have something left which lars-reporter would take.
    pub behind: u64,
    /// Messages passed on to the uplinks, and those that have arrived there.
    pub passed_on: u64,
    pub arrived: u64,
}

impl Add for FlushState {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            behind: self.behind + other.behind,
            passed_on: self.passed_on + other.passed_on,
            arrived: self.arrived + other.arrived,
        }
    }
}

/// What the shard with the connections has besides.
struct Uplinks {
    dns: DnsLink,
    dns_stats: DnsStats,
    reporter: ReporterLink,
    /// What each shard heard last of the reporter, and whether lars-dns knows digests.
    shared: Vec<(ReporterState, bool)>,
}

/// See the module's documentation.
pub struct AgentCore {
    shard: usize,
    shards: usize,
    routes_to_anyone: bool,
    modules_max: usize,
    /// The latest time that was passed in.
    now: Moment,
    table: Table,
    /// What lars-reporter takes, as far as this shard has heard.
    reporter: ReporterState,
    uplinks: Option<Box<Uplinks>>,
    /// Requests that wait for a route.
    pending: Pending,
    /// Done without the help of any link, and therefore first. As many as one input brings about: of replies, those to
    /// all who wait.
    ready: VecDeque<Output>,
    outbox: Outbox,
    /// [`AgentCore::poll_output`] may have something to give.
    has_output: bool,
    flush: FlushState,
    stats: ApiStats,
}

impl AgentCore {
    /// The core of shard `shard` of `shards`.
    #[must_use]
    pub fn new(shard: usize, shards: usize, config: CoreConfig) -> Self {
        let uplinks = || Uplinks {
            dns: DnsLink::new(
                config.answer_timeout,
                Digests::new(config.table.update_timeout, config.answer_timeout, config.digest_spread),
            ),
            dns_stats: DnsStats::default(),
            reporter: ReporterLink::default(),
            shared: vec![Default::default(); shards],
        };
        Self {
            shard,
            shards,
            routes_to_anyone: config.routes_to_anyone,
            modules_max: config.table.modules_max,
            now: Moment::ORIGIN,
            reporter: ReporterState::default(),
            uplinks: (shard == UPLINKS_SHARD).then(|| Box::new(uplinks())),
            table: Table::new(config.table),
            pending: Pending::default(),
            ready: VecDeque::new(),
            outbox: Outbox::new(shards),
            has_output: false,
            flush: FlushState::default(),
            stats: ApiStats::default(),
        }
    }

    /// A client's request. One for a module of this shard is answered here and now, or kept until the module is
    /// learned, if its client waits; another is passed on to its shard, or dropped like any datagram if that is behind.
    pub fn handle_request(&mut self, request: &Request, client: Client, now: Moment) -> Option<Reply> {
        self.now = now;
        let owner = request.module().shard(self.shards);
        if owner != self.shard {
            self.forward(*request, client, owner);
            return None;
        }
        self.serve(request, client, now)
    }

    /// Something happened.
    ///
    /// # Errors
    /// [`Busy`] if it is a route and the shard that it is for is behind.
    pub fn handle(&mut self, input: Input, now: Moment) -> Result<(), Busy> {
        self.now = now;
        self.has_output = true;
        self.end_waits(now);
        match input {
            Input::FromShard(message) => self.receive(message, now),
            Input::Route(response) => return self.take_route(&response, now),
            Input::FlushNow => self.prepare_stop(),
            Input::DigestAnswer(_)
            | Input::Held(_)
            | Input::DnsUp
            | Input::DnsWritable
            | Input::DnsDown
            | Input::ReporterUp { .. }
            | Input::ReporterWritable
            | Input::ReporterDown => self.handle_uplink(input, now),
        }
        Ok(())
    }

    /// When [`AgentCore::handle_timeout`] has something to do, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let statistics = self.table.statistics_deadline().filter(|_| self.passes_statistics());
        let uplinks = self
            .uplinks
            .as_ref()
            .map(|uplinks| [uplinks.dns.poll_timeout(), uplinks.reporter.poll_timeout()]);
        [self.table.poll_timeout(), statistics, self.outbox.poll_timeout(), self.pending.poll_timeout()]
            .into_iter()
            .chain(uplinks.unwrap_or_default())
            .flatten()
            .min()
    }

    /// Does what is due by time.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.now = now;
        self.has_output = true;
        self.end_waits(now);
        self.table.handle_timeout(now);
    }

    /// Whether [`AgentCore::poll_output`] may have something to give: cheap to ask after each request.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        self.has_output
    }

    /// The next thing to do. What cannot be done is to be given back by [`AgentCore::refused`].
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Some(output);
            }
            if self.table.poll_full() {
                return Some(Output::Log(Event::TableFull { modules_max: self.modules_max }));
            }
            if let Some(module) = self.table.poll_doubt() {
                return Some(Output::Log(Event::InDoubt { module }));
            }
            if let Some((module, change)) = self.table.poll_change() {
                return Some(Output::Log(Event::Changed { module, change }));
            }
            self.pass_interests();
            if let Some(output) = self.poll_uplinks() {
                return Some(output);
            }
            self.share_states();
            if self.pass_statistics() {
                continue;
            }
            let Some((to, message)) = self.outbox.poll(self.now) else {
                self.has_output = false;
                return None;
            };
            self.flush.passed_on += u64::from(matches!(message, Message::Status(_)));
            return Some(Output::ToShard(to, message));
        }
    }

    /// The output given last could not be done, for want of room: it is tried again a moment later, or when the
    /// connection takes more.
    pub fn refused(&mut self, output: Output) {
        let now = self.now;
        match (output, &mut self.uplinks) {
            (Output::ToShard(_, Message::Request { .. }), _) => self.stats.misrouted_dropped += 1,
            (Output::ToShard(to, message), _) => {
                self.flush.passed_on -= u64::from(matches!(message, Message::Status(_)));
                self.outbox.put_back(to, message, now);
            }
            (Output::SendToDns(message), Some(uplinks)) => {
                *uplinks.counter(&message) -= 1;
                uplinks.dns.unsent(message, now);
            }
            (Output::SendToReporter(message), Some(uplinks)) => uplinks.reporter.unsent(message, now),
            // Nobody refuses these, and no other shard has the connections.
            (
                Output::Reply { .. }
                | Output::CloseDns(_)
                | Output::Log(_)
                | Output::SendToDns(_)
                | Output::SendToReporter(_),
                _,
            ) => debug_assert!(false, "this is done where it came from, or lost"),
        }
    }

    /// How far the last statistics are.
    #[must_use]
    pub fn flush_state(&self) -> FlushState {
        let is_behind = self.table.statistics_deadline().is_some()
            || self.outbox.is_behind(UPLINKS_SHARD)
            || self.uplinks.as_ref().is_some_and(|uplinks| uplinks.reporter.is_behind());
        FlushState { behind: u64::from(self.reporter.is_up && is_behind), ..self.flush }
    }

    /// Grows whenever what is to be saved of this shard has changed.
    #[must_use]
    pub fn table_version(&self) -> u64 {
        self.table.version()
    }

    /// Appends what is to be saved of up to `count` modules, see [`Table::visit_saved`].
    pub fn save(
        &self,
        from: usize,
        count: usize,
        now: Moment,
        frames: &mut Vec<u8>,
        records: &mut Vec<u8>,
    ) -> Option<usize> {
        self.table.visit_saved(from, count, |module, hosts, ejections| {
            saved::encode_frame(module, hosts, frames);
            saved::encode_records(module, ejections, now, records);
        })
    }

    /// Takes over what an earlier agent knew of modules of this shard. [`ControlFlow::Break`] if there is no more room.
    pub fn restore(&mut self, modules: &[SavedModule], now: Moment) -> ControlFlow<()> {
        self.now = now;
        self.has_output = true;
        modules.iter().try_for_each(|module| self.table.restore(module, now))
    }

    /// What was counted, and what there is.
    #[must_use]
    pub fn stats(&self) -> CoreStats {
        let api = ApiStats { waiting: self.pending.len() as u64, ..self.stats };
        let table = self.table.stats();
        let Some(uplinks) = &self.uplinks else {
            return CoreStats { api, table, ..CoreStats::default() };
        };
        let dns = DnsStats { is_up: u64::from(uplinks.dns.is_up()), ..uplinks.dns_stats };
        CoreStats { api, table, dns, reporter: uplinks.reporter.stats() }
    }

    /// The modules of this shard, to look at.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    fn forward(&mut self, request: Request, client: Client, owner: usize) {
        self.stats.misrouted += 1;
        if self.outbox.is_behind(owner) {
            self.stats.misrouted_dropped += 1;
            return;
        }
        self.outbox.push(owner, Message::Request { request, client, asked_at: self.now });
        self.has_output = true;
    }

    fn receive(&mut self, message: Message, now: Moment) {
        match (message, &mut self.uplinks) {
            (Message::Request { request, client, asked_at }, _) => {
                if let Some(reply) = self.serve(&request, client, asked_at) {
                    self.ready.push_back(Output::Reply { client, reply });
                }
            }
            (Message::Route { module, route, confirmed }, _) => self.learn(module, &route, confirmed, now),
            (Message::Reporter(state), _) => self.hear_of_reporter(state),
            (Message::HasDigests(has_digests), _) => self.table.set_has_digests(has_digests),
            (Message::Interest(interest), Some(uplinks)) => uplinks.note(interest, now),
            (Message::Status(message), Some(uplinks)) => {
                self.flush.arrived += 1;
                uplinks.reporter.push(message);
            }
            (Message::Interest(_) | Message::Status(_), None) => {
                debug_assert!(false, "only shard {UPLINKS_SHARD} has the connections");
            }
        }
    }

    /// Brings a route to the shard that owns the module.
    fn take_route(&mut self, response: &GetRouteResponse, now: Moment) -> Result<(), Busy> {
        let Some(uplinks) = &mut self.uplinks else {
            debug_assert!(false, "only shard {UPLINKS_SHARD} has the connections");
            return Ok(());
        };
        let (module, confirmed) = (response.module(), response.confirmed);
        let owner = module.shard(self.shards);
        if owner != self.shard && !self.outbox.has_room(owner) {
            // A route must not be lost, because no lookup would ask for it.
            return Err(Busy);
        }
        let route: Vec<Endpoint> =
            response.host.iter().filter_map(|host| Endpoint::from_wire(host).ok()).collect();
        let is_wanted = uplinks.dns.answered(module, response.peer_version, now);
        uplinks.count_route(response, &route, is_wanted);
        if is_wanted {
            uplinks.dns.holds(module, route_hash(module, route.iter().map(|endpoint| endpoint.addr)));
        }
        if is_wanted && owner == self.shard {
            self.learn(module, &route, confirmed, now);
        } else if is_wanted {
            self.outbox.push(owner, Message::Route { module, route, confirmed });
        }
        Ok(())
    }

    fn handle_uplink(&mut self, input: Input, now: Moment) {
        let Some(uplinks) = &mut self.uplinks else {
            debug_assert!(false, "only shard {UPLINKS_SHARD} has the connections");
            return;
        };
        match input {
            Input::DnsUp => {
                uplinks.dns.connected(now);
                let modules = uplinks.dns.modules_len();
                if modules > 0 {
                    self.ready.push_back(Output::Log(Event::AsksAgain { modules }));
                }
            }
            Input::DigestAnswer(answer) => {
                uplinks.dns_stats.digests_differing += u64::from(uplinks.dns.digest_answered(answer, now));
            }
            Input::Held(held) => {
                let found = uplinks.dns.buckets_answered(held, now);
                uplinks.dns_stats.digest_modules += found.differing as u64;
                uplinks.dns_stats.digest_unwanted += found.unwanted as u64;
            }
            Input::DnsWritable => uplinks.dns.writable(),
            Input::DnsDown => uplinks.dns.disconnected(),
            Input::ReporterUp { caller } => uplinks.reporter.connected(caller),
            Input::ReporterWritable => uplinks.reporter.writable(),
            Input::ReporterDown => uplinks.reporter.disconnected(),
            Input::FromShard(_) | Input::Route(_) | Input::FlushNow => {}
        }
    }

    /// Brings the table's interests to the uplinks; what finds no room stays in the table.
    fn pass_interests(&mut self) {
        if let Some(uplinks) = &mut self.uplinks {
            while let Some(interest) = self.table.poll_interest() {
                uplinks.note(interest, self.now);
            }
            return;
        }
        while self.outbox.has_room(UPLINKS_SHARD)
            && let Some(interest) = self.table.poll_interest()
        {
            self.outbox.push(UPLINKS_SHARD, Message::Interest(interest));
        }
    }

    /// Whether a message of statistics would leave at once. While others wait, none is made: it is to say what is the
    /// case when it leaves.
    fn passes_statistics(&self) -> bool {
        let is_behind = match &self.uplinks {
            Some(uplinks) => uplinks.reporter.is_behind(),
            None => self.outbox.is_behind(UPLINKS_SHARD),
        };
        self.reporter.takes_more && !is_behind
    }

    /// Brings one message of statistics that is due to the uplinks; whether there was one.
    fn pass_statistics(&mut self) -> bool {
        if !self.passes_statistics() {
            return false;
        }
        let Some(message) = self.table.poll_statistics(self.now) else { return false };
        match &mut self.uplinks {
            Some(uplinks) => uplinks.reporter.push(message),
            None => self.outbox.push(UPLINKS_SHARD, Message::Status(message)),
        }
        true
    }

    /// Tells every shard what lars-reporter takes and whether lars-dns knows digests, if that is news. One that is behind
    /// hears the latest when it is not any more.
    fn share_states(&mut self) {
        let Some(uplinks) = &mut self.uplinks else { return };
        let (state, has_digests) = (uplinks.reporter.state(), uplinks.dns.has_digests());
        for (shard, shared) in uplinks.shared.iter_mut().enumerate() {
            if shard == self.shard || self.outbox.is_behind(shard) {
                continue;
            }
            if shared.0 != state {
                self.outbox.push(shard, Message::Reporter(state));
            }
            if shared.1 != has_digests {
                self.outbox.push(shard, Message::HasDigests(has_digests));
            }
            *shared = (state, has_digests);
        }
        self.table.set_has_digests(has_digests);
        self.hear_of_reporter(state);
    }

    fn hear_of_reporter(&mut self, state: ReporterState) {
        if state.losses != self.reporter.losses {
            self.table.resend(self.now);
        }
        self.reporter = state;
    }

    fn poll_uplinks(&mut self) -> Option<Output> {
        let uplinks = self.uplinks.as_mut()?;
        if uplinks.dns.poll_close(self.now) {
            uplinks.dns_stats.given_up += 1;
            return Some(Output::CloseDns("it does not answer"));
        }
        if let Some(message) = uplinks.dns.poll_message(self.now) {
            *uplinks.counter(&message) += 1;
            return Some(Output::SendToDns(message));
        }
        uplinks.reporter.poll_message(self.now).map(Output::SendToReporter)
    }
}

impl Uplinks {
    fn note(&mut self, interest: Interest, now: Moment) {
        match interest {
            Interest::Want(module) => self.dns.want(module, now),
            Interest::Forget(module) => self.dns.forget(module, now),
        }
    }

    /// Where messages of this kind are counted.
    const fn counter(&mut self, message: &DnsMessage) -> &mut u64 {
        match message {
            DnsMessage::Query { .. } => &mut self.dns_stats.queries,
            DnsMessage::Forget(_) => &mut self.dns_stats.forgets,
            DnsMessage::Digest(Question::Digest(_)) => &mut self.dns_stats.digests,
            DnsMessage::Digest(Question::Buckets(_)) => &mut self.dns_stats.digest_buckets,
        }
    }

    fn count_route(&mut self, response: &GetRouteResponse, route: &[Endpoint], is_wanted: bool) {
        self.dns_stats.routes += 1;
        self.dns_stats.routes_truncated += u64::from(response.hosts_total > 0);
        self.dns_stats.routes_unwanted += u64::from(!is_wanted);
        self.dns_stats.invalid_hosts += (response.host.len() - route.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use lars_proto::HostAddr;

    use super::*;
    use crate::core::{
        balancer::{EjectionRule, Outcome},
        dns_link::PEER_VERSION,
        outbox,
        table::Answer,
        time::RETRY_INTERVAL,
    };

    const T0: Moment = Moment::ORIGIN;
    const SHARDS: usize = 2;
    /// On shard 0, with the uplinks, and on shard 1.
    const NEAR: ModuleId = ModuleId::new(0, 0);
    const FAR: ModuleId = ModuleId::new(0, 1);

    fn core(shard: usize) -> AgentCore {
        let (table, answer_timeout) = (TableConfig::default(), Duration::from_secs(15));
        AgentCore::new(
            shard,
            SHARDS,
            CoreConfig { table, answer_timeout, routes_to_anyone: false, digest_spread: 0 },
        )
    }

    fn client(ip: Ipv4Addr) -> Client {
        Client { socket: 1, addr: SocketAddr::from((ip, 4_000)) }
    }

    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn host(port: u16) -> HostAddr {
        HostAddr::v4(LOCAL, port)
    }

    fn get_host(module: ModuleId) -> Request {
        Request::GetHost { seq: 7, module, wait_ms: 0 }
    }

    fn reply(module: ModuleId, answer: Answer) -> Reply {
        Reply::Host { seq: 7, module, answer }
    }

    fn outputs(core: &mut AgentCore) -> Vec<Output> {
        std::iter::from_fn(|| core.poll_output()).collect()
    }

    #[track_caller]
    fn tell(core: &mut AgentCore, input: Input) -> Vec<Output> {
        assert_eq!(core.handle(input, T0), Ok(()));
        outputs(core)
    }

    fn route(module: ModuleId, ports: &[u16]) -> GetRouteResponse {
        let host = ports.iter().map(|&port| host(port).to_wire()).collect();
        GetRouteResponse { modid: module.modid, cmdid: module.cmdid, host, ..Default::default() }
    }

    /// The core of shard 1 with a module of one host, and nothing to do.
    fn serving_core() -> AgentCore {
        let mut core = core(1);
        core.handle_request(&get_host(FAR), client(LOCAL), T0);
        outputs(&mut core);
        let route = vec![Endpoint::from(host(1))];
        assert_eq!(
            tell(&mut core, Input::FromShard(Message::Route { module: FAR, route, confirmed: false })),
            []
        );
        core
    }

    fn fail(core: &mut AgentCore, times: usize) {
        let report = Request::Report { module: FAR, host: host(1), outcome: Outcome::Failure };
        (0..times).for_each(|_| assert_eq!(core.handle_request(&report, client(LOCAL), T0), None));
    }

    #[test]
    fn a_lookup_is_answered_at_once_and_asked_for_on_the_shard_with_the_connection() {
        let (mut near, mut far) = (core(0), core(1));
        tell(&mut near, Input::DnsUp);
        let answer = far.handle_request(&get_host(FAR), client(LOCAL), T0);
        assert_eq!(answer, Some(reply(FAR, Answer::NotFound)));
        let interest = Message::Interest(Interest::Want(FAR));
        assert!(far.has_output());
        assert_eq!(outputs(&mut far), [Output::ToShard(0, interest.clone())]);
        assert!(!far.has_output());
        let query = DnsMessage::Query { module: FAR, peer_version: PEER_VERSION };
        assert_eq!(tell(&mut near, Input::FromShard(interest)), [Output::SendToDns(query)]);
        let to_owner = Message::Route { module: FAR, route: vec![Endpoint::from(host(1))], confirmed: false };
        assert_eq!(tell(&mut near, Input::Route(route(FAR, &[1]))), [Output::ToShard(1, to_owner.clone())]);
        assert_eq!(tell(&mut far, Input::FromShard(to_owner)), []);
        let answer = far.handle_request(&get_host(FAR), client(LOCAL), T0);
        assert_eq!(answer, Some(reply(FAR, Answer::Host(host(1)))));
        assert!(!far.has_output(), "a lookup of a known module makes no work");
    }

    #[test]
    fn a_request_for_another_shard_goes_there_or_is_dropped() {
        let (mut near, mut far) = (core(0), serving_core());
        assert_eq!(near.handle_request(&get_host(FAR), client(LOCAL), T0), None);
        let message = Message::Request { request: get_host(FAR), client: client(LOCAL), asked_at: T0 };
        assert_eq!(outputs(&mut near), [Output::ToShard(1, message.clone())]);
        let answer = Output::Reply { client: client(LOCAL), reply: reply(FAR, Answer::Host(host(1))) };
        assert_eq!(tell(&mut far, Input::FromShard(message.clone())), [answer]);
        near.refused(Output::ToShard(1, message));
        assert_eq!((near.stats().api.misrouted, near.stats().api.misrouted_dropped), (1, 1));
        assert_eq!(near.poll_timeout(), None, "nobody waits for it any more");
    }

    #[test]
    fn a_refused_message_is_tried_again_when_it_is_time() {
        let mut far = core(1);
        far.handle_request(&get_host(FAR), client(LOCAL), T0);
        let refused = far.poll_output().expect("an interest");
        far.refused(refused.clone());
        assert_eq!(far.poll_output(), None);
        let retry_at = T0 + RETRY_INTERVAL;
        far.handle_timeout(T0);
        assert_eq!((outputs(&mut far), far.poll_timeout()), (vec![], Some(retry_at)));
        far.handle_timeout(retry_at);
        assert_eq!(outputs(&mut far), [refused]);
    }

    #[test]
    fn all_shards_hear_whether_lars_dns_knows_digests() {
        let mut near = core(0);
        tell(&mut near, Input::DnsUp);
        near.handle_request(&get_host(NEAR), client(LOCAL), T0);
        outputs(&mut near);
        let answer = |peer_version| Input::Route(GetRouteResponse { peer_version, ..route(NEAR, &[1]) });
        let told = tell(&mut near, answer(1));
        assert!(told.contains(&Output::ToShard(1, Message::HasDigests(true))), "{told:?}");
        let told = tell(&mut near, Input::DnsDown);
        assert_eq!(told, [], "lookups would not find one either");
        tell(&mut near, Input::DnsUp);
        let told = tell(&mut near, answer(0));
        assert_eq!(told, [Output::ToShard(1, Message::HasDigests(false))]);
    }

    #[test]
    fn routes_for_a_shard_that_is_behind_are_not_taken() {
        let mut near = core(0);
        tell(&mut near, Input::DnsUp);
        tell(&mut near, Input::FromShard(Message::Interest(Interest::Want(FAR))));
        tell(&mut near, Input::FromShard(Message::Interest(Interest::Want(NEAR))));
        for _ in 0..outbox::MESSAGES_MAX {
            assert_eq!(near.handle(Input::Route(route(FAR, &[1])), T0), Ok(()));
        }
        let before = near.stats().dns;
        assert_eq!(near.handle(Input::Route(route(FAR, &[1])), T0), Err(Busy));
        assert_eq!(near.stats().dns, before, "nothing was taken, nothing counted");
        assert_eq!(near.handle(Input::Route(route(NEAR, &[1])), T0), Ok(()), "others are");
        assert!(matches!(near.poll_output(), Some(Output::ToShard(1, _))));
        assert_eq!(near.handle(Input::Route(route(FAR, &[1])), T0), Ok(()));
    }

    #[test]
    fn statistics_are_made_only_while_the_reporter_takes_them() {
        let (mut near, mut far) = (core(0), serving_core());
        fail(&mut far, 15);
        let change = Change::Ejected { host: host(1), rule: EjectionRule::ErrorsInARow };
        assert_eq!(outputs(&mut far), [Output::Log(Event::Changed { module: FAR, change })]);
        let told = tell(&mut near, Input::ReporterUp { caller: 9 });
        let [Output::ToShard(1, state)] = &told[..] else { panic!("{told:?}") };
        let sent = tell(&mut far, Input::FromShard(state.clone()));
        let [Output::ToShard(0, status)] = &sent[..] else { panic!("{sent:?}") };
        let sent = tell(&mut near, Input::FromShard(status.clone()));
        let [Output::SendToReporter(message)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((message.module(), message.caller, message.results[0].overload), (FAR, 9, true));

        near.refused(sent[0].clone());
        let told = outputs(&mut near);
        let [Output::ToShard(1, state)] = &told[..] else { panic!("the others are told: {told:?}") };
        assert_eq!(tell(&mut far, Input::FromShard(state.clone())), []);
        let recovery = Request::Report { module: FAR, host: host(1), outcome: Outcome::Success };
        (0..15).for_each(|_| assert_eq!(far.handle_request(&recovery, client(LOCAL), T0), None));
        assert!(
            !outputs(&mut far).iter().any(|output| matches!(output, Output::ToShard(..))),
            "it stays noted"
        );
        assert_eq!(tell(&mut near, Input::ReporterWritable)[0], sent[0]);
    }

    #[test]
    fn the_last_statistics_have_arrived_when_the_counts_agree() {
        let (mut near, mut far) = (core(0), serving_core());
        let told = tell(&mut near, Input::ReporterUp { caller: 9 });
        let [Output::ToShard(1, state)] = &told[..] else { panic!("{told:?}") };
        tell(&mut far, Input::FromShard(state.clone()));
        fail(&mut far, 1);
        assert_eq!(far.flush_state().behind, 1, "it waits for its interval");
        let sent = tell(&mut far, Input::FlushNow);
        let [Output::ToShard(0, status)] = &sent[..] else { panic!("{sent:?}") };
        let sum = near.flush_state() + far.flush_state();
        assert_eq!(sum, FlushState { behind: 0, passed_on: 1, arrived: 0 }, "it is on its way");
        tell(&mut near, Input::FromShard(status.clone()));
        let sum = near.flush_state() + far.flush_state();
        assert_eq!(sum, FlushState { behind: 0, passed_on: 1, arrived: 1 });
    }

    #[test]
    fn routes_are_told_to_this_machine_only() {
        let mut far = serving_core();
        let request = Request::GetRoute { module: FAR, wait_ms: 0 };
        let route = Reply::Route { module: FAR, hosts: vec![host(1)], confirmed: false };
        assert_eq!(far.handle_request(&request, client(LOCAL), T0), Some(route));
        let stranger = client(Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(far.handle_request(&request, stranger, T0), None);
        assert_eq!(far.stats().api.routes_refused, 1);
        let answer = far.handle_request(&get_host(FAR), stranger, T0);
        assert_eq!(answer, Some(reply(FAR, Answer::Host(host(1)))), "hosts are told to anybody");
    }

    #[test]
    fn a_lars_dns_that_hangs_is_closed() {
        let mut near = core(0);
        tell(&mut near, Input::DnsUp);
        near.handle_request(&get_host(NEAR), client(LOCAL), T0);
        assert_eq!(outputs(&mut near).len(), 1);
        let later = T0 + Duration::from_secs(15);
        near.handle_timeout(later);
        assert_eq!(outputs(&mut near), [Output::CloseDns("it does not answer")]);
        assert_eq!(near.stats().dns.given_up, 1);
    }
}
