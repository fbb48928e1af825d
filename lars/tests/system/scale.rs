//! Ten thousand modules through the whole system.

use lars_proto::{HostAddr, ModuleId};
use lars_store::RouteEdit;

use crate::world::{Sql, World, host};

const MODULES: i32 = 10_000;

fn module(n: i32) -> ModuleId {
    ModuleId::new(n / 100, n % 100)
}

fn host_of(n: i32) -> HostAddr {
    host((n / 250) as u8, (n % 250) as u8)
}

#[test]
fn ten_thousand_modules() {
    let world = World::new(Sql::MariaDb);
    let edits: Vec<RouteEdit> = (0..MODULES).map(|n| RouteEdit::Add(module(n), host_of(n))).collect();
    world.store().edit(&edits).expect("the edit is made");
    let mut services = world.start_all();
    world.await_agent();

    // The first lookup of each makes the agent learn it, and waits for that.
    for n in 0..MODULES {
        assert_eq!(world.client.get_host(module(n)).expect("a host").addr, host_of(n));
    }

    // A new server: all ten thousand are subscribed again, so an edit of any of them arrives.
    services[0].kill9();
    services[0].restart();
    let added = host(200, 1);
    world.add(module(MODULES - 1), &[added]);
    world.await_route(module(MODULES - 1), &[host_of(MODULES - 1), added]);
    for n in (0..MODULES).step_by(997) {
        world.await_route(module(n), &[host_of(n)]);
    }
}
