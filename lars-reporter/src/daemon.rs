//! [`ReporterDaemon`]: the reporter as a program.

use std::error::Error;

use lars_service::{Alias, ConfigError, Daemon, Secret, Shutdown};
use lars_store::StoreUrl;

use crate::{
    config::{RawConfig, ReporterConfig},
    shell::{self, RunError},
};

/// What `lars_service::main` runs as `lars-reporter`.
#[derive(Clone, Copy, Debug)]
pub struct ReporterDaemon;

impl Daemon for ReporterDaemon {
    const NAME: &'static str = "lars-reporter";
    const ABOUT: &'static str = "Takes call statistics from agents and writes them to SQL.";
    const EXAMPLE: &'static str = include_str!("../lars-reporter.example.toml");
    const ALIASES: &'static [Alias] = &[Alias { key: "store.url", flag: "store", env: "LARS_STORE_URL" }];
    const SECRETS: &'static [Secret] = &[Secret {
        key: "store.url",
        file_key: "store.url_file",
        credential: "store_url",
        is_secret: StoreUrl::has_password,
    }];
    type Raw = RawConfig;
    type Config = ReporterConfig;

    fn validate(raw: RawConfig) -> Result<ReporterConfig, ConfigError> {
        raw.validate()
    }

    fn run(config: ReporterConfig, shutdown: &Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
        match shell::run(config, shutdown) {
            // It is the configuration that has to change, and the exit status says so.
            Err(RunError::Store(error)) => Err(ConfigError::new("store.url", error.to_string()).into()),
            done => Ok(done?),
        }
    }
}
