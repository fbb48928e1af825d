//! What lars-reporter gets to know, on real sockets.

mod support;

use std::{collections::BTreeSet, net::Ipv4Addr};

use lars_proto::ModuleId;
use lars_testkit::{eventually, reserved_addr};

use self::support::{Client, FakeReporter, HOUR_MS, Stage, config, start};

const ONE: ModuleId = ModuleId::new(1, 1);
/// On another shard than the links.
const FAR: ModuleId = ModuleId::new(-1, 0);

fn signed(ip: Ipv4Addr) -> i32 {
    ip.to_bits().cast_signed()
}

#[test]
fn counts_of_every_shard_arrive_with_caller_and_time() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = 20);
    let client = stage.client();
    let modules = [ONE, FAR, ModuleId::new(0, 0)];
    for module in modules {
        stage.serve(module, [1, 2]);
        client.report_all(&stage.agent, module, 1, 0, 3);
        client.report_all(&stage.agent, module, 1, -1, 2);
    }
    for module in modules {
        eventually("the counts arrive", || stage.reporter.last(module, 1) == Some((3, 2, false)));
        assert_eq!(stage.reporter.last(module, 2), None, "nothing is told of a host that was not called");
    }
    for message in stage.reporter.messages() {
        // The connection is by the loopback address, which every machine has.
        assert_eq!(message.caller, signed(support::machine_address().unwrap_or(Ipv4Addr::LOCALHOST)));
        assert!(message.ts > 1_700_000_000);
    }
    stage.agent.stop();
}

#[test]
fn the_configured_caller_is_used() {
    let caller = Ipv4Addr::new(203, 0, 113, 7);
    let stage = Stage::with(|raw| {
        raw.caller_ip = caller.to_string();
        raw.reporter.report_interval_ms = 20;
    });
    stage.serve(ONE, [1]);
    stage.client().report(ONE, 1, 0);
    eventually("a message arrives", || !stage.reporter.messages().is_empty());
    assert_eq!(stage.reporter.messages()[0].caller, signed(caller));
    stage.agent.stop();
}

#[test]
fn a_change_of_state_does_not_wait_for_the_interval() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = HOUR_MS);
    let client = stage.client();
    for module in [ONE, FAR] {
        stage.serve(module, [1]);
        client.report_all(&stage.agent, module, 1, -1, 15);
        eventually("the ejection is told", || stage.reporter.last(module, 1) == Some((0, 0, true)));
        client.report_all(&stage.agent, module, 1, 0, 6);
        eventually("the recovery is told", || stage.reporter.last(module, 1) == Some((0, 0, false)));
    }
    stage.agent.stop();
}

#[test]
fn one_message_per_interval_however_many_calls() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = HOUR_MS);
    stage.serve(ONE, [1]);
    let client = stage.client();
    (0..10).for_each(|_| client.report_all(&stage.agent, ONE, 1, 0, 20));
    assert_eq!(stage.reporter.messages(), []);
    stage.agent.stop();
    // The stop tells what waited for its interval.
    eventually("the last message arrives", || stage.reporter.last(ONE, 1) == Some((200, 0, false)));
    assert_eq!(stage.reporter.messages().len(), 1);
}

#[test]
fn a_stop_tells_what_every_shard_has_counted() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = HOUR_MS);
    let modules = [ONE, FAR, ModuleId::new(0, 0)];
    for module in modules {
        stage.serve(module, [1]);
        stage.client().report_all(&stage.agent, module, 1, 0, 1);
    }
    stage.agent.stop();
    for module in modules {
        eventually("the last counts arrive", || stage.reporter.last(module, 1) == Some((1, 0, false)));
    }
}

#[test]
fn five_thousand_hosts_come_in_portions() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = HOUR_MS);
    stage.serve(FAR, 1..=5_000);
    let client = stage.client();
    // In small batches, because nobody waits for a report and a full socket drops it.
    for port in (1..=5_000).step_by(50) {
        let before = stage.agent.stats().table.reports;
        (port..port + 50).for_each(|port| client.report(FAR, port, 0));
        eventually("the reports are counted", || stage.agent.stats().table.reports == before + 50);
    }
    stage.agent.stop();
    let told = || -> BTreeSet<i32> {
        let messages = stage.reporter.messages();
        messages.iter().flat_map(|message| &message.results).map(|result| result.port).collect()
    };
    eventually("every host is told", || told().len() == 5_000);
    let lens: Vec<usize> = stage.reporter.messages().iter().map(|message| message.results.len()).collect();
    assert_eq!(lens, [2_000, 2_000, 1_000]);
}

#[test]
fn a_reporter_that_was_away_gets_the_newest_state() {
    let stage = Stage::with(|raw| raw.reporter.report_interval_ms = 20);
    let client = stage.client();
    let modules = [ONE, FAR];
    for module in modules {
        stage.serve(module, [1, 2]);
        client.report_all(&stage.agent, module, 2, 0, 9);
        eventually("the counts arrive", || stage.reporter.last(module, 2) == Some((9, 0, false)));
    }
    let Stage { agent, dns: _dns, reporter } = stage;
    let addr = reporter.addr();
    drop(reporter);
    eventually("the link is lost", || agent.stats().reporter.is_up == 0);
    for module in modules {
        client.report_all(&agent, module, 1, -1, 15);
        client.report_all(&agent, module, 1, -1, 4);
    }
    let reporter = FakeReporter::start_at(addr);
    for module in modules {
        eventually("the newest state arrives", || reporter.last(module, 1) == Some((0, 4, true)));
        eventually("what may have been lost is told again", || {
            reporter.last(module, 2) == Some((9, 0, false))
        });
    }
    agent.stop();
}

#[test]
fn without_a_reporter_the_agent_works_and_stops() {
    let dns = support::FakeDns::start();
    dns.set_route(ONE, &support::hosts([1]));
    let agent = start(&config(dns.addr(), reserved_addr()));
    let client = Client::new(agent.local_addrs());
    eventually("the route is there", || client.pick(ONE) == Some(1));
    client.report_all(&agent, ONE, 1, -1, 15);
    assert_eq!(agent.stats().table.hosts_overloaded, 1);
    agent.stop();
}
