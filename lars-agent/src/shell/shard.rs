//! One shard of the agent: drives its core, and does what that puts out. Bytes become requests here, and replies bytes.

use std::{
    net::Ipv4Addr,
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lars_proto::{
    HostAddr, ModuleId,
    digest::Digest,
    frame, lookup,
    messages::{
        ApiGetRouteRequest, Forget, GetHostResponse, GetRouteRequest, MessageId, RetCode, SubscriptionDigest,
    },
    route::{self, Extensions, RouteReply},
};
use lars_runtime::{ConnId, Datagram, LogThrottle, Mailboxes, ShardContext, UdpSender};
use prost::Message as _;

use crate::{
    core::{
        agent::{AgentCore, Busy, Client, Event, FlushState, Input, Message, Output, Reply, Request},
        balancer::Outcome,
        digest::Question,
        dns_link::DnsMessage,
        saved::{SavedModule, SavedPart},
        table::Answer,
        time::Moment,
    },
    stats::{ApiStats, CoreStats},
};

/// The least time between two lines about hosts, on each shard.
const CHANGES_LOG_INTERVAL: Duration = Duration::from_millis(200);

/// The least time between two lines about empty routes, likewise.
const DOUBTS_LOG_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct AgentShard {
    /// The origin of the moments that the core is given.
    started: Instant,
    core: AgentCore,
    mailboxes: Mailboxes<Message>,
    /// The agent's sockets: a reply leaves by the one its request came in by.
    sockets: Vec<UdpSender>,
    pub(super) configured_caller: Option<Ipv4Addr>,
    /// On the shard that has them, while there is a connection.
    pub(super) dns: Option<ConnId>,
    pub(super) reporter: Option<ConnId>,
    /// The frame being sent; kept for its memory.
    frame: Vec<u8>,
    stats: ApiStats,
    /// Of lines about hosts: a failing network ejects many.
    changes: LogThrottle,
    /// Of lines about empty routes: a mistake concerns many modules.
    doubts: LogThrottle,
}

impl AgentShard {
    pub(super) fn new(
        started: Instant,
        core: AgentCore,
        mailboxes: Mailboxes<Message>,
        sockets: Vec<UdpSender>,
        configured_caller: Option<Ipv4Addr>,
    ) -> Self {
        Self {
            started,
            core,
            mailboxes,
            sockets,
            configured_caller,
            dns: None,
            reporter: None,
            frame: Vec::new(),
            stats: ApiStats::default(),
            changes: LogThrottle::each(CHANGES_LOG_INTERVAL),
            doubts: LogThrottle::each(DOUBTS_LOG_INTERVAL),
        }
    }

    /// A client's datagram.
    pub(super) fn on_datagram(
        &mut self,
        net: &mut ShardContext<Self>,
        datagram: Datagram<'_>,
        reply: &mut Vec<u8>,
    ) {
        match decode(datagram.bytes) {
            Err(refusal) => refusal.count(&mut self.stats),
            Ok(request) => {
                let client = Client { socket: datagram.socket, addr: datagram.from };
                let now = self.moment(net);
                if let Some(answer) = self.core.handle_request(&request, client, now) {
                    self.stats.routes_truncated += u64::from(!encode(&answer, reply));
                }
                if self.core.has_output() {
                    self.deliver(net);
                }
            }
        }
    }

    /// Another shard's message.
    pub(super) fn receive(&mut self, net: &mut ShardContext<Self>, message: Message) {
        // Only a route from lars-dns meets a core that is busy.
        let _ = self.handle(net, Input::FromShard(message));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout().map(|deadline| self.started + deadline.elapsed())
    }

    pub(super) fn handle_timeout(&mut self, net: &mut ShardContext<Self>) {
        let now = self.moment(net);
        self.core.handle_timeout(now);
        self.deliver(net);
    }

    /// Something happened: tells the core, and does what it makes of that.
    pub(super) fn handle(&mut self, net: &mut ShardContext<Self>, input: Input) -> Result<(), Busy> {
        let now = self.moment(net);
        let taken = self.core.handle(input, now);
        self.deliver(net);
        taken
    }

    /// The agent is about to stop: sends the statistics there are, as far as lars-reporter takes them now.
    pub(super) fn flush(&mut self, net: &mut ShardContext<Self>) -> FlushState {
        let _ = self.handle(net, Input::FlushNow);
        self.core.flush_state()
    }

    pub(super) fn table_version(&self) -> u64 {
        self.core.table_version()
    }

    /// What is to be saved of up to `count` modules from place `from` on, and where to go on.
    pub(super) fn save(
        &self,
        net: &ShardContext<Self>,
        from: usize,
        count: usize,
    ) -> (SavedPart, Option<usize>) {
        let (mut frames, mut records) = (Vec::new(), Vec::new());
        let next = self.core.save(from, count, self.moment(net), &mut frames, &mut records);
        ((frames, records), next)
    }

    /// Takes over what an earlier agent knew of modules of this shard.
    pub(super) fn restore(
        &mut self,
        net: &mut ShardContext<Self>,
        modules: &[SavedModule],
    ) -> ControlFlow<()> {
        let now = self.moment(net);
        let taken = self.core.restore(modules, now);
        self.deliver(net);
        taken
    }

    pub(super) fn stats(&self) -> CoreStats {
        self.core.stats() + CoreStats { api: self.stats, ..CoreStats::default() }
    }

    fn moment(&self, net: &ShardContext<Self>) -> Moment {
        Moment::since_origin(net.now().saturating_duration_since(self.started))
    }

    /// Does what the core wants done. What finds no room goes back to it.
    fn deliver(&mut self, net: &mut ShardContext<Self>) {
        while let Some(output) = self.core.poll_output() {
            let done = match output {
                Output::Reply { client, reply } => {
                    self.frame.clear();
                    self.stats.routes_truncated += u64::from(!encode(&reply, &mut self.frame));
                    self.sockets[client.socket].send_to(client.addr, &self.frame);
                    Ok(())
                }
                Output::ToShard(to, message) => {
                    let sent = self.mailboxes.try_send(to, message);
                    sent.map_err(|refused| Output::ToShard(to, refused.message))
                }
                Output::SendToDns(message) => self.send_to_dns(net, message),
                Output::SendToReporter(mut message) => {
                    message.ts = unix_seconds();
                    let sent = self.send(net, self.reporter, MessageId::ReportStatusRequest, &message);
                    sent.then_some(()).ok_or(Output::SendToReporter(message))
                }
                Output::CloseDns(why) => {
                    if let Some(conn) = self.dns {
                        net.close(conn, why);
                    }
                    Ok(())
                }
                Output::Log(event) => {
                    self.log(event, net.now());
                    Ok(())
                }
            };
            if let Err(refused) = done {
                self.core.refused(refused);
            }
        }
    }

    fn send_to_dns(&mut self, net: &mut ShardContext<Self>, message: DnsMessage) -> Result<(), Output> {
        let sent = match message {
            DnsMessage::Query { module, peer_version } => {
                let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, peer_version };
                self.send(net, self.dns, MessageId::GetRouteRequest, &request)
            }
            DnsMessage::Forget(module) => {
                let forget = Forget { modid: module.modid, cmdid: module.cmdid };
                self.send(net, self.dns, MessageId::Forget, &forget)
            }
            DnsMessage::Digest(Question::Digest(Digest { count, sum })) => {
                let digest = SubscriptionDigest { count, sum };
                self.send(net, self.dns, MessageId::SubscriptionDigest, &digest)
            }
            DnsMessage::Digest(Question::Buckets(ref sums)) => {
                self.send(net, self.dns, MessageId::BucketSums, sums)
            }
        };
        sent.then_some(()).ok_or(Output::SendToDns(message))
    }

    /// False if the connection does not take it. If it is full, its `writable` hook follows; if it is gone, `closed`.
    fn send(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: Option<ConnId>,
        id: MessageId,
        message: &impl prost::Message,
    ) -> bool {
        self.frame.clear();
        // Requests are two numbers, and statistics are cut so that they fit.
        let fits = frame::encode(id, message, &mut self.frame);
        debug_assert_eq!(fits, Ok(()), "{} bytes", message.encoded_len());
        conn.is_some_and(|conn| net.send(conn, &self.frame).is_ok())
    }

    fn log(&mut self, event: Event, now: Instant) {
        match event {
            Event::AsksAgain { modules } => {
                tracing::info!(modules, "asking lars-dns for all known modules");
            }
            Event::TableFull { modules_max } => tracing::warn!(
                modules_max,
                "too many modules: some that nobody serves are forgotten early, see api.modules_max"
            ),
            Event::InDoubt { module } => {
                if let Some(suppressed) = self.doubts.due(now) {
                    tracing::warn!(
                        %module,
                        suppressed,
                        "lars-dns has no hosts of a module any more, and does not say that this is meant: its hosts are \
                         kept for a while, see dns.empty_hold_ms"
                    );
                }
            }
            Event::Changed { module, change } => {
                if let Some(suppressed) = self.changes.due(now) {
                    tracing::info!(%module, suppressed, "{change}");
                }
            }
        }
    }
}

/// The wire's 32 bits last until 2106.
fn unix_seconds() -> u32 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is not exactly one frame.
    Frame,
    /// The message id is none that an agent answers: unknown, or of another direction.
    MessageId,
    /// The body is not the message that the id announces.
    Body,
    /// A report that names no host.
    Host,
}

impl Refusal {
    fn count(self, stats: &mut ApiStats) {
        let counter = match self {
            Self::Frame => &mut stats.malformed_frames,
            Self::MessageId => &mut stats.unexpected_messages,
            Self::Body => &mut stats.malformed_bodies,
            Self::Host => &mut stats.invalid_hosts,
        };
        *counter += 1;
    }
}

/// What a client asks for, or why it asks for nothing.
fn decode(datagram: &[u8]) -> Result<Request, Refusal> {
    let frame = frame::decode_datagram(datagram).map_err(|_| Refusal::Frame)?;
    match MessageId::try_from(frame.id).unwrap_or_default() {
        MessageId::GetHostRequest => {
            let request = lookup::decode_get_host_request(frame.body).map_err(|_| Refusal::Body)?;
            Ok(Request::GetHost { seq: request.seq, module: request.module(), wait_ms: request.wait_ms })
        }
        MessageId::ReportRequest => {
            let request = lookup::decode_report_request(frame.body).map_err(|_| Refusal::Body)?;
            let host = HostAddr::from_wire(&request.host.unwrap_or_default()).map_err(|_| Refusal::Host)?;
            let outcome = Outcome::from_retcode(request.retcode);
            Ok(Request::Report { module: request.module(), host, outcome })
        }
        MessageId::ApiGetRouteRequest => {
            let request = ApiGetRouteRequest::decode(frame.body).map_err(|_| Refusal::Body)?;
            Ok(Request::GetRoute { module: request.module(), wait_ms: request.wait_ms })
        }
        MessageId::Unknown
        | MessageId::GetRouteRequest
        | MessageId::GetRouteResponse
        | MessageId::ReportStatusRequest
        | MessageId::Forget
        | MessageId::SubscriptionDigest
        | MessageId::SubscriptionDigestAnswer
        | MessageId::BucketSums
        | MessageId::BucketSumsAnswer
        | MessageId::GetHostResponse
        | MessageId::ApiGetRouteResponse => Err(Refusal::MessageId),
    }
}

/// Appends `reply` to `out`. False if it is a route that does not fit a datagram and had to be cut.
fn encode(reply: &Reply, out: &mut Vec<u8>) -> bool {
    match reply {
        Reply::Host { seq, module, answer } => {
            let (retcode, host) = match answer {
                Answer::Host(host) => (RetCode::Succ, Some(host.to_wire())),
                Answer::Overloaded => (RetCode::Overload, None),
                Answer::NotFound => (RetCode::Noexist, None),
            };
            let ModuleId { modid, cmdid } = *module;
            let response = GetHostResponse { seq: *seq, modid, cmdid, retcode: retcode as i32, host };
            lookup::encode_get_host_response(&response, out);
            true
        }
        Reply::Route { module, hosts, confirmed } => {
            let extensions = Extensions { confirms: *confirmed, ..Extensions::default() };
            let sent =
                route::encode_extended(RouteReply::Api, *module, hosts.iter().copied(), extensions, out);
            sent == hosts.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::messages::{GetHostRequest, HostInfo, ReportRequest};
    use proptest::prelude::*;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(-1, i32::MAX);

    fn datagram(id: MessageId, message: &impl prost::Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(id, message, &mut bytes).expect("fits");
        bytes
    }

    #[track_caller]
    fn check(id: MessageId, message: &impl prost::Message, expect: Result<Request, Refusal>) {
        assert_eq!(decode(&datagram(id, message)), expect);
    }

    #[test]
    fn the_three_requests() {
        let (modid, cmdid) = (MODULE.modid, MODULE.cmdid);
        for wait_ms in [0, 180] {
            let get_host = GetHostRequest { seq: 7, modid, cmdid, wait_ms };
            let expect = Request::GetHost { seq: 7, module: MODULE, wait_ms };
            check(MessageId::GetHostRequest, &get_host, Ok(expect));
            let get_route = ApiGetRouteRequest { modid, cmdid, wait_ms };
            check(
                MessageId::ApiGetRouteRequest,
                &get_route,
                Ok(Request::GetRoute { module: MODULE, wait_ms }),
            );
        }
        let host = HostAddr::v4(Ipv4Addr::BROADCAST, 65_535);
        let report = ReportRequest { modid, cmdid, host: Some(host.to_wire()), retcode: -1 };
        let expect = Request::Report { module: MODULE, host, outcome: Outcome::Failure };
        check(MessageId::ReportRequest, &report, Ok(expect));
    }

    #[test]
    fn messages_of_another_direction_are_refused() {
        let message = GetRouteRequest::default();
        for id in [
            MessageId::Unknown,
            MessageId::GetRouteRequest,
            MessageId::GetRouteResponse,
            MessageId::ReportStatusRequest,
            MessageId::GetHostResponse,
            MessageId::ApiGetRouteResponse,
        ] {
            check(id, &message, Err(Refusal::MessageId));
        }
    }

    #[test]
    fn reports_must_name_a_host() {
        let nothing = ReportRequest::default();
        check(MessageId::ReportRequest, &nothing, Err(Refusal::Host));
        let no_port = ReportRequest { host: Some(HostInfo { ip: 1, port: 70_000 }), ..nothing };
        check(MessageId::ReportRequest, &no_port, Err(Refusal::Host));
    }

    #[test]
    fn each_kind_of_garbage_is_told_apart() {
        let good =
            datagram(MessageId::GetHostRequest, &GetHostRequest { seq: 1, modid: 1, cmdid: 1, wait_ms: 0 });
        assert_eq!(decode(b""), Err(Refusal::Frame));
        assert_eq!(decode(&good[..good.len() - 1]), Err(Refusal::Frame));
        assert_eq!(decode(&[&good[..], b"x"].concat()), Err(Refusal::Frame));
        let mut unknown = good.clone();
        unknown[..4].copy_from_slice(&i32::MIN.to_le_bytes());
        assert_eq!(decode(&unknown), Err(Refusal::MessageId));
        let mut broken = good;
        broken[8..].fill(0xff);
        assert_eq!(decode(&broken), Err(Refusal::Body));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(id in -1i32..10, body: Vec<u8>) {
            let len = body.len() as i32;
            let _ = decode(&[&id.to_le_bytes()[..], &len.to_le_bytes(), &body].concat());
        }
    }
}
