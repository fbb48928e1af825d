//! Creates what is missing in a database, and leaves what is there as it is.
//!
//! There is no ledger of migrations: each step looks whether it is needed. So several servers may start at
//! once, and an account without the right to create tables does where they exist already.

use mysql::{Conn, Error, prelude::Queryable};

use super::first_row;

const TABLES: [(&str, &str); 6] = [
    ("RouteData", include_str!("route_data.sql")),
    ("RouteVersion", include_str!("route_version.sql")),
    ("RouteChange", include_str!("route_change.sql")),
    ("ServerCallStatus", include_str!("server_call_status.sql")),
    ("ModIDConfig", include_str!("mod_id_config.sql")),
    ("CmdIDConfig", include_str!("cmd_id_config.sql")),
];

/// Ours alone. Everything but `lars route accept` works without it.
const ACCEPT_TABLE: (&str, &str) = ("LarsRouteAccept", include_str!("route_accept.sql"));

/// Names as this server compares them: some keep all table names in lower case.
const PRESENT_TABLES: &str =
    "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";

/// An index of `RouteData` that begins with the module.
const MODULE_INDEXES: &str = "
    SELECT COUNT(*)
    FROM information_schema.STATISTICS AS modids
    JOIN information_schema.STATISTICS AS cmdids USING (TABLE_SCHEMA, TABLE_NAME, INDEX_NAME)
    WHERE TABLE_SCHEMA = DATABASE() AND LOWER(TABLE_NAME) = 'routedata'
        AND modids.SEQ_IN_INDEX = 1 AND LOWER(modids.COLUMN_NAME) = 'modid'
        AND cmdids.SEQ_IN_INDEX = 2 AND LOWER(cmdids.COLUMN_NAME) = 'cmdid'";

const ADD_MODULE_INDEX: &str =
    "ALTER TABLE RouteData ADD INDEX RouteDataByModule (modid, cmdid, serverip, serverport)";

pub(super) const ADD_VERSION_ROW: &str = "INSERT IGNORE INTO RouteVersion (id, version) VALUES (1, 0)";

/// "Duplicate key name": another server was faster.
const ER_DUP_KEYNAME: u16 = 1061;
/// "Lock wait timeout": somebody else uses the table all the time.
const ER_LOCK_WAIT_TIMEOUT: u16 = 1205;
/// Codes with which a server says that this account may not do this, or nobody while it is read-only.
const ER_DENIED: [u16; 7] = [1044, 1142, 1143, 1227, 1290, 1792, 1836];

/// In seconds. Who waits to change a table keeps everybody else waiting, so this must be short.
const LOCK_WAIT: &str = "SET SESSION lock_wait_timeout = 5";

/// Makes the tables that this crate needs. Whether [`add_module_index`] is needed, too, which may take long.
pub(super) fn complete(conn: &mut Conn) -> Result<bool, Error> {
    let present: Vec<String> = conn.query(PRESENT_TABLES)?;
    let is_missing = |table: &str| !present.iter().any(|name| name.eq_ignore_ascii_case(table));
    for (table, create) in TABLES {
        if is_missing(table) {
            conn.query_drop(create)?;
        }
    }
    if is_missing(ACCEPT_TABLE.0) {
        if_possible("create LarsRouteAccept", conn.query_drop(ACCEPT_TABLE.1))?;
    }
    if is_none(conn, "SELECT COUNT(*) FROM RouteVersion WHERE id = 1")? {
        if_possible("insert the row of RouteVersion", conn.query_drop(ADD_VERSION_ROW))?;
    }
    is_none(conn, MODULE_INDEXES)
}

/// Without it everything works, but reading one module means reading the whole table.
pub(super) fn add_module_index(conn: &mut Conn) -> Result<(), Error> {
    conn.query_drop(LOCK_WAIT)?;
    match conn.query_drop(ADD_MODULE_INDEX) {
        Err(Error::MySqlError(error)) if error.code == ER_DUP_KEYNAME => Ok(()),
        done => if_possible("index RouteData by module", done),
    }
}

/// Accepts that what would only be better done is not possible here.
fn if_possible(what: &str, done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::MySqlError(error))
            if ER_DENIED.contains(&error.code) || error.code == ER_LOCK_WAIT_TIMEOUT =>
        {
            tracing::warn!(%error, "cannot {what}; going on without");
            Ok(())
        }
        done => done,
    }
}

fn is_none(conn: &mut Conn, count: &str) -> Result<bool, Error> {
    Ok(first_row::<u64>(conn, count)?.is_none_or(|count| count == 0))
}
