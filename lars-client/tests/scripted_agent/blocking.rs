//! The blocking client.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use lars_client::{
    Client, ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, ProtocolError,
    RegisterError,
};
use lars_proto::{
    messages::{GetHostRequest, GetHostResponse, HostInfo, ReportRequest},
    route::Extensions,
};
use lars_testkit::{eventually_some, reserved_addr};

use crate::fake_agent::{FakeAgent, Request, config_for, datagram, host_of};

const MODULE: ModuleId = ModuleId::new(1, 1);
const PATIENCE: Duration = Duration::from_secs(60);

fn client(config: ClientConfig) -> Client {
    Client::with_config(config).expect("a client")
}

/// Short enough for tests in which no answer is to come.
fn impatient(config: ClientConfig) -> Client {
    client(ClientConfig { timeout: Duration::from_millis(30), ..config })
}

/// What a lookup of [`MODULE`] yields when the agent sends this.
fn get_host_answered(
    answer: impl Fn(GetHostResponse) -> GetHostResponse + Send + Sync + 'static,
) -> Result<Host, GetHostError> {
    let agent = FakeAgent::start(1, move |call| call.reply(&datagram(&answer(call.right_answer()))));
    client(agent.config()).get_host(MODULE)
}

/// A lookup finds the right host although the agent first sends `noise` made from the right answer.
#[track_caller]
fn check_skipped(noise: impl Fn(GetHostResponse) -> Vec<u8> + Send + Sync + 'static) {
    let agent = FakeAgent::start(1, move |call| {
        call.reply(&noise(call.right_answer()));
        call.reply(&datagram(&call.right_answer()));
    });
    let client = client(agent.config());
    for _ in 0..3 {
        assert_eq!(client.get_host(MODULE).expect("a host").addr, host_of(MODULE));
    }
}

fn wrong_host() -> Option<HostInfo> {
    Some(HostInfo { ip: 1, port: 1 })
}

#[test]
fn a_late_reply_to_an_earlier_lookup_is_skipped() {
    check_skipped(|right| {
        datagram(&GetHostResponse { seq: right.seq.wrapping_sub(1), host: wrong_host(), ..right })
    });
}

#[test]
fn a_reply_for_another_module_is_skipped() {
    check_skipped(|right| datagram(&GetHostResponse { cmdid: 2, host: wrong_host(), ..right }));
}

#[test]
fn malformed_replies_are_skipped() {
    check_skipped(|_| b"?".to_vec());
    check_skipped(|_| Vec::new());
    check_skipped(|_| vec![0xff; 60_000]);
    check_skipped(|right| {
        let mut cut_off = datagram(&right);
        cut_off.pop();
        cut_off
    });
}

#[test]
fn a_reply_from_nowhere_is_skipped() {
    let agent = FakeAgent::start(1, |call| {
        call.reply_from_nowhere(&datagram(&GetHostResponse { host: wrong_host(), ..call.right_answer() }));
        call.reply(&datagram(&call.right_answer()));
    });
    assert_eq!(client(agent.config()).get_host(MODULE).expect("a host").addr, host_of(MODULE));
}

#[test]
fn foreign_replies_do_not_prolong_a_lookup() {
    let agent = FakeAgent::start(1, |call| {
        for _ in 0..100 {
            call.reply(&datagram(&GetHostResponse { cmdid: 2, ..call.right_answer() }));
        }
    });
    let result = impatient(agent.config()).get_host(MODULE);
    assert!(matches!(result, Err(GetHostError::Timeout { .. })), "{result:?}");
}

#[test]
fn the_agents_answers_become_results() {
    let overloaded = get_host_answered(|right| GetHostResponse { retcode: 1, host: None, ..right });
    assert!(matches!(overloaded, Err(GetHostError::Overloaded(MODULE))), "{overloaded:?}");
    let unknown = get_host_answered(|right| GetHostResponse { retcode: 3, host: None, ..right });
    assert!(matches!(unknown, Err(GetHostError::NotFound(MODULE))), "{unknown:?}");
    for (broken, problem) in [
        (get_host_answered(|right| GetHostResponse { retcode: 2, ..right }), ProtocolError::RetCode(2)),
        (get_host_answered(|right| GetHostResponse { host: None, ..right }), ProtocolError::HostMissing),
    ] {
        assert!(
            matches!(broken, Err(GetHostError::Protocol { module: MODULE, source }) if source == problem)
        );
    }
}

#[test]
fn the_first_datagram_may_get_lost() {
    let (asked, requests) = mpsc::channel();
    let asked = Mutex::new(asked);
    let agent = FakeAgent::start(1, move |call| {
        asked.lock().expect("not poisoned").send(call.request.clone()).expect("the test listens");
        if call.nth > 0 {
            call.reply(&datagram(&call.right_answer()));
        }
    });
    let config = ClientConfig { timeout: Duration::from_millis(30), retries: 1_000, ..agent.config() };
    assert_eq!(client(config).get_host(MODULE).expect("a host").addr, host_of(MODULE));
    // The same question again: a late answer to the first datagram is as good as one to the second.
    let next = || match requests.recv_timeout(PATIENCE) {
        Ok(Request::GetHost(asked)) => asked,
        other => panic!("{other:?} is no lookup"),
    };
    let (first, second) = (next(), next());
    assert_eq!(GetHostRequest { wait_ms: second.wait_ms, ..first }, second);
    assert!(second.wait_ms < first.wait_ms, "the agent is told what is left");
}

#[test]
fn silence_is_a_timeout() {
    let agent = FakeAgent::start(1, |_| {});
    let client = impatient(agent.config());
    let result = client.get_host(MODULE);
    let Err(error @ GetHostError::Timeout { waited, .. }) = result else { panic!("{result:?}") };
    assert_eq!(waited, Duration::from_millis(60));
    assert!(error.to_string().ends_with("did not answer within 60ms"), "{error}");

    let route = client.get_route(MODULE);
    assert!(matches!(route, Err(ClientError::Timeout { .. })), "{route:?}");
}

#[test]
fn an_absent_agent_is_unreachable() {
    let agent = reserved_addr();
    let client = impatient(config_for(agent));
    for _ in 0..3 {
        let error = refusal(&client);
        assert!(
            error.to_string().starts_with(&format!("the agent at {agent} cannot be reached: ")),
            "{error}"
        );
    }
    eventually_some("the route is refused", || match client.get_route(MODULE) {
        Err(ClientError::AgentUnreachable { .. }) => Some(()),
        Err(ClientError::Timeout { .. }) => None,
        other => panic!("{other:?}"),
    });
}

/// The error of a lookup at a closed port. A machine that has more to do may tell too late that it is closed.
fn refusal(client: &Client) -> GetHostError {
    eventually_some("the lookup is refused", || match client.get_host(MODULE) {
        Err(error @ GetHostError::AgentUnreachable { .. }) => Some(error),
        Err(GetHostError::Timeout { .. }) => None,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_lookup_waits_for_an_agent_that_restarts() {
    let addr = reserved_addr();
    let client = client(config_for(addr));
    let lookup = thread::spawn(move || client.get_host(MODULE));
    let _agent = FakeAgent::start_at(addr, |call| call.reply(&datagram(&call.right_answer())));
    assert_eq!(lookup.join().expect("no panic").expect("a host").addr, host_of(MODULE));
}

#[test]
fn a_client_recovers_with_its_agent() {
    let addr = reserved_addr();
    let client = impatient(config_for(addr));
    let host = Host::new(MODULE, host_of(MODULE));
    client.report(&host, Outcome::Success);
    refusal(&client);

    let (reported, reports) = mpsc::channel();
    let reported = Mutex::new(reported);
    let _agent = FakeAgent::start_at(addr, move |call| match call.request {
        Request::Report(_) => reported.lock().expect("not poisoned").send(()).expect("the test listens"),
        Request::GetHost(_) => call.reply(&datagram(&call.right_answer())),
        Request::GetRoute(_) => call.reply_route(&[]),
    });
    // The refusal of the first report does not cost the second one.
    client.report(&host, Outcome::Success);
    reports.recv_timeout(PATIENCE).expect("the report");
    let found = (0..1_000).find_map(|_| client.get_host(MODULE).ok());
    assert_eq!(found.expect("a host").addr, host_of(MODULE));
}

#[test]
fn threads_never_read_each_others_answers() {
    let agent = FakeAgent::start(3, |call| {
        let right = call.right_answer();
        call.reply(&datagram(&GetHostResponse { modid: right.modid + 1, ..right }));
        call.reply(&datagram(&right));
    });
    let client = client(agent.config());
    thread::scope(|scope| {
        for modid in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                for cmdid in 0..1_000 {
                    let module = ModuleId::new(modid, cmdid);
                    assert_eq!(client.get_host(module).expect("a host"), Host::new(module, host_of(module)));
                }
            });
        }
    });
}

#[test]
fn each_module_is_asked_for_at_its_own_shard() {
    for shards in [1, 3, 5] {
        let agent = FakeAgent::start(shards, move |call| {
            let shard = call.shard as u16;
            call.reply(&datagram(&GetHostResponse {
                host: Some(HostInfo { ip: 1, port: 1 + i32::from(shard) }),
                ..call.right_answer()
            }));
        });
        let client = client(agent.config());
        for (modid, cmdid) in [(0, 0), (1, 1), (-1, 0), (-7, 3), (i32::MIN, i32::MIN), (i32::MAX, i32::MAX)] {
            let sum = i64::from(modid) + i64::from(cmdid);
            let host = client.get_host(ModuleId::new(modid, cmdid)).expect("a host");
            assert_eq!(i64::from(host.addr.port()), 1 + sum.rem_euclid(i64::from(shards)), "{modid}/{cmdid}");
        }
    }
}

#[test]
fn a_report_reaches_the_agent_as_it_was_made() {
    let (reported, reports) = mpsc::channel();
    let reported = Mutex::new(reported);
    let agent = FakeAgent::start(3, move |call| {
        reported
            .lock()
            .expect("not poisoned")
            .send((call.shard, call.request.clone()))
            .expect("the test listens");
    });
    let client = client(agent.config());
    let host = Host::new(MODULE, host_of(MODULE));
    for (outcome, retcode) in [(Outcome::Success, 0), (Outcome::Failure(7), 7), (Outcome::Failure(0), -1)] {
        client.report(&host, outcome);
        let report = ReportRequest { modid: 1, cmdid: 1, host: Some(host.addr.to_wire()), retcode };
        assert_eq!(reports.recv_timeout(PATIENCE), Ok((2, Request::Report(report))));
    }
    assert_eq!(client.reports_dropped(), 0);
}

#[test]
fn a_route_is_what_the_agent_knows() {
    let hosts: Vec<HostAddr> = (0..3_800).map(|n| host_of(ModuleId::new(0, n))).collect();
    let known = hosts.clone();
    let agent = FakeAgent::start(1, move |call| {
        let is_known = matches!(call.request, Request::GetRoute(asked) if asked.module() == MODULE);
        call.reply_route(if is_known { &known } else { &[] });
    });
    let client = client(agent.config());
    assert_eq!(client.get_route(MODULE).expect("a route"), hosts);
    assert_eq!(client.get_route(ModuleId::new(9, 9)).expect("a route"), []);
}

/// So what arrives late for an earlier question has nowhere to arrive.
#[test]
fn every_route_is_asked_for_from_a_new_port() {
    let (asked, callers) = mpsc::channel::<SocketAddr>();
    let asked = Mutex::new(asked);
    let agent = FakeAgent::start(1, move |call| {
        asked.lock().expect("not poisoned").send(call.from).expect("the test listens");
        match call.request {
            Request::GetHost(_) => call.reply(&datagram(&call.right_answer())),
            Request::GetRoute(_) | Request::Report(_) => call.reply_route(&[]),
        }
    });
    let client = client(agent.config());
    let mut ports = Vec::new();
    let mut taken = Vec::new();
    client.get_host(MODULE).expect("a host");
    for _ in 0..3 {
        let port = callers.recv_timeout(PATIENCE).expect("a question").port();
        assert!(!ports.contains(&port), "{port} again, after {ports:?}");
        ports.push(port);
        // The kernel is free to hand out a closed port again, but not a taken one.
        taken.push(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        client.get_route(MODULE).expect("a route");
    }
}

/// An agent that waits answers once, with what it has by then.
#[test]
fn registering_is_one_question() {
    const CONFIRMS: Extensions = Extensions { announces: false, confirms: true };
    let agent = FakeAgent::start(1, |call| {
        assert_eq!(call.nth, 0, "one question is enough");
        assert!(call.wait_ms() > 0);
        call.reply_route_with(&[host_of(MODULE)], CONFIRMS);
    });
    assert_eq!(client(agent.config()).register(MODULE).expect("hosts"), [host_of(MODULE)]);

    let agent = FakeAgent::start(1, |call| {
        assert_eq!(call.nth, 0, "one question is enough");
        call.reply_route_with(&[], CONFIRMS);
    });
    let result = client(agent.config()).register(MODULE);
    assert!(matches!(result, Err(RegisterError::NotFound(MODULE))), "{result:?}");
}

#[test]
fn an_agent_of_the_original_is_asked_again_for_the_first_hosts() {
    let agent = FakeAgent::start(1, |call| {
        let hosts = [host_of(MODULE)];
        call.reply_route(if call.nth < 2 { &[] } else { &hosts });
    });
    assert_eq!(client(agent.config()).register(MODULE).expect("hosts"), [host_of(MODULE)]);
}

#[test]
fn registering_ends_when_there_are_no_hosts() {
    let agent = FakeAgent::start(1, |call| {
        assert!(call.nth < 3, "three questions are enough");
        call.reply_route(&[]);
    });
    let result = client(agent.config()).register(MODULE);
    assert!(matches!(result, Err(RegisterError::NotFound(MODULE))), "{result:?}");

    let client = impatient(config_for(reserved_addr()));
    eventually_some("registering is refused", || match client.register(MODULE) {
        Err(RegisterError::Client(ClientError::AgentUnreachable { .. })) => Some(()),
        Err(RegisterError::Client(ClientError::Timeout { .. })) => None,
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_client_can_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Client>();
}
