//! A client that a child inherits by a fork.

use std::sync::{Arc, Mutex};

use lars_client::{Client, ModuleId, Outcome};
use lars_testkit::{eventually, holds_in_a_child};

use crate::fake_agent::{FakeAgent, Request, datagram, host_of};

const MODULE: ModuleId = ModuleId::new(1, 1);

#[test]
fn a_child_goes_on_with_sockets_of_its_own() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let agent = FakeAgent::start(1, {
        let requests = Arc::clone(&requests);
        move |call| {
            requests.lock().expect("not poisoned").push((call.from, call.request.clone()));
            if matches!(call.request, Request::GetHost(_)) {
                call.reply(&datagram(&call.right_answer()));
            }
        }
    });
    let client = Client::with_config(agent.config()).expect("a client");
    let asks = || client.get_host(MODULE).is_ok_and(|host| host.addr == host_of(MODULE));
    let asks_and_reports = || {
        let host = client.get_host(MODULE);
        host.inspect(|host| client.report(host, Outcome::Success))
            .is_ok_and(|host| host.addr == host_of(MODULE))
    };
    assert!(asks_and_reports());
    assert!(holds_in_a_child(|| asks_and_reports() && asks()), "the child");
    assert!(asks(), "the parent, afterwards");

    let lookup_ports =
        || ports(&requests.lock().expect("not poisoned"), |r| matches!(r, Request::GetHost(_)));
    let report_ports = || ports(&requests.lock().expect("not poisoned"), |r| matches!(r, Request::Report(_)));
    eventually("both reports have come", || report_ports().len() == 2);
    let [parent, child, child_again, parent_again] = lookup_ports()[..] else { panic!("four lookups") };
    assert_eq!(parent, parent_again, "the parent keeps its socket");
    assert_eq!(child, child_again, "and so does the child");
    assert_ne!(parent, child, "but it is another one");
    let [parent, child] = report_ports()[..] else { panic!("two reports") };
    assert_ne!(parent, child, "reports, too");
}

fn ports(requests: &[(std::net::SocketAddr, Request)], is_meant: impl Fn(&Request) -> bool) -> Vec<u16> {
    requests.iter().filter(|(_, request)| is_meant(request)).map(|(from, _)| from.port()).collect()
}
