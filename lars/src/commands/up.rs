//! `lars up`: everything in one process, until it is told to stop.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use lars_service::{Shutdown, init_logging};
use lars_store::StoreUrl;

use crate::{
    cli::UpArgs,
    exit::Failure,
    out::Out,
    stack::{Settings, Stack, StackConfig},
    store_location::StoreLocation,
};

const DNS_PORT: u16 = 7778;
const REPORTER_PORT: u16 = 7779;
const AGENT_BASE_PORT: u16 = 8888;

/// Every key that `lars up` has a default of its own for.
const EXAMPLE: &str = include_str!("../../lars-up.example.toml");

pub(crate) fn run(args: &UpArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    if args.example_config {
        return Ok(write!(out.data(), "{EXAMPLE}")?);
    }
    // First, so that a wrong configuration is said in the form that is asked for.
    out.keep_log(init_logging(args.log_format, args.log_filter.as_deref()).map_err(Failure::Logging)?);
    let config = config(args)?;
    if args.check_config {
        writeln!(out.data(), "configuration is valid")?;
        return Ok(());
    }
    let stores = [config.route_store(), config.status_store()].map(StoreUrl::clone);
    let shutdown = Shutdown::on_signals().map_err(Failure::Signals)?;
    let Some(stack) = Stack::start(config, &shutdown)? else { return Ok(()) };
    say_where(&stack, &stores, out)?;
    shutdown.wait();
    out.note("stopping")?;
    stack.stop();
    Ok(())
}

fn config(args: &UpArgs) -> Result<StackConfig, Failure> {
    let mut settings = match &args.config {
        Some(path) => Settings::read(path)?,
        None => Settings::default(),
    };
    listen(&mut settings, args);
    keep_state(&mut settings, args);
    let mut config = StackConfig::new(settings)?;
    if args.store.store.is_some() || args.store.store_url_file.is_some() {
        config.use_store(store(args)?);
    } else if config.needs_store() {
        config.use_default_store(store(args)?);
    }
    Ok(config)
}

/// Where the database lies in the data folder, what the services want to know again lies beside it. What is wrong with
/// the place of the database is said when it is opened.
fn keep_state(settings: &mut Settings, args: &UpArgs) {
    let location = StoreLocation::find(&args.store).ok();
    if let Some(dir) = location.as_ref().and_then(StoreLocation::data_dir) {
        for service in [&mut settings.dns, &mut settings.agent] {
            service.set_default("state", "dir", dir.display().to_string());
        }
    }
}

/// Flags win over the file, the file over our defaults.
fn listen(settings: &mut Settings, args: &UpArgs) {
    let ip = args.listen_ip.unwrap_or(Ipv4Addr::LOCALHOST);
    let addr = |port: Option<u16>, default: u16| SocketAddrV4::new(ip, port.unwrap_or(default)).to_string();
    let servers = [
        (&mut settings.dns, addr(args.dns_port, DNS_PORT), args.dns_port),
        (&mut settings.reporter, addr(args.reporter_port, REPORTER_PORT), args.reporter_port),
    ];
    for (service, addr, port) in servers {
        if args.listen_ip.is_some() || port.is_some() {
            service.set("server", "listen", addr);
        } else {
            service.set_default("server", "listen", addr);
        }
    }
    let agent = &mut settings.agent;
    if let Some(ip) = args.listen_ip {
        agent.set("api", "listen_ip", ip.to_string());
    }
    match args.agent_base_port {
        Some(port) => agent.set("api", "base_port", i64::from(port)),
        None => agent.set_default("api", "base_port", i64::from(AGENT_BASE_PORT)),
    }
}

fn store(args: &UpArgs) -> Result<StoreUrl, Failure> {
    let location = StoreLocation::find(&args.store)?;
    location.prepare()?;
    Ok(location.url().clone())
}

/// Where everything is. It goes out at once: somebody may wait for it at the other end of a pipe.
fn say_where(stack: &Stack, [routes, status]: &[StoreUrl; 2], out: &mut Out<'_>) -> io::Result<()> {
    let agent: Vec<String> = stack.agent_addrs().iter().map(SocketAddr::to_string).collect();
    let data = out.data();
    writeln!(data, "dns       {} (TCP)", stack.dns_addr())?;
    writeln!(data, "reporter  {} (TCP)", stack.reporter_addr())?;
    writeln!(data, "agent     {} (UDP)", agent.join(" "))?;
    if routes == status {
        writeln!(data, "store     {routes}")?;
    } else {
        writeln!(data, "store     {routes} (routes), {status} (statistics)")?;
    }
    out.note("lars is up; Ctrl-C stops it")?;
    out.flush()
}
