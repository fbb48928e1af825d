//! [`CallStatusStore`] on SQLite.

use lars_proto::ModuleId;
use rusqlite::{Connection, Params, Row, params};

use super::SqliteStore;
use crate::{
    CallStatus, CallStatusStore, StoreError,
    call_status::newest_by_key,
    row::{self, CallStatusColumns},
};

const UPSERT: &str = "
    INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (modid, cmdid, ip, port, caller) DO UPDATE SET
        succ_cnt = excluded.succ_cnt, err_cnt = excluded.err_cnt, ts = excluded.ts,
        overload = excluded.overload
    WHERE excluded.ts >= ServerCallStatus.ts";

const SELECT_ALL: &str =
    "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus";

const SELECT_MODULE: &str = "
    SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus
    WHERE modid = ? AND cmdid = ?";

impl CallStatusStore for SqliteStore {
    fn upsert(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
        self.write(|tx| {
            let mut statement = tx.prepare_cached(UPSERT)?;
            for row in newest_by_key(rows) {
                let (modid, cmdid) = row.key.module.to_unsigned();
                let (ip, port) = row.key.host.to_unsigned();
                let (caller, ts) = (row.key.caller.to_bits(), row::signed(row.ts));
                let overload = if row.overload { "1" } else { "0" };
                statement
                    .execute(params![modid, cmdid, ip, port, caller, row.succ, row.err, ts, overload])?;
            }
            Ok(())
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
