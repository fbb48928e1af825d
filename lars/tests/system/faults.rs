//! Faults by the number: any part killed at random under lookups, reports and edits; lars-dns and SQL away for long.
//!
//! Each test adds a row of `docs/RELIABILITY.md` to the file that `LARS_FAULTS_TABLE` names. How often and how long: a few
//! rounds here, more by `ci/faults`.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lars_client::Outcome;
use lars_proto::{HostAddr, ModuleId};
use lars_testkit::{eventually, run_seeds};

use crate::world::{Service, Sql, World, client, host};

const MODULES: i32 = 20;
const CALLERS: u64 = 2;

/// A number that `ci/faults` sets, or what is enough for every change.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn module(number: i32) -> ModuleId {
    ModuleId::new(900, number)
}

/// A row of the table: what was done, how often, what was promised, what was seen.
fn row(done: &str, times: &str, promised: &str, seen: &str) {
    let Ok(path) = env::var("LARS_FAULTS_TABLE") else { return };
    let mut table = File::options().append(true).create(true).open(path).expect("the table opens");
    writeln!(table, "| {done} | {times} | {promised} | {seen} |").expect("the table is written");
}

/// When the agent is up, as callers may judge it: even while it is, odd from before it is killed until it answers.
#[derive(Default)]
struct AgentEpoch(AtomicU64);

impl AgentEpoch {
    fn turn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What callers saw.
#[derive(Default)]
struct Seen {
    /// Lookups while the agent was up, and how many of them failed.
    lookups: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<String>,
    /// Lookups that met the agent's restart.
    in_window: AtomicU64,
    /// How long each answered lookup took.
    took: Mutex<Vec<Duration>>,
}

impl Seen {
    #[track_caller]
    fn assert_none_failed(&self) {
        let (failed, last) = (self.failed.load(Ordering::Relaxed), self.last_failure.lock());
        assert_eq!(failed, 0, "no lookup of a known module fails; the last one: {last:?}");
    }

    /// The lookup of which one in a hundred took longer.
    fn p99(&self) -> Duration {
        let mut took = self.took.lock().expect("no caller panics");
        took.sort_unstable();
        let at = took.len() * 99 / 100;
        *took.get(at).expect("lookups were made")
    }
}

/// Asks for all modules in turn and reports success, until `stop`.
fn call(agent_port: u16, epoch: &AgentEpoch, seen: &Seen, stop: &AtomicBool) {
    let client = client(agent_port, Duration::from_secs(1));
    for number in (0..MODULES).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (before, began) = (epoch.now(), Instant::now());
        let answer = client.get_host(module(number));
        let took = began.elapsed();
        if before % 2 == 1 || epoch.now() != before {
            seen.in_window.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        seen.lookups.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(host) => {
                client.report(&host, Outcome::Success);
                seen.took.lock().expect("no caller panics").push(took);
            }
            Err(error) => {
                seen.failed.fetch_add(1, Ordering::Relaxed);
                let failure = format!("{} after {took:?}: {error}", module(number));
                *seen.last_failure.lock().expect("no caller panics") = failure;
            }
        }
        // A bounded rate: the point is that calls never stop, not that the machine is busy.
        thread::yield_now();
    }
}

/// Runs `incident` while callers call.
fn while_called(agent_port: u16, epoch: &AgentEpoch, seen: &Seen, incident: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| call(agent_port, epoch, seen, &stop));
        }
        // Also if it panics, or the callers would never end.
        let ended = catch_unwind(AssertUnwindSafe(incident));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Waits until callers have made `more` lookups while the agent was up.
fn await_lookups(seen: &Seen, more: u64) {
    let made = || seen.lookups.load(Ordering::Relaxed);
    let goal = made() + more;
    while made() < goal {
        let next = goal.min(made() + 1_000);
        eventually("callers make progress", || made() >= next);
    }
}

/// Each module has the host that is its own.
fn add_modules(world: &World) {
    for number in 0..MODULES {
        world.add(module(number), &[own_host(number)]);
    }
    for number in 0..MODULES {
        world.await_route(module(number), &[own_host(number)]);
    }
}

fn own_host(number: i32) -> HostAddr {
    host(100, number as u8)
}

/// The parts of a system, by their number.
const DNS: usize = 0;
const REPORTER: usize = 1;
const AGENT: usize = 2;
const SQL: usize = 3;
const PARTS: [&str; 4] = ["lars-dns", "lars-reporter", "lars-agent", "MariaDB"];

struct Running {
    services: Vec<Service>,
    killed: [u64; 4],
    /// From each kill of the agent until it answered with a host again.
    windows: Vec<Duration>,
}

impl Running {
    fn kill(&mut self, world: &mut World, part: usize, epoch: &AgentEpoch) {
        self.killed[part] += 1;
        match part {
            SQL => world.mariadb.as_mut().expect("a MariaDB").0.kill9(),
            AGENT => {
                epoch.turn();
                self.services[AGENT].kill9();
            }
            _ => self.services[part].kill9(),
        }
    }
}

#[test]
fn whatever_is_killed_no_lookup_fails_no_edit_is_lost_and_statistics_converge() {
    run_seeds(Duration::ZERO, || fastrand::u64(..), kill_at_random);
}

fn kill_at_random(seed: u64, round: &mut usize) {
    let rounds = setting("LARS_FAULTS_ROUNDS", 8) as usize;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(Sql::MariaDb);
    let mut running = Running { services: world.start_all(), killed: [0; 4], windows: Vec::new() };
    add_modules(&world);
    eventually("the state is on disk", || world.state_dir().join("lars-agent.state").exists());
    let (epoch, seen) = (AgentEpoch::default(), Seen::default());
    let edited = module(MODULES);
    let mut hosts = Vec::new();
    while_called(world.agent_port, &epoch, &seen, || {
        while *round < rounds {
            kill_and_heal(&mut world, &mut running, &mut random, &epoch, &seen);
            // Acknowledged by SQL, so it has to reach the agent.
            hosts.push(host(200 + (*round / 250) as u8, (*round % 250) as u8));
            world.add(edited, &hosts[hosts.len() - 1..]);
            world.await_route(edited, &hosts);
            *round += 1;
        }
    });
    let stored = await_exact_statistics(&world, &mut running);
    let killed: Vec<_> =
        PARTS.iter().zip(running.killed).map(|(part, times)| format!("{part} {times}")).collect();
    running.windows.sort_unstable();
    let longest = running.windows.last().copied().unwrap_or_default();
    row(
        "kill -9 of parts in random order, under lookups, reports and edits",
        &format!("{rounds} rounds: {}", killed.join(", ")),
        "no lookup of a known module fails but while the agent itself restarts; every edit arrives; calls are stored",
        &format!(
            "{} lookups, {} failed; restarts of the agent met {} lookups and took {longest:.1?} at most; {} edits, all arrived; \
             {stored} calls after the last restart, all stored",
            seen.lookups.load(Ordering::Relaxed),
            seen.failed.load(Ordering::Relaxed),
            seen.in_window.load(Ordering::Relaxed),
            hosts.len(),
        ),
    );
    seen.assert_none_failed();
}

/// Kills one part or several, has callers call, and starts them again in another order.
fn kill_and_heal(
    world: &mut World,
    running: &mut Running,
    random: &mut fastrand::Rng,
    epoch: &AgentEpoch,
    seen: &Seen,
) {
    let mut parts: Vec<usize> = (0..PARTS.len()).filter(|_| random.bool()).collect();
    random.shuffle(&mut parts);
    for part in &parts {
        running.kill(world, *part, epoch);
    }
    let agent_killed = parts.contains(&AGENT).then(Instant::now);
    if agent_killed.is_none() {
        await_lookups(seen, 200);
    }
    random.shuffle(&mut parts);
    for part in parts {
        match part {
            SQL => world.mariadb.as_mut().expect("a MariaDB").0.restart(),
            _ => running.services[part].restart(),
        }
    }
    if let Some(killed_at) = agent_killed {
        // It knows from its disk what it needs, also where lars-dns was killed, too. A datagram to no agent is lost: ask
        // again soon.
        let impatient = client(world.agent_port, Duration::from_millis(100));
        for number in 0..MODULES {
            eventually("the restarted agent answers", || impatient.get_host(module(number)).is_ok());
        }
        running.windows.push(killed_at.elapsed());
        epoch.turn();
        await_lookups(seen, 200);
    }
}

/// With nobody calling any more: makes calls and waits until SQL says of each host exactly what was reported of it. The
/// agent starts with empty windows, as what it counted before went with its predecessor if that was killed. Returns how
/// many calls that were.
fn await_exact_statistics(world: &World, running: &mut Running) -> u64 {
    running.services[AGENT].terminate();
    running.services[AGENT].restart();
    world.await_agent();
    let client = client(world.agent_port, Duration::from_secs(20));
    let mut calls = BTreeMap::<HostAddr, u64>::new();
    for number in (0..MODULES).cycle().take(1_000) {
        let host = client.get_host(module(number)).expect("a host");
        client.report(&host, Outcome::Success);
        *calls.entry(host.addr).or_default() += 1;
    }
    eventually("SQL says of each host what was reported of it", || {
        let rows = (0..MODULES).flat_map(|number| world.stored(module(number)));
        calls == rows.map(|row| (row.key.host, u64::from(row.succ))).collect()
    });
    calls.into_values().sum()
}

#[test]
fn without_lars_dns_and_sql_every_known_module_is_answered() {
    let lookups = setting("LARS_FAULTS_LOOKUPS", 20_000);
    let mut world = World::new(Sql::MariaDb);
    let mut services = world.start_all();
    add_modules(&world);
    let epoch = AgentEpoch::default();
    let (before, without) = (Seen::default(), Seen::default());
    while_called(world.agent_port, &epoch, &before, || await_lookups(&before, lookups));
    services[DNS].kill9();
    services[REPORTER].kill9();
    world.mariadb.as_mut().expect("a MariaDB").0.kill9();
    while_called(world.agent_port, &epoch, &without, || await_lookups(&without, lookups));
    let failed = before.failed.load(Ordering::Relaxed) + without.failed.load(Ordering::Relaxed);
    row(
        "lars-dns, lars-reporter and SQL away",
        &format!("{lookups} lookups before, {} without them", without.lookups.load(Ordering::Relaxed)),
        "every known module is answered, as quickly as before",
        &format!("{failed} failed; p99 {:.1?} before, {:.1?} without", before.p99(), without.p99()),
    );
    before.assert_none_failed();
    without.assert_none_failed();
}
