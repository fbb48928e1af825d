//! What is kept on disk for the next start.

use std::{fs, path::Path};

use lars_dns::{DnsConfig, ShrinkRules};
use lars_store::StoreUrl;
use lars_testkit::{MariaDb, eventually};
use tempfile::TempDir;

use crate::{
    database::{Database, Maria, Sqlite, config, host, module, start},
    peer::Peer,
};

fn kept_in(dir: &Path, url: StoreUrl) -> DnsConfig {
    let shrink = Some(ShrinkRules { percent: 30, hold: None });
    DnsConfig { state_dir: Some(dir.to_owned()), shrink, ..config(url) }
}

#[test]
fn without_a_database_the_last_routes_are_served_and_what_changed_since_is_pushed() {
    let dir = TempDir::new().expect("a folder");
    let mut server = MariaDb::start();
    Maria::new(&server, "lars").add(module(1), host(1));
    let url = Maria::new(&server, "lars").url();
    let dns = start(kept_in(dir.path(), url.clone()));
    assert_eq!(dns.stats().serves_saved, 0);
    dns.stop();

    server.kill9();
    let dns = start(kept_in(dir.path(), url));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1)]);
    assert_eq!((dns.stats().serves_saved, dns.stats().hosts), (1, 1));
    let unknown = peer.query_as(module(2), 1);
    assert_eq!((unknown.host.len(), unknown.confirmed), (0, false), "that it has no hosts is not known");

    server.restart();
    eventually("everything is loaded", || dns.stats().serves_saved == 0);
    eventually("what is empty is known to be", || peer.query_as(module(2), 1).confirmed);
    Maria::new(&server, "lars").add(module(1), host(2));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    dns.stop();
}

#[test]
fn what_vanished_while_it_was_down_is_compared_with_what_was_served() {
    let (dir, database) = (TempDir::new().expect("a folder"), Sqlite::new());
    database.add(module(1), host(1));
    start(kept_in(dir.path(), database.url())).stop();
    database.execute("DELETE FROM RouteData");
    for _ in 0..2 {
        let dns = start(kept_in(dir.path(), database.url()));
        eventually("it is held", || dns.shrink_hold().is_some());
        assert_eq!(Peer::connect(&dns).query(module(1)), [host(1)]);
        dns.stop();
    }
    database.editor().accept().expect("an acceptance");
    let dns = start(kept_in(dir.path(), database.url()));
    eventually("it is taken over", || dns.stats().hosts == 0);
    dns.stop();
}

#[test]
fn a_file_that_is_broken_or_of_another_store_is_not_used() {
    let (dir, database, other) = (TempDir::new().expect("a folder"), Sqlite::new(), Sqlite::new());
    database.add(module(1), host(1));
    other.add(module(1), host(2));
    start(kept_in(dir.path(), database.url())).stop();
    let dns = start(kept_in(dir.path(), other.url()));
    assert_eq!(Peer::connect(&dns).query(module(1)), [host(2)]);
    dns.stop();

    let file = dir.path().join("lars-dns.state");
    let mut bytes = fs::read(&file).expect("the state");
    *bytes.last_mut().expect("a checksum") ^= 1;
    fs::write(&file, &bytes).expect("it is written");
    other.edit(&[lars_store::RouteEdit::RemoveModule(module(1))]);
    let dns = start(kept_in(dir.path(), other.url()));
    assert_eq!(Peer::connect(&dns).query(module(1)), []);
    assert_eq!(dns.shrink_hold(), None, "there was nothing to compare with");
    dns.stop();
    assert_eq!(fs::read(dir.path().join("lars-dns.state.bad")).expect("it is kept"), bytes);
}
