//! [`RouteStore`] on SQLite.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use lars_proto::{HostAddr, ModuleId};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::SqliteStore;
use crate::{
    EditOutcome, Loaded, RouteAcceptance, RouteChange, RouteEdit, RoutePosition, RouteStore, StoreError,
    edit::{self, EditTransaction, RouteRow, Routes},
    error::Failure,
    row::{self, Loading, RouteColumns},
};

type Result<T, E = Failure<rusqlite::Error>> = std::result::Result<T, E>;

impl RouteStore for SqliteStore {
    fn position(&mut self) -> Result<RoutePosition, StoreError> {
        self.read(position)
    }

    fn load_all(&mut self, each: &mut dyn FnMut(ModuleId, HostAddr)) -> Result<Loaded, StoreError> {
        self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let (position, accepted) = (position(&snapshot)?, accepted(&snapshot)?);
            let mut statement = connection.prepare_cached(
                "SELECT modid, cmdid, serverip, serverport FROM RouteData
                 ORDER BY modid, cmdid, serverip, serverport",
            )?;
            let mut rows = statement.query([])?;
            let mut loading = Loading::new(each);
            while let Some(row) = rows.next()? {
                loading.row(columns(row).ok());
            }
            Ok(Loaded { report: loading.report(), position, accepted })
        })
    }

    fn hosts(&mut self, module: ModuleId) -> Result<Vec<HostAddr>, StoreError> {
        self.read(|connection| Ok(hosts(connection, module)?.into_iter().collect()))
    }

    fn changes(&mut self, after_id: u64, limit: usize) -> Result<Vec<RouteChange>, StoreError> {
        let (after_id, limit) = (row::signed(after_id), row::signed(limit as u64));
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, modid, cmdid, version FROM RouteChange WHERE id > ? ORDER BY id LIMIT ?",
            )?;
            let mut rows = statement.query([after_id, limit])?;
            let mut changes = Vec::new();
            while let Some(row) = rows.next()? {
                changes.extend(row::change((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
            }
            Ok(changes)
        })
    }

    fn skipped_row_ids(&mut self, limit: usize) -> Result<Vec<u64>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(row::SKIPPED_ROW_IDS)?;
            statement.query_map([row::signed(limit as u64)], |row| row.get(0))?.collect()
        })
    }

    fn edit(&mut self, edits: &[RouteEdit]) -> Result<EditOutcome, StoreError> {
        self.write(|tx| edit::run(&mut Edit(tx), edits, SystemTime::now()))
    }

    fn accept(&mut self) -> Result<RouteAcceptance, StoreError> {
        self.write(|tx| edit::accept(&mut Edit(tx), SystemTime::now()))
    }

    fn prune_changes(&mut self, age: Duration, now: SystemTime) -> Result<u64, StoreError> {
        let oldest = edit::oldest_version_kept(age, now);
        self.write(|tx| Ok(tx.execute("DELETE FROM RouteChange WHERE version < ?", [oldest])? as u64))
    }
}

fn columns(row: &Row<'_>) -> rusqlite::Result<RouteColumns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn position(connection: &Connection) -> rusqlite::Result<RoutePosition> {
    const NEWEST_CHANGE: &str = "SELECT COALESCE(MAX(id), 0) FROM RouteChange";
    let newest_change_id = connection.prepare_cached(NEWEST_CHANGE)?.query_row([], |row| row.get(0))?;
    Ok(RoutePosition { version: version(connection)?, newest_change_id })
}

/// Files of older versions have no table for it.
fn accepted(connection: &Connection) -> rusqlite::Result<Option<RouteAcceptance>> {
    let of_row =
        |row: &Row<'_>| Ok(RouteAcceptance { id: row.get(0)?, version: row.get(1)?, hosts: row.get(2)? });
    match connection.query_row(row::NEWEST_ACCEPTANCE, [], of_row).optional() {
        Err(error) if error.to_string().contains("no such table") => Ok(None),
        found => found,
    }
}

/// Old editors leave versions that are null, negative, or no number.
fn version(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let version = connection
        .prepare_cached("SELECT version FROM RouteVersion WHERE id = 1")?
        .query_row([], |row| Ok(row.get(0).ok()))
        .optional()?;
    Ok(version.flatten())
}

fn hosts(connection: &Connection, module: ModuleId) -> rusqlite::Result<BTreeSet<HostAddr>> {
    let mut statement = connection
        .prepare_cached("SELECT serverip, serverport FROM RouteData WHERE modid = ? AND cmdid = ?")?;
    let mut rows = statement.query(<[u32; 2]>::from(module.to_unsigned()))?;
    let mut hosts = BTreeSet::new();
    while let Some(row) = rows.next()? {
        hosts.extend(row::host(row.get(0)?, row.get(1)?));
    }
    Ok(hosts)
}

/// An edit within a transaction that holds the write lock of the file.
struct Edit<'a>(&'a Transaction<'a>);

impl Edit<'_> {
    /// Executes the statement once for each row.
    fn for_each_row(&self, sql: &str, rows: &[RouteRow]) -> Result<()> {
        let mut statement = self.0.prepare_cached(sql)?;
        for (module, host) in rows {
            let ((modid, cmdid), (ip, port)) = (module.to_unsigned(), host.to_unsigned());
            statement.execute([modid, cmdid, ip, port])?;
        }
        Ok(())
    }
}

impl EditTransaction for Edit<'_> {
    type Error = rusqlite::Error;

    fn lock_version(&mut self) -> Result<u64> {
        Ok(version(self.0)?.unwrap_or(0))
    }

    fn hosts(&mut self, modules: &BTreeSet<ModuleId>) -> Result<Routes> {
        modules.iter().map(|module| Ok((*module, hosts(self.0, *module)?))).collect()
    }

    fn set_version(&mut self, _from: u64, to: u64) -> Result<()> {
        self.0.execute("INSERT OR REPLACE INTO RouteVersion (id, version) VALUES (1, ?)", [to])?;
        Ok(())
    }

    fn clear(&mut self, modules: &[ModuleId]) -> Result<()> {
        let mut statement = self.0.prepare_cached("DELETE FROM RouteData WHERE modid = ? AND cmdid = ?")?;
        for module in modules {
            statement.execute(<[u32; 2]>::from(module.to_unsigned()))?;
        }
        Ok(())
    }

    fn delete(&mut self, rows: &[RouteRow]) -> Result<()> {
        self.for_each_row(
            "DELETE FROM RouteData WHERE modid = ? AND cmdid = ? AND serverip = ? AND serverport = ?",
            rows,
        )
    }

    fn insert(&mut self, rows: &[RouteRow]) -> Result<()> {
        self.for_each_row(
            "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (?, ?, ?, ?)",
            rows,
        )
    }

    fn record_changes(&mut self, modules: &[ModuleId], version: u64) -> Result<()> {
        let mut statement =
            self.0.prepare_cached("INSERT INTO RouteChange (modid, cmdid, version) VALUES (?, ?, ?)")?;
        for module in modules {
            let (modid, cmdid) = module.to_unsigned();
            statement.execute(params![modid, cmdid, version])?;
        }
        Ok(())
    }

    fn host_count(&mut self) -> Result<u64> {
        Ok(self.0.query_row(row::HOST_COUNT, [], |row| row.get(0))?)
    }

    fn record_acceptance(&mut self, version: u64, hosts: u64) -> Result<u64> {
        self.0.execute(row::ADD_ACCEPTANCE, params![version, hosts])?;
        Ok(self.0.last_insert_rowid().cast_unsigned())
    }
}
