//! The link to lars-dns, on real sockets: where routes come from, and what happens when it is away.

mod support;

use lars_proto::{
    HostAddr, ModuleId,
    messages::{GetRouteResponse, HostInfo, MessageId, RetCode},
};
use lars_testkit::{Fault, Proxy, eventually, reserved_addr};

use self::support::{Client, FakeDns, FakeReporter, Stage, config, framed, hosts, start};

const ONE: ModuleId = ModuleId::new(1, 1);
const MODULES: [ModuleId; 4] = [ONE, ModuleId::new(-5, 1), ModuleId::new(0, 0), ModuleId::new(i32::MAX, 7)];

#[test]
fn an_agent_that_starts_first_waits_for_the_others() {
    let (dns_addr, reporter_addr) = (reserved_addr(), reserved_addr());
    let agent = start(&config(dns_addr, reporter_addr));
    let client = Client::new(agent.local_addrs());
    assert_eq!(client.get_host(ONE).retcode, RetCode::Noexist as i32);

    let dns = FakeDns::start_at(dns_addr);
    dns.set_route(ONE, &hosts([1]));
    eventually("the route that was wanted before arrives", || client.get_route(ONE) == hosts([1]));
    client.report(ONE, 1, 0);
    let reporter = FakeReporter::start_at(reporter_addr);
    eventually("the call that was counted before is told", || reporter.last(ONE, 1).is_some());
    agent.stop();
}

#[test]
fn an_unknown_module_is_asked_for_once_and_an_empty_one_not_again() {
    let stage = Stage::start();
    let client = stage.client();
    for module in MODULES {
        assert_eq!(client.get_host(module).retcode, RetCode::Noexist as i32);
    }
    eventually("all modules are answered", || stage.agent.stats().dns.routes == 4);
    for module in MODULES.repeat(10) {
        assert_eq!(client.get_host(module).retcode, RetCode::Noexist as i32);
    }
    let mut queries = stage.dns.queries();
    queries.sort_unstable();
    let mut expected = MODULES;
    expected.sort_unstable();
    assert_eq!(queries, expected);
    stage.agent.stop();
}

#[test]
fn a_lookup_after_the_update_timeout_asks_again() {
    let stage = Stage::with(|raw| raw.balance.update_timeout_ms = 100);
    stage.dns.set_route(ONE, &hosts([1]));
    let client = stage.client();
    eventually("the module is asked for again and again", || {
        client.get_host(ONE);
        stage.dns.queries().len() >= 3
    });
    stage.agent.stop();
}

#[test]
fn pushes_add_and_remove_hosts() {
    let stage = Stage::start();
    let client = stage.client();
    for module in MODULES {
        stage.serve(module, [1, 2]);
        stage.serve(module, [2, 3, 4]);
        let picks: Vec<Option<u16>> = (0..6).map(|_| client.pick(module)).collect();
        assert_eq!(picks, [2, 3, 4, 2, 3, 4].map(Some), "{module}: the host that left is not picked");
        let unknown = stage.agent.stats().table.reports_unknown;
        client.report(module, 1, -1);
        eventually("a report on the host that left is ignored", || {
            stage.agent.stats().table.reports_unknown == unknown + 1
        });
        stage.serve(module, []);
        assert_eq!(client.get_host(module).retcode, RetCode::Noexist as i32);
    }
    assert_eq!(stage.dns.accepted(), 1);
    stage.agent.stop();
}

#[test]
fn a_restart_of_dns_is_not_noticed_by_callers() {
    let Stage { agent, dns, reporter: _reporter } = {
        let stage = Stage::start();
        MODULES.iter().for_each(|&module| stage.serve(module, [1, 2]));
        stage
    };
    let client = Client::new(agent.local_addrs());
    let all_answer = || MODULES.iter().all(|&module| client.pick(module).is_some());
    let addr = dns.addr();
    drop(dns);
    eventually("the link is lost", || {
        assert!(all_answer());
        agent.stats().dns.is_up == 0
    });
    let dns = FakeDns::start_at(addr);
    MODULES.iter().for_each(|&module| dns.set_route(module, &hosts([3])));
    eventually("every known module is asked for again", || {
        assert!(all_answer());
        let queries = dns.queries();
        MODULES.iter().all(|module| queries.contains(module))
    });
    eventually("the new routes arrive", || MODULES.iter().all(|&m| client.get_route(m) == hosts([3])));
    assert_eq!(dns.queries().len(), MODULES.len(), "once each");
    agent.stop();
}

#[test]
fn the_next_server_takes_over() {
    let (first, second) = (FakeDns::start(), FakeDns::start());
    first.set_route(ONE, &hosts([1]));
    second.set_route(ONE, &hosts([2]));
    let mut raw = config(first.addr(), reserved_addr());
    raw.dns.servers.push(second.addr().to_string());
    let agent = start(&raw);
    let client = Client::new(agent.local_addrs());
    eventually("the first server answers", || client.get_route(ONE) == hosts([1]));
    drop(first);
    eventually("the second server answers", || client.get_route(ONE) == hosts([2]));
    agent.stop();
}

#[test]
fn no_route_is_lost_when_they_come_faster_than_they_are_taken() {
    const PUSHES: u64 = 20_000;
    let stage = Stage::start();
    // Another shard than the one with the link owns it.
    let far = ModuleId::new(-1, 0);
    stage.serve(far, [1]);
    let before = stage.agent.stats().dns.routes;
    let push = |ports: &[u16]| GetRouteResponse {
        modid: far.modid,
        cmdid: far.cmdid,
        host: ports.iter().map(|&port| support::host(port).to_wire()).collect(),
        hosts_total: 0,
        ..Default::default()
    };
    let mut burst = framed(MessageId::GetRouteResponse, &push(&[1, 2])).repeat(PUSHES as usize - 1);
    burst.extend(framed(MessageId::GetRouteResponse, &push(&[3])));
    stage.dns.push_bytes(&burst);
    eventually("the last route is in force", || stage.client().get_route(far) == hosts([3]));
    assert_eq!(stage.agent.stats().dns.routes, before + PUSHES);
    stage.agent.stop();
}

#[test]
fn a_server_that_hangs_is_given_up() {
    let dns = FakeDns::start();
    dns.set_route(ONE, &hosts([1]));
    let proxy = Proxy::start(dns.addr());
    let mut raw = config(proxy.addr(), reserved_addr());
    raw.balance.update_timeout_ms = 20;
    raw.dns.answer_timeout_ms = 200;
    let agent = start(&raw);
    let client = Client::new(agent.local_addrs());
    eventually("the route is there", || client.pick(ONE) == Some(1));
    let before = dns.accepted();
    proxy.set(Fault::Blackhole);
    eventually("the agent connects again, and callers do not notice", || {
        assert_eq!(client.pick(ONE), Some(1));
        dns.accepted() > before
    });
    agent.stop();
}

#[test]
fn hosts_that_cannot_be_are_skipped_and_routes_that_were_cut_are_used() {
    let stage = Stage::start();
    stage.serve(ONE, [1]);
    let wire = |addr: HostAddr| addr.to_wire();
    let route = GetRouteResponse {
        modid: 1,
        cmdid: 1,
        host: [2, 3]
            .map(|port| wire(support::host(port)))
            .into_iter()
            .chain([bad(0), bad(65_536), bad(-1)])
            .collect(),
        hosts_total: 9_000,
        ..Default::default()
    };
    stage.dns.push_bytes(&framed(MessageId::GetRouteResponse, &route));
    eventually("the route is used", || stage.client().get_route(ONE) == hosts([2, 3]));
    let stats = stage.agent.stats();
    assert_eq!((stats.dns.invalid_hosts, stats.dns.routes_truncated), (3, 1));
    stage.agent.stop();
}

fn bad(port: i32) -> HostInfo {
    HostInfo { ip: 0x7f00_0001, port }
}

#[test]
fn a_route_that_nobody_asked_for_is_ignored() {
    let stage = Stage::start();
    let stranger = ModuleId::new(4, 5);
    stage.dns.set_route(stranger, &hosts([1]));
    stage.dns.push(stranger);
    eventually("the push arrives", || stage.agent.stats().dns.routes_unwanted == 1);
    assert_eq!(stage.agent.stats().table.modules, 0);
    stage.agent.stop();
}

#[test]
fn lars_dns_is_told_what_was_forgotten_and_the_deployed_server_is_not() {
    let forgotten = ModuleId::new(9, 9);
    // One module per shard, so that the next one takes the place of the first.
    let stage = Stage::with(|raw| raw.api.modules_max = 3);
    let client = stage.client();
    client.get_host(forgotten);
    eventually("it is asked for", || stage.dns.queries() == [forgotten]);
    client.get_host(ModuleId::new(9, 12));
    stage.dns.announce();
    eventually("it is told of nothing", || {
        stage.dns.queries().len() == 2 && stage.dns.forgotten().is_empty()
    });
    let Stage { agent, dns, reporter: _reporter } = stage;
    let addr = dns.addr();
    drop(dns);
    eventually("the link is lost", || agent.stats().dns.is_up == 0);

    let dns = FakeDns::start_at(addr);
    dns.announce();
    eventually("the module that is left is asked for", || dns.queries() == [ModuleId::new(9, 12)]);
    eventually("and answered", || agent.stats().dns.routes == 3);
    client.get_host(forgotten);
    eventually("the other one is forgotten", || dns.forgotten() == [ModuleId::new(9, 12)]);
    eventually("and the new one asked for", || dns.queries().len() == 2);
    assert_eq!(dns.peer_versions(), [1, 0], "the first query of a connection announces the agent");
    agent.stop();
}

/// With so short an update timeout that lookups would ask for every module again and again.
#[test]
fn a_server_with_digests_is_asked_for_what_differs_and_nothing_else() {
    let stage = Stage::with(|raw| raw.balance.update_timeout_ms = 50);
    let client = stage.client();
    stage.dns.announce();
    MODULES.iter().for_each(|&module| stage.dns.set_route(module, &hosts([1, 2])));
    let all_have = |ports: [u16; 2]| MODULES.iter().all(|&m| client.get_route(m) == hosts(ports));
    eventually("all modules are known", || all_have([1, 2]));
    let digests = || stage.agent.stats().dns.digests;
    let next_digests = || {
        let before = digests();
        eventually("two more digests", || all_have([1, 2]) && digests() >= before + 2);
    };
    next_digests();
    let asked = stage.dns.queries();
    next_digests();
    assert_eq!(stage.dns.queries(), asked, "lookups ask for nothing");

    stage.dns.set_route(ONE, &hosts([3]));
    eventually("a push that was lost is made good", || client.get_route(ONE) == hosts([3]));
    assert_eq!(stage.dns.queries(), [&asked[..], &[ONE]].concat(), "and nothing else was asked for");
    let (lost, unwanted) = (MODULES[1], ModuleId::new(77, 7));
    stage.dns.confuse(lost);
    stage.dns.confuse(unwanted);
    let mut expected = MODULES;
    expected.sort_unstable();
    eventually("subscriptions are what they should be", || stage.dns.subscribed() == expected);
    assert_eq!(stage.dns.queries(), [&asked[..], &[ONE, lost]].concat());
    assert_eq!(stage.dns.forgotten(), [unwanted]);
    let stats = stage.agent.stats().dns;
    assert_eq!((stats.digest_modules, stats.digest_unwanted), (2, 1));
    stage.agent.stop();
}

#[test]
fn a_deployed_server_is_asked_as_ever_and_gets_no_digest() {
    let stage = Stage::with(|raw| raw.balance.update_timeout_ms = 50);
    let client = stage.client();
    stage.dns.set_route(ONE, &hosts([1]));
    eventually("it is asked again and again", || {
        client.pick(ONE);
        stage.dns.queries().len() >= 5
    });
    assert_eq!(stage.agent.stats().dns.digests, 0);
    stage.agent.stop();
}

#[test]
fn a_link_that_talks_nonsense_is_made_anew() {
    let stage = Stage::start();
    stage.serve(ONE, [1]);
    let response = framed(MessageId::GetHostResponse, &GetRouteResponse::default());
    for (n, nonsense) in
        [&b"\x02\0\0\0\xff\xff\xff\xff"[..], b"\x02\0\0\0\x01\0\0\0\xff", &response].iter().enumerate()
    {
        stage.dns.push_bytes(nonsense);
        eventually("the agent connects again", || stage.dns.accepted() == n + 2);
        assert_eq!(stage.client().pick(ONE), Some(1));
    }
    stage.agent.stop();
}

#[test]
fn many_modules_are_asked_for_again_after_a_reconnect() {
    let stage = Stage::start();
    let client = stage.client();
    let modules: Vec<ModuleId> = (0..300).map(|n| ModuleId::new(n, 1_000)).collect();
    modules.iter().for_each(|&module| stage.dns.set_route(module, &hosts([1])));
    for &module in &modules {
        eventually("the module is known", || client.pick(module).is_some());
    }
    let Stage { agent, dns, reporter: _reporter } = stage;
    let addr = dns.addr();
    drop(dns);
    eventually("the link is lost", || agent.stats().dns.is_up == 0);
    let dns = FakeDns::start_at(addr);
    modules.iter().for_each(|&module| dns.set_route(module, &hosts([1, 2])));
    eventually("all modules have their new routes", || {
        modules.iter().all(|&module| client.get_route(module).len() == 2)
    });
    agent.stop();
}

#[test]
fn an_empty_route_is_believed_when_it_is_meant_or_stays() {
    let stage = Stage::with(|raw| raw.dns.empty_hold_ms = support::HOUR_MS);
    let other = ModuleId::new(1, 4);
    stage.serve(ONE, [1]);
    stage.serve(other, [1]);
    stage.dns.set_route(ONE, &[]);
    stage.dns.push(ONE);
    let before = stage.dns.queries().len();
    eventually("it is asked for again, though nobody looks it up", || stage.dns.queries().len() > before);
    assert_eq!(stage.client().pick(ONE), Some(1));
    let stats = stage.agent.stats().table;
    assert_eq!((stats.doubts, stats.in_doubt), (1, 1));
    stage.dns.set_route(ONE, &hosts([2]));
    eventually("the hosts that come again are used", || stage.client().pick(ONE) == Some(2));
    assert_eq!(stage.agent.stats().table.doubts_dispelled, 1);

    let meant = GetRouteResponse { modid: 1, cmdid: 4, confirmed: true, ..Default::default() };
    stage.dns.push_bytes(&framed(MessageId::GetRouteResponse, &meant));
    eventually("what is meant is in force", || stage.client().pick(other).is_none());
    stage.agent.stop();

    let stage = Stage::with(|raw| raw.dns.empty_hold_ms = 1);
    stage.serve(ONE, [1]);
    stage.dns.set_route(ONE, &[]);
    stage.dns.push(ONE);
    eventually("so is what stays", || stage.client().pick(ONE).is_none());
    stage.agent.stop();
}
