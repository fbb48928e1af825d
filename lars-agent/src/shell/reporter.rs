//! The link to lars-reporter, on shard 0.
//!
//! The tables are asked for statistics only while the link takes them: the [`Gate`] tells every shard. What
//! was asked for and does not fit the connection any more is parked, and the gate is shut until it is sent.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use lars_proto::{
    frame,
    messages::{HostCallResult, MessageId, ReportStatusRequest},
};
use lars_runtime::{ConnId, Handlers, SendError, ShardContext};

use super::shard::AgentShard;
use crate::core::{balancer::HostStatus, statistics::StatusReport};

/// What was counted on the link, and its state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReporterStats {
    pub(super) is_up: bool,
    pub(super) messages_sent: u64,
    /// Messages that were on their way to a link that broke; what they said is told again.
    pub(super) messages_lost: u64,
}

#[derive(Debug, Default)]
struct GateState {
    is_connected: AtomicBool,
    /// The connection takes more now.
    is_open: AtomicBool,
    /// Counts connections, from 1.
    connection: AtomicU64,
}

/// Tells every shard whether the link takes statistics, and when it is another link than before. Advice
/// only, and so without ordering: a report that comes to a shut gate is parked or lost and told again.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Arc<GateState>,
    /// The connection that was seen last through this handle.
    seen: u64,
}

impl Gate {
    pub(super) fn is_open(&self) -> bool {
        self.state.is_open.load(Ordering::Relaxed)
    }

    /// Whether there is a connection that this handle has not seen yet.
    pub(super) fn is_new_connection(&mut self) -> bool {
        let seen = std::mem::replace(&mut self.seen, self.state.connection.load(Ordering::Relaxed));
        seen != self.seen
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state.is_connected.load(Ordering::Relaxed)
    }

    fn connected(&self) {
        self.state.connection.fetch_add(1, Ordering::Relaxed);
        self.state.is_connected.store(true, Ordering::Relaxed);
        self.open(true);
    }

    fn disconnected(&self) {
        self.open(false);
        self.state.is_connected.store(false, Ordering::Relaxed);
    }

    fn open(&self, is_open: bool) {
        self.state.is_open.store(is_open, Ordering::Relaxed);
    }
}

impl Clone for Gate {
    /// A handle for another shard, which has seen nothing.
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), seen: 0 }
    }
}

pub(super) struct ReporterSession {
    gate: Gate,
    conn: Option<ConnId>,
    /// Configured, or else this end of the connection.
    caller: Option<Ipv4Addr>,
    configured_caller: Option<Ipv4Addr>,
    /// Reports that did not fit the connection; no more come in while there are some, but for those that
    /// were on their way.
    parked: VecDeque<StatusReport>,
    stats: ReporterStats,
    /// The frame being sent; kept for its memory.
    frame: Vec<u8>,
}

pub(super) fn handlers() -> Handlers<AgentShard> {
    Handlers::new(frame::next)
        .opened(|shard, net, conn| with_session(shard, |session| session.opened(net, conn)))
        .writable(|shard, net, _| with_session(shard, |session| session.send_parked(net)))
        .closed(|shard, _, _, _| with_session(shard, ReporterSession::closed))
}

/// The handlers run where the link lives.
fn with_session(shard: &mut AgentShard, f: impl FnOnce(&mut ReporterSession)) {
    if let Some(links) = &mut shard.links {
        f(&mut links.reporter);
    }
}

impl ReporterSession {
    pub(super) fn new(gate: Gate, configured_caller: Option<Ipv4Addr>) -> Self {
        Self {
            gate,
            conn: None,
            caller: None,
            configured_caller,
            parked: VecDeque::new(),
            stats: ReporterStats::default(),
            frame: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, net: &mut ShardContext<AgentShard>, report: StatusReport) {
        self.parked.push_back(report);
        self.send_parked(net);
    }

    /// Sends what waits, as far as the connection takes it.
    pub(super) fn send_parked(&mut self, net: &mut ShardContext<AgentShard>) {
        let Some(conn) = self.conn else {
            // Told again on the next connection.
            self.lose_parked();
            return;
        };
        while let Some(report) = self.parked.pop_front() {
            if self.send_report(net, conn, &report).is_err() {
                // Full: `writable` follows. Gone: so does `closed`.
                self.parked.push_front(report);
                break;
            }
            self.stats.messages_sent += 1;
        }
        self.gate.open(self.parked.is_empty());
    }

    /// Whether reports wait for the connection to take them.
    pub(super) fn is_behind(&self) -> bool {
        !self.parked.is_empty()
    }

    pub(super) fn stats(&self) -> ReporterStats {
        ReporterStats { is_up: self.conn.is_some(), ..self.stats }
    }

    fn send_report(
        &mut self,
        net: &mut ShardContext<AgentShard>,
        conn: ConnId,
        report: &StatusReport,
    ) -> Result<(), SendError> {
        self.frame.clear();
        let message = ReportStatusRequest {
            modid: report.module.modid,
            cmdid: report.module.cmdid,
            caller: self.caller.unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits().cast_signed(),
            results: report.hosts.iter().map(call_result).collect(),
            ts: unix_seconds(),
        };
        // The schedule cuts reports so that they fit a frame.
        let fits = frame::encode(MessageId::ReportStatusRequest, &message, &mut self.frame);
        debug_assert_eq!(fits, Ok(()));
        net.send(conn, &self.frame)
    }

    fn opened(&mut self, net: &ShardContext<AgentShard>, conn: ConnId) {
        self.conn = Some(conn);
        self.caller = self.configured_caller.or_else(|| local_ip(net, conn));
        match self.caller {
            Some(caller) => tracing::info!(%caller, "statistics go to lars-reporter under this address"),
            None => {
                tracing::warn!("statistics need caller_ip: the link to lars-reporter has no IPv4 address")
            }
        }
        self.gate.connected();
    }

    fn closed(&mut self) {
        self.conn = None;
        self.gate.disconnected();
        self.lose_parked();
    }

    fn lose_parked(&mut self) {
        self.stats.messages_lost += self.parked.len() as u64;
        self.parked.clear();
    }
}

fn call_result(status: &HostStatus) -> HostCallResult {
    let host = status.host.to_wire();
    HostCallResult {
        ip: host.ip,
        port: host.port,
        succ: status.succ,
        err: status.err,
        overload: status.overloaded,
    }
}

fn local_ip(net: &ShardContext<AgentShard>, conn: ConnId) -> Option<Ipv4Addr> {
    match net.local(conn)?.ip().to_canonical() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The wire's 32 bits last until 2106.
fn unix_seconds() -> u32 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_sees_each_connection_once() {
        let mut gate = Gate::default();
        let mut other = gate.clone();
        assert!(!gate.is_new_connection() && !gate.is_open());
        gate.connected();
        assert!(gate.is_new_connection() && other.is_new_connection());
        assert!(!gate.is_new_connection() && !other.is_new_connection());
        gate.disconnected();
        assert!(!other.is_new_connection() && !other.is_open() && !other.is_connected());
        gate.connected();
        assert!(other.is_new_connection() && other.is_open() && other.is_connected());
    }
}
