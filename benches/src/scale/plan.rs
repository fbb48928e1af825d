//! [`Fleet`]: what a fleet takes, computed from measured figures. `docs/SCALING.md` explains each formula.

use clap::Args;

use super::{ScaleError, curve::Unit, report::Report};

/// Bytes of a frame's header, and of the TCP and IPv4 headers around it.
const FRAME_HEADER: f64 = 8.0;
const PACKET_HEADERS: f64 = 40.0 + 12.0;
/// Bytes of a route before its hosts, and of one host below 128.0.0.0 (above: 17), tags included.
const ROUTE_IDS: f64 = 6.0;
const ROUTE_HOST: f64 = 11.0;
/// Bytes of a row of `RouteData` on its way from the database: four numbers, a packet header, which are null.
const ROW: f64 = 22.0;
/// Statements of one look for changes: the version, the newest id, the changes.
const POLL_STATEMENTS: f64 = 3.0;

/// A fleet.
#[derive(Clone, Copy, Debug, PartialEq, Args)]
pub struct Fleet {
    /// Machines that call services
    #[arg(long, default_value_t = 100_000.0, value_parser = above_0)]
    pub agents: f64,
    /// Modules that each of them knows
    #[arg(long, default_value_t = 50.0, value_parser = above_0)]
    pub modules_per_agent: f64,
    /// All modules
    #[arg(long, default_value_t = 100_000.0, value_parser = above_0)]
    pub modules: f64,
    #[arg(long, default_value_t = 10.0, value_parser = above_0)]
    pub hosts_per_module: f64,
    /// Lookups per second on each machine
    #[arg(long, default_value_t = 1_000.0, value_parser = above_0)]
    pub lookups: f64,
    /// Changes of a module per second
    #[arg(long, default_value_t = 1.0, value_parser = above_0)]
    pub changes: f64,
    /// Hosts whose counts change within a report interval, on each machine
    #[arg(long, default_value_t = 100.0, value_parser = above_0)]
    pub hosts_called: f64,
    /// Agent: seconds between two reports on a module
    #[arg(long, default_value_t = 60.0, value_parser = above_0)]
    pub report_interval: f64,
    /// Agent: seconds between two digests of what it knows
    #[arg(long, default_value_t = 60.0, value_parser = above_0)]
    pub update_timeout: f64,
    /// lars-dns: seconds between two comparisons with everything
    #[arg(long, default_value_t = 60.0, value_parser = above_0)]
    pub full_reload_interval: f64,
    /// Rows of statistics that the database takes per second
    #[arg(long, default_value_t = 150_000.0, value_parser = above_0)]
    pub rows_per_second: f64,
    /// Share of a processor that a service may take all the time
    #[arg(long, default_value_t = 0.5, value_parser = above_0)]
    pub load: f64,
    /// Seconds in which the last agent shall have heard of a change that concerns everybody
    #[arg(long, default_value_t = 1.0, value_parser = above_0)]
    pub push_within: f64,
}

fn above_0(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number")?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("is not above 0".into()) }
}

/// What the fleet takes, in the order of `docs/SCALING.md`.
///
/// # Errors
/// If `measured` lacks a figure.
pub fn needs(fleet: &Fleet, measured: &Report) -> Result<Vec<(&'static str, Unit, f64)>, ScaleError> {
    let figure = |name| measured.figure(name).ok_or(ScaleError::NotMeasured(name));
    let seconds = |name| Ok::<_, ScaleError>(figure(name)? / 1e9);
    let Fleet { agents, modules, hosts_per_module, .. } = *fleet;
    let hosts = modules * hosts_per_module;

    // All that an agent knows is asked about at once.
    let digests = agents / fleet.update_timeout;
    let digest = seconds("dns_digest_cpu")? + fleet.modules_per_agent * seconds("dns_digest_module_cpu")?;
    let subscribers = agents * fleet.modules_per_agent / modules;
    let pushes = fleet.changes * subscribers;
    let busy = digests * digest + pushes * seconds("dns_push_cpu")?;
    let for_work = busy / fleet.load;
    let for_pushes = agents * seconds("dns_push_time")? / fleet.push_within;
    let shards = for_work.max(for_pushes).max(1.0).ceil();
    let servers = shards.max(2.0);

    let route = FRAME_HEADER + ROUTE_IDS + ROUTE_HOST * hosts_per_module;
    let connections = agents / servers;
    let subscriptions = connections * fleet.modules_per_agent;
    let dns_memory = figure("dns_idle_memory")?
        // The table that is served and the one that is loaded, and the rows it is made from.
        + 2.0 * (modules * figure("dns_module_memory")? + hosts * figure("dns_host_memory")?) + 16.0 * hosts
        + connections * figure("dns_connection_memory")?
        + subscriptions * figure("dns_subscription_memory")?;

    let agent_hosts = fleet.modules_per_agent * hosts_per_module;
    let agent_memory = figure("agent_idle_memory")?
        + fleet.modules_per_agent * figure("agent_module_memory")?
        + agent_hosts * figure("agent_host_memory")?;
    let agent_cpu = figure("agent_idle_cpu")?
        + fleet.lookups * figure("agent_lookup_cpu")?
        + fleet.modules_per_agent * figure("agent_sweep_cpu")?;

    let rows = agents * fleet.hosts_called / fleet.report_interval;
    let keys = agents * fleet.hosts_called;
    // All agents of a server that ends go to others, and ask for everything they know.
    let asked_again = subscriptions * seconds("dns_query_cpu")? / (servers - 1.0);
    let count = |what, value| (what, Unit::Count, value);
    let bytes = |what, value| (what, Unit::Bytes, value);
    let time = |what, value| (what, Unit::Nanoseconds, value);
    Ok(vec![
        count("lars-dns: digests per second", digests),
        count("lars-dns: pushes per second", pushes),
        count("lars-dns: processors, busy as allowed", for_work),
        count("lars-dns: processors, to push in time", for_pushes),
        count("lars-dns: servers of one processor, two at least", servers),
        bytes("lars-dns: memory of each", dns_memory),
        bytes(
            "lars-dns: answers and pushes per second, each",
            (digests * (FRAME_HEADER + PACKET_HEADERS) + pushes * (route + PACKET_HEADERS)) / servers,
        ),
        bytes("lars-dns: a change that all agents hear", agents * (route + PACKET_HEADERS)),
        time("lars-dns: until all have asked again when one ends", asked_again * 1e9),
        count("MySQL: statements per second for polls", servers * POLL_STATEMENTS),
        count("MySQL: routes read per second", servers * hosts / fleet.full_reload_interval),
        bytes("MySQL: routes sent per second", servers * hosts * ROW / fleet.full_reload_interval),
        count("MySQL: rows of statistics per second", rows),
        count("MySQL: servers that take these", (rows / fleet.rows_per_second).ceil()),
        count("MySQL: rows of the table of statistics", keys),
        bytes("lars-reporter: memory while MySQL is away, all", keys * figure("reporter_key_memory")?),
        bytes("lars-agent: memory", agent_memory),
        time("lars-agent: processor time per second", agent_cpu),
    ])
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::{super::curve::Figure, *};

    /// Figures that are easy to compute with.
    fn measured() -> Report {
        let figures = [
            ("dns_query_cpu", 10_000.0),
            ("dns_digest_cpu", 4_000.0),
            ("dns_digest_module_cpu", 60.0),
            ("dns_push_cpu", 10_000.0),
            ("dns_push_time", 10_000.0),
            ("dns_idle_memory", 10e6),
            ("dns_module_memory", 16.0),
            ("dns_host_memory", 6.0),
            ("dns_connection_memory", 2_000.0),
            ("dns_subscription_memory", 70.0),
            ("reporter_key_memory", 100.0),
            ("agent_idle_memory", 6e6),
            ("agent_module_memory", 100.0),
            ("agent_host_memory", 100.0),
            ("agent_idle_cpu", 1e6),
            ("agent_lookup_cpu", 2_000.0),
            ("agent_sweep_cpu", 100.0),
        ];
        let figure = |(name, value)| Figure::new(name, Unit::Count, value, "");
        Report { curves: Vec::new(), figures: figures.map(figure).into() }
    }

    /// The default fleet with these flags.
    fn fleet(flags: &str) -> Fleet {
        let command = Fleet::augment_args(Command::new("plan").no_binary_name(true));
        Fleet::from_arg_matches(&command.get_matches_from(flags.split(' '))).expect("a fleet")
    }

    #[track_caller]
    fn check(fleet: &Fleet, what: &str, expected: f64) {
        let needs = needs(fleet, &measured()).expect("all figures are there");
        let (_, _, found) = needs.into_iter().find(|need| need.0 == what).expect(what);
        assert!((found - expected).abs() <= expected * 1e-9, "{what}: {found}, not {expected}");
    }

    #[test]
    fn a_fleet_by_hand() {
        let fleet = fleet("--agents 60000 --modules-per-agent 100 --modules 10000 --push-within 0.25");
        // 60,000 agents, each once a minute.
        check(&fleet, "lars-dns: digests per second", 1_000.0);
        // 600 subscribers of each module, one change per second.
        check(&fleet, "lars-dns: pushes per second", 600.0);
        // 1,000 × (4 µs + 100 × 60 ns) and 600 × 10 µs at half a processor each.
        check(&fleet, "lars-dns: processors, busy as allowed", 0.032);
        check(&fleet, "lars-dns: processors, to push in time", 2.4);
        check(&fleet, "lars-dns: servers of one processor, two at least", 3.0);
        let connections = 20_000.0 * 2_000.0 + 2_000_000.0 * 70.0;
        let tables = 2.0 * (10_000.0 * 16.0 + 100_000.0 * 6.0) + 16.0 * 100_000.0;
        check(&fleet, "lars-dns: memory of each", 10e6 + tables + connections);
        let answers = 1_000.0 * 60.0 + 600.0 * 176.0;
        check(&fleet, "lars-dns: answers and pushes per second, each", answers / 3.0);
        check(&fleet, "lars-dns: a change that all agents hear", 60_000.0 * 176.0);
        check(&fleet, "MySQL: statements per second for polls", 9.0);
        check(&fleet, "MySQL: routes read per second", 3.0 * 100_000.0 / 60.0);
        check(&fleet, "MySQL: rows of statistics per second", 100_000.0);
        check(&fleet, "MySQL: servers that take these", 1.0);
        check(&fleet, "lars-reporter: memory while MySQL is away, all", 6_000_000.0 * 100.0);
        check(&fleet, "lars-dns: until all have asked again when one ends", 2_000_000.0 * 10_000.0 / 2.0);
        check(&fleet, "lars-agent: memory", 6e6 + 100.0 * 100.0 + 1_000.0 * 100.0);
        check(&fleet, "lars-agent: processor time per second", 1e6 + 2e6 + 10_000.0);
    }

    #[test]
    fn a_small_fleet_has_two_servers_all_the_same() {
        let fleet = fleet("--agents 120 --lookups 0.1 --update-timeout 60");
        check(&fleet, "lars-dns: digests per second", 2.0);
        check(&fleet, "lars-dns: servers of one processor, two at least", 2.0);
    }

    #[test]
    fn a_figure_that_is_missing_is_named() {
        let error = needs(&fleet("--load 1"), &Report::default()).expect_err("nothing was measured");
        assert_eq!(error.to_string(), "the figure dns_digest_cpu has not been measured");
    }
}
