//! A change of the route table reaches every agent, however it was made.

use std::time::{SystemTime, UNIX_EPOCH};

use lars_client::GetHostError;
use lars_proto::ModuleId;

use crate::world::{Sql, World, host, insert_route};

const MODULE: ModuleId = ModuleId::new(1, 1);

/// The main job: a route, lookups, reports, statistics, and a change on the way.
fn whole_system(sql: Sql) {
    let world = World::new(sql);
    world.add(MODULE, &[host(0, 1), host(0, 2)]);
    let mut services = world.start_all();
    // One question, which waits until the agent runs, has connected and learned the route.
    let mut hosts = world.client.register(MODULE).expect("hosts");
    hosts.sort_unstable();
    assert_eq!(hosts, [host(0, 1), host(0, 2)]);

    for _ in 0..20 {
        let host = world.client.get_host(MODULE).expect("a host");
        world.client.report(&host, lars_client::Outcome::Success);
    }
    lars_testkit::eventually("20 calls are stored", || {
        let rows = world.stored(MODULE);
        rows.iter().map(|row| row.succ).sum::<u32>() == 20 && rows.len() == 2
    });
    let row = &world.stored(MODULE)[0];
    assert_eq!(row.key.caller.to_string(), "10.9.8.7");
    assert!(!row.overload);
    assert_eq!(row.err, 0);

    world.lars(&["route", "rm", "1", "1", "10.0.0.1:8000"]);
    world.lars(&["route", "add", "1", "1", "10.0.0.3:8000"]);
    world.await_route(MODULE, &[host(0, 2), host(0, 3)]);

    for service in &mut services {
        assert_eq!(service.terminate(), Some(0), "a service told to stop drains and exits 0");
    }
}

#[test]
fn whole_system_on_sqlite() {
    whole_system(Sql::Sqlite);
}

#[test]
fn whole_system_on_mariadb() {
    whole_system(Sql::MariaDb);
}

/// Two edits in one second, the way the original's operators make them: both with the same version.
fn same_second_edits(sql: Sql) {
    let world = World::new(sql);
    world.add(MODULE, &[host(0, 1)]);
    let _services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);

    let second = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 5;
    let edit = |host| {
        world.raw_sql(&format!(
            "{} UPDATE RouteVersion SET version = {second} WHERE id = 1; \
             INSERT INTO RouteChange(modid, cmdid, version) VALUES (1, 1, {second});",
            insert_route(MODULE, host)
        ));
    };
    edit(host(0, 2));
    world.await_route(MODULE, &[host(0, 1), host(0, 2)]);
    edit(host(0, 3));
    world.await_route(MODULE, &[host(0, 1), host(0, 2), host(0, 3)]);
}

#[test]
fn same_second_edits_on_sqlite() {
    same_second_edits(Sql::Sqlite);
}

#[test]
fn same_second_edits_on_mariadb() {
    same_second_edits(Sql::MariaDb);
}

#[test]
fn rows_inserted_without_any_route_change() {
    let world = World::new(Sql::MariaDb);
    world.add(MODULE, &[host(0, 1)]);
    let _services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    world.raw_sql(&insert_route(MODULE, host(0, 2)));
    world.await_route(MODULE, &[host(0, 1), host(0, 2)]);
    world.raw_sql("DELETE FROM RouteData;");
    // That all are gone and nobody said so is taken for a mistake, until somebody says so.
    world.accept_routes();
    world.await_route(MODULE, &[]);
}

#[test]
fn an_unknown_module_that_appears_later_reaches_a_waiting_client() {
    let world = World::new(Sql::Sqlite);
    // With an update_timeout of an hour the agent does not ask lars-dns again by itself.
    let _dns = world.start_dns(0);
    let _agent = world.start_agent_with(&[("balance-update-timeout-ms", "3600000")]);
    world.await_agent();
    assert!(matches!(world.client.get_host(MODULE), Err(GetHostError::NotFound(_))));
    world.add(MODULE, &[host(0, 1)]);
    world.await_route(MODULE, &[host(0, 1)]);
    assert_eq!(world.client.get_host(MODULE).expect("a host").addr, host(0, 1));
}

#[test]
fn two_dns_servers_on_one_database_miss_nothing() {
    let world = World::with_dns_servers(Sql::MariaDb, 2);
    world.add(MODULE, &[host(0, 1)]);
    let mut services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);

    // Edits by the tool and by hand, while the agent's server changes under it.
    for n in 2..=9 {
        match n % 3 {
            0 => world.raw_sql(&insert_route(MODULE, host(0, n))),
            1 => world.raw_sql("DELETE FROM RouteChange;"),
            _ => {
                world.lars(&["route", "add", "1", "1", &host(0, n).to_string()]);
            }
        }
        match n {
            4 => services[0].kill9(),
            6 => services[0].restart(),
            7 => services[1].kill9(),
            _ => {}
        }
        let hosts: Vec<_> = (1..=n).filter(|n| n % 3 != 1 || *n == 1).map(|n| host(0, n)).collect();
        world.await_route(MODULE, &hosts);
    }
}
