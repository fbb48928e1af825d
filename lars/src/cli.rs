//! The command line, as clap takes it apart. What the words do is in `commands`.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use lars_client::ClientConfig;
use lars_proto::{HostAddr, ModuleId};
use lars_service::LogFormat;

use crate::{
    exit::EXIT_HELP,
    out::NoteForm,
    route_file::{FORMATS_HELP, Format},
    store_location::StoreArgs,
    values::{HostErrorRate, callable_host, module_number, probability},
};

/// Lars tells a program which server to call. This command runs it, edits its routes, asks it, and shows it
/// at work: try `lars demo`.
#[derive(Debug, Parser)]
#[command(name = "lars", version, max_term_width = 100, after_help = EXIT_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Tool(ToolCommand),
    #[command(flatten)]
    Service(ServiceCommand),
}

/// What people and scripts use.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Show the main job in less than 30 seconds, with nothing to prepare
    Demo(DemoArgs),
    /// Run dns, reporter and agent in one process, until SIGINT or SIGTERM
    Up(UpArgs),
    /// Edit or show who serves which module
    #[command(subcommand)]
    Route(RouteCommand),
    /// Show how calls went, as the agents reported it
    Status(StatusArgs),
    /// Ask the agent which host to call
    #[command(after_help = EXIT_HELP)]
    GetHost(LookupArgs),
    /// Ask the agent for all hosts of a module
    #[command(after_help = EXIT_HELP)]
    GetRoute(LookupArgs),
    /// Tell the agent how a call went
    #[command(after_help = EXIT_HELP)]
    Report(ReportArgs),
    /// Make up calls, report them as real ones, and show how they were spread: the agent may eject hosts, and
    /// the statistics are stored
    #[command(after_help = EXIT_HELP)]
    Simulate(SimulateArgs),
    /// Print completions of this command for a shell
    Completions { shell: Shell },
}

impl ToolCommand {
    /// How what is said about the command is to look: as what was asked for, if that is for a program.
    pub(crate) fn note_form(&self) -> NoteForm {
        match self {
            Self::Route(RouteCommand::List { json: true, .. })
            | Self::Status(StatusArgs { json: true, .. })
            | Self::GetHost(LookupArgs { json: true, .. })
            | Self::GetRoute(LookupArgs { json: true, .. }) => NoteForm::Json,
            Self::Up(UpArgs { log_format: LogFormat::Json, .. }) => NoteForm::Log,
            Self::Demo(_)
            | Self::Up(_)
            | Self::Route(_)
            | Self::Status(_)
            | Self::GetHost(_)
            | Self::GetRoute(_)
            | Self::Report(_)
            | Self::Simulate(_)
            | Self::Completions { .. } => NoteForm::Text,
        }
    }
}

/// The services as programs of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Run lars-dns alone: serves and pushes routes
    Dns(ServiceArgs),
    /// Run lars-reporter alone: stores call statistics
    Reporter(ServiceArgs),
    /// Run lars-agent alone: answers lookups, balances
    Agent(ServiceArgs),
}

/// The module a command is about.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ModuleArgs {
    /// First number of the module's name
    #[arg(allow_negative_numbers = true, value_parser = module_number)]
    modid: i32,
    /// Second number of the module's name
    #[arg(allow_negative_numbers = true, value_parser = module_number)]
    cmdid: i32,
}

impl ModuleArgs {
    pub(crate) fn id(self) -> ModuleId {
        ModuleId::new(self.modid, self.cmdid)
    }
}

/// The module a command is about, or all.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ModuleFilterArgs {
    /// Only this module
    #[arg(allow_negative_numbers = true, requires = "cmdid", value_parser = module_number)]
    modid: Option<i32>,
    #[arg(allow_negative_numbers = true, value_parser = module_number)]
    cmdid: Option<i32>,
}

impl ModuleFilterArgs {
    pub(crate) fn id(self) -> Option<ModuleId> {
        Some(ModuleId::new(self.modid?, self.cmdid?))
    }
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Configuration (TOML): the tables dns, reporter and agent hold the sections of these services, as in
    /// `[dns.server]`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it is valid, else 78
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Print a commented configuration and exit
    #[arg(long)]
    pub(crate) example_config: bool,
    /// Form of the log lines on standard error
    #[arg(
        long,
        value_name = "text|json",
        env = "LARS_LOG_FORMAT",
        default_value = "text",
        hide_default_value = true
    )]
    pub(crate) log_format: LogFormat,
    /// What to log, like 'info' or 'lars_dns=debug,warn' [env: also LARS_LOG, RUST_LOG] [default: info]
    #[arg(long, value_name = "FILTER", env = "LARS_LOG_FILTER")]
    pub(crate) log_filter: Option<String>,
    /// Address that all three listen on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) listen_ip: Option<Ipv4Addr>,
    /// TCP port of dns, 0 for any [default: 7778]
    #[arg(long, value_name = "PORT")]
    pub(crate) dns_port: Option<u16>,
    /// TCP port of reporter, 0 for any [default: 7779]
    #[arg(long, value_name = "PORT")]
    pub(crate) reporter_port: Option<u16>,
    /// First UDP port of the agent, 0 for any [default: 8888]
    #[arg(long, value_name = "PORT")]
    pub(crate) agent_base_port: Option<u16>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Flags of a service; taken apart by the service itself.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct ServiceArgs {
    /// As of the program of the same name: see --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub(crate) flags: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Add hosts to a module
    Add {
        #[command(flatten)]
        module: ModuleArgs,
        /// The hosts, like 10.0.0.7:8080
        #[arg(value_name = "HOST:PORT", required = true, value_parser = callable_host)]
        hosts: Vec<HostAddr>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove hosts from a module, or the whole module
    #[command(override_usage = "lars route rm [OPTIONS] <MODID> <CMDID> <HOST:PORT>...\n       \
        lars route rm [OPTIONS] <MODID> <CMDID> --all")]
    Rm {
        #[command(flatten)]
        module: ModuleArgs,
        #[command(flatten)]
        which: HostsOrAllArgs,
        /// Also if no host is left then; without it, a person at a terminal is asked, and a script refused
        #[arg(long)]
        last: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Show who serves which module
    List {
        #[command(flatten)]
        module: ModuleFilterArgs,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Add the routes in a file, all or none
    #[command(after_help = FORMATS_HELP)]
    Import {
        /// The file; - is standard input, with --format
        file: PathBuf,
        /// What the file is, where its name does not say
        #[arg(long)]
        format: Option<Format>,
        /// Modules in the file keep no other hosts; modules that are not in it stay as they are
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Say that the routes are meant as they are now, though very many are gone: lars-dns takes over what it holds
    Accept {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print all routes in a form that can be imported
    Export {
        #[arg(long, default_value = "csv")]
        format: Format,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Hosts to remove. That it is all of them has to be said, not left out.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HostsOrAllArgs {
    /// The hosts
    #[arg(value_name = "HOST:PORT")]
    pub(crate) hosts: Vec<HostAddr>,
    /// All hosts, so that nobody serves the module any more
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) module: ModuleFilterArgs,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Which agent, and how long to wait for it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Agent")]
pub(crate) struct AgentArgs {
    /// Its address
    #[arg(long, value_name = "IP", env = "LARS_AGENT_IP", default_value_t = ClientConfig::default().agent_ip)]
    agent_ip: Ipv4Addr,
    /// Its first UDP port
    #[arg(long, value_name = "PORT", env = "LARS_AGENT_BASE_PORT",
        value_parser = value_parser!(u16).range(1..), default_value_t = ClientConfig::default().base_port)]
    agent_base_port: u16,
    /// How many ports it has
    #[arg(long, value_name = "N", env = "LARS_AGENT_SHARDS",
        value_parser = value_parser!(u16).range(1..), default_value_t = ClientConfig::default().shards)]
    agent_shards: u16,
    /// How long to wait for the answer to one datagram; one more is sent if none came
    #[arg(long, value_name = "MS", env = "LARS_AGENT_TIMEOUT_MS",
        value_parser = value_parser!(u64).range(1..), default_value_t = 100)]
    timeout_ms: u64,
    /// How long to wait for an agent that has just been started, or for a module that is not known yet, in which time
    /// more datagrams are sent; 0: only as long as for any answer
    #[arg(long, value_name = "MS", env = "LARS_AGENT_WAIT_MS", default_value_t = 2_000)]
    wait_ms: u64,
}

impl AgentArgs {
    pub(crate) fn client_config(&self) -> ClientConfig {
        ClientConfig {
            agent_ip: self.agent_ip,
            base_port: self.agent_base_port,
            shards: self.agent_shards,
            timeout: Duration::from_millis(self.timeout_ms),
            ..ClientConfig::default()
        }
    }

    /// For a client whose one call takes as long as there is to wait, up to a minute: no agent waits longer.
    pub(crate) fn patient_client_config(&self) -> ClientConfig {
        let config = self.client_config();
        let tries = self.wait_ms.min(60_000).div_ceil(self.timeout_ms);
        let retries = u32::try_from(tries).unwrap_or(u32::MAX).saturating_sub(1);
        ClientConfig { retries: retries.max(config.retries), ..config }
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }
}

#[derive(Debug, Args)]
pub(crate) struct LookupArgs {
    #[command(flatten)]
    pub(crate) module: ModuleArgs,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) module: ModuleArgs,
    /// The host that was called
    #[arg(value_name = "HOST:PORT")]
    pub(crate) host: HostAddr,
    #[command(flatten)]
    pub(crate) outcome: OutcomeArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OutcomeArgs {
    /// The host did its work
    #[arg(long)]
    pub(crate) ok: bool,
    /// It did not
    #[arg(long)]
    pub(crate) failed: bool,
    /// 0 for success, any other number for failure
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) retcode: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(crate) module: ModuleArgs,
    /// Share of calls that fail, 0 to 1, on hosts that --fail does not name
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    pub(crate) error_rate: f64,
    /// Share of calls that fail on one host; may be repeated
    #[arg(long, value_name = "HOST:PORT=P")]
    pub(crate) fail: Vec<HostErrorRate>,
    /// How many calls
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub(crate) calls: u64,
    /// Calls per second; 0 for as many as go
    #[arg(long, value_name = "PER_SECOND", default_value_t = 500)]
    pub(crate) rate: u32,
    /// The same seed draws the same failures
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long to watch in all while nothing changes; what waits for something to happen comes on top
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u16).range(1..=60))]
    pub(crate) seconds: u16,
    /// Leave the database behind, to look at
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[track_caller]
    fn check_refused(line: &str, words: &str) {
        let error = Cli::try_parse_from(line.split(' ')).expect_err("refused").to_string();
        assert!(error.contains(words), "'{words}' is not in: {error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        check_refused("lars route rm 1 1", "--all");
        check_refused("lars route rm 1 1 10.0.0.1:80 --all", "--all");
        check_refused("lars route add 1 1", "<HOST:PORT>");
        check_refused("lars route add 1 1 10.0.0.1", "'10.0.0.1' is not an IPv4 address and port");
        check_refused("lars route add 1 4294967296 10.0.0.1:80", "4294967296");
        check_refused("lars route list 1", "CMDID");
        check_refused("lars report 1 1 10.0.0.1:80", "--failed");
        check_refused("lars report 1 1 10.0.0.1:80 --ok --failed", "--failed");
        check_refused("lars simulate 1 1 --error-rate 1.5", "'1.5' is not a number from 0 to 1");
        check_refused("lars simulate 1 1 --fail 10.0.0.1:80", "10.0.0.7:8080=0.5");
        check_refused("lars demo --seconds 0", "0 is not in 1..=60");
    }

    #[test]
    fn negative_numbers_are_numbers() {
        let line = "lars report -1 -2147483648 10.0.0.1:80 --retcode -5";
        let Command::Tool(ToolCommand::Report(args)) = Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("not a report");
        };
        assert_eq!(args.module.id(), ModuleId::new(-1, i32::MIN));
        assert_eq!(args.outcome.retcode, Some(-5));
    }

    #[test]
    fn a_patient_client_asks_for_as_long_as_there_is_to_wait() {
        let total_ms = |line: &str| {
            let parsed = Cli::try_parse_from(line.split(' ')).expect("valid");
            let Command::Tool(ToolCommand::GetHost(args)) = parsed.command else { panic!("not a lookup") };
            let config = args.agent.patient_client_config();
            config.timeout.as_millis() * u128::from(config.retries + 1)
        };
        assert_eq!(total_ms("lars get-host 1 1"), 2_000);
        assert_eq!(total_ms("lars get-host 1 1 --wait-ms 0"), 200);
        assert_eq!(total_ms("lars get-host 1 1 --wait-ms 2001"), 2_100);
        assert_eq!(total_ms("lars get-host 1 1 --wait-ms 99999999"), 60_000);
        assert_eq!(total_ms("lars get-host 1 1 --timeout-ms 20000"), 40_000);
    }

    #[test]
    fn flags_of_a_service_are_its_own() {
        let line = "lars dns --help --config x";
        let Command::Service(ServiceCommand::Dns(args)) =
            Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("not dns");
        };
        assert_eq!(args.flags, ["--help", "--config", "x"]);
    }
}
