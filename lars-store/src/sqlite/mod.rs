//! The embedded backend: one SQLite file, which many processes may have open at once.

mod call_status;
mod routes;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::{Store, StoreError, StoreUrl, error::Failure};

/// How long a call waits for another process to finish its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A pause of the one wait that SQLite does not do by itself.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to an SQLite file.
pub(crate) struct SqliteStore {
    connection: Connection,
    /// The URL, for errors.
    name: String,
}

impl Store for SqliteStore {}

impl SqliteStore {
    /// Opens the file, or creates it, with all tables.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let name = StoreUrl::Sqlite(path.to_owned()).to_string();
        if let Some(folder) =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            let problem = format!("there is no folder {}", folder.display());
            return Err(StoreError::Refused { store: name, problem });
        }
        match connect(path) {
            Ok(connection) => Ok(Self { connection, name }),
            Err(error) => Err(classified(&name, &error)),
        }
    }

    /// Reads with plain statements.
    fn read<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.connection).map_err(|error| classified(&self.name, &error))
    }

    /// Writes in one transaction. It takes the write lock at once: one that reads first and wants to write
    /// later would fail, instead of wait, if another process wrote in between.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure<rusqlite::Error>>,
    ) -> Result<T, StoreError> {
        in_transaction(&mut self.connection, work)
            .map_err(|failure| failure.into_store_error(&self.name, classified))
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure<rusqlite::Error>>,
) -> Result<T, Failure<rusqlite::Error>> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = work(&tx)?;
    tx.commit()?;
    Ok(value)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_wal(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(include_str!("schema.sql"))?;
    tx.commit()?;
    Ok(connection)
}

/// Switches to the write-ahead log, with which readers and a writer do not wait for each other. While another
/// process does the same, SQLite says "locked" at once, whatever its busy timeout.
fn set_wal(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(WAL_RETRY_PAUSE),
            done => return done,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn classified(name: &str, error: &rusqlite::Error) -> StoreError {
    let (store, problem) = (name.to_owned(), error.to_string());
    if is_busy(error) {
        StoreError::Busy { store, problem }
    } else if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
        StoreError::RowRefused { store, problem }
    } else {
        StoreError::Refused { store, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_on_the_disk_and_readers_do_not_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = SqliteStore::open(&folder.path().join("lars.db")).expect("the store opens");
        let pragmas = store.read(|connection| {
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
            Ok((mode, synchronous))
        });
        const FULL: i64 = 2;
        assert_eq!(pragmas, Ok(("wal".to_owned(), FULL)));
    }
}
