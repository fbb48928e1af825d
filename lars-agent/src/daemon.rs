//! lars-agent as a program.

use std::error::Error;

use lars_service::{ConfigError, Daemon, Shutdown};

use crate::{AgentConfig, config::RawConfig, shell};

/// The commented configuration that we ship.
pub(crate) const EXAMPLE: &str = include_str!("../lars-agent.example.toml");

/// The program `lars-agent`.
#[derive(Debug)]
pub struct AgentDaemon;

impl Daemon for AgentDaemon {
    const NAME: &'static str = "lars-agent";
    const ABOUT: &'static str = "Tells local programs which host to call next, and learns how the calls went";
    const EXAMPLE: &'static str = EXAMPLE;
    type Raw = RawConfig;
    type Config = AgentConfig;

    fn validate(raw: RawConfig) -> Result<AgentConfig, ConfigError> {
        raw.validate()
    }

    fn run(config: AgentConfig, shutdown: &Shutdown) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(shell::run(config, shutdown)?)
    }
}
