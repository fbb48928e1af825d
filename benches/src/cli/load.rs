//! The flags of loads.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use lars_proto::ModuleId;
use lars_store::StoreUrl;

use super::values::{
    ModuleRange, at_least, body_len, module, modules, rate, seconds, seconds_or_none, slots,
};
use crate::load::{
    IoKind, Plan, agent::AgentPorts, dns_query::DnsQueryLoad, dns_subscribe::DnsSubscribeLoad, pace::Pace,
    reporter_ingest::ReporterIngestLoad, tcp_echo::TcpEchoLoad, udp_lookups::GetHostLoad,
    udp_routes::GetRouteLoad,
};

/// Where a load runs, and what it writes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct BenchArgs {
    /// What to do the IO with [default: ring, where this kernel has it]
    #[arg(long, value_enum)]
    pub io: Option<IoKind>,
    /// Stay on this processor
    #[arg(long, value_name = "CPU")]
    pub pin: Option<usize>,
    /// The server's process: say how much processor time it takes
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write one line of JSON
    #[arg(long)]
    pub json: bool,
    /// What to call the measurement there
    #[arg(long, default_value = "")]
    pub label: String,
}

impl BenchArgs {
    fn io(&self) -> IoKind {
        self.io.unwrap_or_else(IoKind::best)
    }
}

/// How a run goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// How long to measure
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// How long to run before that
    #[arg(long, value_name = "SECONDS", default_value = "0.3", value_parser = seconds_or_none)]
    pub warmup: Duration,
    /// Open loop: so many operations per second, whatever the server does [default: closed loop]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// When a request counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub timeout: Duration,
    /// Wait so long for half of what is in flight before going on with a single reply. Saves the load's time, and adds
    /// to the latency that it sees; only a ring can do it
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub gather: u64,
    /// Where it runs, and what it writes.
    #[command(flatten)]
    pub bench: BenchArgs,
}

impl RunArgs {
    /// The same for the load generator.
    pub fn plan(&self) -> Plan {
        Plan {
            warmup: self.warmup,
            measured: self.seconds,
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
            timeout: self.timeout,
            server_pid: self.bench.server_pid,
            io: self.bench.io(),
            gather: Duration::from_micros(self.gather),
        }
    }
}

/// Which modules it is about.
#[derive(Debug, Args)]
pub struct ModuleArgs {
    /// Modules, like 1/1, or 1..1000/1 for all from 1/1 to 1000/1; may be given more than once
    #[arg(long = "module", value_name = "MODID/CMDID", default_value = "1/1", value_parser = modules,
        allow_hyphen_values = true)]
    ranges: Vec<ModuleRange>,
}

impl ModuleArgs {
    fn all(&self) -> Vec<ModuleId> {
        self.ranges.iter().flat_map(ModuleRange::modules).collect()
    }
}

/// Whom to ask over UDP, and how much at a time.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The agent's address and first port
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8888")]
    agent: SocketAddr,
    /// How many ports the agent has; 1 for an echo
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    shards: u16,
    #[command(flatten)]
    modules: ModuleArgs,
    /// How many sockets
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least::<1>)]
    sockets: usize,
    /// Requests under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = slots)]
    in_flight: usize,
}

impl AgentArgs {
    fn ports(&self) -> AgentPorts {
        AgentPorts { ip: self.agent.ip(), base_port: self.agent.port(), shards: self.shards }
    }
}

/// How lookups are made.
#[derive(Debug, Args)]
pub struct GetHostArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Report each host that was returned as having worked
    #[arg(long)]
    report: bool,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl GetHostArgs {
    /// The same for the load generator.
    pub fn load(&self) -> GetHostLoad {
        let AgentArgs { sockets, in_flight, .. } = self.agent;
        let (agent, modules) = (self.agent.ports(), self.agent.modules.all());
        GetHostLoad { agent, modules, sockets, in_flight, report: self.report }
    }
}

/// How frames are sent.
#[derive(Debug, Args)]
pub struct TcpEchoArgs {
    /// The server
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least::<1>)]
    connections: usize,
    /// Frames under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least::<1>)]
    in_flight: usize,
    /// Bytes of each frame behind its header
    #[arg(long = "body", value_name = "BYTES", default_value_t = 16, value_parser = body_len)]
    body_len: usize,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl TcpEchoArgs {
    /// The same for the load generator.
    pub fn load(&self) -> TcpEchoLoad {
        let Self { connect: server, connections, in_flight, body_len, .. } = *self;
        TcpEchoLoad { server, connections, in_flight, body_len }
    }
}

/// How routes are queried.
#[derive(Debug, Args)]
pub struct DnsQueryArgs {
    /// lars-dns
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7778")]
    dns: SocketAddr,
    #[command(flatten)]
    modules: ModuleArgs,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least::<1>)]
    connections: usize,
    /// Queries under way at the same time, on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least::<1>)]
    in_flight: usize,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl DnsQueryArgs {
    /// The same for the load generator.
    pub fn load(&self) -> DnsQueryLoad {
        let Self { dns: server, connections, in_flight, .. } = *self;
        DnsQueryLoad { server, modules: self.modules.all(), connections, in_flight }
    }
}

/// How routes are queried over UDP.
#[derive(Debug, Args)]
pub struct GetRouteArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl GetRouteArgs {
    /// The same for the load generator.
    pub fn load(&self) -> GetRouteLoad {
        let AgentArgs { sockets, in_flight, .. } = self.agent;
        GetRouteLoad { agent: self.agent.ports(), modules: self.agent.modules.all(), sockets, in_flight }
    }
}

/// Who subscribes, and to what.
#[derive(Debug, Args)]
pub struct DnsSubscribeArgs {
    /// lars-dns
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7778")]
    dns: SocketAddr,
    /// The database that it serves, to edit the route: sqlite:PATH or mysql://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub store: StoreUrl,
    /// The module to subscribe to. Its hosts are replaced
    #[arg(long, value_name = "MODID/CMDID", default_value = "1/1", value_parser = module,
        allow_hyphen_values = true)]
    module: ModuleId,
    /// How many subscribers
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least::<1>)]
    connections: usize,
    /// How many edits
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    changes: u16,
    /// When a push counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    timeout: Duration,
    /// Where it runs, and what it writes.
    #[command(flatten)]
    pub bench: BenchArgs,
}

impl DnsSubscribeArgs {
    /// The same for the load generator.
    pub fn load(&self) -> DnsSubscribeLoad {
        let Self { dns: server, module, connections, changes, timeout, .. } = *self;
        let (server_pid, io) = (self.bench.server_pid, self.bench.io());
        DnsSubscribeLoad { server, module, connections, changes, timeout, server_pid, io }
    }
}

/// What is reported.
#[derive(Debug, Args)]
pub struct ReporterIngestArgs {
    /// lars-reporter
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7779")]
    reporter: SocketAddr,
    /// How many callers, each with a connection
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least::<1>)]
    connections: usize,
    /// How many modules each calls
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    modules: u32,
    /// How many hosts of each; one message has them all
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    hosts: u16,
    /// Report each row once, and wait until the reporter has stored all of them in this database: sqlite:PATH or
    /// mysql://user:password@host:port/database [default: report as much as the reporter takes]
    #[arg(long, value_name = "URL")]
    pub store: Option<StoreUrl>,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl ReporterIngestArgs {
    /// The same for the load generator.
    pub fn load(&self) -> ReporterIngestLoad {
        let Self { reporter: server, connections, modules, hosts, .. } = *self;
        ReporterIngestLoad { server, connections, modules, hosts }
    }
}

/// Where rows go.
#[derive(Debug, Args)]
pub struct SqlUpsertsArgs {
    /// The database: sqlite:PATH or mysql://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub store: StoreUrl,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}
