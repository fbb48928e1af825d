//! The connection to a server: how it is made, and which errors mean what.

use std::{
    error::Error as _,
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use mysql::{Conn, DriverError, Error, OptsBuilder};

use crate::{MysqlUrl, StoreError};

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
            Err(error) if is_lost(&error) => failure = Some(error),
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

/// Whether the connection is of no more use.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::IoError(_) | Error::CodecError(_) => true,
        Error::DriverError(error) => is_driver_lost(error),
        Error::MySqlError(error) => CODES_LOST.contains(&error.code),
        Error::UrlError(_) | Error::FromValueError(_) | Error::FromRowError(_) => false,
    }
}

fn is_driver_lost(error: &DriverError) -> bool {
    matches!(
        error,
        DriverError::ConnectTimeout
            | DriverError::CouldNotConnect(_)
            | DriverError::PacketOutOfSync
            | DriverError::UnexpectedPacket
            | DriverError::SetupError
            | DriverError::Timeout
    )
}

/// What a server says when this connection ends, or cannot be had for now, or when the server is one that
/// does not take writes any more because another one took over.
const CODES_LOST: [u16; 19] = [
    1040, // too many connections
    1042, // cannot resolve the client's name
    1046, // no database: it was dropped under this connection, and a new one finds it when it is back
    1047, // a Galera node that is not in sync
    1053, // shutting down
    1077, // normal shutdown
    1079, // shutdown complete
    1129, // host blocked for connection errors
    1152, // aborted connection
    1158, // network: read error
    1159, // network: read timeout
    1160, // network: write error
    1161, // network: write timeout
    1203, // too many connections of this user
    1290, // running with --read-only
    1317, // query interrupted
    1792, // read-only transaction
    1836, // read-only mode
    1927, // connection killed
];

/// What a server says when others hold what a transaction needs; it may be tried again.
const CODES_BUSY: [u16; 10] = [
    1020, // record changed since last read
    1205, // lock wait timeout
    1213, // deadlock
    1969, // statement timeout (MariaDB)
    3024, // statement timeout (MySQL)
    3572, // lock not available at once
    8002, // TiDB: locked key changed
    8022, // TiDB: commit failed, may be tried again
    8028, // TiDB: schema changed
    9007, // TiDB: write conflict
];

/// What a server says when it is the values of a row that it does not take.
const CODES_ROW_REFUSED: [u16; 11] = [
    1048, // column cannot be null
    1062, // duplicate entry
    1264, // out of range
    1265, // truncated
    1292, // truncated incorrect value
    1366, // incorrect value
    1406, // too long
    1452, // foreign key
    1644, // a trigger says no
    3819, // check constraint (MySQL)
    4025, // check constraint (MariaDB)
];

/// The error of this crate.
pub(super) fn classified(store: &str, error: &Error) -> StoreError {
    let (store, problem) = (store.to_owned(), text(error));
    if is_lost(error) {
        StoreError::Away { store, problem }
    } else if is_busy(error) {
        StoreError::Busy { store, problem }
    } else if is_row_refused(error) {
        StoreError::RowRefused { store, problem }
    } else {
        StoreError::Refused { store, problem }
    }
}

fn is_row_refused(error: &Error) -> bool {
    matches!(error, Error::MySqlError(error) if CODES_ROW_REFUSED.contains(&error.code))
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::MySqlError(error) if CODES_BUSY.contains(&error.code))
}

fn text(error: &Error) -> String {
    match error {
        Error::IoError(error) => io_text(error),
        Error::CodecError(error) => {
            let cause = error.source().and_then(|cause| cause.downcast_ref());
            cause.map_or_else(|| error.to_string(), io_text)
        }
        Error::MySqlError(error) => format!("{} (error {})", error.message, error.code),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, why, _)))) => why.clone(),
        Error::DriverError(error) => error.to_string(),
        Error::UrlError(_) | Error::FromValueError(_) | Error::FromRowError(_) => error.to_string(),
    }
}

/// What the system calls a timeout of a socket is "resource temporarily unavailable".
fn io_text(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::WouldBlock { "no answer in time".to_owned() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use mysql::MySqlError;

    use super::*;

    fn said(code: u16) -> StoreError {
        let error = MySqlError { state: "HY000".to_owned(), message: "what it said".to_owned(), code };
        classified("mysql://lars@db/lars", &Error::MySqlError(error))
    }

    #[test]
    fn what_servers_say() {
        for (code, retryable) in [(1053, true), (1213, true), (1205, true), (1927, true), (1290, true)] {
            assert_eq!(said(code).is_retryable(), retryable, "{code}");
        }
        assert!(matches!(said(1264), StoreError::RowRefused { .. }));
        for code in [1045, 1049, 1064, 1142, 1146, 1264] {
            assert!(!said(code).is_retryable(), "{code}");
        }
        assert_eq!(said(1213).to_string(), "mysql://lars@db/lars is busy: what it said (error 1213)");
        assert_eq!(said(1053).to_string(), "mysql://lars@db/lars is away: what it said (error 1053)");
        assert_eq!(said(1045).to_string(), "mysql://lars@db/lars: what it said (error 1045)");
    }

    #[test]
    fn what_the_driver_says() {
        let lost = [
            Error::IoError(io::ErrorKind::ConnectionReset.into()),
            Error::IoError(io::ErrorKind::WouldBlock.into()),
            Error::DriverError(DriverError::PacketOutOfSync),
            Error::DriverError(DriverError::CouldNotConnect(None)),
        ];
        for error in lost {
            assert!(is_lost(&error) && classified("db", &error).is_retryable(), "{error}");
        }
        let other = Error::DriverError(DriverError::UnknownAuthPlugin("x".to_owned()));
        assert!(!is_lost(&other) && !classified("db", &other).is_retryable());
        let silent = classified("db", &Error::IoError(io::ErrorKind::WouldBlock.into()));
        assert_eq!(silent.to_string(), "db is away: no answer in time");
    }
}
