//! How a connection to a server is made.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use mysql::{Conn, DriverError, Error, OptsBuilder};

use super::errors::is_away;
use crate::MysqlUrl;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may think before its answer, for statements that read or write a few rows.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for reading the whole table of routes, which may have to be sorted first.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for making an index: over millions of rows that takes its time.
pub(super) const INDEX_TIMEOUT: Duration = Duration::from_secs(600);

/// A peer that does not even acknowledge for so long is gone, however long an answer may take.
const PEER_TIMEOUT_MS: u32 = 10_000;
const KEEPALIVE_PROBE_INTERVAL_S: u32 = 3;
const KEEPALIVE_PROBES: u32 = 3;

/// Prepared statements that a connection keeps: all texts of all batch sizes that one service uses.
const STATEMENTS_KEPT: usize = 64;

/// Connects to the first address of the host that accepts.
pub(super) fn connect(url: &MysqlUrl, read_timeout: Duration) -> Result<Conn, Error> {
    let mut failure = None;
    for addr in (url.host.as_str(), url.port).to_socket_addrs()? {
        match Conn::new(options(url, addr, read_timeout)) {
            Err(error) if is_away(&error) => failure = Some(error),
            done => return done,
        }
    }
    Err(failure.unwrap_or(Error::DriverError(DriverError::CouldNotConnect(None))))
}

/// The address is given as such: by name, the driver would try the first address only.
fn options(url: &MysqlUrl, addr: SocketAddr, read_timeout: Duration) -> OptsBuilder {
    OptsBuilder::new()
        .ip_or_hostname(Some(addr.ip().to_string()))
        .tcp_port(addr.port())
        .user(Some(&url.user))
        .pass(url.password.as_ref())
        .db_name(Some(&url.database))
        // Otherwise the driver leaves a local server's port for its socket, whatever the port leads to.
        .prefer_socket(false)
        .stmt_cache_size(STATEMENTS_KEPT)
        .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
        .read_timeout(Some(read_timeout))
        .write_timeout(Some(WRITE_TIMEOUT))
        .tcp_user_timeout_ms(Some(PEER_TIMEOUT_MS))
        .tcp_keepalive_time_ms(Some(PEER_TIMEOUT_MS))
        .tcp_keepalive_probe_interval_secs(Some(KEEPALIVE_PROBE_INTERVAL_S))
        .tcp_keepalive_probe_count(Some(KEEPALIVE_PROBES))
}
