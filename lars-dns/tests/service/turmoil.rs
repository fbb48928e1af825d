//! Many editors of every kind at once, two servers, and a subscriber of each: when all is quiet, both have been
//! told last what the table says, and hear no more of it. `LARS_SEED` replays a run, as far as threads can be
//! replayed.

use std::{collections::BTreeMap, env, thread, time::Duration};

use fastrand::Rng;
use lars_dns::Dns;
use lars_proto::{HostAddr, ModuleId};
use lars_store::{RouteEdit, Store};
use lars_testkit::{MariaDb, eventually};

use crate::{
    database::{Database, Maria, config, host, module, start},
    peer::Peer,
};

const MODULES: i32 = 6;
const EDITORS: u64 = 4;
const DEEDS: usize = 40;

/// Changed in quiet times only: its push comes behind those of what happened before.
const MARKER: ModuleId = module(99);

type Routes = BTreeMap<ModuleId, Vec<HostAddr>>;

#[test]
fn when_all_is_quiet_every_subscriber_knows_the_table() {
    let seed = env::var("LARS_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a seed"));
    println!("LARS_SEED={seed}");
    let database = Maria::new(MariaDb::shared(), "turmoil");
    database.add(module(0), host(1));
    database.execute("CREATE TABLE Dump AS SELECT * FROM RouteData");
    let servers = [0, 1].map(|_| {
        let mut config = config(database.url());
        config.timing.full_reload_interval = Duration::from_millis(300);
        start(config)
    });
    let mut subscribers = servers.each_ref().map(Subscriber::of_everything);
    thread::scope(|scope| {
        for editor in 0..EDITORS {
            let database = &database;
            scope.spawn(move || edit_at_random(database, Rng::with_seed(seed.wrapping_add(editor))));
        }
    });
    let truth = table(&mut *database.editor());
    // What was changed without a trace in the log is found by a full load, and by no marker.
    servers.iter().for_each(wait_for_a_whole_load);
    database.add(MARKER, host(1));
    for subscriber in &mut subscribers {
        while subscriber.read_one() != MARKER {}
        subscriber.known.remove(&MARKER);
        assert_eq!(subscriber.known, truth, "seed {seed}");
    }
    servers.iter().for_each(wait_for_a_whole_load);
    database.add(MARKER, host(2));
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.read_one(), MARKER, "nothing changed, and was pushed; seed {seed}");
    }
    servers.into_iter().for_each(Dns::stop);
}

struct Subscriber {
    peer: Peer,
    known: Routes,
}

impl Subscriber {
    fn of_everything(dns: &Dns) -> Self {
        let mut subscriber = Self { peer: Peer::connect(dns), known: Routes::new() };
        for module in (0..MODULES).map(module).chain([MARKER]) {
            subscriber.peer.ask(module);
            subscriber.read_one();
        }
        subscriber
    }

    /// A push that never comes ends the test after the peer's patience.
    fn read_one(&mut self) -> ModuleId {
        let (module, hosts) = self.peer.next_route();
        self.known.insert(module, hosts);
        self.known.retain(|_, hosts| !hosts.is_empty());
        module
    }
}

/// Waits until `dns` has loaded everything as it is now. A load that goes on may have begun before, so that is what
/// the second one from now brings.
fn wait_for_a_whole_load(dns: &Dns) {
    let before = dns.stats().full_reloads;
    eventually("everything is loaded twice", || dns.stats().full_reloads >= before + 2);
}

fn table(store: &mut dyn Store) -> Routes {
    let mut routes = Routes::new();
    store.load(&mut |module, host| routes.entry(module).or_default().push(host)).expect("the table");
    routes
}

fn edit_at_random(database: &Maria<'_>, mut rng: Rng) {
    let mut store = database.editor();
    for _ in 0..DEEDS {
        match rng.u8(..100) {
            0..40 => edit(&mut *store, &mut rng),
            40..90 => edit_raw(database, &mut rng),
            90..94 => database.execute_unless_deadlocked("DELETE FROM RouteChange"),
            94..97 => database.execute_unless_deadlocked("TRUNCATE RouteChange"),
            _ => restore(database),
        }
        thread::sleep(Duration::from_millis(rng.u64(..30)));
    }
}

fn edit(store: &mut dyn Store, rng: &mut Rng) {
    let (module, host) = (module(rng.i32(0..MODULES)), host(rng.u16(1..5)));
    let edit = match rng.u8(..3) {
        0 => RouteEdit::Add(module, host),
        1 => RouteEdit::Remove(module, host),
        _ => RouteEdit::Replace(module, vec![host]),
    };
    // Others may be in the way for longer than it is tried again; then nothing changed.
    match store.edit(&[edit]) {
        Ok(_) => {}
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
}

/// As old editors do it: each statement by itself, and here in any order; many within a second.
fn edit_raw(database: &Maria<'_>, rng: &mut Rng) {
    let (cmdid, ip) = (rng.i32(0..MODULES), 0x0a00_0000 + rng.u32(1..5));
    let rows = if rng.bool() {
        format!("INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, {cmdid}, {ip}, 7777)")
    } else {
        format!("DELETE FROM RouteData WHERE modid = 1 AND cmdid = {cmdid} AND serverip = {ip}")
    };
    let change =
        format!("INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, {cmdid}, UNIX_TIMESTAMP())");
    let mut statements =
        [rows, change, "UPDATE RouteVersion SET version = UNIX_TIMESTAMP() WHERE id = 1".to_owned()];
    rng.shuffle(&mut statements);
    for statement in &statements {
        database.execute_unless_deadlocked(statement);
    }
}

/// From an old dump: rows, ids and version go back.
fn restore(database: &Maria<'_>) {
    database.execute_unless_deadlocked(
        "TRUNCATE RouteChange;
         BEGIN;
         DELETE FROM RouteData;
         INSERT INTO RouteData SELECT * FROM Dump;
         UPDATE RouteVersion SET version = 5 WHERE id = 1;
         COMMIT;",
    );
}
