//! The async client. What both clients share is tested with the blocking one.

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use lars_client::{
    AsyncClient, ClientConfig, ClientError, GetHostError, Host, ModuleId, Outcome, RegisterError,
};
use lars_proto::messages::GetHostResponse;
use lars_testkit::reserved_addr;
use tokio::task::JoinSet;

use crate::fake_agent::{FakeAgent, Request, config_for, datagram, host_of};

const MODULE: ModuleId = ModuleId::new(1, 1);
const PATIENCE: Duration = Duration::from_secs(60);

fn client(config: ClientConfig) -> AsyncClient {
    AsyncClient::with_config(config).expect("a client")
}

fn impatient(config: ClientConfig) -> AsyncClient {
    client(ClientConfig { timeout: Duration::from_millis(30), ..config })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_never_read_each_others_answers() {
    let agent = FakeAgent::start(3, |call| {
        let right = call.right_answer();
        call.reply(&datagram(&GetHostResponse { seq: right.seq.wrapping_sub(1), ..right }));
        call.reply(b"?");
        call.reply(&datagram(&right));
    });
    let client = client(agent.config());
    let mut tasks = JoinSet::new();
    for modid in 0..8 {
        let client = client.clone();
        tasks.spawn(async move {
            for cmdid in 0..500 {
                let module = ModuleId::new(modid, cmdid);
                assert_eq!(
                    client.get_host(module).await.expect("a host"),
                    Host::new(module, host_of(module))
                );
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn the_first_datagram_may_get_lost() {
    let agent = FakeAgent::start(1, |call| {
        if call.nth > 0 {
            call.reply(&datagram(&call.right_answer()));
        }
    });
    let config = ClientConfig { timeout: Duration::from_millis(30), retries: 1_000, ..agent.config() };
    assert_eq!(client(config).get_host(MODULE).await.expect("a host").addr, host_of(MODULE));
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let agent = FakeAgent::start(1, |_| {});
    let client = impatient(agent.config());
    let result = client.get_host(MODULE).await;
    assert!(matches!(result, Err(GetHostError::Timeout { .. })), "{result:?}");
    let route = client.get_route(MODULE).await;
    assert!(matches!(route, Err(ClientError::Timeout { .. })), "{route:?}");
}

#[tokio::test]
async fn an_absent_agent_is_unreachable() {
    let config = config_for(reserved_addr());
    let client = client(ClientConfig { timeout: Duration::from_millis(100), ..config });
    // A machine that has more to do may tell too late that the port is closed.
    let mut result = client.get_host(MODULE).await;
    while matches!(result, Err(GetHostError::Timeout { .. })) {
        result = client.get_host(MODULE).await;
    }
    assert!(matches!(result, Err(GetHostError::AgentUnreachable { .. })), "{result:?}");
    let mut result = client.register(MODULE).await;
    while matches!(result, Err(RegisterError::Client(ClientError::Timeout { .. }))) {
        result = client.register(MODULE).await;
    }
    assert!(matches!(result, Err(RegisterError::Client(ClientError::AgentUnreachable { .. }))), "{result:?}");
}

#[tokio::test]
async fn a_lookup_waits_for_an_agent_that_restarts() {
    let addr = reserved_addr();
    let client = client(config_for(addr));
    let lookup = tokio::spawn(async move { client.get_host(MODULE).await });
    // Lets the lookup find nobody there.
    tokio::task::yield_now().await;
    let _agent = FakeAgent::start_at(addr, |call| call.reply(&datagram(&call.right_answer())));
    assert_eq!(lookup.await.expect("no panic").expect("a host").addr, host_of(MODULE));
}

#[tokio::test]
async fn registers_and_reports() {
    let (reported, reports) = mpsc::channel();
    let reported = Mutex::new(reported);
    let agent = FakeAgent::start(1, move |call| match &call.request {
        Request::Report(report) => {
            reported.lock().expect("not poisoned").send(report.retcode).expect("the test listens");
        }
        Request::GetHost(_) => call.reply(&datagram(&call.right_answer())),
        Request::GetRoute(_) if call.nth == 0 => call.reply_route(&[]),
        Request::GetRoute(_) => call.reply_route(&[host_of(MODULE)]),
    });
    let client = client(agent.config());
    assert_eq!(client.register(MODULE).await.expect("hosts"), [host_of(MODULE)]);
    let host = client.get_host(MODULE).await.expect("a host");
    client.report(&host, Outcome::Failure(5));
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(5));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let agent = FakeAgent::start(1, |call| {
        // The first lookup is answered when it is long gone.
        if call.nth > 0 {
            call.reply(&datagram(&call.right_answer()));
        }
    });
    let client = client(agent.config());
    let dropped = tokio::time::timeout(Duration::from_millis(20), client.get_host(MODULE)).await;
    assert!(dropped.is_err());
    let other = ModuleId::new(2, 2);
    assert_eq!(client.get_host(other).await.expect("a host").addr, host_of(other));
}
