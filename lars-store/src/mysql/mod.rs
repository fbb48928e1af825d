//! The backend for servers that speak MySQL's protocol.

mod batch;
mod call_status;
mod connection;
mod errors;
mod routes;
mod schema;

use std::{thread, time::Duration};

use mysql::{
    Conn, Error, Row,
    prelude::{FromRow, Queryable},
};

use crate::{MysqlUrl, OpenMode, Store, StoreError, error::Failure};

/// Times that a transaction is tried before a deadlock becomes the caller's business.
const TRIES: u32 = 8;
/// The longest pause before the second try; it doubles from try to try.
const FIRST_PAUSE_MAX: Duration = Duration::from_millis(10);

/// A connection to a server, made again when it was lost.
pub(crate) struct MysqlStore {
    url: MysqlUrl,
    /// The URL as text, for errors.
    name: String,
    /// `None` after an error that the connection may not have survived.
    conn: Option<Conn>,
}

impl Store for MysqlStore {}

impl MysqlStore {
    /// Connects; creates the tables that are missing only if `mode` says so.
    pub(crate) fn open(url: &MysqlUrl, mode: OpenMode) -> Result<Self, StoreError> {
        let mut store = Self { url: url.clone(), name: url.to_string(), conn: None };
        if mode != OpenMode::Create {
            store.with_conn(|_| Ok(()))?;
            return Ok(store);
        }
        let index_is_missing = store.with_conn(|conn| Ok(schema::complete(conn)?))?;
        // A server that does not even answer is not waited for as one is that works on an index.
        if index_is_missing {
            store.with_patient_conn(connection::INDEX_TIMEOUT, |conn| Ok(schema::add_module_index(conn)?))?;
        }
        Ok(store)
    }

    /// Does `work` on the connection, which is made if there is none, and given up after any error that it may not
    /// have survived.
    fn with_conn<T>(
        &mut self,
        work: impl FnOnce(&mut Conn) -> Result<T, Failure<Error>>,
    ) -> Result<T, StoreError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect(connection::READ_TIMEOUT)?,
        };
        let done = work(&mut conn);
        if !matches!(&done, Err(Failure::Sql(error)) if !errors::is_harmless(error)) {
            self.conn = Some(conn);
        }
        done.map_err(|failure| failure.into_store_error(&self.name, errors::classified))
    }

    /// Does `work` on a connection of its own, on which the server may think for `read_timeout`.
    fn with_patient_conn<T>(
        &self,
        read_timeout: Duration,
        work: impl FnOnce(&mut Conn) -> Result<T, Failure<Error>>,
    ) -> Result<T, StoreError> {
        let mut conn = self.connect(read_timeout)?;
        work(&mut conn).map_err(|failure| failure.into_store_error(&self.name, errors::classified))
    }

    /// Does `work` in a transaction, and again from its start while others are in the way.
    fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Conn) -> Result<T, Failure<Error>>,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            match self.with_conn(|conn| in_transaction(conn, &mut work)) {
                Err(StoreError::Busy { .. }) if attempt < TRIES => thread::sleep(pause(attempt)),
                done => return done,
            }
            attempt += 1;
        }
    }

    fn connect(&self, read_timeout: Duration) -> Result<Conn, StoreError> {
        connection::connect(&self.url, read_timeout).map_err(|error| errors::classified(&self.name, &error))
    }
}

fn in_transaction<T>(
    conn: &mut Conn,
    work: impl FnOnce(&mut Conn) -> Result<T, Failure<Error>>,
) -> Result<T, Failure<Error>> {
    conn.query_drop("START TRANSACTION")?;
    let done = work(conn).and_then(|value| {
        conn.query_drop("COMMIT")?;
        Ok(value)
    });
    match done {
        // The connection is given up, so the server rolls back by itself; asking a dead one to do it would only
        // wait for another timeout.
        Err(Failure::Sql(error)) if !errors::is_harmless(&error) => Err(Failure::Sql(error)),
        Err(failure) => {
            conn.query_drop("ROLLBACK")?;
            Err(failure)
        }
        Ok(value) => Ok(value),
    }
}

/// Full jitter: those that were in each other's way come back at different times.
fn pause(attempt: u32) -> Duration {
    FIRST_PAUSE_MAX.saturating_mul(1 << attempt.min(6)).mul_f64(fastrand::f64())
}

/// The first row of the answer to a statement without parameters.
fn first_row<T: FromRow>(conn: &mut Conn, sql: &str) -> Result<Option<T>, Error> {
    conn.exec_first(sql, ())?.map(values).transpose()
}

/// The values of a row. A column that is not of its type is an error, not a panic.
fn values<T: FromRow>(row: Row) -> Result<T, Error> {
    Ok(mysql::from_row_opt(row)?)
}
