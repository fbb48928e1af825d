//! [`ClientConfig`]: where the agent is and how long to wait for it.

use std::{net::Ipv4Addr, ops::RangeInclusive, time::Duration};

use crate::{ClientError, core::Timeouts};

/// No lookup may be configured to take longer than this.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// Where the agent is, and how long to wait for it.
///
/// ```
/// use std::time::Duration;
///
/// use lars_client::{Client, ClientConfig};
///
/// let config = ClientConfig { timeout: Duration::from_millis(20), retries: 2, ..ClientConfig::default() };
/// let client = Client::with_config(config)?;
/// # Ok::<(), lars_client::ClientError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The agent's address. Default: 127.0.0.1, the agent on this machine.
    pub agent_ip: Ipv4Addr,
    /// The UDP port of the agent's first shard; shard `i` is at `base_port + i`. Default: 8888.
    pub base_port: u16,
    /// How many shards the agent has. It must be the agent's own number for speed, not for correctness: an
    /// agent answers on any of its ports. Default: 3.
    pub shards: u16,
    /// How long to wait for the answer to one datagram. Default: 100 ms.
    pub timeout: Duration,
    /// How often to ask again when no answer came. A lookup ends after `timeout × (retries + 1)` at the
    /// latest, give or take the kernel's timer (a few milliseconds). Default: 1, so 200 ms.
    pub retries: u32,
}

impl Default for ClientConfig {
    /// What deployed agents and clients are built with.
    fn default() -> Self {
        Self {
            agent_ip: Ipv4Addr::LOCALHOST,
            base_port: 8888,
            shards: 3,
            timeout: Duration::from_millis(100),
            retries: 1,
        }
    }
}

impl ClientConfig {
    /// The agent's ports, one per shard.
    pub(crate) fn agent_ports(&self) -> Result<RangeInclusive<u16>, ClientError> {
        if self.shards == 0 {
            return Err(invalid("shards", "0 is not in 1..=65535".to_owned()));
        }
        if self.base_port == 0 {
            return Err(invalid("base_port", "0 is not in 1..=65535".to_owned()));
        }
        let last_port = self.base_port.checked_add(self.shards - 1).ok_or_else(|| {
            invalid("shards", format!("{} ports from {} up go beyond 65535", self.shards, self.base_port))
        })?;
        Ok(self.base_port..=last_port)
    }

    pub(crate) fn timeouts(&self) -> Result<Timeouts, ClientError> {
        if self.timeout.is_zero() {
            return Err(invalid("timeout", "must be more than 0".to_owned()));
        }
        let total = self.retries.checked_add(1).and_then(|tries| self.timeout.checked_mul(tries));
        match total.filter(|&total| total <= LOOKUP_TIME_MAX) {
            Some(total) => Ok(Timeouts { per_try: self.timeout, total }),
            None => Err(invalid("timeout", format!("with all retries must be at most {LOOKUP_TIME_MAX:?}"))),
        }
    }
}

fn invalid(key: &'static str, problem: String) -> ClientError {
    ClientError::Config { key, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(config: ClientConfig, message: &str) {
        let result = config.agent_ports().and_then(|_| config.timeouts());
        assert_eq!(result.expect_err("refused").to_string(), message);
    }

    #[test]
    fn the_defaults_are_what_is_deployed() {
        let config = ClientConfig::default();
        assert_eq!(config.agent_ports().expect("valid"), 8888..=8890);
        assert_eq!(config.timeouts().expect("valid").total, Duration::from_millis(200));
    }

    #[test]
    fn the_last_port_may_be_65535() {
        let config = ClientConfig { base_port: 65_533, ..ClientConfig::default() };
        assert_eq!(config.agent_ports().expect("valid"), 65_533..=65_535);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let good = ClientConfig::default();
        check_refused(ClientConfig { shards: 0, ..good }, "shards: 0 is not in 1..=65535");
        check_refused(ClientConfig { base_port: 0, ..good }, "base_port: 0 is not in 1..=65535");
        check_refused(
            ClientConfig { base_port: 65_534, ..good },
            "shards: 3 ports from 65534 up go beyond 65535",
        );
        check_refused(ClientConfig { timeout: Duration::ZERO, ..good }, "timeout: must be more than 0");
        for endless in [
            ClientConfig { timeout: Duration::MAX, ..good },
            ClientConfig { retries: u32::MAX, ..good },
            ClientConfig { timeout: Duration::from_secs(1801), ..good },
        ] {
            check_refused(endless, "timeout: with all retries must be at most 3600s");
        }
    }
}
