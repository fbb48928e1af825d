//! [`CallStatusStore`] on MySQL.

use lars_proto::ModuleId;
use mysql::{Params, Row, Value, prelude::Queryable};

use super::{
    MysqlStore,
    batch::{self, repeated},
    values,
};
use crate::{CallStatus, CallStatusStore, StoreError, call_status::newest_by_key, row};

const INSERT: &str =
    "INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload) VALUES ";

/// `ts` comes last: the columns are assigned in this order, and each condition needs the old `ts`.
const UNLESS_OLDER: &str = "
    ON DUPLICATE KEY UPDATE
        succ_cnt = IF(VALUES(ts) >= ts, VALUES(succ_cnt), succ_cnt),
        err_cnt = IF(VALUES(ts) >= ts, VALUES(err_cnt), err_cnt),
        overload = IF(VALUES(ts) >= ts, VALUES(overload), overload),
        ts = IF(VALUES(ts) >= ts, VALUES(ts), ts)";

const SELECT: &str =
    "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus";

impl CallStatusStore for MysqlStore {
    fn upsert(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
        let rows = newest_by_key(rows);
        let sql =
            |rows| format!("{INSERT}{}{UNLESS_OLDER}", repeated("(?, ?, ?, ?, ?, ?, ?, ?, ?)", ", ", rows));
        self.transaction(|conn| Ok(batch::execute(conn, &rows, sql, row_values)?))
    }

    fn call_status(&mut self, module: Option<ModuleId>) -> Result<Vec<CallStatus>, StoreError> {
        let (sql, params) = match module.map(ModuleId::to_unsigned) {
            None => (SELECT.to_owned(), Params::Empty),
            Some(module) => (format!("{SELECT} WHERE modid = ? AND cmdid = ?"), module.into()),
        };
        let mut found = self.with_conn(|conn| {
            let rows: Vec<Row> = conn.exec(sql, params)?;
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                found.extend(row::call_status(&values(row)?));
            }
            Ok(found)
        })?;
        found.sort_unstable_by_key(|row| row.key);
        Ok(found)
    }
}

fn row_values(row: &CallStatus, values: &mut Vec<Value>) {
    let (modid, cmdid) = row.key.module.to_unsigned();
    let (ip, port) = row.key.host.to_unsigned();
    values.extend([modid, cmdid, ip, port, row.key.caller.to_bits(), row.succ, row.err].map(Value::from));
    values.push(row::signed(row.ts).into());
    values.push(if row.overload { "1" } else { "0" }.into());
}
