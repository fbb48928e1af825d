//! [`CallStatusStore`] on MySQL.

use lars_proto::ModuleId;
use mysql::{Conn, Error, Params, Row, Value, prelude::Queryable};

use super::{
    MysqlStore,
    batch::{self, repeated},
    first_row, values,
};
use crate::{
    CallStatus, CallStatusStore, ExpiryCursor, ExpiryStep, StoreError, TS_AHEAD_MAX,
    call_status::{EXPIRY_STEP_ROWS, KeyColumns, newest_by_key},
    row,
};

const INSERT: &str =
    "INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload) VALUES ";

/// What becomes of a row that is there. `ts` comes last: the columns are assigned in this order, and each condition
/// needs the old `ts`.
fn unless_older() -> String {
    let columns = ["succ_cnt", "err_cnt", "overload", "ts"].map(|column| {
        format!(
            "{column} = IF(VALUES(ts) >= ts OR ts > UNIX_TIMESTAMP() + {TS_AHEAD_MAX}, VALUES({column}), {column})"
        )
    });
    format!(" ON DUPLICATE KEY UPDATE {}", columns.join(", "))
}

/// Asks for every right that an upsert needs and touches no row.
const CHECK_UPSERT: &str = "
    INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload)
    SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus WHERE 1 = 0
    ON DUPLICATE KEY UPDATE ts = VALUES(ts)";

/// One lock per database, whose name may be as long as that of a lock.
const TAKE_TURN: &str = "SELECT COALESCE(GET_LOCK(CONCAT('lars-expiry-', MD5(DATABASE())), 0), 0)";
const HAS_TURN: &str =
    "SELECT COALESCE(IS_USED_LOCK(CONCAT('lars-expiry-', MD5(DATABASE()))) = CONNECTION_ID(), 0)";
const END_TURN: &str = "SELECT COALESCE(RELEASE_LOCK(CONCAT('lars-expiry-', MD5(DATABASE()))), 0)";

/// The next keys, each condition a range of the primary key: servers make none of `(modid, …) > (?, …)`.
const NEXT_KEYS: &str = "
    SELECT modid, cmdid, ip, port, caller, ts FROM ServerCallStatus
    WHERE modid > ?
        OR (modid = ? AND cmdid > ?)
        OR (modid = ? AND cmdid = ? AND ip > ?)
        OR (modid = ? AND cmdid = ? AND ip = ? AND port > ?)
        OR (modid = ? AND cmdid = ? AND ip = ? AND port = ? AND caller > ?)
    ORDER BY modid, cmdid, ip, port, caller LIMIT ?";

/// Below every key, also where columns are signed.
const BEFORE_ALL: KeyColumns = [i64::MIN; 5];

const SELECT: &str =
    "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload FROM ServerCallStatus";

impl CallStatusStore for MysqlStore {
    fn upsert(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
        let rows = newest_by_key(rows);
        let sql = |rows| {
            format!("{INSERT}{}{}", repeated("(?, ?, ?, ?, ?, ?, ?, ?, ?)", ", ", rows), unless_older())
        };
        self.transaction(|conn| Ok(batch::execute(conn, &rows, sql, row_values)?))
    }

    fn check_upsert(&mut self) -> Result<(), StoreError> {
        self.with_conn(|conn| Ok(conn.query_drop(CHECK_UPSERT)?))
    }

    fn expire_step(&mut self, cursor: ExpiryCursor, oldest_ts: u64) -> Result<ExpiryStep, StoreError> {
        // The lock is the connection's: if that is lost, so is the turn, and another step takes it again.
        self.with_conn(|conn| Ok(expire_step(conn, cursor, row::signed(oldest_ts))?))
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

fn expire_step(conn: &mut Conn, cursor: ExpiryCursor, oldest_ts: i64) -> Result<ExpiryStep, Error> {
    if !is_true(conn, HAS_TURN)? && !is_true(conn, TAKE_TURN)? {
        return Ok(ExpiryStep { deleted: 0, next: None });
    }
    let rows = next_keys(conn, cursor.0.unwrap_or(BEFORE_ALL))?;
    let old: Vec<KeyColumns> = rows.iter().filter(|(_, ts)| *ts < oldest_ts).map(|(key, _)| *key).collect();
    let mut deleted = 0;
    for batch in batch::batches(&old) {
        let keys = repeated(IS_KEY, " OR ", batch.len());
        let mut values = vec![Value::from(oldest_ts)];
        values.extend(batch.iter().flatten().map(Value::from));
        // A row may have become newer since it was read.
        let sql = format!("DELETE FROM ServerCallStatus WHERE ts < ? AND ({keys})");
        conn.exec_drop(sql, Params::Positional(values))?;
        deleted += conn.affected_rows();
    }
    let last = rows.last().filter(|_| rows.len() == EXPIRY_STEP_ROWS);
    if last.is_none() {
        is_true(conn, END_TURN)?;
    }
    Ok(ExpiryStep { deleted, next: last.map(|(key, _)| ExpiryCursor(Some(*key))) })
}

const IS_KEY: &str = "(modid = ? AND cmdid = ? AND ip = ? AND port = ? AND caller = ?)";

fn next_keys(conn: &mut Conn, after: KeyColumns) -> Result<Vec<(KeyColumns, i64)>, Error> {
    let prefixes = (1..=after.len()).flat_map(|columns| &after[..columns]);
    let mut parameters: Vec<Value> = prefixes.map(Value::from).collect();
    parameters.push(EXPIRY_STEP_ROWS.into());
    let rows: Vec<Row> = conn.exec(NEXT_KEYS, Params::Positional(parameters))?;
    rows.into_iter()
        .map(|row| {
            let (modid, cmdid, ip, port, caller, ts) = values(row)?;
            Ok(([modid, cmdid, ip, port, caller], ts))
        })
        .collect()
}

fn is_true(conn: &mut Conn, sql: &str) -> Result<bool, Error> {
    Ok(first_row::<i64>(conn, sql)? == Some(1))
}

fn row_values(row: &CallStatus, values: &mut Vec<Value>) {
    let (modid, cmdid) = row.key.module.to_unsigned();
    let (ip, port) = row.key.host.to_unsigned();
    values.extend([modid, cmdid, ip, port, row.key.caller.to_bits(), row.succ, row.err].map(Value::from));
    values.push(row::signed(row.ts).into());
    values.push(if row.overload { "1" } else { "0" }.into());
}
