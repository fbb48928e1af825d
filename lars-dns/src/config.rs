//! The configuration: as it is written down, and as the service uses it.

use std::{path::PathBuf, time::Duration};

use lars_runtime::{TcpDriver, TcpServerConfig};
use lars_service::{ConfigError, ServerSection, StateSection};
use lars_store::StoreUrl;
use serde::{Deserialize, Serialize};

use crate::core::{shrink_guard::ShrinkRules, tracker::Timing};

/// Other servers must have had the time to read a change before this one deletes its row.
const PRUNE_AGE_S_MIN: u64 = 60;

/// A day. Longer pauses are typing errors.
const PAUSE_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// Thirty days.
const SHRINK_HOLD_S_MAX: u64 = 30 * 24 * 3_600;
const PRUNE_INTERVAL_S_MAX: u64 = 24 * 3_600;
/// A year.
const PRUNE_AGE_S_MAX: u64 = 365 * 24 * 3_600;

/// What lars-dns is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where it listens and what its peers may do.
    pub server: TcpServerConfig,
    /// Threads that serve.
    pub shards: usize,
    /// What moves the bytes of connections.
    pub tcp_driver: TcpDriver,
    /// Where the routes are.
    pub store: StoreUrl,
    /// How often it looks for changes there.
    pub timing: Timing,
    /// The folder where the routes are kept for the next start; `None`: they are not.
    pub state_dir: Option<PathBuf>,
    /// When a load is held that lost hosts; `None`: never.
    pub shrink: Option<ShrinkRules>,
    /// Subscriptions of all connections together, spread evenly over the shards.
    pub subscriptions_max: usize,
}

impl Default for DnsConfig {
    /// What `lars-dns.example.toml` says.
    fn default() -> Self {
        RawConfig::default().validate().expect("the defaults are valid")
    }
}

/// The configuration as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// `[server]`
    pub server: ServerSection,
    /// `[push]`
    pub push: PushSection,
    /// `[store]`
    pub store: StoreSection,
    /// `[state]`
    pub state: StateSection,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            server: ServerSection::new("0.0.0.0:7778"),
            push: PushSection::default(),
            store: StoreSection::default(),
            state: StateSection::default(),
        }
    }
}

/// `[push]`: what a subscriber may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushSection {
    /// Bytes that wait for one subscriber at most. Beyond that only the newest state of each module waits.
    pub output_bytes_max: usize,
    /// A subscriber that takes no bytes for so long is disconnected.
    pub stall_timeout_ms: u64,
    /// Modules that all subscribers together may be subscribed to.
    pub subscriptions_max: usize,
}

impl Default for PushSection {
    fn default() -> Self {
        Self { output_bytes_max: 1 << 20, stall_timeout_ms: 10_000, subscriptions_max: 16 << 20 }
    }
}

/// `[store]`: where the routes are, and how often they are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// `sqlite:PATH` or `mysql://user:password@host:port/database`.
    pub url: String,
    /// A file that holds the URL instead, for one with a password; empty: none.
    pub url_file: String,
    /// Pause between two looks for changes.
    pub poll_interval_ms: u64,
    /// Pause between two comparisons with everything that is there.
    pub full_reload_interval_ms: u64,
    /// Rows of `RouteChange` older than this are deleted.
    pub prune_age_s: u64,
    /// Pause between two such deletions.
    pub prune_interval_s: u64,
    /// A load that lost more than so many percent of all hosts, or all, is held; 0: none is.
    pub shrink_guard_percent: u8,
    /// When what is held takes effect nevertheless; 0: never by itself.
    pub shrink_hold_s: u64,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            url: "sqlite:lars.db".to_owned(),
            url_file: String::new(),
            poll_interval_ms: 1_000,
            full_reload_interval_ms: 10_000,
            prune_age_s: 3_600,
            prune_interval_s: 600,
            shrink_guard_percent: 30,
            shrink_hold_s: 600,
        }
    }
}

impl RawConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// Naming the first key whose value cannot be.
    pub fn validate(&self) -> Result<DnsConfig, ConfigError> {
        let (mut server, shards, tcp_driver) = self.server.validate()?;
        self.push.apply_to(&mut server)?;
        let subscriptions_max = self.push.subscriptions_max()?;
        Ok(DnsConfig {
            server,
            shards,
            tcp_driver,
            store: self.store.url()?,
            timing: self.store.timing()?,
            shrink: self.store.shrink()?,
            state_dir: self.state.resolve(),
            subscriptions_max,
        })
    }
}

impl PushSection {
    fn subscriptions_max(&self) -> Result<usize, ConfigError> {
        if self.subscriptions_max == 0 {
            return Err(ConfigError::new("push.subscriptions_max", "0 would push nothing to anybody"));
        }
        Ok(self.subscriptions_max)
    }

    fn apply_to(&self, server: &mut TcpServerConfig) -> Result<(), ConfigError> {
        // What waits must hold the longest frame at least, or that could never be sent.
        if self.output_bytes_max < server.frame_len_max {
            let problem =
                format!("{} is less than one frame of {}", self.output_bytes_max, server.frame_len_max);
            return Err(ConfigError::new("push.output_bytes_max", problem));
        }
        server.output_bytes_max = self.output_bytes_max;
        server.stall_timeout = millis("push.stall_timeout_ms", self.stall_timeout_ms)?;
        Ok(())
    }
}

impl StoreSection {
    fn url(&self) -> Result<StoreUrl, ConfigError> {
        self.url.parse().map_err(|problem| ConfigError::new("store.url", format!("{problem}")))
    }

    fn shrink(&self) -> Result<Option<ShrinkRules>, ConfigError> {
        let percent =
            ConfigError::check_range("store.shrink_guard_percent", self.shrink_guard_percent, 0..=100)?;
        let hold =
            ConfigError::check_range("store.shrink_hold_s", self.shrink_hold_s, 0..=SHRINK_HOLD_S_MAX)?;
        let hold = (hold > 0).then_some(Duration::from_secs(hold));
        Ok((percent > 0).then_some(ShrinkRules { percent, hold }))
    }

    fn timing(&self) -> Result<Timing, ConfigError> {
        let poll_interval = millis("store.poll_interval_ms", self.poll_interval_ms)?;
        let full_reload_interval = millis("store.full_reload_interval_ms", self.full_reload_interval_ms)?;
        if full_reload_interval < poll_interval {
            let problem = format!("{} is less than store.poll_interval_ms", self.full_reload_interval_ms);
            return Err(ConfigError::new("store.full_reload_interval_ms", problem));
        }
        let prune_age = ConfigError::check_range(
            "store.prune_age_s",
            self.prune_age_s,
            PRUNE_AGE_S_MIN..=PRUNE_AGE_S_MAX,
        )?;
        let prune_interval = ConfigError::check_range(
            "store.prune_interval_s",
            self.prune_interval_s,
            1..=PRUNE_INTERVAL_S_MAX,
        )?;
        Ok(Timing {
            poll_interval,
            full_reload_interval,
            prune_age: Duration::from_secs(prune_age),
            prune_interval: Duration::from_secs(prune_interval),
        })
    }
}

fn millis(key: &str, value: u64) -> Result<Duration, ConfigError> {
    ConfigError::check_range(key, value, 1..=PAUSE_MS_MAX).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, break_it: impl FnOnce(&mut RawConfig)) {
        let mut raw = RawConfig::default();
        break_it(&mut raw);
        assert_eq!(raw.validate().expect_err(key).key, key);
    }

    #[test]
    fn each_impossible_value_is_named() {
        check("server.listen", |raw| raw.server.listen = "7778".into());
        check("push.output_bytes_max", |raw| raw.push.output_bytes_max = 65_534);
        check("push.subscriptions_max", |raw| raw.push.subscriptions_max = 0);
        check("push.stall_timeout_ms", |raw| raw.push.stall_timeout_ms = 0);
        check("store.url", |raw| raw.store.url = "postgres://x".into());
        check("store.poll_interval_ms", |raw| raw.store.poll_interval_ms = 0);
        check("store.poll_interval_ms", |raw| raw.store.poll_interval_ms = u64::MAX);
        check("store.full_reload_interval_ms", |raw| raw.store.full_reload_interval_ms = 999);
        check("store.prune_age_s", |raw| raw.store.prune_age_s = 59);
        check("store.prune_age_s", |raw| raw.store.prune_age_s = u64::MAX);
        check("store.prune_interval_s", |raw| raw.store.prune_interval_s = 0);
        check("store.shrink_guard_percent", |raw| raw.store.shrink_guard_percent = 101);
        check("store.shrink_hold_s", |raw| raw.store.shrink_hold_s = u64::MAX);
    }

    #[test]
    fn the_password_is_in_no_error() {
        let mut raw = RawConfig::default();
        raw.store.url = "mysql://lars:s3cret@db:port/lars".into();
        let error = raw.validate().expect_err("no port").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let config = DnsConfig::default();
        assert_eq!(config.server.listen, "0.0.0.0:7778".parse().expect("an address"));
        assert_eq!(config.timing.poll_interval, Duration::from_secs(1));
        assert_eq!(config.timing.full_reload_interval, Duration::from_secs(10));
        assert_eq!(config.timing.prune_age, Duration::from_secs(3_600));
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let example: RawConfig = toml::from_str(crate::daemon::EXAMPLE).expect("the example is valid");
        assert_eq!(example, RawConfig::default());
    }

    #[test]
    fn the_example_names_every_key() {
        let example: toml::Table = crate::daemon::EXAMPLE.parse().expect("the example is TOML");
        let defaults = toml::Table::try_from(RawConfig::default()).expect("the defaults are TOML");
        assert_eq!(example, defaults);
    }
}
