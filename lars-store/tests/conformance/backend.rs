//! A database for one test, with a way around the store to the tables.

use lars_store::{OpenMode, Store, StoreUrl};
use lars_testkit::MariaDb;
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) struct Database {
    url: StoreUrl,
    tables: Tables,
}

enum Tables {
    Sqlite(TempDir),
    Mysql { server: &'static MariaDb, database: String },
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { url: StoreUrl::Sqlite(folder.path().join("lars.db")), tables: Tables::Sqlite(folder) }
    }

    pub(crate) fn mysql(database: &str) -> Self {
        let server = MariaDb::shared();
        let url = server.url(database).parse().expect("a URL");
        Self { url, tables: Tables::Mysql { server, database: database.to_owned() } }
    }

    /// A connection of its own.
    pub(crate) fn open(&self) -> Box<dyn Store> {
        lars_store::open(&self.url, OpenMode::Create).expect("the store opens")
    }

    /// Does what other programs do to the tables.
    pub(crate) fn execute(&self, sql: &str) {
        match &self.tables {
            Tables::Sqlite(folder) => {
                let connection = Connection::open(folder.path().join("lars.db")).expect("the file opens");
                connection.execute_batch(sql).expect(sql);
            }
            Tables::Mysql { server, database } => server.execute(database, sql),
        }
    }

    /// From now on, no row may be inserted whose column has this value. The error names a "refusal".
    pub(crate) fn refuse(&self, table: &str, column: &str, value: u32) {
        self.execute(&match self.tables {
            Tables::Sqlite(_) => format!(
                "CREATE TRIGGER refusal BEFORE INSERT ON {table} WHEN NEW.{column} = {value}
                 BEGIN SELECT RAISE(ABORT, 'refusal'); END"
            ),
            Tables::Mysql { .. } => {
                format!("ALTER TABLE {table} ADD CONSTRAINT refusal CHECK ({column} <> {value})")
            }
        });
    }
}
