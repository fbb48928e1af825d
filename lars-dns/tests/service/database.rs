//! The databases that the service is tested with, and how it is started on them.

use std::{net::Ipv4Addr, time::Duration};

use lars_dns::{Dns, DnsConfig};
use lars_proto::{HostAddr, ModuleId};
use lars_store::{OpenMode, RouteEdit, Store, StoreUrl};
use lars_testkit::MariaDb;
use tempfile::TempDir;

/// A database, and the raw access to it that editors other than ours have.
pub(crate) trait Database {
    fn url(&self) -> StoreUrl;
    /// Runs statements, separated by semicolons.
    fn execute(&self, sql: &str);

    fn editor(&self) -> Box<dyn Store> {
        lars_store::open(&self.url(), OpenMode::Create).expect("the database is there")
    }

    fn edit(&self, edits: &[RouteEdit]) {
        self.editor().edit(edits).expect("the edit is accepted");
    }

    fn add(&self, module: ModuleId, host: HostAddr) {
        self.edit(&[RouteEdit::Add(module, host)]);
    }

    fn remove(&self, module: ModuleId, host: HostAddr) {
        self.edit(&[RouteEdit::Remove(module, host)]);
    }
}

/// A file of its own.
pub(crate) struct Sqlite(TempDir);

impl Sqlite {
    pub(crate) fn new() -> Self {
        let sqlite = Self(TempDir::new().expect("a folder"));
        drop(sqlite.editor());
        sqlite
    }
}

impl Database for Sqlite {
    fn url(&self) -> StoreUrl {
        StoreUrl::Sqlite(self.0.path().join("lars.db"))
    }

    fn execute(&self, sql: &str) {
        let file = rusqlite::Connection::open(self.0.path().join("lars.db")).expect("the file is there");
        file.busy_timeout(Duration::from_secs(60)).expect("a timeout");
        file.execute_batch(sql).expect(sql);
    }
}

/// A database of a MariaDB server.
pub(crate) struct Maria<'a> {
    server: &'a MariaDb,
    name: &'a str,
    url: StoreUrl,
}

impl<'a> Maria<'a> {
    pub(crate) fn new(server: &'a MariaDb, name: &'a str) -> Self {
        let url = server.url(name).parse().expect("the test kit makes good URLs");
        let maria = Self { server, name, url };
        drop(maria.editor());
        maria
    }
}

impl Maria<'_> {
    /// Runs a statement that may be the victim of a deadlock, as those of old editors may; then it did nothing.
    pub(crate) fn execute_unless_deadlocked(&self, sql: &str) {
        const ER_LOCK_DEADLOCK: &str = "ERROR 1213";
        if let Err(refusal) = self.server.try_query(self.name, sql) {
            assert!(refusal.contains(ER_LOCK_DEADLOCK), "{sql}: {refusal}");
        }
    }
}

impl Database for Maria<'_> {
    fn url(&self) -> StoreUrl {
        self.url.clone()
    }

    fn execute(&self, sql: &str) {
        self.server.execute(self.name, sql);
    }
}

/// Looks for changes very often, lets any number of hosts vanish, and listens wherever there is room.
pub(crate) fn config(url: StoreUrl) -> DnsConfig {
    let tcp_driver = lars_testkit::tcp_driver().parse().expect("the name of a driver");
    let mut config = DnsConfig { shards: 2, tcp_driver, store: url, shrink: None, ..DnsConfig::default() };
    config.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.timing.poll_interval = Duration::from_millis(10);
    config.timing.full_reload_interval = Duration::from_millis(50);
    config
}

/// As [`config`], but does not compare with everything for the reason that it is time.
pub(crate) fn without_full_reload(url: StoreUrl) -> DnsConfig {
    let mut config = config(url);
    config.timing.full_reload_interval = Duration::from_secs(3_600);
    config
}

pub(crate) fn start(config: DnsConfig) -> Dns {
    Dns::start(config).expect("lars-dns starts")
}

pub(crate) const fn module(cmdid: i32) -> ModuleId {
    ModuleId::new(1, cmdid)
}

/// `10.0.x.y:7777` for host number n.
pub(crate) fn host(n: u16) -> HostAddr {
    let [x, y] = n.to_be_bytes();
    HostAddr::v4(Ipv4Addr::new(10, 0, x, y), 7777)
}
