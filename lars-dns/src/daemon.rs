//! lars-dns as a program.

use std::error::Error;

use lars_service::{Alias, ConfigError, Daemon, Secret, Shutdown};
use lars_store::StoreUrl;

use crate::{DnsConfig, StartError, config::RawConfig, shell};

/// The commented configuration that we ship.
pub(crate) const EXAMPLE: &str = include_str!("../lars-dns.example.toml");

/// The program `lars-dns`.
#[derive(Debug)]
pub struct DnsDaemon;

impl Daemon for DnsDaemon {
    const NAME: &'static str = "lars-dns";
    const ABOUT: &'static str =
        "Serves the routes of modules from SQL and pushes each change to the agents that asked";
    const EXAMPLE: &'static str = EXAMPLE;
    const ALIASES: &'static [Alias] = &[Alias { key: "store.url", flag: "store", env: "LARS_STORE_URL" }];
    const SECRETS: &'static [Secret] = &[Secret {
        key: "store.url",
        file_key: "store.url_file",
        credential: "store_url",
        is_secret: StoreUrl::has_password,
    }];
    type Raw = RawConfig;
    type Config = DnsConfig;

    fn validate(raw: RawConfig) -> Result<DnsConfig, ConfigError> {
        raw.validate()
    }

    fn run(config: DnsConfig, shutdown: &Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
        match shell::run(config, shutdown) {
            // It is the configuration that has to change, and the exit status says so.
            Err(StartError::Store(error)) => Err(ConfigError::new("store.url", error.to_string()).into()),
            done => Ok(done?),
        }
    }
}
