//! Peers that mean harm, or behave as if: only they suffer, and nothing of them is left.

use std::{fs, io::Write, net::TcpStream};

use fastrand::Rng;
use lars_dns::Dns;
use lars_testkit::{eventually, eventually_some};

use crate::{
    database::{Database, Sqlite, config, host, module, start},
    peer::{Peer, request},
};

const CONNECTIONS: usize = 2_000;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// Sends `bytes`, of which the server may not want the rest.
fn send_and_go(dns: &Dns, bytes: &[u8]) {
    // Where descriptors are few, those before must be gone first.
    let mut stream = eventually_some("a connection", || TcpStream::connect(dns.local_addr()).ok());
    let _ = stream.write_all(bytes);
}

fn random_bytes(rng: &mut Rng) -> Vec<u8> {
    (0..rng.usize(..200)).map(|_| rng.u8(..)).collect()
}

#[test]
fn what_hostile_peers_send_is_nobody_elses_business() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);
    eventually("it alone is connected", || dns.stats().connections == 1);
    let descriptors_before = descriptors();

    let mut rng = Rng::with_seed(7);
    let half = request(module(1));
    let huge = [1i32.to_le_bytes(), i32::MAX.to_le_bytes()].concat();
    for n in 0..CONNECTIONS {
        match n % 4 {
            0 => send_and_go(&dns, &random_bytes(&mut rng)),
            1 => send_and_go(&dns, &half[..rng.usize(..half.len())]),
            2 => send_and_go(&dns, &huge),
            _ => send_and_go(&dns, &[]),
        }
    }
    assert_eq!(peer.query(module(1)), [host(1)]);
    database.add(module(1), host(2));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    eventually("the others are gone", || dns.stats().connections == 1 && dns.stats().subscriptions == 1);
    // Other tests of this process come and go with theirs.
    eventually("so are their descriptors", || descriptors() < descriptors_before + CONNECTIONS / 4);
    dns.stop();
}
