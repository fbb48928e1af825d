//! What is counted. Each shard counts in plain integers of its own; they are summed when somebody asks.

use std::ops::Add;

use lars_runtime::{PoolStats, Sample, TcpStats, UdpStats, counters};
use lars_service::StateStats;

counters! {
    /// What comes in by a shard's socket.
    pub struct ApiStats {
        /// Datagrams that came in on another shard's socket and were passed on.
        counter misrouted: u64,
        /// Of these, dropped because that shard was behind.
        counter misrouted_dropped: u64,
        /// Datagrams dropped because they are not exactly one frame.
        counter malformed_frames: u64,
        /// Datagrams dropped because the body is not what the message id announces.
        counter malformed_bodies: u64,
        /// Datagrams dropped because their message id is unknown or of another direction.
        counter unexpected_messages: u64,
        /// Reports dropped because they name no host.
        counter invalid_hosts: u64,
        /// Routes that did not fit a datagram.
        counter routes_truncated: u64,
        /// Lookups, also of whole routes, that waited for a module that was not learned yet.
        counter waits: u64,
        /// Of these, those whose wait ended without the route.
        counter waits_expired: u64,
        /// Lookups that did not wait because too many others did, or the agent was about to stop.
        counter waits_refused: u64,
        /// Lookups that wait now.
        gauge waiting: u64,
        /// Lookups of whole routes dropped because they came from another machine.
        counter routes_refused: u64,
    }
}

counters! {
    /// What a shard's table does.
    pub struct TableStats {
        /// Lookups answered with a host.
        counter lookups_ok: u64,
        /// Lookups answered with "all hosts are overloaded".
        counter lookups_overload: u64,
        /// Lookups answered with "no such module, or it has no hosts".
        counter lookups_noexist: u64,
        /// Lookups of whole routes.
        counter route_lookups: u64,
        /// Reports of calls.
        counter reports: u64,
        /// Reports for a module or a host that is not known; ignored.
        counter reports_unknown: u64,
        /// Modules remembered now.
        gauge modules: u64,
        /// Modules without hosts that were forgotten to make room for others.
        counter modules_evicted: u64,
        /// Lookups of modules that were not remembered because there are too many.
        counter modules_refused: u64,
        /// Idle hosts of all modules now.
        gauge hosts_idle: u64,
        /// Overloaded hosts of all modules now.
        gauge hosts_overloaded: u64,
        /// Times a host became overloaded.
        counter ejections: u64,
        /// Calls after which a host would have been ejected, but for the cap on ejections.
        counter ejections_spared: u64,
        /// Times a host became idle again.
        counter recoveries: u64,
        /// Lookups answered with an overloaded host.
        counter probes: u64,
        /// Routes put into force.
        counter updates: u64,
        /// Routes of modules that nobody looks up any more; ignored.
        counter updates_unknown: u64,
        /// Times an empty route of a module with hosts was kept back, because lars-dns did not say that it is meant.
        counter doubts: u64,
        /// Of these, those after which lars-dns told of hosts again.
        counter doubts_dispelled: u64,
        /// Modules whose empty route is kept back now.
        gauge in_doubt: u64,
        /// Modules known from before this agent started that lars-dns has not confirmed yet.
        gauge unconfirmed: u64,
    }
}

counters! {
    /// The connection to lars-dns; all zero but on one shard.
    pub struct DnsStats {
        /// Whether there is a connection now.
        gauge is_up: u64,
        /// Queries sent.
        counter queries: u64,
        /// Modules that lars-dns was told to push no more.
        counter forgets: u64,
        /// Routes that came, asked for or pushed.
        counter routes: u64,
        /// Of these, cut by lars-dns because they did not fit a frame.
        counter routes_truncated: u64,
        /// Of these, ignored because nobody looks the module up any more.
        counter routes_unwanted: u64,
        /// Hosts in these that cannot be, skipped.
        counter invalid_hosts: u64,
        /// Digests sent.
        counter digests: u64,
        /// Of these, those that differed from what lars-dns serves.
        counter digests_differing: u64,
        /// Questions about buckets that followed.
        counter digest_buckets: u64,
        /// Modules asked for again because a digest differed.
        counter digest_modules: u64,
        /// Subscriptions that nobody wants, found by a digest.
        counter digest_unwanted: u64,
        /// Connections given up because answers did not come.
        counter given_up: u64,
    }
}

counters! {
    /// The connection to lars-reporter; all zero but on one shard.
    pub struct ReporterStats {
        /// Whether there is a connection now.
        gauge is_up: u64,
        /// Messages sent.
        counter messages: u64,
        /// Messages lost with a connection, or because there were too many; what they said is sent again.
        counter messages_lost: u64,
    }
}

/// What has been counted since the start, and what there is now, by where it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStats {
    /// What clients ask.
    pub api: ApiStats,
    /// The modules and their hosts.
    pub table: TableStats,
    /// The connection to lars-dns.
    pub dns: DnsStats,
    /// The connection to lars-reporter.
    pub reporter: ReporterStats,
    /// The sockets of the API.
    pub udp: UdpStats,
    /// The bytes of the connection to lars-dns.
    pub dns_tcp: TcpStats,
    /// The bytes of the connection to lars-reporter.
    pub reporter_tcp: TcpStats,
    /// The buffers of all shards.
    pub pool: PoolStats,
    /// The state on disk.
    pub state: StateStats,
}

impl AgentStats {
    /// Every number with its name and meaning, and the section that it stands in.
    pub fn samples(&self) -> impl Iterator<Item = (&'static str, Sample)> {
        let section =
            |name: &'static str, samples: Vec<Sample>| samples.into_iter().map(move |sample| (name, sample));
        section("api", self.api.samples().into())
            .chain(section("table", self.table.samples().into()))
            .chain(section("dns", self.dns.samples().into()))
            .chain(section("reporter", self.reporter.samples().into()))
            .chain(section("udp", self.udp.samples().into()))
            .chain(section("dns_tcp", self.dns_tcp.samples().into()))
            .chain(section("reporter_tcp", self.reporter_tcp.samples().into()))
            .chain(section("pool", self.pool.samples().into()))
            .chain(section("state", self.state.samples().into()))
    }
}

/// What one shard counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreStats {
    pub api: ApiStats,
    pub table: TableStats,
    pub dns: DnsStats,
    pub reporter: ReporterStats,
}

impl Add for CoreStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            api: self.api + other.api,
            table: self.table + other.table,
            dns: self.dns + other.dns,
            reporter: self.reporter + other.reporter,
        }
    }
}
