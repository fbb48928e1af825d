//! The configuration: as it is written down, and as the agent uses it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lars_runtime::TcpDriver;
use lars_service::{ConfigError, StateSection};
use serde::{Deserialize, Serialize};

use crate::core::{
    agent::CoreConfig,
    balancer::{BalancerParams, Health, Limits},
    table::TableConfig,
};

/// More shards than this is a typing error, not a machine.
const SHARDS_MAX: usize = 64;
/// A year in milliseconds: longer timeouts are typing errors.
const MILLIS_MAX: u64 = 365 * 24 * 3_600 * 1_000;
/// Counters of calls that are configured; beyond this they would never be reached.
const CALLS_MAX: u32 = 1_000_000_000;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// This machine's address in the statistics; `None`: the local address of the connection to lars-reporter, if it
    /// is no loopback one, else the machine's first such.
    pub caller_ip: Option<Ipv4Addr>,
    /// Where clients find the agent.
    pub api: ApiConfig,
    /// Addresses of lars-dns, `host:port`, in the order in which they are tried.
    pub dns_servers: Vec<String>,
    /// Addresses of lars-reporter, likewise.
    pub reporter_servers: Vec<String>,
    /// What moves the bytes of the connections to both.
    pub tcp_driver: TcpDriver,
    /// Where routes and overloaded hosts are kept for the next start; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// What each shard's core is built with; `modules_max` is one shard's part.
    pub core: CoreConfig,
}

/// Where clients find the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    pub listen_ip: Ipv4Addr,
    /// Shard i listens on `base_port + i`. 0: any consecutive ports that are free.
    pub base_port: u16,
    pub shards: usize,
    /// How long a shard polls its socket after a datagram before it sleeps.
    pub spin: Duration,
}

impl Default for AgentConfig {
    /// What `lars-agent.example.toml` says.
    fn default() -> Self {
        RawConfig::default().validate().expect("the defaults are valid")
    }
}

/// The configuration as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// This machine's IPv4 address in the statistics; empty: that of the link to lars-reporter.
    pub caller_ip: String,
    /// What moves the bytes of the connections to lars-dns and lars-reporter.
    pub tcp_driver: TcpDriver,
    /// `[api]`
    pub api: ApiSection,
    /// `[dns]`
    pub dns: DnsSection,
    /// `[reporter]`
    pub reporter: ReporterSection,
    /// `[balance]`
    pub balance: BalanceSection,
    /// `[state]`
    pub state: StateSection,
}

/// `[api]`: where clients find the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSection {
    /// The address of the UDP sockets.
    pub listen_ip: String,
    /// Shard i listens on `base_port + i`; 0: any consecutive ports that are free.
    pub base_port: u16,
    /// Threads that answer, each pinned to a processor.
    pub shards: usize,
    /// Modules remembered at most, in all shards.
    pub modules_max: usize,
    /// Microseconds that a shard polls its socket after a datagram before it sleeps; 0: none.
    pub spin_us: u64,
    /// Whole routes are told to other machines, too.
    pub routes_to_anyone: bool,
}

impl Default for ApiSection {
    fn default() -> Self {
        Self {
            listen_ip: Ipv4Addr::LOCALHOST.to_string(),
            base_port: 8_888,
            shards: 3,
            modules_max: 1_000_000,
            spin_us: 0,
            routes_to_anyone: false,
        }
    }
}

/// `[dns]`: where routes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSection {
    /// `host:port`, in the order in which they are tried.
    pub servers: Vec<String>,
    /// A connection whose server owes answers and sends none for so long is given up.
    pub answer_timeout_ms: u64,
    /// For how long a module keeps its hosts when a server has none of it any more and does not say that this is meant;
    /// 0: not at all.
    pub empty_hold_ms: u64,
}

impl Default for DnsSection {
    fn default() -> Self {
        Self { servers: vec!["127.0.0.1:7778".to_owned()], answer_timeout_ms: 15_000, empty_hold_ms: 30_000 }
    }
}

/// `[reporter]`: where call statistics go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReporterSection {
    /// `host:port`, in the order in which they are tried.
    pub servers: Vec<String>,
    /// The least time between two messages about a module whose hosts do not change state.
    pub report_interval_ms: u64,
}

impl Default for ReporterSection {
    fn default() -> Self {
        Self { servers: vec!["127.0.0.1:7779".to_owned()], report_interval_ms: 1_000 }
    }
}

/// `[balance]`: the numbers that balancers go by, see [`BalancerParams`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceSection {
    pub probe_num: u32,
    pub init_succ_cnt: u32,
    pub init_err_cnt: u32,
    pub err_rate: f64,
    pub succ_rate: f64,
    pub contin_err_limit: u32,
    pub contin_succ_limit: u32,
    pub window_err_rate: f64,
    pub idle_timeout_ms: u64,
    pub overload_timeout_ms: u64,
    pub max_ejected_percent: u32,
    pub panic_percent: u32,
    /// The time between two digests and, where lars-dns knows none, for which an answer of it counts as current.
    pub update_timeout_ms: u64,
}

impl Default for BalanceSection {
    fn default() -> Self {
        let BalancerParams { probe_num, health, limits } = BalancerParams::default();
        Self {
            probe_num,
            init_succ_cnt: health.init_succ_cnt,
            init_err_cnt: health.init_err_cnt,
            err_rate: health.err_rate,
            succ_rate: health.succ_rate,
            contin_err_limit: health.contin_err_limit,
            contin_succ_limit: health.contin_succ_limit,
            window_err_rate: health.window_err_rate,
            idle_timeout_ms: 15_000,
            overload_timeout_ms: 15_000,
            max_ejected_percent: limits.max_ejected_percent,
            panic_percent: limits.panic_percent,
            update_timeout_ms: 15_000,
        }
    }
}

impl RawConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// Naming the first key whose value cannot be.
    pub fn validate(&self) -> Result<AgentConfig, ConfigError> {
        let api = self.api.validate()?;
        let modules_max = ConfigError::check_range("api.modules_max", self.api.modules_max, 1..=100_000_000)?;
        let table = TableConfig {
            balancer: Arc::new(self.balance.params()?),
            modules_max: modules_max.div_ceil(api.shards),
            update_timeout: millis("balance.update_timeout_ms", self.balance.update_timeout_ms)?,
            empty_hold: Duration::from_millis(ConfigError::check_range(
                "dns.empty_hold_ms",
                self.dns.empty_hold_ms,
                0..=MILLIS_MAX,
            )?),
            report_interval: millis("reporter.report_interval_ms", self.reporter.report_interval_ms)?,
        };
        Ok(AgentConfig {
            caller_ip: caller_ip(&self.caller_ip)?,
            api,
            dns_servers: servers("dns.servers", &self.dns.servers)?,
            reporter_servers: servers("reporter.servers", &self.reporter.servers)?,
            tcp_driver: self.tcp_driver,
            state_dir: self.state.resolve(),
            core: CoreConfig {
                table,
                answer_timeout: millis("dns.answer_timeout_ms", self.dns.answer_timeout_ms)?,
                routes_to_anyone: self.api.routes_to_anyone,
                // Drawn when the agent starts.
                digest_spread: 0,
            },
        })
    }
}

impl ApiSection {
    fn validate(&self) -> Result<ApiConfig, ConfigError> {
        let listen_ip = ipv4("api.listen_ip", &self.listen_ip)?;
        let shards = ConfigError::check_range("api.shards", self.shards, 1..=SHARDS_MAX)?;
        if usize::from(self.base_port) + shards - 1 > usize::from(u16::MAX) {
            let problem = format!("{} leaves no room for {shards} ports up to 65535", self.base_port);
            return Err(ConfigError::new("api.base_port", problem));
        }
        let spin_us = ConfigError::check_range("api.spin_us", self.spin_us, 0..=100_000)?;
        let spin = Duration::from_micros(spin_us);
        Ok(ApiConfig { listen_ip, base_port: self.base_port, shards, spin })
    }
}

impl BalanceSection {
    fn params(&self) -> Result<BalancerParams, ConfigError> {
        let probe_num = ConfigError::check_range("balance.probe_num", self.probe_num, 1..=CALLS_MAX)?;
        Ok(BalancerParams { probe_num, health: self.health()?, limits: self.limits()? })
    }

    fn health(&self) -> Result<Health, ConfigError> {
        Ok(Health {
            init_succ_cnt: ConfigError::check_range(
                "balance.init_succ_cnt",
                self.init_succ_cnt,
                0..=CALLS_MAX,
            )?,
            init_err_cnt: ConfigError::check_range("balance.init_err_cnt", self.init_err_cnt, 0..=CALLS_MAX)?,
            err_rate: ConfigError::check_range("balance.err_rate", self.err_rate, 0.0..=1.0)?,
            succ_rate: ConfigError::check_range("balance.succ_rate", self.succ_rate, 0.0..=1.0)?,
            contin_err_limit: ConfigError::check_range(
                "balance.contin_err_limit",
                self.contin_err_limit,
                1..=CALLS_MAX,
            )?,
            contin_succ_limit: ConfigError::check_range(
                "balance.contin_succ_limit",
                self.contin_succ_limit,
                1..=CALLS_MAX,
            )?,
            window_err_rate: self.window_err_rate()?,
            idle_timeout: millis("balance.idle_timeout_ms", self.idle_timeout_ms)?,
            overload_timeout: millis("balance.overload_timeout_ms", self.overload_timeout_ms)?,
        })
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let percent = |key, value| ConfigError::check_range(key, value, 0..=100);
        Ok(Limits {
            max_ejected_percent: percent("balance.max_ejected_percent", self.max_ejected_percent)?,
            panic_percent: percent("balance.panic_percent", self.panic_percent)?,
        })
    }

    fn window_err_rate(&self) -> Result<f64, ConfigError> {
        let rate = ConfigError::check_range("balance.window_err_rate", self.window_err_rate, 0.0..=1.0)?;
        if rate == 0.0 {
            let problem = "0 would eject every host that was called at all";
            return Err(ConfigError::new("balance.window_err_rate", problem));
        }
        Ok(rate)
    }
}

fn millis(key: &str, value: u64) -> Result<Duration, ConfigError> {
    ConfigError::check_range(key, value, 1..=MILLIS_MAX).map(Duration::from_millis)
}

/// IPv6 is not built: programs that ask the agent know IPv4 addresses only, and so do the statistics.
fn ipv4(key: &str, text: &str) -> Result<Ipv4Addr, ConfigError> {
    let problem = match text.parse() {
        Ok(IpAddr::V4(ip)) => return Ok(ip),
        Ok(IpAddr::V6(_)) => format!("'{text}' is an IPv6 address; it must be an IPv4 one like 127.0.0.1"),
        Err(_) => format!("'{text}' is not an IPv4 address like 127.0.0.1"),
    };
    Err(ConfigError::new(key, problem))
}

fn caller_ip(text: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    if text.is_empty() { Ok(None) } else { ipv4("caller_ip", text).map(Some) }
}

/// At least one `host:port`; whether the names resolve is found out when connecting.
fn servers(key: &str, servers: &[String]) -> Result<Vec<String>, ConfigError> {
    if servers.is_empty() {
        return Err(ConfigError::new(key, "no server is named"));
    }
    for server in servers {
        check_server(server).map_err(|problem| ConfigError::new(key, problem))?;
    }
    Ok(servers.to_vec())
}

fn check_server(server: &str) -> Result<(), String> {
    let wrong_form = || format!("'{server}' is not of the form host:port");
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong_form)?;
    if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(wrong_form());
    }
    if host.contains(':') && server.parse::<SocketAddr>().is_err() {
        return Err(format!("'{server}': an IPv6 address stands in brackets, like [::1]:7778"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default with one key set to a TOML value, checked.
    fn with(path: &str, value: &str) -> Result<AgentConfig, ConfigError> {
        let (section, key) = path.split_once('.').unwrap_or(("", path));
        let text = if section.is_empty() {
            format!("{key} = {value}")
        } else {
            format!("[{section}]\n{key} = {value}")
        };
        toml::from_str::<RawConfig>(&text).expect("well formed").validate()
    }

    #[test]
    fn the_example_shows_every_default() {
        let example: toml::Table = crate::daemon::EXAMPLE.parse().expect("TOML");
        let defaults = toml::Table::try_from(RawConfig::default()).expect("TOML");
        assert_eq!(example, defaults);
    }

    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let config = AgentConfig::default();
        assert_eq!((config.api.base_port, config.api.shards), (8_888, 3));
        assert_eq!(config.api.listen_ip, Ipv4Addr::LOCALHOST);
        let table = &config.core.table;
        assert_eq!(table.update_timeout, Duration::from_secs(15));
        assert_eq!(table.report_interval, Duration::from_secs(1));
        assert_eq!(table.empty_hold, Duration::from_secs(30));
        assert_eq!(table.modules_max, 333_334);
        assert_eq!(*table.balancer, BalancerParams::default());
    }

    #[test]
    fn each_impossible_value_is_named() {
        for (key, values) in [
            ("caller_ip", &["'here'", "'::1'"][..]),
            ("api.listen_ip", &["''", "'localhost'", "'::1'", "'::'"]),
            ("api.base_port", &["65534"]),
            ("api.shards", &["0", "65"]),
            ("api.modules_max", &["0"]),
            ("api.spin_us", &["100001"]),
            ("dns.servers", &["[]", "['127.0.0.1']", "['dns:0']", "['dns:7778', ':7778']", "['::1:7778']"]),
            ("dns.answer_timeout_ms", &["0"]),
            ("dns.empty_hold_ms", &["32000000000"]),
            ("reporter.servers", &["[]", "['reporter:65536']"]),
            ("reporter.report_interval_ms", &["0"]),
            ("balance.probe_num", &["0"]),
            ("balance.init_succ_cnt", &["4000000000"]),
            ("balance.init_err_cnt", &["4000000000"]),
            ("balance.err_rate", &["-0.1", "1.5", "nan"]),
            ("balance.succ_rate", &["1.1", "inf"]),
            ("balance.contin_err_limit", &["0"]),
            ("balance.contin_succ_limit", &["0"]),
            ("balance.window_err_rate", &["0.0", "1.1"]),
            ("balance.idle_timeout_ms", &["0"]),
            ("balance.overload_timeout_ms", &["0", "9000000000000"]),
            ("balance.max_ejected_percent", &["101", "300"]),
            ("balance.panic_percent", &["101"]),
            ("balance.update_timeout_ms", &["0"]),
        ] {
            for value in values {
                let error = with(key, value).expect_err(&format!("{key} = {value} cannot be"));
                assert_eq!(error.key, key, "{error}");
            }
        }
    }

    #[test]
    fn possible_values_are_taken() {
        let caller = with("caller_ip", "'10.0.0.7'").expect("valid").caller_ip;
        assert_eq!(caller, Some(Ipv4Addr::new(10, 0, 0, 7)));
        let servers =
            with("dns.servers", "['dns-1.example.org:7778', '[::1]:7778']").expect("valid").dns_servers;
        assert_eq!(servers.len(), 2);
        assert_eq!(with("api.spin_us", "100").expect("valid").api.spin, Duration::from_micros(100));
        assert_eq!(with("api.base_port", "0").expect("valid").api.base_port, 0);
    }

    #[test]
    fn errors_read_well() {
        let error = with("balance.err_rate", "1.5").expect_err("out of range");
        assert_eq!(error.to_string(), "balance.err_rate: 1.5 is not in 0.0..=1.0");
        let error = with("api.listen_ip", "'::1'").expect_err("not built");
        assert_eq!(
            error.to_string(),
            "api.listen_ip: '::1' is an IPv6 address; it must be an IPv4 one like 127.0.0.1"
        );
        let error = with("dns.servers", "['::1:7778']").expect_err("which part is the port?");
        assert_eq!(
            error.to_string(),
            "dns.servers: '::1:7778': an IPv6 address stands in brackets, like [::1]:7778"
        );
    }
}
