//! The SQL side of Lars: routes and call statistics, on a MySQL server or in an SQLite file.
//!
//! The tables are those of the C++ deployments, which stay as they are (`mysql/schema/`). Everything here
//! blocks, so it is called from OS threads and never on a shard. A thread that needs the database opens a
//! [`Store`] of its own, which is a connection.
//!
//! * [`StoreUrl`]: which database, as text.
//! * [`RouteStore`]: who serves which module, how that changes, and the version that tells.
//! * [`CallStatusStore`]: how calls went, as the agents reported it, until that is too old.
//! * [`StoreError`], [`OutageLog`]: why something failed, what to do then, and what to say.
//! * [`open`]: connects; [`OpenMode`] says whether what is missing is created.
//!
//! What an edit of routes means is decided once, in `edit`, for both backends; they only run the statements.

#![forbid(unsafe_code)]

mod call_status;
mod edit;
mod error;
mod mysql;
mod outage_log;
mod route;
mod row;
mod sqlite;
mod url;

pub use call_status::{CallStatusStore, ExpiryCursor, ExpiryStep, TS_AHEAD_MAX};
pub use error::StoreError;
pub use lars_proto::{CallStatus, CallStatusKey};
pub use outage_log::{OutageLog, REMINDER_INTERVAL};
pub use route::{
    EditOutcome, HOSTS_PER_MODULE_MAX, LoadReport, Loaded, RouteAcceptance, RouteChange, RouteEdit,
    RoutePosition, RouteStore,
};
pub use url::{MysqlUrl, StoreUrl, StoreUrlError};

/// Routes and call statistics in one database.
pub trait Store: RouteStore + CallStatusStore + Send {}

/// What opening a database may do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Creates what is missing: the SQLite file, tables, the index by module. What is there stays as it is.
    Create,
    /// Opens what is there and changes nothing about it: no file is made, no table, no index. Reads need no more
    /// than the right to read; writes work where the account may.
    Existing,
    /// As [`OpenMode::Existing`], for who only looks and soon closes again: reads also an SQLite file in a folder
    /// that it may not write. Writes fail.
    ReadOnly,
}

/// Connects to the database.
///
/// # Errors
/// [`StoreError::Missing`] if there is no such file and it is not to be created; [`StoreError::is_fatal`] ones if
/// the account or the file cannot be used; [`StoreError::is_retryable`] ones if a server is away or busy.
pub fn open(url: &StoreUrl, mode: OpenMode) -> Result<Box<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(path) => Ok(Box::new(sqlite::SqliteStore::open(path, mode)?)),
        StoreUrl::Mysql(url) => Ok(Box::new(mysql::MysqlStore::open(url, mode)?)),
    }
}
