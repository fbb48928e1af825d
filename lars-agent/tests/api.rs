//! What clients see of the agent, on real sockets.

mod support;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use lars_agent::{Agent, StartError};
use lars_proto::{
    ModuleId,
    messages::{GetHostRequest, GetHostResponse, MessageId, RetCode},
};
use lars_testkit::{eventually, reserved_addr};

use self::support::{Client, Stage, bytes, config, framed, host, start};

const ONE: ModuleId = ModuleId::new(1, 1);

/// Sends `request` to `shard` and expects exactly `reply`; both as in the specification, section 3.
#[track_caller]
fn check(client: &Client, shard: usize, request: &str, reply: &str) {
    client.send_to_shard(shard, &bytes(request));
    assert_eq!(client.receive_from_shard(shard), bytes(reply));
}

#[test]
fn bytes_of_the_deployed_programs() {
    let stage = Stage::start();
    stage.serve(ONE, [7777]);
    let client = stage.client();
    let route = "08000000 0f000000 08011001 1a0908818080f80710e13c";
    check(&client, 2, "07000000 04000000 08011001", route);
    let found = "05000000 0f000000 10011801 2a0908818080f80710e13c";
    check(&client, 2, "04000000 04000000 10011801", found);
    check(&client, 0, "04000000 04000000 10091809", "05000000 06000000 10091809 2003");
    // Module 0/0 with sequence number 0 is an empty body.
    check(&client, 0, "04000000 00000000", "05000000 02000000 2003");
    stage.agent.stop();
}

#[test]
fn any_socket_answers_for_any_module() {
    let stage = Stage::start();
    let client = stage.client();
    let modules = [
        ONE,
        ModuleId::new(9, 9),
        ModuleId::new(-1, 0),
        ModuleId::new(i32::MAX, i32::MAX),
        ModuleId::new(i32::MIN, i32::MIN),
        ModuleId::new(i32::MAX, i32::MIN),
    ];
    for (n, module) in modules.into_iter().enumerate() {
        let port = 1_000 + n as u16;
        stage.serve(module, [port]);
        for shard in 0..3 {
            let response = client.get_host_by(shard, u32::MAX, module);
            assert_eq!(response.retcode, RetCode::Succ as i32, "{module} by shard {shard}");
            assert_eq!(response.host, Some(host(port).to_wire()));
        }
    }
    let stats = stage.agent.stats();
    assert_eq!((stats.api.misrouted, stats.api.misrouted_dropped), (12, 0));
    assert_eq!(stats.table.lookups_ok, 18);
    assert_eq!(stats.table.modules, 6, "a module lives on one shard");
    stage.agent.stop();
}

#[test]
fn garbage_costs_nothing() {
    let stage = Stage::start();
    stage.serve(ONE, [7777]);
    let client = stage.client();
    let before = stage.agent.stats();
    let good = framed(MessageId::GetHostRequest, &GetHostRequest { seq: 1, modid: 1, cmdid: 1, wait_ms: 0 });
    let garbage: [&[u8]; 10] = [
        b"",
        b"x",
        &good[..good.len() - 1],
        &[&good[..], b"x"].concat(),
        &bytes("04000000 ffffffff"),
        &bytes("04000000 f8ff0000"),
        &bytes("04000000 02000000 ffff"),
        &bytes("63000000 00000000"),
        &framed(MessageId::GetHostResponse, &GetHostResponse::default()),
        &bytes("06000000 04000000 08011001"),
    ];
    for datagram in garbage {
        client.send_to_shard(2, datagram);
    }
    // The first reply is the one to the first good datagram.
    assert_eq!(client.get_host(ONE).host, Some(host(7777).to_wire()));
    let after = stage.agent.stats();
    assert_eq!(after.api.malformed_frames, before.api.malformed_frames + 6);
    assert_eq!(after.api.malformed_bodies, before.api.malformed_bodies + 1);
    assert_eq!(after.api.unexpected_messages, before.api.unexpected_messages + 2);
    assert_eq!(after.api.invalid_hosts, before.api.invalid_hosts + 1);
    assert_eq!(
        (after.table.lookups_ok, after.table.modules),
        (before.table.lookups_ok + 1, before.table.modules)
    );
    stage.agent.stop();
}

#[test]
fn everything_counted_has_a_name() {
    let stage = Stage::start();
    stage.serve(ONE, [7777]);
    assert_eq!(stage.client().pick(ONE), Some(7777));
    let samples: Vec<_> = stage.agent.stats().samples().collect();
    let value = |section: &str, name: &str| {
        let found = samples.iter().filter(|(of, sample)| (*of, sample.name) == (section, name));
        found.map(|(_, sample)| sample.value).next().expect("it is counted")
    };
    assert_eq!(value("table", "lookups_ok"), 1);
    assert!(value("udp", "received") > 1 && value("udp", "replied") > 1);
    assert_eq!((value("dns_tcp", "opened"), value("reporter_tcp", "opened")), (1, 1));
    assert!(value("dns_tcp", "bytes_in") > 0 && value("pool", "bytes_held") > 0);
    let names: BTreeSet<_> = samples.iter().map(|(section, sample)| (section, sample.name)).collect();
    assert_eq!(names.len(), samples.len(), "no two are called alike");
    stage.agent.stop();
}

#[test]
fn a_second_copy_on_the_same_ports_is_refused() {
    let mut raw = config(reserved_addr(), reserved_addr());
    let first = start(&raw);
    let taken = first.local_addrs();
    raw.api.base_port = taken[0].port();
    let second = || Agent::start(raw.validate().expect("valid"));
    let Err(error) = second() else { panic!("the second started as well") };
    assert!(matches!(error, StartError::Listen(_)), "{error:?}");
    assert!(error.to_string().contains(&taken[0].to_string()), "{error}");
    first.stop();
    eventually("the ports are free again", || second().map(Agent::stop).is_ok());
}

#[test]
fn ports_follow_one_another() {
    let mut raw = config(reserved_addr(), reserved_addr());
    raw.api.shards = 5;
    let agent = start(&raw);
    let ports: Vec<u16> = agent.local_addrs().iter().map(|addr| addr.port()).collect();
    assert_eq!(ports, (ports[0]..ports[0] + 5).collect::<Vec<_>>());
    agent.stop();
}

#[test]
fn an_unhealthy_host_is_ejected_probed_and_taken_back() {
    let stage = Stage::start();
    stage.serve(ONE, [1, 2]);
    let client = stage.client();
    client.report_all(&stage.agent, ONE, 2, -1, 14);
    assert_eq!(stage.agent.stats().table.hosts_overloaded, 0);
    client.report_all(&stage.agent, ONE, 2, -1, 1);
    assert_eq!((stage.agent.stats().table.hosts_overloaded, stage.agent.stats().table.ejections), (1, 1));

    let picks: Vec<u16> = (0..110).map(|_| client.pick(ONE).expect("a host")).collect();
    for (n, picks) in picks.chunks(11).enumerate() {
        assert_eq!(picks.iter().filter(|&&port| port == 2).count(), 1, "probes in round {n}");
    }
    assert_eq!(stage.agent.stats().table.probes, 10);

    client.report_all(&stage.agent, ONE, 2, 0, 5);
    assert_eq!(stage.agent.stats().table.hosts_overloaded, 1);
    client.report_all(&stage.agent, ONE, 2, 0, 1);
    assert_eq!((stage.agent.stats().table.hosts_overloaded, stage.agent.stats().table.recoveries), (0, 1));
    assert_ne!(client.pick(ONE), client.pick(ONE), "both hosts take turns again");
    stage.agent.stop();
}

#[test]
fn a_module_of_unhealthy_hosts_is_refused_and_recovers_by_time() {
    let stage = Stage::with(|raw| raw.balance.overload_timeout_ms = 300);
    stage.serve(ONE, [1]);
    let client = stage.client();
    let overload = RetCode::Overload as i32;
    eventually("lookups are refused", || {
        (0..15).for_each(|_| client.report(ONE, 1, 7));
        client.get_host(ONE).retcode == overload
    });
    // Nobody reports and nobody looks it up: the sweep takes it back.
    eventually("the host comes back", || stage.agent.stats().table.hosts_idle == 1);
    assert_eq!(client.pick(ONE), Some(1));
    stage.agent.stop();
}

#[test]
fn a_large_route_fits_a_datagram() {
    let stage = Stage::start();
    stage.serve(ONE, 1..=4_096);
    let mut route = stage.client().get_route(ONE);
    route.sort_unstable();
    assert_eq!(route, support::hosts(1..=4_096));
    stage.agent.stop();
}

#[test]
fn lookups_of_modules_that_nobody_serves_do_not_lock_out_others() {
    let stage = Stage::with(|raw| raw.api.modules_max = 30);
    let client = stage.client();
    (0..300).for_each(|n| assert_eq!(client.pick(ModuleId::new(n, 99)), None));
    stage.dns.set_route(ONE, &support::hosts([7]));
    eventually("a module that was not known yet is served", || client.pick(ONE) == Some(7));
    stage.agent.stop();
}

#[test]
fn routes_are_told_to_this_machine_only_unless_they_are_for_anyone() {
    let Some(outside) = support::machine_address() else {
        eprintln!("this machine has the loopback address only: there is nobody else to ask");
        return;
    };
    for routes_to_anyone in [false, true] {
        let stage = Stage::with(|raw| {
            raw.api.listen_ip = "0.0.0.0".to_owned();
            raw.api.routes_to_anyone = routes_to_anyone;
        });
        let loopback: Vec<SocketAddr> = (stage.agent.local_addrs().iter())
            .map(|addr| SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())))
            .collect();
        stage.dns.set_route(ONE, &support::hosts([7]));
        let near = Client::new(loopback.clone());
        eventually("a program on this machine is told", || near.get_route(ONE) == support::hosts([7]));
        let far_addrs = loopback.iter().map(|addr| SocketAddr::from((outside, addr.port()))).collect();
        let far = Client::at(SocketAddr::from((outside, 0)), far_addrs);
        assert_eq!(far.pick(ONE), Some(7), "lookups of a host are answered to anybody");
        if routes_to_anyone {
            assert_eq!(far.get_route(ONE), support::hosts([7]));
        } else {
            far.ask_route(ONE);
            eventually("the lookup is refused", || stage.agent.stats().api.routes_refused == 1);
        }
        stage.agent.stop();
    }
}

#[test]
fn a_shard_that_spins_answers_too() {
    let stage = Stage::with(|raw| raw.api.spin_us = 50);
    stage.serve(ONE, [1]);
    assert_eq!(stage.client().pick(ONE), Some(1));
    stage.agent.stop();
}
