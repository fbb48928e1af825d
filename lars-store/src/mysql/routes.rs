//! [`RouteStore`] on MySQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use lars_proto::{HostAddr, ModuleId};
use mysql::{Conn, Error, Row, Value, prelude::Queryable};

use super::{
    MysqlStore,
    batch::{self, batches, parameters, repeated},
    connection::LOAD_TIMEOUT,
    first_row, schema, values,
};
use crate::{
    EditOutcome, Loaded, RouteAcceptance, RouteChange, RouteEdit, RoutePosition, RouteStore, StoreError,
    edit::{self, EditTransaction, RouteRow, Routes},
    error::Failure,
    row::{self, Loading, RouteColumns},
};

type Result<T, E = Failure<Error>> = std::result::Result<T, E>;

/// The most rows that one statement deletes, so that it holds its locks briefly.
const PRUNED_AT_ONCE: u64 = 10_000;

impl RouteStore for MysqlStore {
    fn position(&mut self) -> Result<RoutePosition, StoreError> {
        self.with_conn(|conn| Ok(position(conn)?))
    }

    fn load_all(&mut self, each: &mut dyn FnMut(ModuleId, HostAddr)) -> Result<Loaded, StoreError> {
        self.with_patient_conn(LOAD_TIMEOUT, |conn| {
            // It ends with the connection. Where the tables know no transactions, the rows are not older than the
            // position, because that is read first.
            conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT")?;
            let (position, accepted) = (position(conn)?, accepted(conn)?);
            // One statement reads one snapshot. Sorting is left to us: for the server, of which there is one, it
            // would be half of the work.
            let rows = conn.exec_iter("SELECT modid, cmdid, serverip, serverport FROM RouteData", ())?;
            let (mut loading, mut found) = (Loading::new(each), Vec::new());
            for row in rows {
                match mysql::from_row_opt(row?).ok().and_then(row::route) {
                    Some(route) => found.push(route),
                    None => loading.skip(),
                }
            }
            found.sort_unstable_by_key(|&(module, host)| (module.to_unsigned(), host));
            found.into_iter().for_each(|route| loading.route(route));
            Ok(Loaded { report: loading.report(), position, accepted })
        })
    }

    fn hosts(&mut self, module: ModuleId) -> Result<Vec<HostAddr>, StoreError> {
        Ok(self.hosts_of_each(&[module])?.remove(&module).unwrap_or_default())
    }

    fn hosts_of_each(
        &mut self,
        modules: &[ModuleId],
    ) -> Result<BTreeMap<ModuleId, Vec<HostAddr>>, StoreError> {
        self.with_conn(|conn| {
            let mut routes = Routes::new();
            select_routes(conn, modules, "", &mut routes)?;
            let mut hosts = |module| routes.remove(module).unwrap_or_default().into_iter().collect();
            Ok(modules.iter().map(|module| (*module, hosts(module))).collect())
        })
    }

    fn changes(&mut self, after_id: u64, limit: usize) -> Result<Vec<RouteChange>, StoreError> {
        self.with_conn(|conn| {
            let rows: Vec<Row> = conn.exec(
                "SELECT id, modid, cmdid, version FROM RouteChange WHERE id > ? ORDER BY id LIMIT ?",
                (after_id, limit),
            )?;
            let mut changes = Vec::with_capacity(rows.len());
            for row in rows {
                changes.extend(row::change(values(row)?));
            }
            Ok(changes)
        })
    }

    fn skipped_row_ids(&mut self, limit: usize) -> Result<Vec<u64>, StoreError> {
        self.with_conn(|conn| Ok(conn.exec(row::SKIPPED_ROW_IDS, (limit,))?))
    }

    fn edit(&mut self, edits: &[RouteEdit]) -> Result<EditOutcome, StoreError> {
        self.transaction(|conn| edit::run(&mut Edit(conn), edits, SystemTime::now()))
    }

    fn accept(&mut self) -> Result<RouteAcceptance, StoreError> {
        self.transaction(|conn| edit::accept(&mut Edit(conn), SystemTime::now()))
    }

    fn prune_changes(&mut self, age: Duration, now: SystemTime) -> Result<u64, StoreError> {
        let oldest = edit::oldest_version_kept(age, now);
        let mut pruned = 0;
        loop {
            let deleted = self.transaction(|conn| {
                conn.exec_drop(
                    "DELETE FROM RouteChange WHERE version < ? ORDER BY id LIMIT ?",
                    (oldest, PRUNED_AT_ONCE),
                )?;
                Ok(conn.affected_rows())
            })?;
            pruned += deleted;
            if deleted < PRUNED_AT_ONCE {
                return Ok(pruned);
            }
        }
    }
}

fn position(conn: &mut Conn) -> Result<RoutePosition, Error> {
    const VERSION: &str = "SELECT version FROM RouteVersion WHERE id = 1";
    const NEWEST_CHANGE: &str = "SELECT COALESCE(MAX(id), 0) FROM RouteChange";
    let version = conn.exec_first(VERSION, ())?.and_then(readable_version);
    Ok(RoutePosition { version, newest_change_id: first_row(conn, NEWEST_CHANGE)?.unwrap_or(0) })
}

/// Databases that only other programs made have no table for it, and an account may have rights on theirs only.
fn accepted(conn: &mut Conn) -> Result<Option<RouteAcceptance>, Error> {
    const UNREADABLE: [u16; 3] = [1142, 1143, 1146];
    match conn.exec_first(row::NEWEST_ACCEPTANCE, ()) {
        Err(Error::MySqlError(error)) if UNREADABLE.contains(&error.code) => Ok(None),
        found => {
            let columns: Option<(u64, u64, u64)> = found?.map(values).transpose()?;
            Ok(columns.map(|(id, version, hosts)| RouteAcceptance { id, version, hosts }))
        }
    }
}

/// Old tables and old editors leave versions that are null, or negative.
fn readable_version(row: Row) -> Option<u64> {
    mysql::from_row_opt(row).ok()
}

/// Adds the hosts of some modules. `suffix` ends the statement.
fn select_routes(
    conn: &mut Conn,
    modules: &[ModuleId],
    suffix: &str,
    routes: &mut Routes,
) -> Result<(), Error> {
    for batch in batches(modules) {
        let sql = format!(
            "SELECT modid, cmdid, serverip, serverport FROM RouteData WHERE {} {suffix}",
            repeated(IS_MODULE, " OR ", batch.len()),
        );
        for row in conn.exec_iter(sql, parameters(batch, module_values))? {
            let columns: RouteColumns = values(row?)?;
            if let Some((module, host)) = row::route(columns) {
                routes.entry(module).or_default().insert(host);
            }
        }
    }
    Ok(())
}

/// Conditions are joined with OR: not every server uses an index for `(modid, cmdid) IN (…)`.
const IS_MODULE: &str = "(modid = ? AND cmdid = ?)";
const IS_ROW: &str = "(modid = ? AND cmdid = ? AND serverip = ? AND serverport = ?)";

fn module_values(module: &ModuleId, values: &mut Vec<Value>) {
    let (modid, cmdid) = module.to_unsigned();
    values.extend([modid, cmdid].map(Value::from));
}

fn row_values((module, host): &RouteRow, values: &mut Vec<Value>) {
    module_values(module, values);
    let (ip, port) = host.to_unsigned();
    values.extend([ip, port].map(Value::from));
}

/// An edit within a transaction.
struct Edit<'a>(&'a mut Conn);

impl EditTransaction for Edit<'_> {
    type Error = Error;

    fn lock_version(&mut self) -> Result<u64> {
        const LOCK: &str = "SELECT version FROM RouteVersion WHERE id = 1 FOR UPDATE";
        if let Some(row) = self.0.exec_first(LOCK, ())? {
            return Ok(readable_version(row).unwrap_or(0));
        }
        self.0.query_drop(schema::ADD_VERSION_ROW)?;
        first_row(self.0, LOCK)?.ok_or(Failure::Overtaken)
    }

    fn hosts(&mut self, modules: &BTreeSet<ModuleId>) -> Result<Routes> {
        let modules: Vec<_> = modules.iter().copied().collect();
        let mut routes = Routes::new();
        // A locking read: it sees what is committed now, also where a transaction otherwise reads what was
        // committed when it began, which may be before the version was locked.
        select_routes(self.0, &modules, "FOR UPDATE", &mut routes)?;
        Ok(routes)
    }

    fn set_version(&mut self, from: u64, to: u64) -> Result<()> {
        // Where tables are MyISAM the lock is none, and this condition is what keeps two editors apart.
        // So is that of a version that cannot be read: nobody else made it readable.
        self.0.exec_drop(
            "UPDATE RouteVersion SET version = ?
             WHERE id = 1 AND (version = ? OR version IS NULL OR version < 0)",
            (to, from),
        )?;
        if self.0.affected_rows() == 0 { Err(Failure::Overtaken) } else { Ok(()) }
    }

    fn clear(&mut self, modules: &[ModuleId]) -> Result<()> {
        let sql = |rows| format!("DELETE FROM RouteData WHERE {}", repeated(IS_MODULE, " OR ", rows));
        Ok(batch::execute(self.0, modules, sql, module_values)?)
    }

    fn delete(&mut self, rows: &[RouteRow]) -> Result<()> {
        let sql = |rows| format!("DELETE FROM RouteData WHERE {}", repeated(IS_ROW, " OR ", rows));
        Ok(batch::execute(self.0, rows, sql, row_values)?)
    }

    fn insert(&mut self, rows: &[RouteRow]) -> Result<()> {
        let sql = |rows| {
            let rows = repeated("(?, ?, ?, ?)", ", ", rows);
            format!("INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES {rows}")
        };
        Ok(batch::execute(self.0, rows, sql, row_values)?)
    }

    fn record_changes(&mut self, modules: &[ModuleId], version: u64) -> Result<()> {
        let sql = |rows| {
            let rows = repeated("(?, ?, ?)", ", ", rows);
            format!("INSERT INTO RouteChange (modid, cmdid, version) VALUES {rows}")
        };
        let change_values = |module: &ModuleId, values: &mut Vec<Value>| {
            module_values(module, values);
            values.push(version.into());
        };
        Ok(batch::execute(self.0, modules, sql, change_values)?)
    }

    fn host_count(&mut self) -> Result<u64> {
        Ok(first_row(self.0, row::HOST_COUNT)?.unwrap_or(0))
    }

    fn record_acceptance(&mut self, version: u64, hosts: u64) -> Result<u64> {
        self.0.exec_drop(row::ADD_ACCEPTANCE, (version, hosts))?;
        Ok(self.0.last_insert_id())
    }
}
