//! The command line of `lars-bench`, and what it leads to.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    slice,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    load::{
        self, Load, Measurement, Plan, dns_query::DnsQueryLoad, dns_subscribe::DnsSubscribeLoad,
        reporter_ingest::ReporterIngestLoad, sql_upserts::SqlUpserts, tcp_echo::TcpEchoLoad,
        udp_lookups::GetHostLoad, udp_routes::GetRouteLoad,
    },
    scale::{self, ScaleCommand},
    serve::{
        mariadb,
        tcp::{self, TcpKind},
        udp::{self, UdpKind},
    },
    summary,
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
    /// Ask a server as fast as it answers, and measure
    Load(LoadArgs),
    /// Be a server to compare with, until ended
    #[command(subcommand)]
    Serve(ServeCommand),
    /// How cost and memory grow with modules, hosts and subscribers
    #[command(subcommand)]
    Scale(ScaleCommand),
    /// Make a table of measurements: medians, spread, ratios
    Summary {
        /// What `load --json` wrote, a line each
        file: PathBuf,
        /// Label that the others are compared with, may be given more than once
        #[arg(long = "base", value_name = "LABEL")]
        bases: Vec<String>,
    },
}

/// What to ask, where that runs, and what it writes.
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(subcommand)]
    pub load: LoadKind,
    #[command(flatten)]
    pub plan: Plan,
    /// Stay on this processor
    #[arg(long, global = true, value_name = "CPU", help_heading = "Run")]
    pub pin: Option<usize>,
    /// Write everything, as one line of JSON, instead of a table
    #[arg(long, global = true, help_heading = "Run")]
    pub json: bool,
    /// What to call the measurement there
    #[arg(long, global = true, default_value = "", help_heading = "Run")]
    pub label: String,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum LoadKind {
    /// An agent, or a UDP echo: which host shall I call?
    UdpGetHost(GetHostLoad),
    /// An agent, or a UDP echo: which hosts has a module?
    UdpGetRoute(GetRouteLoad),
    /// A server that sends frames back
    TcpEcho(TcpEchoLoad),
    /// lars-dns: which hosts has a module?
    DnsQuery(DnsQueryLoad),
    /// lars-dns: how long until all subscribers have a change?
    DnsSubscribe(DnsSubscribeLoad),
    /// lars-reporter: how many rows does it take?
    ReporterIngest(ReporterIngestLoad),
    /// A database: how many rows of statistics, one by one?
    SqlUpserts(SqlUpserts),
}

impl LoadKind {
    /// Whichever it is.
    fn as_load(&self) -> &dyn Load {
        match self {
            Self::UdpGetHost(load) => load,
            Self::UdpGetRoute(load) => load,
            Self::TcpEcho(load) => load,
            Self::DnsQuery(load) => load,
            Self::DnsSubscribe(load) => load,
            Self::ReporterIngest(load) => load,
            Self::SqlUpserts(load) => load,
        }
    }
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
    },
    /// Send frames back
    TcpEcho {
        #[arg(long, value_enum)]
        kind: TcpKind,
        /// Where to listen; port 0 for any
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// A MariaDB in a temporary folder, if mariadb-server is installed; its URL is printed
    Mariadb,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// If that fails, for people to read.
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Load(args) => args.run(),
            Self::Serve(ServeCommand::UdpEcho { kind, listen }) => Ok(udp::echo(kind, listen)?),
            Self::Serve(ServeCommand::TcpEcho { kind, listen }) => tcp::echo(kind, listen),
            Self::Serve(ServeCommand::Mariadb) => mariadb::serve(),
            Self::Scale(command) => scale::run(&command),
            Self::Summary { file, bases } => {
                let named = |problem: &str| format!("{}: {problem}", file.display());
                let text = fs::read_to_string(&file).map_err(|error| named(&error.to_string()))?;
                let measurements: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
                let measurements = measurements
                    .map_err(|error| named(&format!("not what lars-bench load --json writes: {error}")))?;
                Ok(writeln!(io::stdout(), "{}", summary::table(&measurements, &bases))?)
            }
        }
    }
}

impl LoadArgs {
    fn run(self) -> Result<(), Box<dyn Error>> {
        self.pin.map_or(Ok(()), load::pin)?;
        let measurement = Measurement { label: self.label, ..self.load.as_load().run(&self.plan)? };
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&measurement)?)?;
        } else {
            writeln!(out, "{}", summary::table(slice::from_ref(&measurement), &[]))?;
        }
        out.flush()?;
        let label = if measurement.label.is_empty() { "" } else { &format!("{}: ", measurement.label) };
        for warning in measurement.warnings() {
            writeln!(io::stderr(), "warning: {label}{warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;
    use lars_proto::ModuleId;

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
                    --sockets 4 --in-flight 32 --seconds 0.5 --report";
        let Ok(Command::Load(LoadArgs { load: LoadKind::UdpGetHost(load), plan, .. })) = parse(line) else {
            panic!("not a load")
        };
        let target = &load.target;
        assert_eq!(target.modules.all(), [(1, 2), (-3, 4), (-2, 4)].map(|(m, c)| ModuleId::new(m, c)));
        assert_eq!((target.agent.port(), target.shards, target.sockets, target.in_flight), (9000, 1, 4, 32));
        assert!(load.report);
        assert_eq!(plan.seconds, Duration::from_millis(500));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            "udp-get-host --module 1",
            "udp-get-host --module 2..1/1",
            "udp-get-host --sockets 0",
            "udp-get-host --in-flight 65537",
            "udp-get-host --seconds -1",
            "udp-get-host --seconds 0",
            "udp-get-host --shards 0",
            "tcp-echo",
            "dns-subscribe",
            "dns-subscribe --store sqlite:x --connections 0",
            "reporter-ingest --hosts 1001",
            "reporter-ingest --store x",
            "tcp-echo --connect 127.0.0.1:1 --body 3",
            "tcp-echo --connect 127.0.0.1:1 --body 65528",
        ] {
            assert!(parse(&format!("lars-bench load {flags}")).is_err(), "{flags}");
        }
    }
}
