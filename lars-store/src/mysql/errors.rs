//! What the errors of servers and of the driver mean.

use std::{error::Error as _, io};

use mysql::{DriverError, Error};

use crate::StoreError;

/// What an error means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Away,
    Busy,
    Missing,
    Unusable,
    ReadOnly,
    RowRefused,
    Unknown,
}

/// What a server says when this connection ends or cannot be had for now, or when the server is out of something.
const CODES_AWAY: [u16; 22] = [
    1021, // disk full
    1030, // the storage engine failed
    1037, // out of memory
    1040, // too many connections
    1041, // out of memory
    1042, // cannot resolve the client's name
    1046, // no database: it was dropped under this connection, and a new one finds it when it is back
    1047, // a Galera node that is not in sync
    1053, // shutting down
    1077, // normal shutdown
    1079, // shutdown complete
    1114, // the table is full
    1129, // host blocked for connection errors
    1152, // aborted connection
    1158, // network: read error
    1159, // network: read timeout
    1160, // network: write error
    1161, // network: write timeout
    1203, // too many connections of this user
    1226, // a limit of this user, like connections in an hour
    1317, // query interrupted
    1927, // connection killed
];

/// What a server says when others hold what a transaction needs, or when it forgot what it had prepared; the
/// transaction may be tried again.
const CODES_BUSY: [u16; 14] = [
    1020, // record changed since last read
    1205, // lock wait timeout
    1206, // too many locks
    1213, // deadlock
    1243, // unknown prepared statement: a proxy changed the server
    1615, // the prepared statement needs to be prepared again
    1969, // statement timeout (MariaDB)
    3024, // statement timeout (MySQL)
    3101, // rolled back by a plugin: group replication
    3572, // lock not available at once
    8002, // TiDB: locked key changed
    8022, // TiDB: commit failed, may be tried again
    8028, // TiDB: schema changed
    9007, // TiDB: write conflict
];

/// What a server says when there is no such table.
const CODES_MISSING: [u16; 2] = [
    1051, // unknown table
    1146, // no such table
];

/// What a server says that takes no writes: a replica, or one that another took over from.
const CODES_READ_ONLY: [u16; 3] = [
    1290, // running with --read-only
    1792, // read-only transaction
    1836, // read-only mode
];

/// What a server says when the account, the database or the schema is not what it has to be.
const CODES_UNUSABLE: [u16; 23] = [
    1044, // access to the database denied
    1045, // wrong password
    1049, // unknown database
    1054, // unknown column
    1064, // syntax
    1130, // this machine may not connect
    1136, // another number of columns
    1142, // a right on a table is missing
    1143, // a right on a column is missing
    1227, // a right on the server is missing
    1251, // another way to log in
    1275, // a password of an old format
    1364, // a column that we do not know has no default
    1370, // a right on a routine is missing
    1524, // unknown way to log in
    1698, // access denied without a password
    1820, // the password must be changed
    1862, // the password has expired
    3118, // account locked (MySQL)
    3159, // encrypted connections only
    3955, // account blocked for wrong passwords (MySQL)
    4151, // account locked (MariaDB)
    4166, // account blocked for wrong passwords (MariaDB)
];

/// What a server says when it is the values of a row that it does not take.
const CODES_ROW_REFUSED: [u16; 13] = [
    1048, // column cannot be null
    1062, // duplicate entry
    1264, // out of range
    1265, // truncated
    1292, // truncated incorrect value
    1366, // incorrect value
    1406, // too long
    1452, // foreign key
    1526, // no partition for the value
    1644, // a trigger says no
    1748, // not in the partitions named
    3819, // check constraint (MySQL)
    4025, // check constraint (MariaDB)
];

/// Codes that say something about a statement, a row or a right and nothing about the connection.
const CODES_HARMLESS: [&[u16]; 2] = [
    &CODES_ROW_REFUSED,
    &[
        1020, 1044, 1051, 1054, 1064, 1061, 1136, 1142, 1143, 1146, 1205, 1206, 1213, 1227, 1364, 1370, 1969,
        3024, 3101, 3572, 8002, 8022, 8028, 9007,
    ],
];

/// Whether the connection is as good as before. Any error that is not known to be harmless may be of this connection
/// only (a node that went read-only, a session whose account was locked, a proxy that lost its server), and
/// another connection costs little.
pub(super) fn is_harmless(error: &Error) -> bool {
    match error {
        Error::MySqlError(error) => CODES_HARMLESS.iter().any(|codes| codes.contains(&error.code)),
        Error::IoError(_)
        | Error::CodecError(_)
        | Error::DriverError(_)
        | Error::UrlError(_)
        | Error::FromValueError(_)
        | Error::FromRowError(_) => false,
    }
}

/// Whether another address of the same server may do better.
pub(super) fn is_away(error: &Error) -> bool {
    meaning(error) == Meaning::Away
}

/// The error of this crate.
pub(super) fn classified(store: &str, error: &Error) -> StoreError {
    let (store, problem) = (store.to_owned(), text(error));
    match meaning(error) {
        Meaning::Away => StoreError::Away { store, problem },
        Meaning::Busy => StoreError::Busy { store, problem },
        Meaning::Missing => StoreError::Missing { store, problem },
        Meaning::Unusable => StoreError::Unusable { store, problem },
        Meaning::ReadOnly => StoreError::ReadOnly { store, problem },
        Meaning::RowRefused => StoreError::RowRefused { store, problem },
        Meaning::Unknown => StoreError::Refused { store, problem },
    }
}

fn meaning(error: &Error) -> Meaning {
    match error {
        Error::IoError(_) | Error::CodecError(_) => Meaning::Away,
        Error::DriverError(error) => driver_meaning(error),
        Error::MySqlError(error) => code_meaning(error.code),
        Error::UrlError(_) | Error::FromValueError(_) | Error::FromRowError(_) => Meaning::Unknown,
    }
}

fn code_meaning(code: u16) -> Meaning {
    let codes: [(&[u16], Meaning); 6] = [
        (&CODES_AWAY, Meaning::Away),
        (&CODES_BUSY, Meaning::Busy),
        (&CODES_MISSING, Meaning::Missing),
        (&CODES_UNUSABLE, Meaning::Unusable),
        (&CODES_READ_ONLY, Meaning::ReadOnly),
        (&CODES_ROW_REFUSED, Meaning::RowRefused),
    ];
    let known = codes.iter().find(|(codes, _)| codes.contains(&code));
    known.map_or(Meaning::Unknown, |&(_, meaning)| meaning)
}

fn driver_meaning(error: &DriverError) -> Meaning {
    match error {
        DriverError::ConnectTimeout
        | DriverError::CouldNotConnect(_)
        | DriverError::PacketOutOfSync
        | DriverError::UnexpectedPacket
        | DriverError::SetupError
        | DriverError::Timeout => Meaning::Away,
        DriverError::UnknownAuthPlugin(_) | DriverError::OldMysqlPasswordDisabled => Meaning::Unusable,
        DriverError::UnsupportedProtocol(_)
        | DriverError::PacketTooLarge
        | DriverError::Protocol41NotSet
        | DriverError::MismatchedStmtParams(..)
        | DriverError::InvalidPoolConstraints
        | DriverError::TlsNotSupported
        | DriverError::CouldNotParseVersion
        | DriverError::ReadOnlyTransNotSupported
        | DriverError::PoisonedPoolMutex
        | DriverError::Params(_)
        | DriverError::MixedParams
        | DriverError::CleartextPluginDisabled
        | DriverError::BulkExecute(_)
        | DriverError::InvalidParsecSalt => Meaning::Unknown,
    }
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
        for code in [1053, 1205, 1213, 1226, 1243, 1615, 1927, 3101] {
            assert!(said(code).is_retryable() && !said(code).is_fatal(), "{code}");
        }
        for code in [1044, 1045, 1049, 1142, 1698] {
            assert!(said(code).is_fatal() && !said(code).is_retryable(), "{code}");
        }
        assert!(said(1290).is_fatal() && said(1290).is_retryable(), "another may have taken over");
        assert!(matches!(said(1146), StoreError::Missing { .. }));
        assert!(matches!(said(1526), StoreError::RowRefused { .. }));
        assert!(matches!(said(1005), StoreError::Refused { .. }) && !said(1005).is_fatal());
        assert_eq!(said(1213).to_string(), "mysql://lars@db/lars is busy: what it said (error 1213)");
        assert_eq!(said(1053).to_string(), "mysql://lars@db/lars is away: what it said (error 1053)");
        assert_eq!(said(1045).to_string(), "mysql://lars@db/lars cannot be used: what it said (error 1045)");
    }

    #[test]
    fn no_code_means_two_things() {
        let mut codes = [
            &CODES_AWAY[..],
            &CODES_BUSY,
            &CODES_MISSING,
            &CODES_UNUSABLE,
            &CODES_READ_ONLY,
            &CODES_ROW_REFUSED,
        ]
        .concat();
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    #[test]
    fn a_connection_is_kept_only_where_that_is_known_to_be_harmless() {
        let is_kept = |code| {
            is_harmless(&Error::MySqlError(MySqlError {
                state: "HY000".to_owned(),
                message: String::new(),
                code,
            }))
        };
        for code in [1062, 1142, 1146, 1205, 1213, 1526, 3101] {
            assert!(is_kept(code), "{code}");
        }
        for code in [1005, 1045, 1049, 1053, 1226, 1243, 1290, 1615, 1792, 9999] {
            assert!(!is_kept(code), "{code}");
        }
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
            assert!(!is_harmless(&error) && classified("db", &error).is_retryable(), "{error}");
        }
        let other = Error::DriverError(DriverError::UnknownAuthPlugin("x".to_owned()));
        assert!(classified("db", &other).is_fatal());
        let silent = classified("db", &Error::IoError(io::ErrorKind::WouldBlock.into()));
        assert_eq!(silent.to_string(), "db is away: no answer in time");
    }
}
