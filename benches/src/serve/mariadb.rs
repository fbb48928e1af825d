//! A MariaDB of its own, for as long as this process runs.

use std::{error::Error, io::Write};

use lars_service::Shutdown;
use lars_testkit::MariaDb;

/// Serves until the process is ended, and leaves nothing behind.
pub fn serve() -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::on_signals()?;
    let server = MariaDb::start();
    let url = server.url("lars");
    // As in production: a commit is on the disk.
    server.execute("", "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    writeln!(std::io::stdout(), "serving {url}")?;
    shutdown.wait();
    Ok(())
}
