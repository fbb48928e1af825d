//! Memory that the cores ask for, counted to the byte by the allocator of `lars-bench-heap`: a program of its own,
//! so that nothing that is timed is counted.

use std::process::Command;

use super::{
    ScaleError, cores,
    curve::{Curve, Figure, Series, Spread, Unit::*},
    report::Report,
    service::beside,
};

const HOSTS: [usize; 7] = [1, 3, 10, 30, 100, 1_000, 4_000];

/// Hosts of all modules together, about.
const HOSTS_TOTAL: usize = 200_000;
const MODULES_MAX: usize = 20_000;

const KEYS: usize = 200_000;
const CONNECTIONS: usize = 1_000;
const SUBSCRIPTIONS_EACH: usize = 100;

/// Runs the program that counts.
pub fn measure() -> Result<Report, ScaleError> {
    let output = Command::new(beside("lars-bench-heap")?).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(ScaleError::Ended { name: "lars-bench-heap", said });
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Everything; `used` says how many bytes are allocated.
pub fn count(used: impl Fn() -> usize) -> Report {
    let (mut agent, mut dns) = (Series::new("agent"), Series::new("lars-dns"));
    for hosts in HOSTS {
        let modules = (HOSTS_TOTAL / hosts).min(MODULES_MAX);
        let of_a_module = |weight| Spread::exactly(weight / modules as f64);
        agent.add(hosts, of_a_module(weight(&used, || cores::table(modules, hosts))));
        dns.add(hosts, of_a_module(weight(&used, || cores::snapshot(modules, hosts))));
    }
    let subscriptions = weight(&used, || cores::subscriptions(CONNECTIONS, SUBSCRIPTIONS_EACH))
        / (CONNECTIONS * SUBSCRIPTIONS_EACH) as f64;
    let row = weight(&used, || cores::holding(KEYS)) / KEYS as f64;
    let [agent_host, dns_host] = [&agent, &dns].map(per_host);
    let figures = [
        (
            "agent_module_memory",
            at(&agent, 10) - 10.0 * agent_host,
            "a module of 10 hosts in an agent, without these",
        ),
        ("agent_host_memory", agent_host, "a further host of a module in an agent"),
        ("dns_host_memory", dns_host, "a further host of a module in lars-dns"),
        ("dns_module_memory", at(&dns, 1) - dns_host, "a module in lars-dns"),
        (
            "dns_subscription_heap",
            subscriptions,
            "a subscription in lars-dns, 1,000 connections with 100 each",
        ),
        ("reporter_key_memory", row, "a row that lars-reporter holds"),
    ];
    let figure = |(name, value, what)| Figure::new(name, Bytes, value, &format!("bytes allocated, {what}"));
    for series in [&mut agent, &mut dns] {
        series.points.iter_mut().for_each(|point| point.y = point.y.per(point.x));
    }
    let curve = Curve::new(
        "memory-per-host",
        "Memory per host",
        "bytes allocated by the core, its module's share included",
        ("hosts per module", Count),
        ("memory per host", Bytes),
        [agent, dns],
    );
    Report { curves: vec![curve], figures: figures.map(figure).into() }
}

/// Bytes that what `make` makes keeps allocated.
fn weight<T>(used: impl Fn() -> usize, make: impl FnOnce() -> T) -> f64 {
    let before = used();
    let made = make();
    let weight = used().saturating_sub(before);
    drop(made);
    weight as f64
}

fn at(series: &Series, hosts: usize) -> f64 {
    series.points.iter().find(|point| point.x == hosts as f64).map_or(0.0, |point| point.y.median)
}

/// What a module grows by, from 100 to 1,000 hosts.
fn per_host(series: &Series) -> f64 {
    (at(series, 1_000) - at(series, 100)) / 900.0
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_weight_is_what_is_left_when_it_is_made() {
        let used = Cell::new(100);
        assert_eq!(weight(|| used.get(), || used.set(130)), 30.0);
        assert_eq!(weight(|| used.get(), || used.set(50)), 0.0);
    }
}
