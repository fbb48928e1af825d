//! [`ReporterDaemon`]: the reporter as a program.

use std::error::Error;

use lars_service::{Alias, ConfigError, Daemon, Shutdown};

use crate::{
    config::{RawConfig, ReporterConfig},
    shell,
};

/// What `lars_service::main` runs as `lars-reporter`.
#[derive(Clone, Copy, Debug)]
pub struct ReporterDaemon;

impl Daemon for ReporterDaemon {
    const NAME: &'static str = "lars-reporter";
    const ABOUT: &'static str = "Takes call statistics from agents and writes them to SQL.";
    const EXAMPLE: &'static str = include_str!("../lars-reporter.example.toml");
    const ALIASES: &'static [Alias] = &[Alias { key: "store.url", flag: "store", env: "LARS_STORE_URL" }];
    type Raw = RawConfig;
    type Config = ReporterConfig;

    fn validate(raw: RawConfig) -> Result<ReporterConfig, ConfigError> {
        raw.validate()
    }

    fn run(config: ReporterConfig, shutdown: &Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(shell::run(config, shutdown)?)
    }
}
