//! The SQL side of Lars: routes and call statistics, on a MySQL server or in an SQLite file.
//!
//! The tables are those of the C++ deployments, which stay as they are (`mysql/schema/`). Everything here
//! blocks, so it is called from OS threads and never on a shard. A thread that needs the database opens a
//! [`Store`] of its own, which is a connection.
//!
//! * [`StoreUrl`]: which database, as text.
//! * [`RouteStore`]: who serves which module, how that changes, and the version that tells.
//! * [`CallStatusStore`]: how calls went, as the agents reported it.
//! * [`open`]: connects, and creates what is missing.
//!
//! What an edit of routes means is decided once, in `edit`, for both backends; they only run the statements.

#![forbid(unsafe_code)]

mod call_status;
mod edit;
mod error;
mod mysql;
mod route;
mod row;
mod sqlite;
mod url;

pub use call_status::{CallStatus, CallStatusKey, CallStatusStore};
pub use error::StoreError;
pub use route::{EditOutcome, HOSTS_PER_MODULE_MAX, LoadReport, RouteChange, RouteEdit, RouteStore};
pub use url::{MysqlUrl, StoreUrl, StoreUrlError};

/// Routes and call statistics in one database.
pub trait Store: RouteStore + CallStatusStore + Send {}

/// Connects to the database, creates the tables that are missing, and leaves present ones as they are.
///
/// # Errors
/// [`StoreError::is_retryable`] ones if a server is away or busy; others if it refuses the account, or if
/// the SQLite file cannot be opened.
pub fn open(url: &StoreUrl) -> Result<Box<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(path) => Ok(Box::new(sqlite::SqliteStore::open(path)?)),
        StoreUrl::Mysql(url) => Ok(Box::new(mysql::MysqlStore::open(url)?)),
    }
}
