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
    curve::{Axis, Curve, Figure, Series, Unit},
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
#[derive(Clone, Copy)]
enum Pattern {
    Same,
    Random,
}

impl Pattern {
    const ALL: [Self; 2] = [Self::Random, Self::Same];

    fn label(self) -> &'static str {
        match self {
            Self::Same => "the same module each time",
            Self::Random => "any module at random",
        }
    }

    fn next(self, random: &mut fastrand::Rng, modules: usize) -> ModuleId {
        match self {
            Self::Same => fleet::module(modules / 2),
            Self::Random => fleet::module(random.usize(..modules)),
        }
    }
}

/// A table as an agent's shard has it when all routes have come.
#[must_use]
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
#[must_use]
pub fn snapshot(modules: usize, hosts_per_module: usize) -> Snapshot {
    let hosts = fleet::hosts(hosts_per_module);
    let mut builder = SnapshotBuilder::default();
    for module in (0..modules).map(fleet::module) {
        hosts.iter().for_each(|&host| builder.push(module, host));
    }
    builder.finish()
}

/// One lookup and the report on it.
fn call(table: &mut Table, module: ModuleId, now: &mut Moment) {
    *now = *now + STEP;
    if let Answer::Host(host) = table.get_host(module, *now) {
        table.report(module, host, Outcome::Success, *now);
    }
    // As the shard does once per batch; without lars-dns it would be full at some time.
    while table.poll_interest().is_some() {}
}

fn encode(reply: RouteReply, module: ModuleId, hosts: &[HostAddr], out: &mut Vec<u8>) {
    out.clear();
    black_box(route::encode(reply, module, hosts.iter().copied(), out));
}

/// Everything in process against the number of modules.
#[must_use]
pub fn by_modules(effort: &Effort) -> Report {
    let sweep = agent_sweep(effort);
    // What one module adds, from the largest number of them.
    let last = sweep.series[0].points.last().expect("one at least");
    let how = format!("processor time per second for a module that nobody asks for, {} modules", last.x);
    let figure = Figure::new("agent_sweep_cpu", Unit::Nanoseconds, last.y.median / last.x, &how);
    let curves = vec![agent_by_modules(effort), sweep, dns_by_modules(effort), reporter_by_modules(effort)];
    Report { curves, figures: vec![figure] }
}

/// Lookup and report in an agent, against the number of modules.
fn agent_by_modules(effort: &Effort) -> Curve {
    let mut series = Pattern::ALL.map(|pattern| Series::new(pattern.label()));
    for &modules in effort.sizes(&MODULES) {
        effort.say(format!("agent with {modules} modules"));
        let (mut table, mut now) = (table(modules, HOSTS_PER_MODULE), Moment::ORIGIN);
        for (series, pattern) in series.iter_mut().zip(Pattern::ALL) {
            let mut random = fastrand::Rng::with_seed(1);
            let time = effort.time(|| call(&mut table, pattern.next(&mut random, modules), &mut now));
            series.add(modules, time);
        }
    }
    Curve {
        name: "agent-by-modules".into(),
        title: "Agent: one lookup and its report".into(),
        subtitle: format!("module table and balancer in process, {HOSTS_PER_MODULE} hosts per module"),
        x: Axis::logarithmic("modules known to the agent", Unit::Count),
        y: Axis::logarithmic("time per lookup + report", Unit::Nanoseconds),
        series: series.into(),
    }
}

/// What the agent does about a module when nothing is asked, against the number of modules.
fn agent_sweep(effort: &Effort) -> Curve {
    let mut series = Series::new("idle agent, each second");
    for &modules in effort.sizes(&MODULES) {
        effort.say(format!("idle agent with {modules} modules"));
        let (mut table, mut now) = (table(modules, HOSTS_PER_MODULE), Moment::ORIGIN);
        // A second is ten ticks of 100 ms.
        let time = effort.time(|| {
            for _ in 0..10 {
                now = now + Duration::from_millis(100);
                table.handle_timeout(now);
            }
        });
        series.add(modules, time);
    }
    Curve {
        name: "agent-idle-by-modules".into(),
        title: "Agent: looking after modules that nobody asks for".into(),
        subtitle: format!("sweep of the module table in process, {HOSTS_PER_MODULE} hosts per module"),
        x: Axis::logarithmic("modules known to the agent", Unit::Count),
        y: Axis::logarithmic("processor time per second", Unit::Nanoseconds),
        series: vec![series],
    }
}

/// A route query in lars-dns, against the number of modules.
fn dns_by_modules(effort: &Effort) -> Curve {
    let mut series = Pattern::ALL.map(|pattern| Series::new(pattern.label()));
    for &modules in effort.sizes(&MODULES) {
        effort.say(format!("lars-dns with {modules} modules"));
        let (snapshot, mut out) = (snapshot(modules, HOSTS_PER_MODULE), Vec::new());
        for (series, pattern) in series.iter_mut().zip(Pattern::ALL) {
            let mut random = fastrand::Rng::with_seed(1);
            let time = effort.time(|| {
                let module = pattern.next(&mut random, modules);
                encode(RouteReply::Dns, module, snapshot.hosts(module), &mut out);
            });
            series.add(modules, time);
        }
    }
    Curve {
        name: "dns-by-modules".into(),
        title: "lars-dns: one route query".into(),
        subtitle: format!(
            "lookup in the snapshot and encoding of the reply, {HOSTS_PER_MODULE} hosts per module"
        ),
        x: Axis::logarithmic("modules in the table", Unit::Count),
        y: Axis::logarithmic("time per query", Unit::Nanoseconds),
        series: series.into(),
    }
}

/// Coalescing in the reporter, against the number of keys.
fn reporter_by_modules(effort: &Effort) -> Curve {
    let (mut writing, mut coalesced) =
        (Series::new("taken in and handed to SQL"), Series::new("replaced by a newer one"));
    for &modules in effort.sizes(&MODULES) {
        effort.say(format!("reporter with {modules} modules"));
        let now = Instant::now();
        let rows: Vec<_> = (0..modules).map(|n| row(fleet::module(n))).collect();
        let filled = || {
            let mut coalescer = coalescer();
            rows.iter().for_each(|&row| coalescer.add(row, now));
            coalescer
        };
        let write = |coalescer: &mut Coalescer| {
            rows.iter().for_each(|&row| coalescer.add(row, now));
            coalescer.drain();
            while let Some(batch) = coalescer.poll(now) {
                coalescer.flushed(black_box(batch), now);
            }
        };
        let replace = |coalescer: &mut Coalescer| rows.iter().for_each(|&row| coalescer.add(row, now));
        writing.add(modules, effort.time_once(coalescer, write).per(modules as f64));
        coalesced.add(modules, effort.time_once(filled, replace).per(modules as f64));
    }
    Curve {
        name: "reporter-by-modules".into(),
        title: "lars-reporter: one row of statistics".into(),
        subtitle: "coalescer in process, one row per module, without SQL".into(),
        x: Axis::logarithmic("modules reported on in an interval", Unit::Count),
        y: Axis::logarithmic("time per row", Unit::Nanoseconds),
        series: vec![writing, coalesced],
    }
}

/// A coalescer that holds a row for each of so many modules.
#[must_use]
pub fn holding(keys: usize) -> Coalescer {
    let mut coalescer = coalescer();
    let now = Instant::now();
    (0..keys).for_each(|n| coalescer.add(row(fleet::module(n)), now));
    coalescer
}

fn coalescer() -> Coalescer {
    Coalescer::new(Limits {
        flush_interval: Duration::from_millis(200),
        flush_rows: 500,
        pending_keys_max: usize::MAX,
    })
}

fn row(module: ModuleId) -> CallStatus {
    let key = CallStatusKey { module, host: fleet::hosts(1)[0], caller: Ipv4Addr::LOCALHOST };
    CallStatus { key, succ: 1, err: 0, ts: 1, overload: false }
}

/// What depends on the hosts of the module in question.
#[must_use]
pub fn by_hosts(effort: &Effort) -> Curve {
    let mut series = [
        Series::new("agent: lookup + report"),
        Series::new("agent: get_route reply"),
        Series::new("lars-dns: query reply"),
        Series::new("lars-dns: push"),
    ];
    let module = fleet::module(0);
    for &count in effort.sizes(&HOSTS) {
        effort.say(format!("modules of {count} hosts"));
        let (mut table, mut now) = (table(1, count), Moment::ORIGIN);
        let (snapshot, mut out, mut hosts) = (snapshot(1, count), Vec::new(), Vec::new());
        series[0].add(count, effort.time(|| call(&mut table, module, &mut now)));
        let get_route = || {
            hosts.clear();
            table.get_route(module, now, &mut hosts);
            encode(RouteReply::Api, module, &hosts, &mut out);
        };
        series[1].add(count, effort.time(get_route));
        let query = || encode(RouteReply::Dns, module, snapshot.hosts(module), &mut out);
        series[2].add(count, effort.time(query));
        let push = || {
            black_box(Push::encode(module, snapshot.hosts(module), &mut out));
        };
        series[3].add(count, effort.time(push));
    }
    Curve {
        name: "by-hosts".into(),
        title: "Modules with many hosts".into(),
        subtitle: "cores in process, without sockets".into(),
        x: Axis::logarithmic("hosts of the module", Unit::Count),
        y: Axis::logarithmic("time per operation", Unit::Nanoseconds),
        series: series.into(),
    }
}

/// Finding whom to push to, against the number of subscribers.
#[must_use]
pub fn publish_by_subscribers(effort: &Effort) -> Curve {
    let mut series = [Series::new("one change, all subscribers"), Series::new("per subscriber")];
    for &count in effort.sizes(&SUBSCRIBERS) {
        effort.say(format!("{count} subscribers, in process"));
        let mut subscriptions = Subscriptions::default();
        for connection in 0..count {
            subscriptions.subscribe(connection, fleet::module(0));
        }
        let mut ready = Vec::new();
        let publish = || {
            ready.clear();
            black_box(subscriptions.publish(fleet::module(0), &mut ready));
        };
        let time = effort.time(publish);
        series[0].add(count, time);
        series[1].add(count, time.per(count as f64));
    }
    Curve {
        name: "publish-core-by-subscribers".into(),
        title: "lars-dns: whom to push a change to".into(),
        subtitle: "subscriptions of a shard in process, without sockets".into(),
        x: Axis::logarithmic("subscribers of the module", Unit::Count),
        y: Axis::logarithmic("time", Unit::Nanoseconds),
        series: series.into(),
    }
}
