//! Routes vanish from the database. Each scenario runs on both databases.

use std::time::Duration;

use lars_dns::{Dns, DnsConfig, ShrinkRules};
use lars_store::RouteEdit;
use lars_testkit::{MariaDb, eventually};

use crate::{
    database::{Database, Maria, Sqlite, config, host, module, start},
    peer::Peer,
};

macro_rules! scenarios {
    ($($scenario:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $scenario() {
                super::$scenario(&super::Sqlite::new(), "DELETE FROM RouteData");
            })+
        }

        #[test]
        fn on_mariadb() {
            let server = MariaDb::start();
            $($scenario(&Maria::new(&server, stringify!($scenario)), "TRUNCATE RouteData");)+
        }
    };
}

scenarios!(
    a_table_that_is_emptied_is_served_until_its_rows_are_back,
    what_somebody_accepts_every_server_takes_over,
    edits_are_not_held,
    the_hold_time_is_over,
    an_acceptance_in_a_database_without_its_table,
);

/// With hosts 1 and 2 for each of the modules 1 to 4.
fn four_modules(database: &dyn Database) {
    let add = |cmdid| [1, 2].map(|n| RouteEdit::Add(module(cmdid), host(n)));
    database.edit(&(1..=4).flat_map(add).collect::<Vec<_>>());
}

/// Holds what vanishes until something happens.
fn guarded(database: &dyn Database) -> DnsConfig {
    DnsConfig { shrink: Some(ShrinkRules { percent: 30, hold: None }), ..config(database.url()) }
}

fn wait_until_held(dns: &Dns) {
    eventually("it is held", || dns.shrink_hold().is_some());
    let hold = dns.shrink_hold().expect("it is held for good");
    assert_eq!((hold.hosts_lost, hold.hosts_served, hold.until), (8, 8, None));
    assert_eq!((dns.stats().shrinks_held, dns.stats().hosts_held, dns.stats().hosts), (1, 8, 8));
    let reloads = dns.stats().full_reloads;
    eventually("it goes on being looked at", || dns.stats().full_reloads >= reloads + 3);
}

fn a_table_that_is_emptied_is_served_until_its_rows_are_back(database: &dyn Database, empty: &str) {
    four_modules(database);
    let dns = start(guarded(database));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);
    database.execute("CREATE TABLE Dump AS SELECT * FROM RouteData");
    database.execute(empty);
    wait_until_held(&dns);
    assert_eq!(Peer::connect(&dns).query(module(4)), [host(1), host(2)]);

    database.execute("INSERT INTO RouteData SELECT * FROM Dump");
    eventually("it is over", || dns.shrink_hold().is_none());
    database.add(module(1), host(3));
    assert_eq!(peer.next_route(), (module(1), vec![host(1), host(2), host(3)]), "and nothing before it");
    let stats = dns.stats();
    assert_eq!((stats.hosts_held, stats.shrinks_accepted, stats.shrinks_timed_out), (0, 0, 0));
    dns.stop();
}

fn what_somebody_accepts_every_server_takes_over(database: &dyn Database, empty: &str) {
    four_modules(database);
    // The second looks at everything only if there is a reason to.
    let mut rarely = guarded(database);
    rarely.timing.full_reload_interval = Duration::from_secs(3_600);
    let servers = [start(guarded(database)), start(rarely)];
    let mut peers = servers.each_ref().map(Peer::connect);
    peers.iter_mut().for_each(|peer| assert_eq!(peer.query(module(1)), [host(1), host(2)]));
    database.execute(empty);
    wait_until_held(&servers[0]);
    assert_eq!(database.editor().accept().expect("an acceptance").hosts, 0);
    peers.iter_mut().for_each(|peer| assert_eq!(peer.next_route(), (module(1), vec![])));
    servers.iter().for_each(|dns| assert_eq!((dns.stats().hosts, dns.stats().shrinks_accepted), (0, 1)));

    // What was accepted is no excuse for the next time.
    four_modules(database);
    eventually("all are back", || servers[0].stats().hosts == 8);
    let reloads = servers[0].stats().full_reloads;
    eventually("everything is loaded again", || servers[0].stats().full_reloads >= reloads + 2);
    database.execute(empty);
    eventually("it is held again", || servers[0].shrink_hold().is_some());
    assert_eq!(servers[0].stats().hosts, 8);
    servers.into_iter().for_each(Dns::stop);
}

fn edits_are_not_held(database: &dyn Database, empty: &str) {
    four_modules(database);
    let dns = start(guarded(database));
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);
    database.edit(&[1, 2, 3].map(|cmdid| RouteEdit::RemoveModule(module(cmdid))));
    assert_eq!(peer.next_route(), (module(1), vec![]));
    eventually("the others are gone", || dns.stats().modules == 1);

    // By hand, with a row for what is meant.
    assert_eq!(peer.query(module(4)), [host(1), host(2)]);
    database.execute(&format!(
        "{empty};
         INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 4, 9);
         UPDATE RouteVersion SET version = 9 WHERE id = 1"
    ));
    assert_eq!(peer.next_route(), (module(4), vec![]));
    eventually("nothing is held any more", || dns.shrink_hold().is_none());
    dns.stop();
}

fn the_hold_time_is_over(database: &dyn Database, empty: &str) {
    four_modules(database);
    let mut config = guarded(database);
    config.shrink = Some(ShrinkRules { percent: 30, hold: Some(Duration::from_millis(500)) });
    let dns = start(config);
    let mut peer = Peer::connect(&dns);
    assert_eq!(peer.query(module(1)), [host(1), host(2)]);
    database.execute(empty);
    assert_eq!(peer.next_route(), (module(1), vec![]));
    let stats = dns.stats();
    assert_eq!((stats.shrinks_held, stats.shrinks_timed_out, stats.hosts_held), (1, 1, 0));
    dns.stop();
}

/// As databases of the original are, and files of older versions.
fn an_acceptance_in_a_database_without_its_table(database: &dyn Database, empty: &str) {
    four_modules(database);
    database.execute("DROP TABLE LarsRouteAccept");
    let dns = start(guarded(database));
    database.execute(empty);
    wait_until_held(&dns);
    database.editor().accept().expect("opening it to edit makes the table");
    eventually("it is taken over", || dns.stats().hosts == 0);
    dns.stop();
}
