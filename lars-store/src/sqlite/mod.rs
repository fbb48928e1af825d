//! The embedded backend: one SQLite file, which many processes may have open at once.

mod call_status;
mod file;
mod routes;

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use self::file::{OpenFile, side_file};
use crate::{OpenMode, Store, StoreError, StoreUrl, error::Failure};

/// How long a call waits for another process to finish its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A pause of the one wait that SQLite does not do by itself.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to an SQLite file.
pub(crate) struct SqliteStore {
    connection: Connection,
    /// What `connection` has open.
    file: OpenFile,
    mode: OpenMode,
    /// The URL, for errors.
    name: String,
}

impl Store for SqliteStore {}

impl SqliteStore {
    /// Opens the file; creates it, with all tables, only if `mode` says so.
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        let name = StoreUrl::Sqlite(path.to_owned()).to_string();
        if let Some(problem) = missing(path, mode) {
            return Err(StoreError::Missing { store: name, problem });
        }
        let connection = match mode {
            OpenMode::Create => create(path),
            OpenMode::Existing => open_existing(path),
            OpenMode::ReadOnly => open_read_only(path),
        };
        match connection {
            Ok(connection) => Ok(Self { connection, file: OpenFile::at(path), mode, name }),
            Err(error) => Err(open_error(name, path, &error)),
        }
    }

    /// Opens the file anew if its path leads to another one: somebody put a backup in place.
    fn follow(&mut self, mode: OpenMode) -> Result<(), StoreError> {
        if !self.file.is_replaced() {
            return Ok(());
        }
        let path = self.file.path().to_owned();
        if let Some(problem) = missing(&path, mode) {
            return Err(StoreError::Missing { store: self.name.clone(), problem });
        }
        // What the log holds belongs to the old file. If somebody else has that open and busy, he does it.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint", [], |_| Ok(()));
        let removed = self.file.remove_old_log();
        removed.map_err(|error| StoreError::Away {
            store: self.name.clone(),
            problem: format!("the log of the file that was here before cannot be removed: {error}"),
        })?;
        *self = Self { mode: self.mode, ..Self::open(&path, mode)? };
        tracing::warn!(store = %self.name, "the file was replaced; from here on it is the new one");
        Ok(())
    }

    /// How reads and changes to routes open a file that was replaced. One that is gone is not made anew by them:
    /// nothing would be in it.
    fn mode_to_follow(&self) -> OpenMode {
        if self.mode == OpenMode::Create { OpenMode::Existing } else { self.mode }
    }

    /// Reads with plain statements.
    fn read<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.follow(self.mode_to_follow())?;
        work(&self.connection).map_err(|error| classified(&self.name, &error))
    }

    /// Writes in one transaction. It takes the write lock at once: one that reads first and wants to write
    /// later would fail, instead of wait, if another process wrote in between.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure<rusqlite::Error>>,
    ) -> Result<T, StoreError> {
        self.follow(self.mode_to_follow())?;
        self.write_here(work)
    }

    /// As [`Self::write`]; a file that is gone is made anew, if this may create one.
    fn write_or_create<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure<rusqlite::Error>>,
    ) -> Result<T, StoreError> {
        self.follow(self.mode)?;
        self.write_here(work)
    }

    fn write_here<T>(
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

/// What is not there, if something has to be.
fn missing(path: &Path, mode: OpenMode) -> Option<String> {
    if mode == OpenMode::Create {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
        return (!folder.exists()).then(|| format!("there is no folder {}", folder.display()));
    }
    let is_missing = path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    is_missing.then(|| "there is no such file".to_owned())
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn connect_to_write(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | more)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// A file that this user may not write is opened to be read.
fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    connect_to_write(path, OpenFlags::empty())
}

/// Readers of a file with a write-ahead log need its index beside it, and make it if nobody else has the file open.
/// Where they may not, the file is read as it is: nobody writes it then, or the index would be there.
fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    match connection.query_row("PRAGMA schema_version", [], |_| Ok(())) {
        Err(error) if needs_index(&error) && !side_file(path, "-wal").exists() => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            connect(Path::new(&immutable_uri(path)), flags)
        }
        done => done.map(|()| connection),
    }
}

fn needs_index(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// The path as a URI that tells SQLite to expect no writers.
fn immutable_uri(path: &Path) -> OsString {
    const RESERVED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
    let path = percent_encode(path.as_os_str().as_bytes(), RESERVED);
    format!("file:{path}?immutable=1").into()
}

fn create(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = connect_to_write(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    set_wal(&connection)?;
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
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { store, problem },
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure,
        ) => StoreError::Away { store, problem },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { store, problem },
        Some(ErrorCode::PermissionDenied | ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Unusable { store, problem }
        }
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            StoreError::RowRefused { store, problem }
        }
        // SQLite has one code for all that is wrong with a statement.
        Some(ErrorCode::Unknown) if problem.contains("no such table") => {
            StoreError::Missing { store, problem }
        }
        Some(ErrorCode::Unknown) if problem.contains("no such column") || problem.contains("no column") => {
            StoreError::Unusable { store, problem }
        }
        _ => StoreError::Refused { store, problem },
    }
}

/// SQLite says of every file that it cannot open that it cannot open it; the system knows more.
fn open_error(store: String, path: &Path, error: &rusqlite::Error) -> StoreError {
    let denied = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        Ok(_) | Err(_) => return classified(&store, error),
    };
    StoreError::Unusable { store, problem: denied.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_on_the_disk_and_readers_do_not_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store =
            SqliteStore::open(&folder.path().join("lars.db"), OpenMode::Create).expect("the store opens");
        let pragmas = store.read(|connection| {
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
            Ok((mode, synchronous))
        });
        const FULL: i64 = 2;
        assert_eq!(pragmas, Ok(("wal".to_owned(), FULL)));
    }
}
