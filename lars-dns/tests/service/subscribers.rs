//! Subscribers that do not keep up, and many of them.

use std::time::Duration;

use lars_dns::Dns;
use lars_proto::HostAddr;
use lars_store::{RouteEdit, Store};
use lars_testkit::{connections_possible, eventually};

use crate::{
    database::{Database, Sqlite, host, module, start, without_full_reload},
    peer::Peer,
};

/// A module whose every push is some 50 KB, so that the kernel's buffers do not hold many.
const LARGE: i32 = 1;
const LARGE_HOSTS: u16 = 3_500;
/// One that everybody keeps up with.
const SMALL: i32 = 2;

fn hosts(count: u16) -> Vec<HostAddr> {
    (0..count).map(host).collect()
}

fn database() -> Sqlite {
    let database = Sqlite::new();
    database.edit(&[
        RouteEdit::Replace(module(LARGE), hosts(LARGE_HOSTS)),
        RouteEdit::Replace(module(SMALL), hosts(1)),
    ]);
    database
}

fn start_with_small_outputs(database: &Sqlite, stall_timeout: Duration) -> Dns {
    let mut config = without_full_reload(database.url());
    config.server.output_bytes_max = config.server.frame_len_max;
    config.server.stall_timeout = stall_timeout;
    start(config)
}

/// Changes both modules at once; returns the hosts of the small one.
fn change_both(editor: &mut dyn Store, round: u16) -> Vec<HostAddr> {
    let small = vec![host(round)];
    let large = hosts(LARGE_HOSTS - round % 2);
    let edits = [RouteEdit::Replace(module(LARGE), large), RouteEdit::Replace(module(SMALL), small.clone())];
    editor.edit(&edits).expect("the edit is accepted");
    small
}

#[test]
fn a_stuck_subscriber_delays_nobody_and_is_disconnected() {
    let database = database();
    let dns = start_with_small_outputs(&database, Duration::from_secs(1));
    let mut stuck: Vec<_> = (0..2).map(|_| Peer::connect(&dns)).collect();
    for peer in &mut stuck {
        peer.query(module(LARGE));
        peer.query(module(SMALL));
    }
    let mut healthy: Vec<_> = (0..2).map(|_| Peer::connect(&dns)).collect();
    healthy.iter_mut().for_each(|peer| drop(peer.query(module(SMALL))));

    let mut editor = database.editor();
    let mut round = 0;
    eventually("the stuck ones are disconnected", || {
        round += 1;
        let small = change_both(&mut *editor, round);
        for peer in &mut healthy {
            assert_eq!(peer.next_route(), (module(SMALL), small.clone()));
        }
        dns.stats().connections == healthy.len() as u64
    });
    let stats = dns.stats();
    assert_eq!(stats.subscriptions, healthy.len() as u64);
    assert!(stats.pushes_deferred > 0, "{stats:?}");
    dns.stop();
}

#[test]
fn a_slow_subscriber_ends_with_the_newest_state() {
    let database = database();
    let dns = start_with_small_outputs(&database, Duration::from_secs(600));
    let mut slow = Peer::connect(&dns);
    slow.query(module(LARGE));
    slow.query(module(SMALL));

    let mut editor = database.editor();
    let mut round = 0;
    eventually("a dozen pushes had to wait", || {
        round += 1;
        change_both(&mut *editor, round);
        dns.stats().pushes_deferred >= 12
    });
    let newest = change_both(&mut *editor, round + 1);
    let version = editor.version().expect("a version");
    eventually("the last change is seen", || dns.stats().version == version);
    slow.wait_for(module(SMALL), &newest);
    drop(slow);
    dns.stop();
}

#[test]
fn one_change_reaches_a_thousand_subscribers() {
    let database = database();
    let dns = start(without_full_reload(database.url()));
    let count = connections_possible(1_000);
    let mut peers: Vec<_> = (0..count).map(|_| Peer::connect(&dns)).collect();
    peers.iter_mut().for_each(|peer| peer.ask(module(SMALL)));
    for peer in &mut peers {
        assert_eq!(peer.next_route(), (module(SMALL), hosts(1)));
    }
    database.add(module(SMALL), host(1));
    for peer in &mut peers {
        assert_eq!(peer.next_route(), (module(SMALL), hosts(2)));
    }
    assert_eq!(dns.stats().pushes, count as u64);
    dns.stop();
}

#[test]
fn a_route_that_is_too_long_is_cut_and_counted_once() {
    let database = database();
    // More than our own edits allow.
    let rows: Vec<_> = (0..6_000u32).map(|n| format!("(1, 9, {}, 65000)", 0x0a00_0000 + n)).collect();
    database.execute(&format!(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES {}",
        rows.join(",")
    ));
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    for _ in 0..3 {
        let sent = peer.query(module(9)).len();
        assert!((4_000..6_000).contains(&sent), "{sent} hosts");
    }
    assert_eq!(dns.stats().truncated_routes, 1);
    dns.stop();
}
