//! A service as a program: run from its command line until it is told to end, with an exit status.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use lars_runtime::preflight::{self, PreflightError};
use serde::{Serialize, de::DeserializeOwned};
use toml::Table;

use crate::{
    ConfigError, LogFormat, Secret, Shutdown,
    command::{self, Invocation},
    init_logging,
};

/// Any error that ends a service.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A configuration that names a wrong key or value, or a machine that cannot run the service
/// (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = preflight::EXIT_CODE;

/// Another name for a key, which several programs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The key with its section, like `store.url`.
    pub key: &'static str,
    /// A second flag, without the dashes.
    pub flag: &'static str,
    /// A second environment variable, used where the key's own is not set.
    pub env: &'static str,
}

/// A service that runs until it is told to stop.
pub trait Daemon {
    /// The program's name, like `lars-dns`; in capitals it is the prefix of the environment variables.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// The commented example configuration, each key at its default.
    const EXAMPLE: &'static str;
    /// Shorter names of some keys.
    const ALIASES: &'static [Alias] = &[];
    /// Keys whose values come from files as well, because they may hold passwords.
    const SECRETS: &'static [Secret] = &[];
    /// The configuration as it is written down. `Default` must give every key a value: the flags and
    /// variables are made from it.
    type Raw: Serialize + DeserializeOwned + Default;
    /// The configuration as the service uses it, without values that cannot be.
    type Config;

    /// Checks everything there is to check without doing anything.
    ///
    /// # Errors
    /// Naming the first key whose value cannot be.
    fn validate(raw: Self::Raw) -> Result<Self::Config, ConfigError>;

    /// Runs until `shutdown` is triggered, then drains.
    ///
    /// # Errors
    /// If it cannot start.
    fn run(config: Self::Config, shutdown: &Shutdown) -> Result<(), BoxError>;
}

/// The whole `main` of a service. Call it first thing: it does what must be done before there are threads.
#[must_use]
pub fn main<D: Daemon>() -> ExitCode {
    preflight::quiet_membarrier();
    main_from::<D>(D::NAME, Table::new(), std::env::args_os(), |_| Ok(()))
}

/// [`main`] for a service that is a subcommand of another program: `bin_name` is what `--help` calls it, `base` wins
/// over the defaults and nothing else, the first of `args` is skipped, and `prepare` runs before the service
/// does.
#[must_use]
pub fn main_from<D: Daemon>(
    bin_name: &str,
    base: Table,
    args: impl IntoIterator<Item = OsString>,
    prepare: impl FnOnce(&D::Config) -> Result<(), BoxError>,
) -> ExitCode {
    match command::parse::<D>(bin_name, base, args) {
        Invocation::Done { text, status } => {
            // Nobody is left to tell if this fails.
            let _ = if status == 0 { print(&text) } else { io::stderr().write_all(text.as_bytes()) };
            ExitCode::from(status)
        }
        Invocation::Invalid { error, log_format } => {
            say_early(&error, log_format);
            ExitCode::from(EXIT_CONFIG)
        }
        Invocation::Run { config, log_format, log_filter, warnings } => {
            let _last_lines = match init_logging(log_format, log_filter.as_deref()) {
                Ok(guard) => guard,
                Err(error) => {
                    say_early(&no_thread(error), LogFormat::Text);
                    return ExitCode::from(EXIT_CONFIG);
                }
            };
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            report(prepare(&config).and_then(|()| run::<D>(config)))
        }
    }
}

/// An error from before there is a log: what reads JSON gets JSON all the same.
fn say_early(error: &dyn Error, format: LogFormat) {
    // Nobody is left to tell if this fails.
    match (format, init_logging(format, None)) {
        (LogFormat::Json, Ok(_last_lines)) => tracing::error!("{error}"),
        (LogFormat::Json | LogFormat::Text, _) => drop(writeln!(io::stderr(), "error: {error}")),
    }
}

/// The system refuses a thread, which it does only at a limit.
fn no_thread(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::WouldBlock {
        return error;
    }
    io::Error::other(format!(
        "no thread can be started, the limit on processes is reached (ulimit -u, TasksMax= in systemd, --pids-limit for Docker): {error}"
    ))
}

fn run<D: Daemon>(config: D::Config) -> Result<(), BoxError> {
    // Here and not only where shards start, because a service wraps the errors of its start in its own.
    preflight::check()?;
    D::run(config, &Shutdown::on_signals().map_err(no_thread)?)
}

fn report(result: Result<(), BoxError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&*error));
            ExitCode::from(exit_status(&*error))
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// `error` and what caused it, in one line.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many errors already show their cause.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn exit_status(error: &(dyn Error + Send + Sync + 'static)) -> u8 {
    if is_of_machine(error) || error.is::<ConfigError>() { EXIT_CONFIG } else { 1 }
}

/// Whether this error, or what caused it, is that the machine cannot run a service; then its exit status is
/// [`EXIT_CONFIG`].
#[must_use]
pub fn is_of_machine(error: &(dyn Error + 'static)) -> bool {
    error.is::<PreflightError>() || error.source().is_some_and(is_of_machine)
}

#[cfg(test)]
mod tests {
    use lars_runtime::StartError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Cannot(#[from] StartError);

    #[test]
    fn what_the_machine_refuses_is_seen_through_the_errors_of_a_service() {
        let refused = StartError::from(PreflightError::Disabled(2));
        assert_eq!(exit_status(&Cannot(refused)), EXIT_CONFIG);
        let other = StartError::Shard { shard: 0, source: io::ErrorKind::OutOfMemory.into() };
        assert_eq!(exit_status(&Cannot(other)), 1);
    }
}
