//! Whole services in processes of their own, over loopback sockets and SQLite: pushes, lookups, memory.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use lars_client::{Client, ClientConfig};
use lars_proto::{
    ModuleId,
    messages::{MessageId, SubscriptionDigest},
};

use super::{
    ScaleError,
    curve::{Curve, Figure, Series, Spread, Unit::*},
    effort::Effort,
    fleet::{self, Site},
    report::Report,
    service::Service,
};
use crate::frames::{Frames, framed, route_query};
use crate::load::{
    self, Load, Plan,
    dns_query::DnsQueryLoad,
    dns_subscribe::DnsSubscribeLoad,
    udp_lookups::GetHostLoad,
    values::{AgentTarget, Modules},
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

/// Connections that send digests, and the modules that each is subscribed to.
const DIGESTING_CONNECTIONS: usize = 100;
const MODULES_SUMMED_UP: [usize; 2] = [50, 1_000];

/// What does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

fn start_dns(site: &Site, flags: &[&str]) -> Result<Service, ScaleError> {
    let base = ["--store-url", site.url(), "--server-listen", "127.0.0.1:0", "--server-shards", "1"];
    Service::start("lars-dns", &[&base, flags].concat(), SERVICE_CPU)
}

fn start_agent(dns: &Service) -> Result<Service, ScaleError> {
    let dns = dns.addr().to_string();
    let listen = ["--api-base-port", "0", "--api-shards", "1"];
    // Nobody listens on port 1: statistics are not what is measured.
    let peers = ["--dns-servers", &dns, "--reporter-servers", "127.0.0.1:1"];
    Service::start("lars-agent", &[listen, peers].concat(), SERVICE_CPU)
}

/// The push of one change by a whole lars-dns, against the number of subscribers; and what these weigh.
pub fn fan_out(effort: &Effort) -> Result<Report, ScaleError> {
    let site = Site::new()?;
    let dns = start_dns(&site, &["--store-poll-interval-ms", "20"])?;
    let connections = weigh_connections(effort, &dns)?;
    let labels = ["first to last push read", "processor time of lars-dns per subscriber"];
    let series = effort.series("subscribers, over sockets", &SUBSCRIBERS, labels, |count| {
        let (connections, changes) = (count, 1 + effort.repetitions as u16);
        let load = DnsSubscribeLoad { dns: dns.addr(), store: site.store_url(), connections, changes };
        let pushes = load.run(&plan(effort, &dns, PATIENCE))?.pushes.ok_or(ScaleError::Silent("a push"))?;
        Ok([pushes.first_to_last_ms.per(1e-6), pushes.server_us.unwrap_or_default().per(1e-3)])
    })?;
    let [heard, each] = [&series[0], &series[1]].map(Series::last);
    let subscribers = heard.x;
    let how = format!("first to last push read, one change to {subscribers} subscribers");
    let push_time = Figure::new("dns_push_time", Nanoseconds, heard.y.median / subscribers, &how);
    let how = format!("lars-dns, one change to {subscribers} subscribers over loopback TCP");
    let push_cpu = Figure::new("dns_push_cpu", Nanoseconds, each.y.median, &how);
    let curve = Curve::new(
        "publish-service-by-subscribers",
        "lars-dns: one change pushed to all subscribers",
        "whole service with one shard, loopback TCP, a module of one host",
        ("subscribers of the module", Count),
        ("time", Nanoseconds),
        series,
    );
    Ok(Report { curves: vec![curve], figures: vec![connections, push_time, push_cpu] })
}

fn weigh_connections(effort: &Effort, dns: &Service) -> Result<Figure, ScaleError> {
    let count = *effort.sizes(&SUBSCRIBERS).last().expect("some");
    let before = dns.resident()?;
    effort.say(format!("{count} idle connections"));
    let connections = connect(dns, count)?;
    settle();
    let each = (dns.resident()? - before) / connections.len() as f64;
    let how = format!("RSS of lars-dns, {count} connections on which nothing was sent");
    Ok(Figure::new("dns_connection_memory", Bytes, each, &how))
}

fn connect(dns: &Service, count: usize) -> io::Result<Vec<TcpStream>> {
    load::allow_open_files()?;
    (0..count).map(|_| TcpStream::connect(dns.addr())).collect()
}

/// Time for a service to take in what was sent to it and to touch its memory.
fn settle() {
    thread::sleep(Duration::from_millis(500));
}

/// Memory of whole services, and lookups in an agent, against the number of modules.
pub fn by_size(effort: &Effort) -> Result<Report, ScaleError> {
    let mut site = Site::new()?;
    let mut figures = idle(effort, &site)?;
    let [mut dns_memory, mut agent_memory] = ["lars-dns", "lars-agent"].map(Series::new);
    let label = "512 callers, each a module of its own";
    let [lookups] = effort.series("modules of whole services", &MODULES, [label], |modules| {
        site.grow(modules, HOSTS_PER_MODULE)?;
        let intervals = ["--store-poll-interval-ms", "500", "--store-full-reload-interval-ms", "500"];
        let dns = start_dns(&site, &intervals)?;
        let (hosts, agent) = (modules * HOSTS_PER_MODULE, start_agent(&dns)?);
        learn(&agent, modules)?;
        settle();
        agent_memory.add(hosts, Spread::exactly(agent.resident()?));
        let cost = look_up(effort, &agent, modules)?;
        // By now it has loaded everything more than once, and held two tables at a time.
        dns_memory.add(hosts, Spread::exactly(dns.resident()?));
        if effort.sizes(&MODULES).last() == Some(&modules) {
            let how = |name: &str| format!("RSS of {name} with {hosts} hosts, {HOSTS_PER_MODULE} per module");
            figures.push(Figure::new("dns_full_memory", Bytes, dns.resident()?, &how("lars-dns")));
            figures.push(Figure::new("agent_full_memory", Bytes, agent.resident()?, &how("lars-agent")));
            let how =
                format!("processor time of lars-agent per get_host, {modules} modules, {CALLERS} callers");
            figures.push(Figure::new("agent_lookup_cpu", Nanoseconds, cost.median, &how));
            figures.push(weigh_subscriptions(effort, &dns)?);
        }
        Ok([cost])
    })?;
    let memory = Curve::new(
        "memory-by-hosts",
        "Memory of whole services",
        &format!(
            "resident set of lars-dns and of an agent that knows every module, {HOSTS_PER_MODULE} hosts per module"
        ),
        ("hosts", Count),
        ("resident memory", Bytes),
        [dns_memory, agent_memory],
    );
    let lookups = Curve::new(
        "agent-udp-by-modules",
        "Agent: one lookup over UDP",
        &format!("processor time of lars-agent per get_host, one shard, {HOSTS_PER_MODULE} hosts per module"),
        ("modules known to the agent", Count),
        ("processor time per lookup", Nanoseconds),
        [lookups],
    );
    Ok(Report { curves: vec![memory, lookups], figures })
}

/// What services take that have nothing to do.
fn idle(effort: &Effort, site: &Site) -> Result<Vec<Figure>, ScaleError> {
    effort.say("services with nothing to do");
    let dns = start_dns(site, &[])?;
    let agent = start_agent(&dns)?;
    settle();
    let (before, started) = ([dns.processor_time()?, agent.processor_time()?], Instant::now());
    thread::sleep(if effort.quick { Duration::from_millis(500) } else { Duration::from_secs(10) });
    let mut figures = Vec::new();
    for (name, service, before) in [("dns", &dns, before[0]), ("agent", &agent, before[1])] {
        let how = |what: &str| {
            format!("{what} of lars-{name}, one shard, no module, nobody connected but each other")
        };
        let took = (service.processor_time()? - before).as_secs_f64() / started.elapsed().as_secs_f64();
        let memory = format!("{name}_idle_memory");
        figures.push(Figure::new(&memory, Bytes, service.resident()?, &how("RSS")));
        let cpu = format!("{name}_idle_cpu");
        figures.push(Figure::new(&cpu, Nanoseconds, took * 1e9, &how("processor time per second")));
    }
    Ok(figures)
}

/// Asks the agent for every module until it knows all of them.
fn learn(agent: &Service, modules: usize) -> Result<(), ScaleError> {
    let timeout = Duration::from_millis(200);
    let config = ClientConfig { base_port: agent.addr().port(), shards: 1, timeout, ..Default::default() };
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
    let target = AgentTarget { agent: agent.addr(), shards: 1, modules, sockets: CALLERS, in_flight: 1 };
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
pub fn queries(effort: &Effort) -> Result<Report, ScaleError> {
    let mut site = Site::new()?;
    site.grow(MODULES_QUERIED, HOSTS_PER_MODULE)?;
    let dns = start_dns(&site, &[])?;
    let modules: Modules = (0..MODULES_QUERIED).map(fleet::module).collect();
    let mut series = Vec::new();
    for (label, in_flight) in [("one query under way on each", 1), ("32 under way on each", 32)] {
        let possible = CONNECTIONS.iter().copied().filter(|count| count * in_flight <= IN_FLIGHT_MAX);
        let sizes: Vec<usize> = possible.collect();
        series.extend(effort.series("connections that query", &sizes, [label], |connections| {
            let load = DnsQueryLoad { dns: dns.addr(), modules: modules.clone(), connections, in_flight };
            Ok([cost_of_each(effort, &dns, &load)?])
        })?);
    }
    let last = series[0].last();
    let how = format!("processor time of lars-dns, {} connections with one query under way each", last.x);
    let figure = Figure::new("dns_query_cpu", Nanoseconds, last.y.median, &how);
    let curve = Curve::new(
        "query-service-by-connections",
        "lars-dns: one route query",
        &format!("whole service with one shard, loopback TCP, modules of {HOSTS_PER_MODULE} hosts"),
        ("connections", Count),
        ("processor time per query", Nanoseconds),
        series,
    );
    Ok(Report { curves: vec![curve], figures: vec![figure] })
}

/// Asks for modules and reads the answers.
fn subscribe(
    stream: &mut TcpStream,
    modules: impl ExactSizeIterator<Item = ModuleId>,
) -> Result<(), ScaleError> {
    let count = modules.len();
    let questions = modules.map(|module| route_query(MessageId::GetRouteRequest, module));
    stream.write_all(&questions.collect::<Vec<_>>().concat())?;
    read_frames(stream, count)
}

fn read_frames(stream: &mut TcpStream, mut missing: usize) -> Result<(), ScaleError> {
    let (mut frames, mut buffer) = (Frames::default(), vec![0; 64 << 10]);
    while missing > 0 {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Err(ScaleError::Silent("the answer to a question"));
        }
        frames.take(&buffer[..len], |_| missing -= 1).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What digests take in a whole lars-dns: of connections with few subscriptions, and what each more adds.
pub fn digests(effort: &Effort) -> Result<Report, ScaleError> {
    let mut site = Site::new()?;
    let [few, many] = MODULES_SUMMED_UP;
    site.grow(many * (1 + DIGESTING_CONNECTIONS / 10), HOSTS_PER_MODULE)?;
    let dns = start_dns(&site, &[])?;
    let digest = framed(MessageId::SubscriptionDigest, &SubscriptionDigest { count: 1, sum: 1 });
    let cost = |modules: usize| {
        effort.say(format_args!("digests of {modules} modules"));
        let mut streams = connect(&dns, DIGESTING_CONNECTIONS)?;
        for (n, stream) in streams.iter_mut().enumerate() {
            subscribe(stream, (n * many / 10..n * many / 10 + modules).map(fleet::module))?;
        }
        let rounds = if effort.quick { 2 } else { 200 };
        let costs = (0..effort.repetitions).map(|_| {
            let before = dns.processor_time()?;
            for _ in 0..rounds {
                streams.iter_mut().try_for_each(|stream| stream.write_all(&digest))?;
                streams.iter_mut().try_for_each(|stream| read_frames(stream, 1))?;
            }
            let took = dns.processor_time()? - before;
            Ok(took.as_secs_f64() * 1e9 / (rounds * DIGESTING_CONNECTIONS) as f64)
        });
        let costs = costs.collect::<Result<Vec<_>, ScaleError>>()?;
        Ok::<_, ScaleError>(Spread::of(costs).unwrap_or_default().median)
    };
    let (of_few, of_many) = (cost(few)?, cost(many)?);
    let each = (of_many - of_few) / (many - few) as f64;
    let how =
        |what: String| format!("processor time of lars-dns per {what}, {DIGESTING_CONNECTIONS} connections");
    let digest = how(format!("digest that differs, without its modules: {few} of them, less those"));
    let module = how(format!("module of a digest: {many} of them against {few}"));
    let figures = vec![
        Figure::new("dns_digest_cpu", Nanoseconds, of_few - each * few as f64, &digest),
        Figure::new("dns_digest_module_cpu", Nanoseconds, each, &module),
    ];
    Ok(Report { curves: Vec::new(), figures })
}

fn weigh_subscriptions(effort: &Effort, dns: &Service) -> Result<Figure, ScaleError> {
    effort.say("subscriptions to many modules");
    let mut streams = connect(dns, SUBSCRIBING_CONNECTIONS)?;
    settle();
    let each = if effort.quick { 100 } else { SUBSCRIPTIONS_EACH };
    let before = dns.resident()?;
    for stream in &mut streams {
        for first in (0..each).step_by(100) {
            let modules = (first..each.min(first + 100)).map(fleet::module);
            subscribe(stream, modules)?;
        }
    }
    let weight = (dns.resident()? - before) / (each * SUBSCRIBING_CONNECTIONS) as f64;
    let how =
        format!("RSS of lars-dns, {SUBSCRIBING_CONNECTIONS} connections subscribed to {each} modules each");
    Ok(Figure::new("dns_subscription_memory", Bytes, weight, &how))
}
