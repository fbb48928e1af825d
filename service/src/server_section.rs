//! `[server]`: what the TCP services have in common.

use std::{net::SocketAddr, num::NonZero, thread, time::Duration};

use lars_runtime::{TcpDriver, TcpServerConfig};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// More shards than this is a typing error, not a machine.
const SHARDS_MAX: usize = 1_024;

/// A day. More is a typing error.
const FRAME_TIMEOUT_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Where a TCP service listens, and what it lets its peers do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSection {
    /// `ip:port`.
    pub listen: String,
    /// Threads that serve, each pinned to a processor; 0: as many as there are processors.
    pub shards: usize,
    /// Connections at a time; one more is closed at once.
    pub max_connections: usize,
    /// Connections at a time from one address; 0: no bound but `max_connections`.
    pub max_connections_per_peer: usize,
    /// A connection on which nothing came for so long is closed; 0: never.
    pub idle_timeout_ms: u64,
    /// A connection is closed that takes longer from the first byte of a message to its last; 1 to a day.
    pub frame_timeout_ms: u64,
    /// What moves the bytes of connections.
    pub tcp_driver: TcpDriver,
}

impl ServerSection {
    /// The defaults of a service that listens on `listen`.
    #[must_use]
    pub fn new(listen: &str) -> Self {
        Self {
            listen: listen.to_owned(),
            shards: 0,
            max_connections: 100_000,
            max_connections_per_peer: 0,
            idle_timeout_ms: 0,
            frame_timeout_ms: 30_000,
            tcp_driver: TcpDriver::default(),
        }
    }

    /// What the server is started with, on how many shards, and what moves their bytes.
    ///
    /// # Errors
    /// Naming the key whose value cannot be.
    pub fn validate(&self) -> Result<(TcpServerConfig, usize, TcpDriver), ConfigError> {
        let wrong = |key: &str, problem: String| Err(ConfigError::new(format!("server.{key}"), problem));
        let Ok(listen) = self.listen.parse::<SocketAddr>() else {
            return wrong(
                "listen",
                format!("'{}' is not an address and port like 0.0.0.0:7778", self.listen),
            );
        };
        ConfigError::check_range("server.shards", self.shards, 0..=SHARDS_MAX)?;
        if self.max_connections == 0 {
            return wrong("max_connections", "0 would let nobody connect".to_owned());
        }
        let frame_timeout = 1..=FRAME_TIMEOUT_MS_MAX;
        ConfigError::check_range("server.frame_timeout_ms", self.frame_timeout_ms, frame_timeout)?;
        let mut config = TcpServerConfig::new(listen);
        config.connections_per_peer_max =
            (self.max_connections_per_peer > 0).then_some(self.max_connections_per_peer);
        config.frame_timeout = Duration::from_millis(self.frame_timeout_ms);
        config.connections_max = self.max_connections;
        config.idle_timeout = (self.idle_timeout_ms > 0).then(|| Duration::from_millis(self.idle_timeout_ms));
        let shards = if self.shards == 0 { processors() } else { self.shards };
        Ok((config, shards, self.tcp_driver))
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        let (config, shards, tcp_driver) = ServerSection::new("0.0.0.0:7778").validate().unwrap();
        assert_eq!(config.listen, "0.0.0.0:7778".parse().unwrap());
        assert_eq!((config.connections_max, config.idle_timeout), (100_000, None));
        assert_eq!((config.connections_per_peer_max, config.frame_timeout.as_secs()), (None, 30));
        let section = ServerSection { max_connections_per_peer: 7, ..ServerSection::new("0.0.0.0:7778") };
        assert_eq!(section.validate().unwrap().0.connections_per_peer_max, Some(7));
        assert!(shards >= 1);
        assert_eq!(tcp_driver, TcpDriver::Auto);
    }

    #[test]
    fn each_impossible_value_is_named() {
        let good = ServerSection::new("0.0.0.0:7778");
        let check = |section: ServerSection, key: &str| assert_eq!(section.validate().unwrap_err().key, key);
        check(ServerSection { listen: "7778".into(), ..good.clone() }, "server.listen");
        check(ServerSection { shards: 1_025, ..good.clone() }, "server.shards");
        check(ServerSection { max_connections: 0, ..good.clone() }, "server.max_connections");
        check(ServerSection { frame_timeout_ms: 0, ..good.clone() }, "server.frame_timeout_ms");
        check(ServerSection { frame_timeout_ms: u64::MAX, ..good }, "server.frame_timeout_ms");
    }
}
