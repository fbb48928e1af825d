//! `[server]`: what the TCP services have in common.

use std::{net::SocketAddr, num::NonZero, thread, time::Duration};

use lars_runtime::{TcpDriver, TcpServerConfig};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// More shards than this is a typing error, not a machine.
const SHARDS_MAX: usize = 1_024;

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
    /// A connection on which nothing came for so long is closed; 0: never.
    pub idle_timeout_ms: u64,
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
            idle_timeout_ms: 0,
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
        if self.shards > SHARDS_MAX {
            return wrong("shards", format!("{} is not in 0..={SHARDS_MAX}", self.shards));
        }
        if self.max_connections == 0 {
            return wrong("max_connections", "0 would let nobody connect".to_owned());
        }
        let mut config = TcpServerConfig::new(listen);
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
        assert!(shards >= 1);
        assert_eq!(tcp_driver, TcpDriver::Auto);
    }

    #[test]
    fn each_impossible_value_is_named() {
        let good = ServerSection::new("0.0.0.0:7778");
        let check = |section: ServerSection, key: &str| assert_eq!(section.validate().unwrap_err().key, key);
        check(ServerSection { listen: "7778".into(), ..good.clone() }, "server.listen");
        check(ServerSection { shards: 1_025, ..good.clone() }, "server.shards");
        check(ServerSection { max_connections: 0, ..good }, "server.max_connections");
    }
}
