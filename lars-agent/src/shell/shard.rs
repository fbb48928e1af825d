//! One shard of the agent: its table, its place in the post, on shard 0 the links.

use std::{net::SocketAddr, time::Instant};

use lars_proto::{
    HostAddr, ModuleId, lookup,
    messages::{GetHostResponse, RetCode},
    route::{self, RouteReply},
};
use lars_runtime::{Datagram, ShardContext, UdpSender};

use super::{
    dns::DnsSession,
    post::{Letter, Post},
    reporter::{Gate, ReporterSession},
    request::{Refusal, Request},
    stats::{ApiCounters, ShardStats},
};
use crate::core::{
    statistics::StatusReport,
    table::{Answer, Table},
    time::Moment,
};

/// Where the links live.
pub(super) const LINKS_SHARD: usize = 0;

/// What runs on shard 0 only.
pub(super) struct Links {
    pub(super) dns: DnsSession,
    pub(super) reporter: ReporterSession,
}

pub(super) struct AgentShard {
    /// The origin of the moments that the cores are given.
    started: Instant,
    pub(super) table: Table,
    post: Post,
    /// The agent's sockets: a reply leaves by the one its request came in by.
    sockets: Vec<UdpSender>,
    /// Whether lars-reporter can be told anything now.
    gate: Gate,
    /// A report that found no room in the post; the next tick tries again.
    held_report: Option<StatusReport>,
    /// The hosts of the route that is being answered; kept for its memory.
    route: Vec<HostAddr>,
    pub(super) links: Option<Box<Links>>,
    counters: ApiCounters,
}

impl AgentShard {
    pub(super) fn new(
        started: Instant,
        table: Table,
        post: Post,
        sockets: Vec<UdpSender>,
        gate: Gate,
        links: Option<Box<Links>>,
    ) -> Self {
        let (held_report, route, counters) = (None, Vec::new(), ApiCounters::default());
        Self { started, table, post, sockets, gate, held_report, route, links, counters }
    }

    pub(super) fn moment(&self, net: &ShardContext<Self>) -> Moment {
        Moment::since_origin(net.now().saturating_duration_since(self.started))
    }

    /// A client's datagram. Requests for modules of another shard go there.
    pub(super) fn on_datagram(
        &mut self,
        net: &mut ShardContext<Self>,
        datagram: Datagram<'_>,
        reply: &mut Vec<u8>,
    ) {
        match Request::decode(datagram.bytes) {
            Err(refusal) => self.count_refusal(refusal),
            Ok(request) if request.module().shard(net.shard_count()) == net.shard_index() => {
                self.serve(net, &request, reply);
            }
            Ok(request) => self.forward(net, request, datagram.socket, datagram.from),
        }
    }

    /// Every 100 ms: what is due by time, and what found no room before.
    pub(super) fn on_tick(&mut self, net: &mut ShardContext<Self>) {
        let now = self.moment(net);
        self.read_post(net);
        self.table.handle_timeout(now);
        self.pass_questions(net, now);
        if let Some(links) = &mut self.links {
            links.dns.check_alive(net, now);
            links.dns.send_queries(net, now);
            links.reporter.send_parked(net);
        }
        self.tell_reporter(net, now);
    }

    /// The agent is about to stop: tells lars-reporter all there is to tell, as far as the link takes it now.
    /// False if something is left that could be told a moment later.
    pub(super) fn tell_last(&mut self, net: &mut ShardContext<Self>) -> bool {
        self.read_post(net);
        self.table.hurry_statistics();
        let now = self.moment(net);
        let all_told = self.tell_reporter(net, now);
        let is_behind = self.links.as_ref().is_some_and(|links| links.reporter.is_behind());
        !self.gate.is_connected() || all_told && !is_behind
    }

    pub(super) fn read_post(&mut self, net: &mut ShardContext<Self>) {
        let now = self.moment(net);
        for letter in self.post.read() {
            self.receive(net, letter, now);
        }
    }

    /// Brings a route to the shard that owns the module. False if its box is full: try again later.
    pub(super) fn deliver_route(
        &mut self,
        net: &ShardContext<Self>,
        module: ModuleId,
        hosts: Vec<HostAddr>,
    ) -> bool {
        let owner = module.shard(net.shard_count());
        if owner == net.shard_index() {
            let now = self.moment(net);
            self.table.route_update(module, &hosts, now);
            return true;
        }
        self.post.send(net, owner, Letter::Route { module, hosts }).is_ok()
    }

    pub(super) fn stats(&self) -> ShardStats {
        ShardStats {
            api: self.counters,
            table: self.table.counters(),
            modules: self.table.modules_len(),
            hosts: self.table.census(),
            dns: self.links.as_ref().map(|links| links.dns.stats()).unwrap_or_default(),
            reporter: self.links.as_ref().map(|links| links.reporter.stats()).unwrap_or_default(),
        }
    }

    fn serve(&mut self, net: &mut ShardContext<Self>, request: &Request, reply: &mut Vec<u8>) {
        let now = self.moment(net);
        match *request {
            Request::GetHost { seq, module } => {
                encode_answer(seq, module, self.table.get_host(module, now), reply);
            }
            Request::Report { module, host, outcome } => self.table.report(module, host, outcome, now),
            Request::GetRoute { module } => self.answer_route(module, now, reply),
        }
        self.pass_questions(net, now);
    }

    fn answer_route(&mut self, module: ModuleId, now: Moment, reply: &mut Vec<u8>) {
        self.route.clear();
        self.table.get_route(module, now, &mut self.route);
        let sent = route::encode(RouteReply::Api, module, self.route.iter().copied(), reply);
        self.counters.routes_truncated += u64::from(sent < self.route.len());
    }

    /// Has the owning shard serve the request. Its answer leaves by the socket the request came in by, or the
    /// client would not know it. If that shard is behind, the request is dropped like any datagram.
    fn forward(&mut self, net: &ShardContext<Self>, request: Request, socket: usize, from: SocketAddr) {
        self.counters.misrouted += 1;
        let owner = request.module().shard(net.shard_count());
        let forwarded = net.shard(owner).try_submit(move |shard: &mut Self, net| {
            let mut reply = Vec::new();
            shard.serve(net, &request, &mut reply);
            if !reply.is_empty() {
                shard.sockets[socket].send_to(from, &reply);
            }
        });
        self.counters.misrouted_dropped += u64::from(forwarded.is_err());
    }

    fn count_refusal(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Frame => &mut self.counters.malformed_frames,
            Refusal::MessageId => &mut self.counters.unexpected_messages,
            Refusal::Body => &mut self.counters.malformed_bodies,
            Refusal::Host => &mut self.counters.invalid_hosts,
        };
        *counter += 1;
    }

    /// Brings the table's questions to the link; what finds no room stays in the table.
    fn pass_questions(&mut self, net: &mut ShardContext<Self>, now: Moment) {
        while let Some(question) = self.table.poll_output() {
            if let Some(links) = &mut self.links {
                links.dns.ask(net, question, now);
            } else if self.post.send(net, LINKS_SHARD, Letter::Question(question)).is_err() {
                self.table.unsent(question);
                return;
            }
        }
    }

    /// Tells what is due, as far as the link takes it. True if nothing that is due is left.
    fn tell_reporter(&mut self, net: &mut ShardContext<Self>, now: Moment) -> bool {
        if self.gate.is_new_connection() {
            self.table.retell(now);
        }
        while self.gate.is_open() {
            let Some(report) = self.held_report.take().or_else(|| self.table.poll_statistics(now)) else {
                return true;
            };
            if let Some(links) = &mut self.links {
                links.reporter.send(net, report);
            } else if let Err(refused) = self.post.send(net, LINKS_SHARD, Letter::Statistics(report)) {
                if let Letter::Statistics(report) = refused {
                    self.held_report = Some(report);
                }
                return false;
            }
        }
        false
    }

    fn receive(&mut self, net: &mut ShardContext<Self>, letter: Letter, now: Moment) {
        match (letter, &mut self.links) {
            (Letter::Route { module, hosts }, _) => self.table.route_update(module, &hosts, now),
            (Letter::Question(question), Some(links)) => links.dns.ask(net, question, now),
            (Letter::Statistics(report), Some(links)) => links.reporter.send(net, report),
            (letter, None) => debug_assert!(false, "only shard {LINKS_SHARD} has the links for {letter:?}"),
        }
    }
}

fn encode_answer(seq: u32, module: ModuleId, answer: Answer, reply: &mut Vec<u8>) {
    let (retcode, host) = match answer {
        Answer::Host(host) => (RetCode::Succ, Some(host.to_wire())),
        Answer::Overloaded => (RetCode::Overload, None),
        Answer::NotFound => (RetCode::Noexist, None),
    };
    let ModuleId { modid, cmdid } = module;
    let response = GetHostResponse { seq, modid, cmdid, retcode: retcode as i32, host };
    lookup::encode_get_host_response(&response, reply);
}
