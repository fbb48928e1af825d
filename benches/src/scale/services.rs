//! Whole services in processes of their own, over loopback sockets and SQLite: pushes, lookups, memory.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lars_client::{Client, ClientConfig};
use lars_proto::{
    ModuleId, frame,
    messages::{GetRouteRequest, MessageId},
};
use lars_store::{OpenMode, RouteEdit, Store, StoreUrl};
use tempfile::TempDir;

use super::{
    ScaleError,
    curve::{Axis, Curve, Figure, Series, Spread, Unit},
    effort::Effort,
    fleet,
    report::Report,
    service::Service,
};
use crate::load::{
    self, Load, Plan, dns_query::DnsQueryLoad, dns_subscribe::DnsSubscribeLoad, udp_lookups::GetHostLoad,
    values::AgentTarget,
};

/// Services run on this processor, what drives them on the other.
const SERVICE_CPU: usize = 0;
const DRIVER_CPU: usize = 1;

const SUBSCRIBERS: [usize; 4] = [10, 100, 1_000, 10_000];
const MODULES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const HOSTS_PER_MODULE: usize = 10;

/// Connections that query, and what they query.
const CONNECTIONS: [usize; 4] = [1, 10, 100, 1_000];
const MODULES_QUERIED: usize = 1_000;
/// Queries under way at the same time, on all connections together, at most.
const IN_FLIGHT_MAX: usize = 4_000;

/// Sockets that look up, each a module of its own.
const CALLERS: usize = 512;

/// Subscriptions that are weighed, on so many connections.
const SUBSCRIPTIONS_EACH: usize = 10_000;
const SUBSCRIBING_CONNECTIONS: usize = 50;

/// What does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Modules of one edit.
const EDITED_AT_ONCE: usize = 10_000;

/// A database of routes and what serves it.
struct Site {
    folder: TempDir,
    editor: Box<dyn Store>,
    /// Modules that have routes.
    modules: usize,
}

impl Site {
    fn new() -> Result<Self, ScaleError> {
        let folder = tempfile::tempdir()?;
        let editor = lars_store::open(&StoreUrl::Sqlite(database(folder.path())), OpenMode::Create)?;
        Ok(Self { folder, editor, modules: 0 })
    }

    /// Adds modules of [`HOSTS_PER_MODULE`] hosts until there are so many.
    fn grow(&mut self, modules: usize) -> Result<(), ScaleError> {
        let hosts = fleet::hosts(HOSTS_PER_MODULE);
        while self.modules < modules {
            let end = modules.min(self.modules + EDITED_AT_ONCE);
            let edits = (self.modules..end).map(|n| RouteEdit::Replace(fleet::module(n), hosts.clone()));
            self.editor.edit(&edits.collect::<Vec<_>>())?;
            self.modules = end;
        }
        Ok(())
    }

    fn url(&self) -> StoreUrl {
        StoreUrl::Sqlite(database(self.folder.path()))
    }

    fn dns(&self, flags: &[&str]) -> Result<Service, ScaleError> {
        let url = format!("sqlite:{}", database(self.folder.path()).display());
        let base = ["--store-url", &url, "--server-listen", "127.0.0.1:0", "--server-shards", "1"];
        Service::start("lars-dns", &[&base, flags].concat(), SERVICE_CPU)
    }
}

fn database(folder: &Path) -> std::path::PathBuf {
    folder.join("lars.db")
}

fn question(module: ModuleId) -> Vec<u8> {
    let request = GetRouteRequest { modid: module.modid, cmdid: module.cmdid, ..Default::default() };
    let mut bytes = Vec::new();
    frame::encode(MessageId::GetRouteRequest, &request, &mut bytes).expect("two numbers fit");
    bytes
}

fn read_frame(stream: &mut TcpStream) -> io::Result<()> {
    let mut header = [0; frame::HEADER_LEN];
    stream.read_exact(&mut header)?;
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    stream.read_exact(&mut vec![0; len as usize])
}

/// The push of one change by a whole lars-dns, against the number of subscribers; and what these weigh.
///
/// # Errors
/// If lars-dns cannot be started, or fails.
pub fn fan_out(effort: &Effort) -> Result<Report, ScaleError> {
    let (site, module) = (Site::new()?, fleet::module(0));
    let dns = site.dns(&["--store-poll-interval-ms", "20"])?;
    let mut figures = vec![weigh_connections(effort, &dns)?];
    let mut heard = Series::new("first to last push read");
    let mut each = Series::new("processor time of lars-dns per subscriber");
    let mut subscribed = 0;
    for &count in effort.sizes(&SUBSCRIBERS) {
        effort.say(format!("{count} subscribers, over sockets"));
        let load = DnsSubscribeLoad {
            dns: dns.addrs()[0],
            store: site.url(),
            module,
            connections: count,
            changes: 1 + effort.repetitions as u16,
        };
        let pushes = load.run(&plan(effort, &dns, PATIENCE))?.pushes.ok_or(ScaleError::Silent("a push"))?;
        subscribed = count;
        heard.add(count, pushes.first_to_last_ms.per(1e-6));
        each.add(count, pushes.server_us.unwrap_or_default().per(1e-3));
    }
    if let Some(last) = each.points.last() {
        let time = heard.points.last().map_or(0.0, |point| point.y.median);
        let how = format!("first to last push read, one change to {subscribed} subscribers");
        figures.push(Figure::new("dns_push_time", Unit::Nanoseconds, time / subscribed as f64, &how));
        let how = format!("lars-dns, one change to {subscribed} subscribers over loopback TCP");
        figures.push(Figure::new("dns_push_cpu", Unit::Nanoseconds, last.y.median, &how));
    }
    let curve = Curve {
        name: "publish-service-by-subscribers".into(),
        title: "lars-dns: one change pushed to all subscribers".into(),
        subtitle: "whole service with one shard, loopback TCP, a module of one host".into(),
        x: Axis::logarithmic("subscribers of the module", Unit::Count),
        y: Axis::logarithmic("time", Unit::Nanoseconds),
        series: vec![heard, each],
    };
    Ok(Report { curves: vec![curve], figures })
}

fn weigh_connections(effort: &Effort, dns: &Service) -> Result<Figure, ScaleError> {
    let count = *effort.sizes(&SUBSCRIBERS).last().expect("some");
    let before = dns.resident()?;
    effort.say(format!("{count} idle connections"));
    let connections = connect(dns, count)?;
    settle();
    let each = (dns.resident()? - before) / connections.len() as f64;
    let how = format!("RSS of lars-dns, {count} connections on which nothing was sent");
    Ok(Figure::new("dns_connection_memory", Unit::Bytes, each, &how))
}

fn connect(dns: &Service, count: usize) -> io::Result<Vec<TcpStream>> {
    load::allow_open_files()?;
    (0..count).map(|_| TcpStream::connect(dns.addrs()[0])).collect()
}

/// Time for a service to take in what was sent to it and to touch its memory.
fn settle() {
    thread::sleep(Duration::from_millis(500));
}

/// Memory of whole services, and lookups in an agent, against the number of modules.
///
/// # Errors
/// If a service cannot be started, or fails.
pub fn by_size(effort: &Effort) -> Result<Report, ScaleError> {
    let mut site = Site::new()?;
    let mut memory = [Series::new("lars-dns"), Series::new("lars-agent")];
    let mut lookups = Series::new("512 callers, each a module of its own");
    let mut figures = idle(effort, &site)?;
    for &modules in effort.sizes(&MODULES) {
        effort.say(format!("{} hosts: filling SQLite", modules * HOSTS_PER_MODULE));
        site.grow(modules)?;
        let dns = site.dns(&["--store-poll-interval-ms", "500", "--store-full-reload-interval-ms", "500"])?;
        let hosts = modules * HOSTS_PER_MODULE;
        effort.say(format!("agent with {hosts} hosts"));
        let agent = agent(&dns)?;
        learn(&agent, modules)?;
        settle();
        memory[1].add(hosts, Spread::exactly(agent.resident()?));
        lookups.add(modules, look_up(effort, &agent, modules)?);
        // By now it has loaded everything more than once, and held two tables at a time.
        memory[0].add(hosts, Spread::exactly(dns.resident()?));
        if modules == *effort.sizes(&MODULES).last().expect("some") {
            figures.extend(largest(&dns, &agent, hosts)?);
            let how =
                format!("processor time of lars-agent per get_host, {modules} modules, {CALLERS} callers");
            let cost = lookups.points.last().map_or(0.0, |point| point.y.median);
            figures.push(Figure::new("agent_lookup_cpu", Unit::Nanoseconds, cost, &how));
            figures.push(weigh_subscriptions(effort, &dns)?);
        }
    }
    Ok(Report { curves: vec![memory_curve(memory), lookup_curve(lookups)], figures })
}

fn memory_curve(series: [Series; 2]) -> Curve {
    Curve {
        name: "memory-by-hosts".into(),
        title: "Memory of whole services".into(),
        subtitle: format!(
            "resident set of lars-dns and of an agent that knows every module, {HOSTS_PER_MODULE} hosts per module"
        ),
        x: Axis::logarithmic("hosts", Unit::Count),
        y: Axis::logarithmic("resident memory", Unit::Bytes),
        series: series.into(),
    }
}

fn lookup_curve(series: Series) -> Curve {
    Curve {
        name: "agent-udp-by-modules".into(),
        title: "Agent: one lookup over UDP".into(),
        subtitle: format!(
            "processor time of lars-agent per get_host, one shard, {HOSTS_PER_MODULE} hosts per module"
        ),
        x: Axis::logarithmic("modules known to the agent", Unit::Count),
        y: Axis::linear("processor time per lookup", Unit::Nanoseconds),
        series: vec![series],
    }
}

/// What services take that have nothing to do.
fn idle(effort: &Effort, site: &Site) -> Result<Vec<Figure>, ScaleError> {
    effort.say("services with nothing to do");
    let dns = site.dns(&[])?;
    let agent = agent(&dns)?;
    settle();
    let (before, started) = ([dns.processor_time()?, agent.processor_time()?], Instant::now());
    thread::sleep(if effort.quick { Duration::from_millis(500) } else { Duration::from_secs(10) });
    let share = |now: Duration, before: Duration| {
        (now - before).as_secs_f64() * 1e9 / started.elapsed().as_secs_f64()
    };
    let how = |what: &str| format!("{what}, one shard, no module, nobody connected but each other");
    Ok(vec![
        Figure::new("dns_idle_memory", Unit::Bytes, dns.resident()?, &how("RSS of lars-dns")),
        Figure::new("agent_idle_memory", Unit::Bytes, agent.resident()?, &how("RSS of lars-agent")),
        Figure::new(
            "dns_idle_cpu",
            Unit::Nanoseconds,
            share(dns.processor_time()?, before[0]),
            &how("processor time of lars-dns per second"),
        ),
        Figure::new(
            "agent_idle_cpu",
            Unit::Nanoseconds,
            share(agent.processor_time()?, before[1]),
            &how("processor time of lars-agent per second"),
        ),
    ])
}

fn largest(dns: &Service, agent: &Service, hosts: usize) -> Result<Vec<Figure>, ScaleError> {
    let how = |name: &str| format!("RSS of {name} with {hosts} hosts, {HOSTS_PER_MODULE} per module");
    Ok(vec![
        Figure::new("dns_full_memory", Unit::Bytes, dns.resident()?, &how("lars-dns")),
        Figure::new("agent_full_memory", Unit::Bytes, agent.resident()?, &how("lars-agent")),
    ])
}

fn agent(dns: &Service) -> Result<Service, ScaleError> {
    let dns = dns.addrs()[0].to_string();
    // Nobody listens on port 1: statistics are not what is measured.
    let flags = [
        "--api-base-port",
        "0",
        "--api-shards",
        "1",
        "--dns-servers",
        &dns,
        "--reporter-servers",
        "127.0.0.1:1",
    ];
    Service::start("lars-agent", &flags, SERVICE_CPU)
}

/// Asks the agent for every module until it knows all of them.
fn learn(agent: &Service, modules: usize) -> Result<(), ScaleError> {
    let timeout = Duration::from_millis(200);
    let config =
        ClientConfig { base_port: agent.addrs()[0].port(), shards: 1, timeout, ..Default::default() };
    let client = Client::with_config(config).map_err(io::Error::other)?;
    let give_up_at = Instant::now() + PATIENCE;
    let mut unknown: VecDeque<usize> = (0..modules).collect();
    while let Some(n) = unknown.pop_front() {
        if client.get_host(fleet::module(n)).is_err() {
            unknown.push_back(n);
        }
        if Instant::now() > give_up_at {
            return Err(ScaleError::Silent("the route of every module"));
        }
    }
    Ok(())
}

fn look_up(effort: &Effort, agent: &Service, modules: usize) -> Result<Spread, ScaleError> {
    let mut random = fastrand::Rng::with_seed(1);
    let modules = (0..CALLERS).map(|_| fleet::module(random.usize(..modules))).collect();
    let target = AgentTarget { agent: agent.addrs()[0], shards: 1, modules, sockets: CALLERS, in_flight: 1 };
    let load = GetHostLoad { target, report: false };
    cost_of_each(effort, agent, &load)
}

fn plan(effort: &Effort, service: &Service, timeout: Duration) -> Plan {
    Plan {
        warmup: Duration::from_millis(50),
        seconds: Duration::from_millis(if effort.quick { 50 } else { 500 }),
        timeout: Some(timeout),
        gather: Duration::ZERO,
        server_pid: Some(service.id()),
    }
}

/// Processor time of `service` per operation of `load`, in nanoseconds.
fn cost_of_each(effort: &Effort, service: &Service, load: &(impl Load + Sync)) -> Result<Spread, ScaleError> {
    let plan = plan(effort, service, Duration::from_secs(1));
    // The load has a thread for itself, the only one that is pinned.
    let once = || {
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                load::pin(DRIVER_CPU)?;
                load.run(&plan)
            });
            load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    };
    let costs = (0..effort.repetitions).map(|_| Ok(once()?.server_us.unwrap_or_default() * 1e3));
    Ok(Spread::of(costs.collect::<Result<Vec<_>, ScaleError>>()?).unwrap_or_default())
}

/// Route queries to a whole lars-dns, against the number of connections.
///
/// # Errors
/// If lars-dns cannot be started, or fails.
pub fn queries(effort: &Effort) -> Result<Report, ScaleError> {
    let mut site = Site::new()?;
    site.grow(MODULES_QUERIED)?;
    let dns = site.dns(&[])?;
    let mut series = [Series::new("one query under way on each"), Series::new("32 under way on each")];
    for &connections in effort.sizes(&CONNECTIONS) {
        for (series, in_flight) in series.iter_mut().zip([1, 32]) {
            if connections * in_flight > IN_FLIGHT_MAX {
                continue;
            }
            effort.say(format!("queries on {connections} connections, {in_flight} under way on each"));
            let modules = (0..MODULES_QUERIED).map(fleet::module).collect();
            let load = DnsQueryLoad { dns: dns.addrs()[0], modules, connections, in_flight };
            series.add(connections, cost_of_each(effort, &dns, &load)?);
        }
    }
    let last = series[0].points.last().expect("one at least");
    let how = format!("processor time of lars-dns, {} connections with one query under way each", last.x);
    let figure = Figure::new("dns_query_cpu", Unit::Nanoseconds, last.y.median, &how);
    let curve = Curve {
        name: "query-service-by-connections".into(),
        title: "lars-dns: one route query".into(),
        subtitle: format!("whole service with one shard, loopback TCP, modules of {HOSTS_PER_MODULE} hosts"),
        x: Axis::logarithmic("connections", Unit::Count),
        y: Axis::logarithmic("processor time per query", Unit::Nanoseconds),
        series: series.into(),
    };
    Ok(Report { curves: vec![curve], figures: vec![figure] })
}

fn weigh_subscriptions(effort: &Effort, dns: &Service) -> Result<Figure, ScaleError> {
    effort.say("subscriptions to many modules");
    let mut streams = connect(dns, SUBSCRIBING_CONNECTIONS)?;
    settle();
    let each = if effort.quick { 100 } else { SUBSCRIPTIONS_EACH };
    let before = dns.resident()?;
    for stream in &mut streams {
        for first in (0..each).step_by(100) {
            let modules = first..each.min(first + 100);
            let questions: Vec<u8> = modules.clone().flat_map(|n| question(fleet::module(n))).collect();
            stream.write_all(&questions)?;
            modules.clone().try_for_each(|_| read_frame(stream))?;
        }
    }
    let weight = (dns.resident()? - before) / (each * SUBSCRIBING_CONNECTIONS) as f64;
    let how =
        format!("RSS of lars-dns, {SUBSCRIBING_CONNECTIONS} connections subscribed to {each} modules each");
    Ok(Figure::new("dns_subscription_memory", Unit::Bytes, weight, &how))
}
