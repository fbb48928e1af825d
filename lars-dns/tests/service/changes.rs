//! Changes in SQL become pushes, however they are made. Each scenario runs on both databases.

use lars_store::RouteEdit;
use lars_testkit::{MariaDb, eventually};

use crate::{
    database::{Database, Maria, Sqlite, config, host, module, start, without_full_reload},
    peer::Peer,
};

macro_rules! scenarios {
    ($($scenario:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $scenario() {
                super::$scenario(&super::Sqlite::new());
            })+
        }

        #[test]
        fn on_mariadb() {
            let server = MariaDb::start();
            $($scenario(&Maria::new(&server, stringify!($scenario)));)+
        }
    };
}

scenarios!(
    a_module_that_was_unknown_is_pushed_when_it_appears,
    a_host_and_a_module_that_are_gone_are_pushed,
    what_did_not_change_is_not_pushed,
    two_edits_with_one_version_both_arrive,
    rows_without_a_trace_arrive,
    a_change_whose_row_another_server_deleted_arrives,
    two_servers_share_a_database,
    a_version_alone_is_enough,
);

/// Writes a host as an editor other than ours does. Hosts are `10.0.0.n`.
fn insert(module: i32, n: u8) -> String {
    let ip = u32::from_be_bytes([10, 0, 0, n]);
    format!("INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, {module}, {ip}, 7777);")
}

fn changed(module: i32, version: u64) -> String {
    format!("INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, {module}, {version});")
}

fn version(version: u64) -> String {
    format!("UPDATE RouteVersion SET version = {version} WHERE id = 1;")
}

fn a_module_that_was_unknown_is_pushed_when_it_appears(database: &dyn Database) {
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), []);
    database.add(module(2), host(9));
    database.add(module(1), host(1));
    assert_eq!(peer.next_route(), (module(1), vec![host(1)]));
    database.add(module(1), host(2));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    dns.stop();
}

fn a_host_and_a_module_that_are_gone_are_pushed(database: &dyn Database) {
    database.edit(&[RouteEdit::Add(module(1), host(1)), RouteEdit::Add(module(1), host(2))]);
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);
    database.remove(module(1), host(1));
    assert_eq!(peer.next_route(), (module(1), vec![host(2)]));
    database.edit(&[RouteEdit::RemoveModule(module(1))]);
    assert_eq!(peer.next_route(), (module(1), vec![]));
    assert_eq!(peer.query(module(1)), []);
    dns.stop();
}

fn what_did_not_change_is_not_pushed(database: &dyn Database) {
    database.edit(&[RouteEdit::Add(module(1), host(1)), RouteEdit::Add(module(2), host(1))]);
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    peer.query(module(1));
    peer.query(module(2));
    let before = dns.stats();
    let next = before.version + 1;
    database.execute(&(changed(1, next) + &changed(2, next) + &version(next)));
    eventually("the version is seen and everything is loaded again", || {
        let stats = dns.stats();
        stats.version == next && stats.full_reloads >= before.full_reloads + 2
    });
    database.add(module(2), host(2));
    assert_eq!(peer.next_route(), (module(2), vec![host(1), host(2)]));
    assert_eq!(dns.stats().pushes, 1);
    dns.stop();
}

fn two_edits_with_one_version_both_arrive(database: &dyn Database) {
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    peer.query(module(1));
    let second = 1_700_000_000;
    database.execute(&(insert(1, 1) + &changed(1, second) + &version(second)));
    assert_eq!(peer.next_route(), (module(1), vec![host(1)]));
    database.execute(&(insert(1, 2) + &changed(1, second) + &version(second)));
    peer.wait_for(module(1), &[host(1), host(2)]);
    dns.stop();
}

fn rows_without_a_trace_arrive(database: &dyn Database) {
    let dns = start(config(database.url()));
    let mut peer = Peer::connect(&dns);
    peer.query(module(1));
    database.execute(&insert(1, 1));
    assert_eq!(peer.next_route(), (module(1), vec![host(1)]));
    database.execute("DELETE FROM RouteData");
    assert_eq!(peer.next_route(), (module(1), vec![]));
    dns.stop();
}

fn a_change_whose_row_another_server_deleted_arrives(database: &dyn Database) {
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    peer.query(module(1));
    let edit = insert(1, 1) + &changed(1, 5) + &version(5);
    database.execute(&format!("BEGIN; {edit} DELETE FROM RouteChange; COMMIT;"));
    assert_eq!(peer.next_route(), (module(1), vec![host(1)]));
    // What follows in a log that was emptied is found as well.
    database.add(module(1), host(2));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    dns.stop();
}

fn two_servers_share_a_database(database: &dyn Database) {
    database.add(module(1), host(1));
    let servers = [start(without_full_reload(database.url())), start(without_full_reload(database.url()))];
    let mut peers = servers.each_ref().map(Peer::connect);
    peers.iter_mut().for_each(|peer| assert_eq!(peer.query(module(1)), [host(1)]));
    for n in 2..10 {
        database.add(module(1), host(n));
        let expect: Vec<_> = (1..=n).map(host).collect();
        peers.iter_mut().for_each(|peer| assert_eq!(peer.next_route(), (module(1), expect.clone())));
    }
    let changes = database.editor().changes(0, 100).expect("the log is there");
    assert_eq!(changes.len(), 9, "nobody deletes what another may not have read");
    servers.into_iter().for_each(lars_dns::Dns::stop);
}

fn a_version_alone_is_enough(database: &dyn Database) {
    let dns = start(without_full_reload(database.url()));
    let mut peer = Peer::connect(&dns);
    peer.query(module(1));
    database.execute(&format!("BEGIN; {} {} COMMIT;", insert(1, 1), version(1_700_000_000)));
    assert_eq!(peer.next_route(), (module(1), vec![host(1)]));
    // A version that goes back is another one, too.
    database.execute(&format!("BEGIN; {} {} COMMIT;", insert(1, 2), version(1_600_000_000)));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2)]));
    dns.stop();
}
