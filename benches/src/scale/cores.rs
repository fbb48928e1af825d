//! What an operation costs in the cores, without any IO: against the number of modules, of hosts per module,
//! of subscribers.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use lars_agent::core::{
    balancer::Outcome,
    table::{Answer, Table, TableConfig},
    time::Moment,
};
use lars_dns::core::{
    push::Push,
    snapshot::{Snapshot, SnapshotBuilder},
    subscriptions::Subscriptions,
};
use lars_proto::{
    CallStatus, CallStatusKey, Endpoint, HostAddr, ModuleId,
    route::{self, RouteReply},
};
use lars_reporter::core::coalescer::{Coalescer, Limits};

use super::{
    ScaleError,
    curve::{Curve, Figure, Spread, Unit::*},
    effort::Effort,
    fleet,
    report::Report,
};

const MODULES: [usize; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
const HOSTS: [usize; 7] = [1, 10, 30, 100, 300, 1_000, 4_000];
const SUBSCRIBERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// Hosts of each module where the number of modules is what varies. Few, so that a million fit any machine.
const HOSTS_PER_MODULE: usize = 3;

/// Between two lookups, on the clock that the core is given.
const STEP: Duration = Duration::from_nanos(100);

/// One module again and again is in the processor's cache; any module at random is not.
const PATTERNS: [&str; 2] = ["any module at random", "the same module each time"];

/// The time of `op` on modules as the [`PATTERNS`] have them.
fn by_pattern(effort: &Effort, modules: usize, mut op: impl FnMut(ModuleId)) -> [Spread; 2] {
    let mut random = fastrand::Rng::with_seed(1);
    let at_random = effort.time(|| op(fleet::module(random.usize(..modules))));
    [at_random, effort.time(|| op(fleet::module(modules / 2)))]
}

/// A table as an agent's shard has it when all routes have come.
pub fn table(modules: usize, hosts_per_module: usize) -> Table {
    let mut table = Table::new(TableConfig { modules_max: usize::MAX, ..TableConfig::default() });
    let route: Vec<Endpoint> = fleet::hosts(hosts_per_module).into_iter().map(Endpoint::from).collect();
    for module in (0..modules).map(fleet::module) {
        table.get_host(module, Moment::ORIGIN);
        table.route_update(module, &route, Moment::ORIGIN);
        while table.poll_interest().is_some() {}
    }
    table
}

/// The routes as lars-dns has them.
pub fn snapshot(modules: usize, hosts_per_module: usize) -> Snapshot {
    let hosts = fleet::hosts(hosts_per_module);
    let mut builder = SnapshotBuilder::default();
    for module in (0..modules).map(fleet::module) {
        hosts.iter().for_each(|&host| builder.push(module, host));
    }
    builder.finish()
}

/// What a lookup and the report on it are to a shard of an agent, without the datagrams.
pub fn call(table: &mut Table, module: ModuleId, now: Moment) -> Answer {
    let answer = table.get_host(module, now);
    if let Answer::Host(host) = answer {
        table.report(module, host, Outcome::Success, now);
    }
    // As the shard does once per batch; without lars-dns it would be full at some time.
    while let Some(interest) = table.poll_interest() {
        black_box(interest);
    }
    answer
}

fn encode(reply: RouteReply, module: ModuleId, hosts: &[HostAddr], out: &mut Vec<u8>) {
    out.clear();
    black_box(route::encode(reply, module, hosts.iter().copied(), out));
}

/// Everything in process against the number of modules.
pub fn by_modules(effort: &Effort) -> Result<Report, ScaleError> {
    let sweep = agent_sweep(effort)?;
    // What one module adds, from the largest number of them.
    let last = sweep.series[0].last();
    let how = format!("processor time per second for a module that nobody asks for, {} modules", last.x);
    let figure = Figure::new("agent_sweep_cpu", Nanoseconds, last.y.median / last.x, &how);
    let curves =
        vec![agent_by_modules(effort)?, sweep, dns_by_modules(effort)?, reporter_by_modules(effort)?];
    Ok(Report { curves, figures: vec![figure] })
}

/// Lookup and report in an agent, against the number of modules.
fn agent_by_modules(effort: &Effort) -> Result<Curve, ScaleError> {
    let series = effort.series("modules of an agent", &MODULES, PATTERNS, |modules| {
        let (mut table, mut now) = (table(modules, HOSTS_PER_MODULE), Moment::ORIGIN);
        Ok(by_pattern(effort, modules, |module| {
            now = now + STEP;
            call(&mut table, module, now);
        }))
    })?;
    Ok(Curve::new(
        "agent-by-modules",
        "Agent: one lookup and its report",
        &format!("module table and balancer in process, {HOSTS_PER_MODULE} hosts per module"),
        ("modules known to the agent", Count),
        ("time per lookup + report", Nanoseconds),
        series,
    ))
}

/// What the agent does about a module when nothing is asked, against the number of modules.
fn agent_sweep(effort: &Effort) -> Result<Curve, ScaleError> {
    let labels = ["idle agent, each second"];
    let series = effort.series("modules of an idle agent", &MODULES, labels, |modules| {
        let (mut table, mut now) = (table(modules, HOSTS_PER_MODULE), Moment::ORIGIN);
        // A second is ten ticks of 100 ms.
        let second = || {
            for _ in 0..10 {
                now = now + Duration::from_millis(100);
                table.handle_timeout(now);
            }
        };
        Ok([effort.time(second)])
    })?;
    Ok(Curve::new(
        "agent-idle-by-modules",
        "Agent: looking after modules that nobody asks for",
        &format!("sweep of the module table in process, {HOSTS_PER_MODULE} hosts per module"),
        ("modules known to the agent", Count),
        ("processor time per second", Nanoseconds),
        series,
    ))
}

/// A route query in lars-dns, against the number of modules.
fn dns_by_modules(effort: &Effort) -> Result<Curve, ScaleError> {
    let series = effort.series("modules of lars-dns", &MODULES, PATTERNS, |modules| {
        let (snapshot, mut out) = (snapshot(modules, HOSTS_PER_MODULE), Vec::new());
        let query = |module| encode(RouteReply::Dns, module, snapshot.hosts(module), &mut out);
        Ok(by_pattern(effort, modules, query))
    })?;
    Ok(Curve::new(
        "dns-by-modules",
        "lars-dns: one route query",
        &format!("lookup in the snapshot and encoding of the reply, {HOSTS_PER_MODULE} hosts per module"),
        ("modules in the table", Count),
        ("time per query", Nanoseconds),
        series,
    ))
}

/// Coalescing in the reporter, against the number of keys.
fn reporter_by_modules(effort: &Effort) -> Result<Curve, ScaleError> {
    let labels = ["taken in and handed to SQL", "replaced by a newer one"];
    let series = effort.series("modules of lars-reporter", &MODULES, labels, |modules| {
        let now = Instant::now();
        let rows: Vec<_> = (0..modules).map(row).collect();
        let add_all = |coalescer: &mut Coalescer| rows.iter().for_each(|&row| coalescer.add(row, now));
        let write = |coalescer: &mut Coalescer| {
            add_all(coalescer);
            coalescer.drain();
            while let Some(batch) = coalescer.poll(now) {
                coalescer.flushed(black_box(batch), now);
            }
        };
        let times = [effort.time_once(|| holding(0), write), effort.time_once(|| holding(modules), add_all)];
        Ok(times.map(|time| time.per(modules as f64)))
    })?;
    Ok(Curve::new(
        "reporter-by-modules",
        "lars-reporter: one row of statistics",
        "coalescer in process, one row per module, without SQL",
        ("modules reported on in an interval", Count),
        ("time per row", Nanoseconds),
        series,
    ))
}

/// A coalescer that holds a row for each of so many modules.
pub fn holding(keys: usize) -> Coalescer {
    let limits =
        Limits { flush_interval: Duration::from_millis(200), flush_rows: 500, pending_keys_max: usize::MAX };
    let (mut coalescer, now) = (Coalescer::new(limits), Instant::now());
    (0..keys).for_each(|n| coalescer.add(row(n), now));
    coalescer
}

/// Of the module number `n`.
fn row(n: usize) -> CallStatus {
    let key =
        CallStatusKey { module: fleet::module(n), host: fleet::hosts(1)[0], caller: Ipv4Addr::LOCALHOST };
    CallStatus { key, succ: 1, err: 0, ts: 1, overload: false }
}

/// What depends on the hosts of the module in question.
pub fn by_hosts(effort: &Effort) -> Result<Curve, ScaleError> {
    let labels =
        ["agent: lookup + report", "agent: get_route reply", "lars-dns: query reply", "lars-dns: push"];
    let module = fleet::module(0);
    let series = effort.series("hosts of a module", &HOSTS, labels, |count| {
        let (mut table, mut now) = (table(1, count), Moment::ORIGIN);
        let (snapshot, mut out, mut hosts) = (snapshot(1, count), Vec::new(), Vec::new());
        let lookup = effort.time(|| {
            now = now + STEP;
            call(&mut table, module, now);
        });
        let get_route = effort.time(|| {
            hosts.clear();
            table.get_route(module, now, &mut hosts);
            encode(RouteReply::Api, module, &hosts, &mut out);
        });
        let query = effort.time(|| encode(RouteReply::Dns, module, snapshot.hosts(module), &mut out));
        let push = effort.time(|| _ = black_box(Push::encode(module, snapshot.hosts(module), &mut out)));
        Ok([lookup, get_route, query, push])
    })?;
    Ok(Curve::new(
        "by-hosts",
        "Modules with many hosts",
        "cores in process, without sockets",
        ("hosts of the module", Count),
        ("time per operation", Nanoseconds),
        series,
    ))
}

/// Finding whom to push to, against the number of subscribers.
pub fn publish_by_subscribers(effort: &Effort) -> Result<Curve, ScaleError> {
    let labels = ["one change, all subscribers", "per subscriber"];
    let series = effort.series("subscribers, in process", &SUBSCRIBERS, labels, |count| {
        let (mut subscriptions, mut ready) = (subscriptions(count, 1), Vec::new());
        let time = effort.time(|| {
            ready.clear();
            black_box(subscriptions.publish(fleet::module(0), &mut ready));
        });
        Ok([time, time.per(count as f64)])
    })?;
    Ok(Curve::new(
        "publish-core-by-subscribers",
        "lars-dns: whom to push a change to",
        "subscriptions of a shard in process, without sockets",
        ("subscribers of the module", Count),
        ("time", Nanoseconds),
        series,
    ))
}

/// So many connections, each subscribed to the first `modules`.
pub fn subscriptions(connections: usize, modules: usize) -> Subscriptions<usize> {
    let mut subscriptions = Subscriptions::default();
    for connection in 0..connections {
        for module in (0..modules).map(fleet::module) {
            subscriptions.subscribe(connection, module);
        }
    }
    subscriptions
}
