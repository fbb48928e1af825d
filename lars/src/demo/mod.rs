//! `lars demo`: the main job with real parts. dns, reporter and agent run in this process, on free ports
//! and over an SQLite file in a temporary folder; hosts are TCP servers, callers are threads that really call
//! them. A script makes things happen, and in the end what was promised is checked against what was seen.

mod acts;
mod callers;
mod expectations;
mod hosts;
mod view;

use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use lars_client::{Client, ClientConfig};
use lars_service::{LogFormat, LogGuard, Shutdown, init_logging};
use lars_store::{OpenMode, RouteEdit, StoreUrl};

use self::{
    acts::Stage,
    callers::{Callers, Facts},
    expectations::Verdict,
    hosts::{Hosts, MODULE, Role},
    view::View,
};
use crate::{
    cli::DemoArgs,
    exit::Failure,
    out::Out,
    stack::{Settings, Stack, StackConfig},
};

const CALLERS: usize = 4;
/// Shorter than in production, so that windows end within the demo.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// After so long an overloaded host gets a fresh chance.
const OVERLOAD_TIMEOUT: Duration = Duration::from_secs(6);
/// One lookup in one more than that goes to an overloaded host.
const PROBE_NUM: usize = 10;
/// So many failures in a row eject a host.
const CONTIN_ERR_LIMIT: usize = 15;
/// Callers of a demo had better wait than fail on a machine that has more to do.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// So often, so that the agent has half a minute to learn of the module.
const LOOKUP_RETRIES: u32 = 5;

pub(crate) fn run(args: &DemoArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let _last_lines = log_quietly().map_err(Failure::Logging)?;
    let shutdown = Shutdown::on_signals().map_err(Failure::Signals)?;
    let dir = tempfile::Builder::new().prefix("lars-demo-").tempdir().map_err(Failure::DemoSetup)?;
    let url = StoreUrl::Sqlite(dir.path().join("lars.db"));
    let mut view = View::new();
    let hosts = Hosts::start().map_err(Failure::DemoSetup)?;
    view.say(&acts::welcome(), out)?;
    let facts = perform(args, &hosts, &url, &mut view, &shutdown, out)?;
    let verdicts = expectations::check(&facts);
    write_end(&facts, &verdicts, out)?;
    if args.keep {
        let path = dir.keep().join("lars.db");
        writeln!(out.data(), "To look at the database: lars status --store sqlite:{}", path.display())?;
    } else {
        writeln!(out.data(), "To go on: `lars up` runs all of this for good, `lars --help` shows the rest.")?;
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.kept).count();
    if failed == 0 { Ok(()) } else { Err(Failure::Expectations { failed, all: verdicts.len() }) }
}

/// Log lines of three services would drown the story; `LARS_LOG` brings them back.
fn log_quietly() -> io::Result<LogGuard> {
    let wanted = ["LARS_LOG", "RUST_LOG"].iter().any(|name| env::var_os(name).is_some());
    init_logging(LogFormat::Text, (!wanted).then_some("off"))
}

/// The whole play, from the first route on.
fn perform(
    args: &DemoArgs,
    hosts: &Hosts,
    url: &StoreUrl,
    view: &mut View,
    shutdown: &Shutdown,
    out: &mut Out<'_>,
) -> Result<Facts, Failure> {
    let mut store = lars_store::open(url, OpenMode::Create)?;
    let first_route = hosts.cast.0.iter().filter(|member| member.role != Role::Joining);
    let edits: Vec<RouteEdit> = first_route.map(|member| RouteEdit::Add(MODULE, member.host)).collect();
    store.edit(&edits)?;
    let config = stack_config(url)?;
    let Some(stack) = Stack::start(config, shutdown)? else { return Err(Failure::Interrupted) };
    let client = client(&stack)?;
    client.register(MODULE)?;

    let start = Instant::now();
    let stage = Stage {
        hosts,
        store,
        callers: Callers::start(CALLERS, &client, start).map_err(Failure::DemoSetup)?,
        start,
        watch: Duration::from_secs(args.seconds.into()) / 2,
        facts: Facts::new(hosts.cast.clone()),
        view,
        shutdown,
        out,
    };
    let facts = stage.play()?;
    stack.stop();
    Ok(facts)
}

fn stack_config(url: &StoreUrl) -> Result<StackConfig, Failure> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
    let mut settings = Settings::default();
    for server in [&mut settings.dns, &mut settings.reporter] {
        server.set("server", "listen", any_port.as_str());
        server.set("server", "shards", 1);
    }
    settings.agent.set("api", "base_port", 0);
    let balance = [
        ("idle_timeout_ms", IDLE_TIMEOUT.as_millis() as i64),
        ("overload_timeout_ms", OVERLOAD_TIMEOUT.as_millis() as i64),
        ("probe_num", PROBE_NUM as i64),
        ("contin_err_limit", CONTIN_ERR_LIMIT as i64),
    ];
    for (key, value) in balance {
        settings.agent.set("balance", key, value);
    }
    let mut config = StackConfig::new(settings)?;
    config.use_store(url.clone());
    Ok(config)
}

/// A client of the agent that was just started.
fn client(stack: &Stack) -> Result<Client, Failure> {
    let addrs = stack.agent_addrs();
    let config = ClientConfig {
        base_port: addrs.first().map_or(0, SocketAddr::port),
        shards: addrs.len() as u16,
        timeout: LOOKUP_TIMEOUT,
        retries: LOOKUP_RETRIES,
        ..ClientConfig::default()
    };
    Ok(Client::with_config(config)?)
}

fn write_end(facts: &Facts, verdicts: &[Verdict], out: &mut Out<'_>) -> io::Result<()> {
    let (paint, end) = (out.paint(), facts.acts.last().map_or(Duration::ZERO, |act| act.end));
    writeln!(
        out.data(),
        "\nAll calls, and what lars-reporter stored of current windows, successes + failures:\n"
    )?;
    view::write_table(facts, end, paint, out.data())?;
    writeln!(out.data(), "\nWhat was to be shown:\n")?;
    view::write_verdicts(verdicts, out)?;
    writeln!(out.data())
}
