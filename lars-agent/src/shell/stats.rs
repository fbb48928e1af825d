//! What is counted. Each shard counts in plain integers of its own; they are summed when somebody asks.

use lars_runtime::UdpStats;

use super::{dns::DnsStats, reporter::ReporterStats};
use crate::core::{balancer::Census, table::TableCounters};

/// What has been counted since the start, and what there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// Lookups answered with a host.
    pub lookups_ok: u64,
    /// Lookups answered with "all hosts are overloaded".
    pub lookups_overload: u64,
    /// Lookups answered with "no such module, or it has no hosts".
    pub lookups_noexist: u64,
    /// Lookups of whole routes.
    pub route_lookups: u64,
    /// Routes that did not fit a datagram.
    pub routes_truncated: u64,
    /// Reports of calls.
    pub reports: u64,
    /// Reports for a module or a host that is not known; ignored.
    pub reports_unknown: u64,
    /// Replies that the kernel did not take.
    pub replies_unsent: u64,
    /// Datagrams dropped because they are longer than any request.
    pub oversized: u64,
    /// Datagrams that came in on another shard's socket and were passed on.
    pub misrouted: u64,
    /// Of these, dropped because that shard was behind.
    pub misrouted_dropped: u64,
    /// Datagrams dropped because they are not exactly one frame.
    pub malformed_frames: u64,
    /// Datagrams dropped because the body is not what the message id announces.
    pub malformed_bodies: u64,
    /// Datagrams dropped because their message id is unknown or of another direction.
    pub unexpected_messages: u64,
    /// Reports dropped because they name no host.
    pub invalid_hosts: u64,
    /// Modules remembered now.
    pub modules: usize,
    /// Lookups of modules that were not remembered because there are too many.
    pub modules_refused: u64,
    /// Idle hosts of all modules now.
    pub hosts_idle: usize,
    /// Overloaded hosts of all modules now.
    pub hosts_overloaded: usize,
    /// Times a host became overloaded.
    pub ejections: u64,
    /// Times a host became idle again.
    pub recoveries: u64,
    /// Lookups answered with an overloaded host.
    pub probes: u64,
    /// Whether there is a connection to lars-dns now.
    pub dns_is_up: bool,
    /// Queries sent to lars-dns.
    pub dns_queries: u64,
    /// Routes that came from lars-dns, asked for or pushed.
    pub dns_routes: u64,
    /// Of these, cut by lars-dns because they did not fit a frame.
    pub dns_routes_truncated: u64,
    /// Of these, ignored because nobody looks the module up any more.
    pub dns_routes_unwanted: u64,
    /// Hosts in these that cannot be, skipped.
    pub dns_invalid_hosts: u64,
    /// Whether there is a connection to lars-reporter now.
    pub reporter_is_up: bool,
    /// Messages sent to lars-reporter.
    pub reporter_messages: u64,
    /// Messages lost with a connection to lars-reporter; what they said is told again.
    pub reporter_messages_lost: u64,
}

/// What a shard counts at its socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ApiCounters {
    pub(super) routes_truncated: u64,
    pub(super) misrouted: u64,
    pub(super) misrouted_dropped: u64,
    pub(super) malformed_frames: u64,
    pub(super) malformed_bodies: u64,
    pub(super) unexpected_messages: u64,
    pub(super) invalid_hosts: u64,
}

/// One shard's share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShardStats {
    pub(super) api: ApiCounters,
    pub(super) table: TableCounters,
    pub(super) modules: usize,
    pub(super) hosts: Census,
    /// All zero but on shard 0.
    pub(super) dns: DnsStats,
    pub(super) reporter: ReporterStats,
}

impl AgentStats {
    pub(super) fn of_sockets(udp: &UdpStats) -> Self {
        Self { replies_unsent: udp.unsent, oversized: udp.oversized, ..Self::default() }
    }

    #[must_use]
    pub(super) fn plus(self, shard: ShardStats) -> Self {
        let ShardStats { api, table, modules, hosts, dns, reporter } = shard;
        Self {
            lookups_ok: self.lookups_ok + table.lookups_ok,
            lookups_overload: self.lookups_overload + table.lookups_overload,
            lookups_noexist: self.lookups_noexist + table.lookups_noexist,
            route_lookups: self.route_lookups + table.route_lookups,
            routes_truncated: self.routes_truncated + api.routes_truncated,
            reports: self.reports + table.reports,
            reports_unknown: self.reports_unknown + table.reports_unknown,
            replies_unsent: self.replies_unsent,
            oversized: self.oversized,
            misrouted: self.misrouted + api.misrouted,
            misrouted_dropped: self.misrouted_dropped + api.misrouted_dropped,
            malformed_frames: self.malformed_frames + api.malformed_frames,
            malformed_bodies: self.malformed_bodies + api.malformed_bodies,
            unexpected_messages: self.unexpected_messages + api.unexpected_messages,
            invalid_hosts: self.invalid_hosts + api.invalid_hosts,
            modules: self.modules + modules,
            modules_refused: self.modules_refused + table.modules_refused,
            hosts_idle: self.hosts_idle + hosts.idle,
            hosts_overloaded: self.hosts_overloaded + hosts.overloaded,
            ejections: self.ejections + table.ejections,
            recoveries: self.recoveries + table.recoveries,
            probes: self.probes + table.probes,
            dns_is_up: self.dns_is_up || dns.is_up,
            dns_queries: self.dns_queries + dns.queries_sent,
            dns_routes: self.dns_routes + dns.routes_received,
            dns_routes_truncated: self.dns_routes_truncated + dns.routes_truncated,
            dns_routes_unwanted: self.dns_routes_unwanted + dns.routes_unwanted + table.updates_unknown,
            dns_invalid_hosts: self.dns_invalid_hosts + dns.invalid_hosts,
            reporter_is_up: self.reporter_is_up || reporter.is_up,
            reporter_messages: self.reporter_messages + reporter.messages_sent,
            reporter_messages_lost: self.reporter_messages_lost + reporter.messages_lost,
        }
    }
}
