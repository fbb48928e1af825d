//! [`CallStatusStore`] on SQLite.

use lars_proto::ModuleId;
use rusqlite::{Connection, Params, Row, params};

use super::SqliteStore;
use crate::{
    CallStatus, CallStatusStore, ExpiryCursor, ExpiryStep, StoreError, TS_AHEAD_MAX,
    call_status::{EXPIRY_STEP_ROWS, KeyColumns, newest_by_key},
    row::{self, CallStatusColumns},
};

const UPSERT: &str = "
    INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (modid, cmdid, ip, port, caller) DO UPDATE SET
        succ_cnt = excluded.succ_cnt, err_cnt = excluded.err_cnt, ts = excluded.ts,
        overload = excluded.overload
    WHERE excluded.ts >= ServerCallStatus.ts OR ServerCallStatus.ts > unixepoch() + ?";

const NEXT_KEYS: &str = "
    SELECT modid, cmdid, ip, port, caller, ts FROM ServerCallStatus
    WHERE (modid, cmdid, ip, port, caller) > (?, ?, ?, ?, ?)
    ORDER BY modid, cmdid, ip, port, caller LIMIT ?";

const DELETE: &str = "
    DELETE FROM ServerCallStatus WHERE modid = ? AND cmdid = ? AND ip = ? AND port = ? AND caller = ?";

const SELECT_ALL: &str =
    "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus";

const SELECT_MODULE: &str = "
    SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus
    WHERE modid = ? AND cmdid = ?";

impl CallStatusStore for SqliteStore {
    fn upsert(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
        self.write_or_create(|tx| {
            let mut statement = tx.prepare_cached(UPSERT)?;
            for row in newest_by_key(rows) {
                let (modid, cmdid) = row.key.module.to_unsigned();
                let (ip, port) = row.key.host.to_unsigned();
                let (caller, ts) = (row.key.caller.to_bits(), row::signed(row.ts));
                let overload = if row.overload { "1" } else { "0" };
                statement.execute(params![
                    modid,
                    cmdid,
                    ip,
                    port,
                    caller,
                    row.succ,
                    row.err,
                    ts,
                    overload,
                    TS_AHEAD_MAX
                ])?;
            }
            Ok(())
        })
    }

    fn check_upsert(&mut self) -> Result<(), StoreError> {
        self.write_or_create(|tx| Ok(tx.execute("UPDATE ServerCallStatus SET ts = ts WHERE 1 = 0", [])?))?;
        Ok(())
    }

    /// A file has one writer at a time, which has the turn while it has the file.
    fn expire_step(&mut self, cursor: ExpiryCursor, oldest_ts: u64) -> Result<ExpiryStep, StoreError> {
        let oldest_ts = row::signed(oldest_ts);
        self.write(|tx| {
            let rows = next_keys(tx, cursor.0.unwrap_or([i64::MIN; 5]))?;
            let mut delete = tx.prepare_cached(DELETE)?;
            let mut deleted = 0;
            for (key, _) in rows.iter().filter(|(_, ts)| *ts < oldest_ts) {
                deleted += delete.execute(*key)? as u64;
            }
            let last = rows.last().filter(|_| rows.len() == EXPIRY_STEP_ROWS);
            Ok(ExpiryStep { deleted, next: last.map(|(key, _)| ExpiryCursor(Some(*key))) })
        })
    }

    fn call_status(&mut self, module: Option<ModuleId>) -> Result<Vec<CallStatus>, StoreError> {
        let mut found = self.read(|connection| match module.map(ModuleId::to_unsigned) {
            None => select(connection, SELECT_ALL, []),
            Some((modid, cmdid)) => select(connection, SELECT_MODULE, [modid, cmdid]),
        })?;
        found.sort_unstable_by_key(|row| row.key);
        Ok(found)
    }
}

fn select(connection: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<Vec<CallStatus>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(row::call_status(&columns(row)?));
    }
    Ok(found)
}

fn next_keys(connection: &Connection, after: KeyColumns) -> rusqlite::Result<Vec<(KeyColumns, i64)>> {
    let [modid, cmdid, ip, port, caller] = after;
    let mut statement = connection.prepare_cached(NEXT_KEYS)?;
    let rows = statement
        .query_map(params![modid, cmdid, ip, port, caller, EXPIRY_STEP_ROWS as i64], |row| {
            Ok(([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?], row.get(5)?))
        })?;
    rows.collect()
}

fn columns(row: &Row<'_>) -> rusqlite::Result<CallStatusColumns> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
    ))
}
