//! Any part may die at any time, in any order of start, and the whole heals by itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use lars_client::{GetHostError, Outcome};
use lars_proto::ModuleId;
use lars_testkit::eventually;

use crate::world::{Sql, World, client, host};

const MODULE: ModuleId = ModuleId::new(1, 1);

/// Calls `MODULE` from a thread while `incident` happens, and fails if a single lookup failed. Returns how
/// many calls were reported.
fn while_callers_run(world: &World, incident: impl FnOnce(&dyn Fn() -> u64)) -> u64 {
    let stop = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let host = world.client.get_host(MODULE)?;
                world.client.report(&host, Outcome::Success);
                calls.fetch_add(1, Ordering::Relaxed);
                // A bounded rate: the point is that calls never stop, not that the machine is busy.
                thread::yield_now();
            }
            Ok::<(), GetHostError>(())
        });
        incident(&|| calls.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        caller.join().expect("the caller does not panic").expect("no lookup of a known module fails");
    });
    calls.into_inner()
}

/// Waits until `more` further calls were made.
fn let_callers_make(calls: &dyn Fn() -> u64, more: u64) {
    let goal = calls() + more;
    eventually("callers make progress", || calls() >= goal);
}

#[test]
fn agent_starts_before_dns_and_reporter() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1)]);
    let _agent = world.start_agent();
    world.await_agent();
    let impatient = client(world.agent_port, Duration::from_millis(100));
    eventually("the agent says that it does not know the module", || {
        matches!(impatient.get_host(MODULE), Err(GetHostError::NotFound(_)))
    });
    // The first lookup of a patient caller waits for lars-dns.
    let (host, _dns) = thread::scope(|scope| {
        let lookup = scope.spawn(|| world.client.get_host(MODULE));
        let dns = world.start_dns(0);
        (lookup.join().expect("no panic").expect("a host"), dns)
    });
    world.client.report(&host, Outcome::Failure(1));
    let _reporter = world.start_reporter();
    eventually("the report from before the reporter is stored", || {
        world.stored(MODULE).iter().any(|row| row.err == 1)
    });
}

#[test]
fn dns_is_killed_and_restarted_while_callers_run() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1), host(0, 2)]);
    let mut services = world.start_all();
    world.await_route(MODULE, &[host(0, 1), host(0, 2)]);
    while_callers_run(&world, |calls| {
        for round in 3..6 {
            services[0].kill9();
            let_callers_make(calls, 100);
            world.add(MODULE, &[host(0, round)]);
            services[0].restart();
            let hosts: Vec<_> = (1..=round).map(|n| host(0, n)).collect();
            world.await_route(MODULE, &hosts);
        }
    });
}

#[test]
fn reporter_is_killed_and_restarted() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1)]);
    let mut services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    let call = || {
        let host = world.client.get_host(MODULE).expect("a host");
        world.client.report(&host, Outcome::Success);
    };
    call();
    eventually("the first call is stored", || world.stored(MODULE).iter().any(|row| row.succ == 1));
    services[1].kill9();
    call();
    services[1].restart();
    eventually("the second call is stored once the reporter is back", || {
        world.stored(MODULE).iter().any(|row| row.succ == 2)
    });
}

#[test]
fn agent_is_killed_and_restarted() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1)]);
    let mut services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    services[2].kill9();
    assert!(matches!(
        client(world.agent_port, Duration::from_millis(100)).get_host(MODULE),
        Err(GetHostError::AgentUnreachable { .. } | GetHostError::Timeout { .. })
    ));
    services[2].restart();
    world.await_route(MODULE, &[host(0, 1)]);
}

#[test]
fn an_agent_that_was_killed_answers_without_lars_dns() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1)]);
    let mut services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    eventually("the state is on disk", || world.state_dir().join("lars-agent.state").exists());
    services[0].kill9();
    services[2].kill9();
    services[2].restart();
    world.await_agent();
    let impatient = client(world.agent_port, Duration::from_secs(1));
    assert_eq!(impatient.get_host(MODULE).expect("an answer").addr, host(0, 1));
    services[0].restart();
    world.add(MODULE, &[host(0, 2)]);
    world.await_route(MODULE, &[host(0, 1), host(0, 2)]);
}

#[test]
fn mariadb_is_killed_and_restarted_under_both_services() {
    let mut world = World::new(Sql::MariaDb);
    world.add(MODULE, &[host(0, 1)]);
    let services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    let (mut server, database) = world.mariadb.take().expect("a MariaDB");

    let calls = while_callers_run(&world, |calls| {
        let_callers_make(calls, 50);
        server.kill9();
        let_callers_make(calls, 200);
        server.restart();
        let_callers_make(calls, 50);
    });
    world.mariadb = Some((server, database));
    eventually("every call is stored once the database is back", || {
        world.stored(MODULE).iter().any(|row| u64::from(row.succ) == calls)
    });
    world.add(MODULE, &[host(0, 2)]);
    world.await_route(MODULE, &[host(0, 1), host(0, 2)]);
    drop(services);
}

#[test]
fn any_order_of_start_and_kill_heals() {
    let world = World::new(Sql::Sqlite);
    let mut services = world.start_all();
    // A fixed schedule that has every part dead with every other: bits say who is killed.
    for (round, dead) in [0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111].into_iter().enumerate() {
        let killed: Vec<usize> = (0..3).filter(|i| dead >> i & 1 == 1).collect();
        killed.iter().for_each(|&i| services[i].kill9());
        world.add(MODULE, &[host(1, round as u8)]);
        killed.iter().rev().for_each(|&i| services[i].restart());
        let hosts: Vec<_> = (0..=round).map(|n| host(1, n as u8)).collect();
        world.await_route(MODULE, &hosts);
        let host = world.client.get_host(MODULE).expect("a host");
        world.client.report(&host, Outcome::Failure(1));
        eventually("the call is stored", || {
            world.stored(MODULE).iter().any(|row| row.key.host == host.addr && row.err >= 1)
        });
    }
}
