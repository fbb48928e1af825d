//! Where log lines go, and in which form.

use std::{
    env,
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing_subscriber::{EnvFilter, fmt};

use crate::log_queue::{LogGuard, LogQueue};

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("'{other}' is neither text nor json")),
        }
    }
}

/// Sends log lines to standard error, by way of a queue: logging never waits for a reader. `filter` has the form of
/// `RUST_LOG`; without one, `LARS_LOG` and `RUST_LOG` are asked, and then it is `info`. Where a program has set up
/// logging already, nothing changes.
///
/// # Errors
/// If there can be no thread for it.
pub fn init_logging(format: LogFormat, filter: Option<&str>) -> io::Result<LogGuard> {
    let Some(queue) = LogQueue::install(io::stderr())? else { return Ok(LogGuard(())) };
    let from_env = || env::var("LARS_LOG").or_else(|_| env::var("RUST_LOG")).ok();
    let filter = filter.map(str::to_owned).or_else(from_env).unwrap_or_else(|| "info".to_owned());
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let builder = fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(queue)
        .with_ansi(colour)
        // Nobody reads complaints about standard error being closed, and printing them there would panic.
        .log_internal_errors(false);
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(LogGuard(()))
}
