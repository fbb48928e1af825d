//! A reporter under test, agents that talk to it, and a look into its table.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use lars_proto::{
    HostAddr, ModuleId, frame,
    messages::{HostCallResult, MessageId, ReportStatusRequest},
};
use lars_reporter::{Reporter, ReporterConfig, core::coalescer::Limits};
use lars_runtime::TcpServerConfig;
use lars_store::{CallStatus, CallStatusKey, OpenMode, StoreUrl};
use lars_testkit::eventually;
use tempfile::TempDir;

/// The agent that most messages come from; above 127.255.255.255, so negative on the wire.
pub(crate) const CALLER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 10);

/// A reporter on a free port that writes soon.
pub(crate) fn config(store: StoreUrl) -> ReporterConfig {
    let limits =
        Limits { flush_interval: Duration::from_millis(20), flush_rows: 500, pending_keys_max: 1_000_000 };
    let tcp_driver = lars_testkit::tcp_driver().parse().expect("the name of a driver");
    let server = listening_on(([127, 0, 0, 1], 0));
    // Time stamps are small numbers here.
    let status_max_age = None;
    ReporterConfig { server, tcp_driver, store, limits, status_max_age, ..ReporterConfig::default() }
}

pub(crate) fn listening_on(addr: impl Into<SocketAddr>) -> TcpServerConfig {
    TcpServerConfig::new(addr.into())
}

/// A folder with an SQLite file that may be made to be there only later.
pub(crate) struct SqliteFile {
    folder: TempDir,
}

impl SqliteFile {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    pub(crate) fn url(&self) -> StoreUrl {
        StoreUrl::Sqlite(self.folder.path().join("lars.db"))
    }

    /// A file that cannot be opened until [`SqliteFile::come_back`].
    pub(crate) fn url_that_is_away(&self) -> StoreUrl {
        StoreUrl::Sqlite(self.away().join("lars.db"))
    }

    pub(crate) fn come_back(&self) {
        std::fs::create_dir(self.away()).expect("a folder");
    }

    fn away(&self) -> PathBuf {
        self.folder.path().join("away")
    }
}

pub(crate) fn host(n: u16) -> HostAddr {
    let [high, low] = n.to_be_bytes();
    HostAddr::v4(Ipv4Addr::new(10, 0, high, low), 8080)
}

/// What an agent says about one host.
pub(crate) fn result(host: HostAddr, succ: u32) -> HostCallResult {
    let wire = host.to_wire();
    HostCallResult { ip: wire.ip, port: wire.port, succ, err: 1, overload: false }
}

pub(crate) fn message(module: ModuleId, ts: u32, results: Vec<HostCallResult>) -> ReportStatusRequest {
    let ModuleId { modid, cmdid } = module;
    ReportStatusRequest { modid, cmdid, caller: CALLER.to_bits().cast_signed(), results, ts }
}

/// The row that `result(host, succ)` in a `message(module, ts, …)` becomes.
pub(crate) fn row(module: ModuleId, host: HostAddr, ts: u64, succ: u32) -> CallStatus {
    CallStatus { key: CallStatusKey { module, host, caller: CALLER }, succ, err: 1, ts, overload: false }
}

pub(crate) fn framed(message: &ReportStatusRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(MessageId::ReportStatusRequest, message, &mut bytes).expect("fits a frame");
    bytes
}

/// An agent's link.
pub(crate) struct AgentLink(TcpStream);

impl AgentLink {
    pub(crate) fn to(reporter: &Reporter) -> Self {
        Self::connect(reporter.local_addr())
    }

    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the reporter listens");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        Self(stream)
    }

    pub(crate) fn send(&mut self, message: &ReportStatusRequest) {
        self.send_bytes(&framed(message));
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the link is up");
    }

    /// Sends what the reporter closes a link for. It may do so before everything is sent.
    pub(crate) fn assert_closed_by(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
        self.assert_closed();
    }

    /// Waits for the end of the link. A reporter never answers.
    pub(crate) fn assert_closed(&mut self) {
        eventually("the reporter closes the link", || match self.0.read(&mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => panic!("the reporter answered"),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        });
    }
}

/// The rows of `module`, or all.
pub(crate) fn rows(store: &StoreUrl, module: Option<ModuleId>) -> Vec<CallStatus> {
    let mut store = lars_store::open(store, OpenMode::Create).expect("the database is there");
    store.call_status(module).expect("rows")
}

#[track_caller]
pub(crate) fn assert_eventually_rows(store: &StoreUrl, module: ModuleId, expected: &[CallStatus]) {
    let mut found = Vec::new();
    eventually(&format!("the table holds the rows of {module}"), || {
        found = rows(store, Some(module));
        found == expected
    });
}
