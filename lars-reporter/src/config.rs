//! What can be configured: as it is written down, and as the service uses it.

use std::time::Duration;

use lars_runtime::{TcpDriver, TcpServerConfig};
use lars_service::{ConfigError, ServerSection};
use lars_store::StoreUrl;
use serde::{Deserialize, Serialize};

use crate::core::{coalescer::Limits, ingest::ROWS_PER_MESSAGE_MAX};

const LISTEN: &str = "0.0.0.0:7779";

/// More would only wait for each other in the database.
const WRITERS_MAX: usize = 64;
/// More in a transaction would only keep others waiting for its locks.
const FLUSH_ROWS_MAX: usize = 10_000;
/// Up to 20 GB of memory.
const PENDING_KEYS_MAX: usize = 100_000_000;
const QUEUE_ROWS_MAX: usize = 10_000_000;
const FLUSH_INTERVAL_MS_MAX: u64 = 60_000;
const DRAIN_TIMEOUT_MS_MAX: u64 = 600_000;
/// A hundred years.
const STATUS_MAX_AGE_S_MAX: u64 = 100 * 365 * 24 * 3600;

/// The configuration as it is written down; `lars-reporter.example.toml` explains the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Where agents connect.
    pub server: ServerSection,
    /// Where their statistics go, and when.
    pub store: StoreSection,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// `sqlite:PATH` or `mysql://user:password@host:port/database`.
    pub url: String,
    /// A file that holds the URL instead, for one with a password; empty: none.
    pub url_file: String,
    /// Threads that write, each over its own connection; SQLite has one at a time and always gets one.
    pub writers: usize,
    /// The longest a row waits for others to be written with.
    pub flush_interval_ms: u64,
    /// The most rows in a transaction; so many are written at once.
    pub flush_rows: usize,
    /// The most rows kept in memory while the database is away, over all writers.
    pub max_pending_keys: usize,
    /// The most rows between the network and one writer; then agents are kept waiting.
    pub queue_rows: usize,
    /// How long rows that are still held are written on when the service stops.
    pub drain_timeout_ms: u64,
    /// How old a row may grow before it is deleted, in seconds; 0: as old as it may be.
    pub status_max_age_s: u64,
}

impl Default for RawConfig {
    fn default() -> Self {
        // One processor takes in more than a database can write.
        Self {
            server: ServerSection { shards: 1, ..ServerSection::new(LISTEN) },
            store: StoreSection::default(),
        }
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            url: "sqlite:lars.db".to_owned(),
            url_file: String::new(),
            writers: 2,
            flush_interval_ms: 200,
            flush_rows: 500,
            max_pending_keys: 1_000_000,
            queue_rows: 65_536,
            drain_timeout_ms: 10_000,
            status_max_age_s: 7 * 24 * 3600,
        }
    }
}

/// The configuration as the service uses it.
#[derive(Clone, Debug)]
pub struct ReporterConfig {
    /// Where agents connect.
    pub server: TcpServerConfig,
    /// Threads that serve the agents.
    pub shards: usize,
    /// What moves the bytes of connections.
    pub tcp_driver: TcpDriver,
    /// Where the statistics go.
    pub store: StoreUrl,
    /// Threads that write; see [`ReporterConfig::writers_used`].
    pub writers: usize,
    /// When to write and how much to keep, over all writers.
    pub limits: Limits,
    /// The most rows between the network and one writer, at least [`ROWS_PER_MESSAGE_MAX`].
    pub queue_rows: usize,
    /// How long rows that are still held are written on when the service stops.
    pub drain_timeout: Duration,
    /// How old a row may grow before it is deleted; `None`: as old as it may be.
    pub status_max_age: Option<Duration>,
}

impl Default for ReporterConfig {
    fn default() -> Self {
        RawConfig::default().validate().expect("the defaults are valid")
    }
}

impl ReporterConfig {
    /// Threads that will write. SQLite lets one write at a time, so more would only get in each other's way.
    #[must_use]
    pub fn writers_used(&self) -> usize {
        match self.store {
            StoreUrl::Sqlite(_) => 1,
            StoreUrl::Mysql(_) => self.writers,
        }
    }

    /// One writer's part of the limits.
    pub(crate) fn limits_of_each_writer(&self) -> Limits {
        let pending_keys_max = (self.limits.pending_keys_max / self.writers_used()).max(1);
        Limits { pending_keys_max, ..self.limits }
    }
}

impl RawConfig {
    /// Checks every key.
    ///
    /// # Errors
    /// Naming the key whose value cannot be.
    pub fn validate(self) -> Result<ReporterConfig, ConfigError> {
        let (server, shards, tcp_driver) = self.server.validate()?;
        let store = self.store;
        let url = store.url.parse().map_err(|problem| ConfigError::new("store.url", format!("{problem}")))?;
        let writers = ConfigError::check_range("store.writers", store.writers, 1..=WRITERS_MAX)?;
        let flush_interval_ms = ConfigError::check_range(
            "store.flush_interval_ms",
            store.flush_interval_ms,
            1..=FLUSH_INTERVAL_MS_MAX,
        )?;
        let limits = Limits {
            flush_interval: Duration::from_millis(flush_interval_ms),
            flush_rows: ConfigError::check_range("store.flush_rows", store.flush_rows, 1..=FLUSH_ROWS_MAX)?,
            pending_keys_max: ConfigError::check_range(
                "store.max_pending_keys",
                store.max_pending_keys,
                writers..=PENDING_KEYS_MAX,
            )?,
        };
        let queue_rows = ConfigError::check_range(
            "store.queue_rows",
            store.queue_rows,
            ROWS_PER_MESSAGE_MAX..=QUEUE_ROWS_MAX,
        )?;
        let drain_ms = ConfigError::check_range(
            "store.drain_timeout_ms",
            store.drain_timeout_ms,
            1..=DRAIN_TIMEOUT_MS_MAX,
        )?;
        let drain_timeout = Duration::from_millis(drain_ms);
        let max_age_s = ConfigError::check_range(
            "store.status_max_age_s",
            store.status_max_age_s,
            0..=STATUS_MAX_AGE_S_MAX,
        )?;
        let status_max_age = (max_age_s > 0).then(|| Duration::from_secs(max_age_s));
        Ok(ReporterConfig {
            server,
            shards,
            tcp_driver,
            store: url,
            writers,
            limits,
            queue_rows,
            drain_timeout,
            status_max_age,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_defaults() {
        let example: RawConfig =
            toml::from_str(include_str!("../lars-reporter.example.toml")).expect("valid TOML");
        assert_eq!(example, RawConfig::default());
    }

    #[test]
    fn the_example_shows_every_key() {
        let example: toml::Table = include_str!("../lars-reporter.example.toml").parse().expect("valid TOML");
        assert_eq!(example, toml::Table::try_from(RawConfig::default()).expect("sections of plain values"));
    }

    #[test]
    fn each_impossible_value_is_named() {
        let check = |change: fn(&mut StoreSection), key: &str, problem: &str| {
            let mut raw = RawConfig::default();
            change(&mut raw.store);
            let error = raw.validate().expect_err(key);
            assert_eq!(error.key, format!("store.{key}"));
            assert!(error.problem.contains(problem), "{error}");
        };
        check(|store| store.url = "postgres://".into(), "url", "sqlite");
        check(|store| store.writers = 0, "writers", "0 is not in 1..=64");
        check(|store| store.writers = 65, "writers", "65 is not in 1..=64");
        check(|store| store.flush_interval_ms = 0, "flush_interval_ms", "0 is not in");
        check(|store| store.flush_rows = 0, "flush_rows", "0 is not in");
        check(|store| store.flush_rows = 10_001, "flush_rows", "10001 is not in 1..=10000");
        check(|store| store.max_pending_keys = 1, "max_pending_keys", "1 is not in 2..=");
        check(|store| store.queue_rows = 1_000, "queue_rows", "1000 is not in 16381..=");
        check(|store| store.drain_timeout_ms = 0, "drain_timeout_ms", "0 is not in");
        check(|store| store.status_max_age_s = u64::MAX, "status_max_age_s", "is not in 0..=3153600000");
    }

    #[test]
    fn a_wrong_server_section_is_named() {
        let mut raw = RawConfig::default();
        raw.server.listen = "7779".into();
        assert_eq!(raw.validate().expect_err("no address").key, "server.listen");
    }

    #[test]
    fn sqlite_has_one_writer_with_all_of_the_limits() {
        let config = ReporterConfig::default();
        assert_eq!((config.writers, config.writers_used()), (2, 1));
        assert_eq!(config.limits_of_each_writer(), config.limits);

        let store = "mysql://lars@localhost/lars".parse().expect("a URL");
        let config = ReporterConfig { store, ..ReporterConfig::default() };
        assert_eq!(config.writers_used(), 2);
        assert_eq!(config.limits_of_each_writer().pending_keys_max, 500_000);
    }
}
