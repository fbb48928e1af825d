//! Questions and answers.

use std::net::Ipv4Addr;

use lars_dns::Dns;
use lars_proto::{HostAddr, ModuleId};
use lars_store::RouteEdit;
use lars_testkit::eventually;

use crate::{
    database::{Database, Sqlite, config, host, module, start, without_full_reload},
    peer::{Peer, request},
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Byte by byte what a C++ server answers (`proto/tests/golden.rs` tells where that is from).
#[test]
fn answers_as_the_deployed_servers_do() {
    let database = Sqlite::new();
    database.add(ModuleId::new(1, 1), HostAddr::v4(Ipv4Addr::LOCALHOST, 7777));
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    let mut check = |request: &str, response: &str| {
        peer.send(&bytes(request));
        let response = bytes(response);
        assert_eq!(peer.read_exact(response.len()), response, "{request}");
    };
    check("01000000 04000000 08011001", "02000000 0f000000 08011001 1a0908818080f80710e13c");
    check("01000000 04000000 08091009", "02000000 04000000 08091009");
    check("01000000 00000000", "02000000 00000000");
    dns.stop();
}

#[test]
fn counts_what_there_is() {
    let database = Sqlite::new();
    database.edit(&[
        RouteEdit::Add(module(1), host(1)),
        RouteEdit::Add(module(1), host(2)),
        RouteEdit::Add(ModuleId::new(-1, i32::MIN), host(3)),
    ]);
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);
    assert_eq!(peer.query(ModuleId::new(-1, i32::MIN)), [host(3)]);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);

    let stats = dns.stats();
    assert_eq!((stats.modules, stats.hosts), (2, 3));
    assert_eq!((stats.connections, stats.subscriptions, stats.queries), (1, 2, 3));
    assert_eq!((stats.store_errors, stats.truncated_routes, stats.rows_skipped), (0, 0, 0));
    assert!(stats.version > 0 && stats.full_reloads >= 1);
    dns.stop();
}

/// Every number has a name, also those of the runtime.
#[test]
fn lists_what_is_counted() {
    let dns = start(config(Sqlite::new().url()));
    Peer::connect(&dns).query(module(1));
    eventually("its connection has ended", || dns.runtime_stats().0.closed == 1);
    let samples = dns.samples();
    let value = |part, name| {
        let sample = samples.iter().find(|(of, sample)| (*of, sample.name) == (part, name));
        sample.map(|(_, sample)| sample.value)
    };
    assert_eq!((value("dns", "queries"), value("tcp", "frames")), (Some(1), Some(1)));
    assert!(value("pool", "bytes_in_use").is_some());
    dns.stop();
}

/// An agent that says which extensions it knows is told ours, once, in a frame that a deployed agent never gets.
#[test]
fn an_agent_that_announces_itself_is_answered_and_may_forget() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let dns = start(without_full_reload(database.url()));
    let mut deployed = Peer::connect(&dns);
    let mut agent = Peer::connect(&dns);
    let answers = [0, 1, 1].map(|peer_version| agent.query_as(module(1), peer_version).peer_version);
    assert_eq!(answers, [0, 1, 0]);
    assert_eq!(agent.query(module(2)), []);
    assert_eq!(deployed.query_as(module(1), 0).peer_version, 0);

    agent.forget(module(1));
    agent.forget(module(9));
    assert_eq!(agent.query(module(3)), [], "which comes behind what was forgotten");
    assert_eq!((dns.stats().subscriptions, dns.stats().subscriptions_forgotten), (3, 1));
    database.add(module(1), host(2));
    assert_eq!(deployed.next_route(), (module(1), vec![host(1), host(2)]));
    database.add(module(2), host(1));
    assert_eq!(agent.next_route(), (module(2), vec![host(1)]), "and nothing of the other");
    dns.stop();
}

#[test]
fn an_empty_route_is_said_to_be_meant_to_whoever_understands_that() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let dns = start(without_full_reload(database.url()));
    let (mut agent, mut deployed) = (Peer::connect(&dns), Peer::connect(&dns));
    assert!(agent.query_as(module(2), 1).confirmed, "also in the first answer");
    assert!(!agent.query_as(module(1), 0).confirmed, "a route with hosts says nothing of it");
    assert!(agent.query_as(module(3), 0).confirmed);
    assert!(!deployed.query_as(module(2), 0).confirmed);
    assert_eq!(deployed.query(module(1)), [host(1)]);
    database.edit(&[RouteEdit::RemoveModule(module(1))]);
    for (peer, confirmed) in [(&mut agent, true), (&mut deployed, false)] {
        let push = peer.next_response();
        assert_eq!((push.module(), push.host.len(), push.confirmed), (module(1), 0, confirmed));
    }
    dns.stop();
}

#[test]
fn random_lookups_do_not_keep_modules_from_being_pushed() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let mut config = without_full_reload(database.url());
    (config.shards, config.subscriptions_max) = (1, 10);
    let dns = start(config);
    let (mut attacker, mut agent) = (Peer::connect(&dns), Peer::connect(&dns));
    for cmdid in 100..150 {
        assert_eq!(attacker.query(module(cmdid)), []);
    }
    assert_eq!(agent.query(module(1)), [host(1)]);
    let stats = dns.stats();
    assert_eq!((stats.subscriptions, stats.subscriptions_evicted), (10, 41));
    database.add(module(1), host(2));
    assert_eq!(agent.next_route(), (module(1), vec![host(1), host(2)]));
    dns.stop();
}

#[test]
fn a_closed_connection_leaves_nothing() {
    let dns = start(config(Sqlite::new().url()));
    let mut peers: Vec<_> = (0..10).map(|_| Peer::connect(&dns)).collect();
    for peer in &mut peers {
        (0..100).for_each(|cmdid| peer.ask(module(cmdid)));
        (0..100).for_each(|_| drop(peer.next_route()));
    }
    assert_eq!((dns.stats().connections, dns.stats().subscriptions), (10, 1_000));
    drop(peers);
    eventually("all is forgotten", || (dns.stats().connections, dns.stats().subscriptions) == (0, 0));
    dns.stop();
}

#[test]
fn a_malformed_frame_closes_its_connection_and_no_other() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut bystander = Peer::connect(&dns);
    assert_eq!(bystander.query(module(1)), [host(1)]);
    for malformed in [
        "01000000 ffffffff",          // a negative length
        "01000000 00000080",          // the most negative length
        "01000000 f8ff0000",          // one byte more than a frame may have
        "01000000 01000000 08",       // a message that ends too early
        "01000000 02000000 0a01",     // a field of another type
        "00000000 00000000",          // an id that nobody has
        "02000000 04000000 08011001", // a response
        "ffffffff 00000000",          // a negative id
    ] {
        let mut peer = Peer::connect(&dns);
        peer.send(&bytes(malformed));
        peer.expect_closed();
        assert_eq!(bystander.query(module(1)), [host(1)], "after {malformed}");
    }
    eventually("only the bystander is left", || dns.stats().connections == 1);
    dns.stop();
}

#[test]
fn requests_in_pieces_and_in_bulk_are_answered_in_order() {
    let dns = start(config(Sqlite::new().url()));
    let mut peer = Peer::connect(&dns);
    let modules: Vec<_> = (0..500).map(module).collect();
    let requests: Vec<u8> = modules.iter().flat_map(|&module| request(module)).collect();
    for piece in requests[..100].chunks(1).chain([&requests[100..]]) {
        peer.send(piece);
    }
    for module in modules {
        assert_eq!(peer.next_route(), (module, vec![]));
    }
    dns.stop();
}

#[test]
fn ten_thousand_modules() {
    const MODULES: i32 = 10_000;
    let database = Sqlite::new();
    let additions: Vec<_> = (0..MODULES).map(|cmdid| RouteEdit::Add(module(cmdid), host(1))).collect();
    database.edit(&additions);
    let dns = start(without_full_reload(database.url()));
    assert_eq!((dns.stats().modules, dns.stats().hosts), (MODULES as u64, MODULES as u64));

    let mut peer = Peer::connect(&dns);
    for cmdid in 0..MODULES {
        assert_eq!(peer.query(module(cmdid)), [host(1)]);
    }
    database.add(module(77), host(2));
    assert_eq!(peer.next_route(), (module(77), vec![host(1), host(2)]));

    // So many that they are not read one by one.
    let changes: Vec<_> =
        (0..MODULES).step_by(2).map(|cmdid| RouteEdit::RemoveModule(module(cmdid))).collect();
    database.edit(&changes);
    for cmdid in (0..MODULES).step_by(2) {
        assert_eq!(peer.next_route(), (module(cmdid), vec![]));
    }
    assert_eq!(dns.stats().modules, MODULES as u64 / 2);
    dns.stop();
}

#[test]
fn a_second_service_on_the_address_is_refused() {
    let database = Sqlite::new();
    let first = start(config(database.url()));
    let mut second = config(database.url());
    second.server.listen = first.local_addr();
    let error = Dns::start(second).expect_err("the address is taken").to_string();
    assert!(error.contains(&first.local_addr().to_string()), "{error}");
    first.stop();
}
