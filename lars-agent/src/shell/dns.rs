//! The link to lars-dns, on shard 0.

use std::time::Duration;

use lars_proto::{
    HostAddr, ModuleId, frame,
    messages::{GetRouteRequest, GetRouteResponse, MessageId},
};
use lars_runtime::{ConnId, Flow, Handlers, SendError, ShardContext};
use prost::Message;

use super::shard::AgentShard;
use crate::core::{dns_link::DnsLink, table::Output, time::Moment};

/// What was counted on the link, and its state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DnsStats {
    pub(super) is_up: bool,
    pub(super) queries_sent: u64,
    pub(super) routes_received: u64,
    pub(super) routes_truncated: u64,
    pub(super) routes_unwanted: u64,
    pub(super) invalid_hosts: u64,
}

pub(super) struct DnsSession {
    link: DnsLink,
    conn: Option<ConnId>,
    stats: DnsStats,
    /// The frame being sent; kept for its memory.
    frame: Vec<u8>,
}

pub(super) fn handlers() -> Handlers<AgentShard> {
    Handlers::new(frame::next)
        .on(MessageId::GetRouteResponse as i32, on_route)
        .opened(|shard, net, conn| {
            let now = shard.moment(net);
            with_session(shard, |session| session.opened(net, conn, now));
        })
        .writable(|shard, net, _| {
            let now = shard.moment(net);
            with_session(shard, |session| session.send_queries(net, now));
        })
        .closed(|shard, _, _, _| with_session(shard, DnsSession::closed))
}

/// The handlers run where the link lives.
fn with_session(shard: &mut AgentShard, f: impl FnOnce(&mut DnsSession)) {
    if let Some(links) = &mut shard.links {
        f(&mut links.dns);
    }
}

/// An answer or a push.
fn on_route(shard: &mut AgentShard, net: &mut ShardContext<AgentShard>, _: ConnId, body: &[u8]) -> Flow {
    let Ok(response) = GetRouteResponse::decode(body) else {
        return Flow::Close("malformed route");
    };
    let module = response.module();
    let hosts: Vec<HostAddr> =
        response.host.iter().filter_map(|host| HostAddr::from_wire(host).ok()).collect();
    let invalid = response.host.len() - hosts.len();
    let is_wanted = shard.links.as_mut().is_some_and(|links| links.dns.link.answered(module));
    if is_wanted && !shard.deliver_route(net, module, hosts) {
        // Offered again soon; a route must not be lost, because no lookup would ask for it.
        return Flow::Busy;
    }
    with_session(shard, |session| session.count(&response, invalid, is_wanted));
    Flow::Continue
}

impl DnsSession {
    pub(super) fn new(answer_timeout: Duration) -> Self {
        let link = DnsLink::new(answer_timeout);
        Self { link, conn: None, stats: DnsStats::default(), frame: Vec::new() }
    }

    /// A question of some shard's table.
    pub(super) fn ask(&mut self, net: &mut ShardContext<AgentShard>, question: Output, now: Moment) {
        match question {
            Output::QueryDns(module) => self.link.want(module, now),
            Output::Forget(module) => self.link.forget(module),
        }
        self.send_queries(net, now);
    }

    /// Sends what the link wants to ask now, as far as the connection takes it.
    pub(super) fn send_queries(&mut self, net: &mut ShardContext<AgentShard>, now: Moment) {
        let Some(conn) = self.conn else { return };
        while let Some(module) = self.link.poll_query(now) {
            if self.send_query(net, conn, module).is_err() {
                // Full: `writable` follows. Gone: so does `closed`, and all is asked for again.
                self.link.unsent(module);
                return;
            }
            self.stats.queries_sent += 1;
        }
    }

    /// Gives up a connection whose server does not answer; the next one may do better.
    pub(super) fn check_alive(&self, net: &mut ShardContext<AgentShard>, now: Moment) {
        if let Some(conn) = self.conn
            && self.link.is_silent(now)
        {
            net.close(conn, "it does not answer");
        }
    }

    pub(super) fn stats(&self) -> DnsStats {
        DnsStats { is_up: self.link.is_up(), ..self.stats }
    }

    fn send_query(
        &mut self,
        net: &mut ShardContext<AgentShard>,
        conn: ConnId,
        module: ModuleId,
    ) -> Result<(), SendError> {
        self.frame.clear();
        let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, ..Default::default() };
        // Two numbers always fit a frame.
        let _ = frame::encode(MessageId::GetRouteRequest, &request, &mut self.frame);
        net.send(conn, &self.frame)
    }

    fn opened(&mut self, net: &mut ShardContext<AgentShard>, conn: ConnId, now: Moment) {
        let modules = self.link.modules_len();
        if modules > 0 {
            tracing::info!(modules, "asking lars-dns for all known modules");
        }
        self.conn = Some(conn);
        self.link.connected(now);
        self.send_queries(net, now);
    }

    fn closed(&mut self) {
        self.conn = None;
        self.link.disconnected();
    }

    fn count(&mut self, response: &GetRouteResponse, invalid: usize, is_wanted: bool) {
        self.stats.routes_received += 1;
        self.stats.routes_truncated += u64::from(response.hosts_total > 0);
        self.stats.routes_unwanted += u64::from(!is_wanted);
        self.stats.invalid_hosts += invalid as u64;
    }
}
