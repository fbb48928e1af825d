//! Lookups that wait for a module that the agent has not learned yet, on real sockets.

mod support;

use lars_proto::{
    ModuleId,
    messages::{GetHostResponse, MessageId, RetCode},
};
use lars_testkit::{eventually, reserved_addr};

use self::support::{Client, FakeDns, Stage, config, hosts, start, unframed};

/// On shard 2 of 3.
const ONE: ModuleId = ModuleId::new(1, 1);
/// No test takes so long.
const LONG_MS: u32 = 60_000;

#[track_caller]
fn receive(client: &Client, shard: usize) -> GetHostResponse {
    unframed(MessageId::GetHostResponse, &client.receive_from_shard(shard))
}

#[test]
fn the_first_lookup_of_a_module_finds_a_host_whichever_socket_it_comes_in_by() {
    let stage = Stage::start();
    for (n, shard) in [2, 0, 1].into_iter().enumerate() {
        let module = ModuleId::new(1, 1 + 3 * n as i32);
        stage.dns.set_route(module, &hosts([7]));
        let client = stage.client();
        client.ask_host_by(shard, 9, module, LONG_MS);
        let response = receive(&client, shard);
        assert_eq!((response.seq, response.retcode), (9, RetCode::Succ as i32), "by shard {shard}");
        assert_eq!(response.host, Some(support::host(7).to_wire()));
    }
    let stats = stage.agent.stats();
    assert_eq!((stats.api.waits, stats.table.lookups_ok, stats.table.lookups_noexist), (3, 3, 0));
    stage.agent.stop();
}

#[test]
fn a_lookup_waits_for_a_lars_dns_that_is_away() {
    let dns_addr = reserved_addr();
    let agent = start(&config(dns_addr, reserved_addr()));
    let client = Client::new(agent.local_addrs());
    client.ask_host_by(2, 9, ONE, LONG_MS);
    eventually("it waits", || agent.stats().api.waiting == 1);
    // Somebody who does not wait is not kept.
    assert_eq!(Client::new(agent.local_addrs()).pick(ONE), None);
    let _dns = FakeDns::serving(dns_addr, [(ONE, hosts([7]))].into());
    assert_eq!(receive(&client, 2).host, Some(support::host(7).to_wire()));
    agent.stop();
}

#[test]
fn the_wait_ends_without_a_route() {
    let agent = start(&config(reserved_addr(), reserved_addr()));
    let client = Client::new(agent.local_addrs());
    client.ask_host_by(2, 9, ONE, 20);
    assert_eq!(receive(&client, 2).retcode, RetCode::Noexist as i32);
    assert_eq!((agent.stats().api.waits, agent.stats().api.waits_expired), (1, 1));
    agent.stop();
}

#[test]
fn a_module_that_nobody_serves_is_answered_at_once() {
    let stage = Stage::start();
    let client = stage.client();
    for seq in 0..2 {
        client.ask_host_by(2, seq, ONE, LONG_MS);
        assert_eq!(receive(&client, 2).retcode, RetCode::Noexist as i32);
    }
    assert_eq!((stage.agent.stats().api.waits, stage.agent.stats().api.waits_expired), (1, 0));
    stage.agent.stop();
}

#[test]
fn who_waits_when_the_agent_stops_is_answered() {
    let agent = start(&config(reserved_addr(), reserved_addr()));
    let client = Client::new(agent.local_addrs());
    client.ask_host_by(2, 9, ONE, LONG_MS);
    eventually("it waits", || agent.stats().api.waiting == 1);
    agent.stop();
    assert_eq!(receive(&client, 2).retcode, RetCode::Noexist as i32);
}
