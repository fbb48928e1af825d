//! The command line of `lars-bench`.

use std::{
    net::{SocketAddr, SocketAddrV4},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use lars_proto::ModuleId;

use crate::{
    load::{
        IoKind, Plan,
        agent::AgentPorts,
        dns_query::DnsQueryLoad,
        in_flight::SLOTS_MAX,
        pace::Pace,
        tcp_echo::{BODY_LEN_MIN, TcpEchoLoad},
        udp_lookups::GetHostLoad,
    },
    scale::args::ScaleCommand,
    serve::{tcp::TcpKind, udp::UdpKind},
};

/// Measures Lars, and what it is compared with.
#[derive(Debug, Parser)]
#[command(name = "lars-bench", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a server as fast as it answers, or at a rate, and measure
    #[command(subcommand)]
    Load(LoadCommand),
    /// Be a server to compare with, until ended
    #[command(subcommand)]
    Serve(ServeCommand),
    /// How cost and memory grow with modules, hosts and subscribers
    #[command(subcommand)]
    Scale(ScaleCommand),
    /// Make a table of measurements: medians, spread, ratios
    Summary(SummaryArgs),
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum LoadCommand {
    /// An agent, or a UDP echo: which host shall I call?
    UdpGetHost(GetHostArgs),
    /// A server that sends frames back
    TcpEcho(TcpEchoArgs),
    /// lars-dns: which hosts has a module?
    DnsQuery(DnsQueryArgs),
}

/// What answers.
#[derive(Debug, Subcommand)]
pub enum ServeCommand {
    /// Send datagrams back
    UdpEcho {
        #[arg(long, value_enum)]
        kind: UdpKind,
        /// Where to listen; port 0 for any
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddrV4,
        /// Stay on this processor
        #[arg(long, value_name = "CPU")]
        pin: Option<usize>,
    },
    /// Send frames back
    TcpEcho {
        #[arg(long, value_enum)]
        kind: TcpKind,
        /// Where to listen; port 0 for any
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Stay on this processor
        #[arg(long, value_name = "CPU")]
        pin: Option<usize>,
    },
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
    /// What to do the IO with [default: ring, where this kernel has it]
    #[arg(long, value_enum)]
    pub io: Option<IoKind>,
    /// Wait so long for half of what is in flight before going on with a single reply. Saves the load's time, and adds
    /// to the latency that it sees; only a ring can do it
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub gather: u64,
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

impl RunArgs {
    /// The same for the load generator.
    pub fn plan(&self) -> Plan {
        Plan {
            warmup: self.warmup,
            measured: self.seconds,
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
            timeout: self.timeout,
            server_pid: self.server_pid,
            io: self.io.unwrap_or_else(IoKind::best),
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
        let modules = |ModuleRange { modids, cmdid }: &ModuleRange| {
            let cmdid = *cmdid;
            modids.clone().map(move |modid| ModuleId::new(modid, cmdid))
        };
        self.ranges.iter().flat_map(modules).collect()
    }
}

#[derive(Clone, Debug)]
struct ModuleRange {
    modids: RangeInclusive<i32>,
    cmdid: i32,
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

/// What the table is of.
#[derive(Debug, Args)]
pub struct SummaryArgs {
    /// What `load --json` wrote, a line each
    pub file: PathBuf,
    /// Label that the others are compared with, may be given more than once
    #[arg(long = "base", value_name = "LABEL")]
    pub bases: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| if time.is_zero() { Err("is 0".into()) } else { Ok(time) })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is not a number")?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("is not above 0".into()) }
}

fn modules(text: &str) -> Result<ModuleRange, String> {
    let range = || {
        let (modids, cmdid) = text.split_once('/')?;
        let (first, last) = modids.split_once("..").unwrap_or((modids, modids));
        Some(ModuleRange { modids: first.parse().ok()?..=last.parse().ok()?, cmdid: cmdid.parse().ok()? })
    };
    range().filter(|range| !range.modids.is_empty()).ok_or_else(|| "is not like 1/1 or 1..9/1".into())
}

fn at_least<const MIN: usize>(text: &str) -> Result<usize, String> {
    in_range(text, MIN, usize::MAX)
}

fn slots(text: &str) -> Result<usize, String> {
    in_range(text, 1, SLOTS_MAX)
}

fn body_len(text: &str) -> Result<usize, String> {
    in_range(text, BODY_LEN_MIN, lars_proto::frame::BODY_LEN_MAX)
}

fn in_range(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let number = usize::from_str(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("is not in {min}..={max}")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_load_is_what_its_flags_say() {
        let line = "lars-bench load udp-get-host --agent 127.0.0.1:9000 --shards 1 --module 1/2 --module -3..-2/4 \
                    --sockets 4 --in-flight 32 --seconds 0.5 --report --rate 1000";
        let Ok(Command::Load(LoadCommand::UdpGetHost(args))) = parse(line) else { panic!("not a load") };
        let load = args.load();
        assert_eq!(load.modules, [(1, 2), (-3, 4), (-2, 4)].map(|(m, c)| ModuleId::new(m, c)));
        assert_eq!((load.agent.base_port, load.agent.shards), (9000, 1));
        assert_eq!((load.sockets, load.in_flight), (4, 32));
        assert!(load.report);
        let plan = args.run.plan();
        assert_eq!((plan.measured, plan.pace), (Duration::from_millis(500), Pace::Open { rate: 1_000.0 }));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            "udp-get-host --module 1",
            "udp-get-host --module 2..1/1",
            "udp-get-host --sockets 0",
            "udp-get-host --in-flight 65537",
            "udp-get-host --rate 0",
            "udp-get-host --rate NaN",
            "udp-get-host --seconds -1",
            "udp-get-host --seconds 0",
            "udp-get-host --shards 0",
            "tcp-echo",
            "tcp-echo --connect 127.0.0.1:1 --body 3",
            "tcp-echo --connect 127.0.0.1:1 --body 65528",
        ] {
            assert!(parse(&format!("lars-bench load {flags}")).is_err(), "{flags}");
        }
    }
}
