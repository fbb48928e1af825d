//! A failing host leaves the rotation, is probed, and comes back.

use std::collections::HashMap;

use lars_client::{GetHostError, Host};
use lars_proto::{HostAddr, ModuleId};
use lars_testkit::eventually;

use crate::world::{Sql, World, host};

const MODULE: ModuleId = ModuleId::new(5, 6);

/// `calls` calls in which `failing` fail; how often each host was given.
fn call(world: &World, calls: usize, failing: &[HostAddr]) -> HashMap<HostAddr, usize> {
    let mut spread = HashMap::new();
    for _ in 0..calls {
        let result =
            |host: &Host| if failing.contains(&host.addr) { Err("as the test wants it") } else { Ok(()) };
        match world.client.call(MODULE, result) {
            Ok((host, _)) => *spread.entry(host.addr).or_default() += 1,
            Err(GetHostError::Overloaded(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    spread
}

#[test]
fn a_dead_host_is_ejected_probed_and_recovers() {
    let world = World::new(Sql::Sqlite);
    let (good, bad) = (host(0, 1), host(0, 2));
    world.add(MODULE, &[good, bad]);
    let _services = world.start_all();
    world.await_route(MODULE, &[good, bad]);

    // 15 failures in a row eject it; two hosts take turns.
    call(&world, 40, &[bad]);
    eventually("the ejection is stored", || {
        world.stored(MODULE).iter().any(|row| row.key.host == bad && row.overload)
    });
    // Of 11 lookups one is a probe, as long as both queues hold a host and nothing recovers.
    let spread = call(&world, 110, &[bad]);
    assert_eq!((spread[&bad], spread[&good]), (10, 100));

    // Healed: 15 successful probes in a row, or more than half good, bring it back.
    eventually("the host recovers", || {
        call(&world, 22, &[]);
        world.stored(MODULE).iter().any(|row| row.key.host == bad && !row.overload)
    });
    let spread = call(&world, 100, &[]);
    assert_eq!((spread[&bad], spread[&good]), (50, 50));
}

#[test]
fn a_module_that_is_wholly_overloaded_says_so() {
    let world = World::new(Sql::Sqlite);
    world.add(MODULE, &[host(0, 1)]);
    let _services = world.start_all();
    world.await_route(MODULE, &[host(0, 1)]);
    eventually("the only host is ejected", || {
        call(&world, 1, &[host(0, 1)]);
        matches!(world.client.get_host(MODULE), Err(GetHostError::Overloaded(_)))
    });
    let answers: Vec<bool> = (0..110)
        .map(|_| match world.client.get_host(MODULE) {
            Ok(_) => true,
            Err(GetHostError::Overloaded(_)) => false,
            Err(error) => panic!("{error}"),
        })
        .collect();
    assert_eq!(answers.iter().filter(|probe| **probe).count(), 10, "one in eleven is a probe");
}
