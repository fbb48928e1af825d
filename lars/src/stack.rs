//! dns, reporter and agent together in one process, connected to each other.

use std::{
    error::Error,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use lars_agent::{Agent, AgentConfig, AgentDaemon};
use lars_dns::{Dns, DnsConfig, DnsDaemon};
use lars_reporter::{Reporter, ReporterConfig, ReporterDaemon};
use lars_runtime::preflight;
use lars_service::{ConfigError, Daemon, LoadError, Shutdown};
use lars_store::{OpenMode, StoreUrl};
use serde::Deserialize;
use toml::{Table, Value};

use crate::exit::Failure;

/// Each service's sections, as they are written down.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) dns: Sections,
    pub(crate) reporter: Sections,
    pub(crate) agent: Sections,
}

/// The sections of one service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sections(Table);

impl Settings {
    /// Reads `[dns.…]`, `[reporter.…]` and `[agent.…]`.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let text =
            fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.into(), source })?;
        toml::from_str(&text).map_err(|error| LoadError::in_file(path, &text, &error))
    }
}

impl Sections {
    pub(crate) fn has(&self, section: &str, key: &str) -> bool {
        self.0.get(section).and_then(|section| section.get(key)).is_some()
    }

    /// Gives `[section] key` a value, whatever it had.
    pub(crate) fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let section = self.0.entry(section).or_insert_with(|| Value::Table(Table::new()));
        // A section that is no table is found when the whole is read.
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), value.into());
        }
    }

    /// Gives `[section] key` a value if it has none.
    pub(crate) fn set_default(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        if !self.has(section, key) {
            self.set(section, key, value);
        }
    }

    /// Validates the sections as those of `D`, which the file calls `name`.
    fn parse<D: Daemon>(self, name: &str) -> Result<D::Config, ConfigError> {
        lars_service::parse::<D>(self.0)
            .map_err(|error| ConfigError::new(format!("{name}.{}", error.key), error.problem))
    }
}

/// What the three are started with.
#[derive(Clone, Debug)]
pub(crate) struct StackConfig {
    dns: DnsConfig,
    reporter: ReporterConfig,
    agent: AgentConfig,
    said: Said,
}

/// Which of the things that depend on each other the settings say.
#[derive(Clone, Copy, Debug)]
struct Said {
    dns_store: bool,
    reporter_store: bool,
    /// Where the agent finds lars-dns; else it is the one beside it.
    dns_servers: bool,
    reporter_servers: bool,
}

impl StackConfig {
    /// Validates everything before anything starts.
    pub(crate) fn new(settings: Settings) -> Result<Self, ConfigError> {
        let said = Said {
            dns_store: settings.dns.has("store", "url"),
            reporter_store: settings.reporter.has("store", "url"),
            dns_servers: settings.agent.has("dns", "servers"),
            reporter_servers: settings.agent.has("reporter", "servers"),
        };
        Ok(Self {
            dns: settings.dns.parse::<DnsDaemon>("dns")?,
            reporter: settings.reporter.parse::<ReporterDaemon>("reporter")?,
            agent: settings.agent.parse::<AgentDaemon>("agent")?,
            said,
        })
    }

    /// Uses `store` for routes and for statistics, whatever the settings say.
    pub(crate) fn use_store(&mut self, store: StoreUrl) {
        self.dns.store = store.clone();
        self.reporter.store = store;
    }

    /// Whether the settings leave it open where routes or statistics are.
    pub(crate) fn needs_store(&self) -> bool {
        !(self.said.dns_store && self.said.reporter_store)
    }

    /// Uses `store` where the settings name none.
    pub(crate) fn use_default_store(&mut self, store: StoreUrl) {
        if !self.said.reporter_store {
            self.reporter.store = store.clone();
        }
        if !self.said.dns_store {
            self.dns.store = store;
        }
    }

    /// Where the routes are.
    pub(crate) fn route_store(&self) -> &StoreUrl {
        &self.dns.store
    }

    /// Where the statistics go.
    pub(crate) fn status_store(&self) -> &StoreUrl {
        &self.reporter.store
    }
}

/// The three, running. Dropping it stops them at once.
pub(crate) struct Stack {
    // In the order in which they stop: each still has those it talks to.
    agent: Agent,
    reporter: Reporter,
    dns: Dns,
}

impl Stack {
    /// Starts one after the other, if the machine can run them; `None` if `shutdown` is triggered while the
    /// database is waited for.
    pub(crate) fn start(config: StackConfig, shutdown: &Shutdown) -> Result<Option<Self>, Failure> {
        preflight::check()?;
        let StackConfig { dns, reporter, mut agent, said } = config;
        create("dns", &dns.store, shutdown)?;
        create("reporter", &reporter.store, shutdown)?;
        let Some(dns) = Dns::start_unless(dns, shutdown).map_err(|error| cannot_start("dns", error))? else {
            return Ok(None);
        };
        let reporter = Reporter::start(reporter).map_err(|error| cannot_start("reporter", error))?;
        if !said.dns_servers {
            agent.dns_servers = vec![from_here(dns.local_addr()).to_string()];
        }
        if !said.reporter_servers {
            agent.reporter_servers = vec![from_here(reporter.local_addr()).to_string()];
        }
        let agent = Agent::start(agent).map_err(|error| cannot_start("agent", error))?;
        Ok(Some(Self { agent, reporter, dns }))
    }

    pub(crate) fn dns_addr(&self) -> SocketAddr {
        self.dns.local_addr()
    }

    pub(crate) fn reporter_addr(&self) -> SocketAddr {
        self.reporter.local_addr()
    }

    /// One per shard, ports ascending.
    pub(crate) fn agent_addrs(&self) -> Vec<SocketAddr> {
        self.agent.local_addrs()
    }

    /// Ends the three: the agent's last statistics are sent, then stored.
    pub(crate) fn stop(self) {
        self.agent.stop();
        self.reporter.stop();
        self.dns.stop();
    }
}

/// Creates what is missing of the store of `service`, because lars-dns only reads. A server that is away is waited
/// for.
fn create(service: &'static str, store: &StoreUrl, shutdown: &Shutdown) -> Result<(), Failure> {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut said = false;
    loop {
        match lars_store::open(store, OpenMode::Create) {
            Ok(_) => return Ok(()),
            // It is the configuration that has to change, and the exit status says so.
            Err(error) if error.is_fatal() => {
                return Err(ConfigError::new(format!("{service}.store.url"), error.to_string()).into());
            }
            Err(error) if !error.is_retryable() => return Err(cannot_start(service, error)),
            Err(error) if !said => {
                tracing::warn!(%error, "waiting for the store");
                said = true;
            }
            Err(_) => {}
        }
        if shutdown.wait_timeout(PAUSE) {
            return Ok(());
        }
    }
}

fn cannot_start(service: &'static str, error: impl Error + Send + Sync + 'static) -> Failure {
    Failure::Start { service, source: Box::new(error) }
}

/// The address by which this machine reaches a socket of its own.
fn from_here(addr: SocketAddr) -> SocketAddr {
    let ip = if addr.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { addr.ip() };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_keys_of_each_service_are_its_own() {
        let text =
            "[dns.store]\npoll_interval_ms = 50\n[agent.api]\nshards = 2\n[agent.dns]\nservers = [\"a:1\"]\n";
        let config = StackConfig::new(settings(text)).unwrap();
        assert_eq!(config.dns.timing.poll_interval.as_millis(), 50);
        assert_eq!(config.agent.api.shards, 2);
        assert_eq!(config.agent.dns_servers, ["a:1"]);
        assert!(config.said.dns_servers && !config.said.reporter_servers);
    }

    #[test]
    fn a_store_is_used_by_both_or_where_none_is_said() {
        let check = |text: &str, change: fn(&mut StackConfig, StoreUrl), expect: [&str; 2]| {
            let mut config = StackConfig::new(settings(text)).unwrap();
            change(&mut config, "sqlite:x.db".parse().unwrap());
            assert_eq!([config.route_store(), config.status_store()].map(StoreUrl::to_string), expect);
        };
        let said = "[dns.store]\nurl = \"sqlite:dns.db\"\n";
        check(said, StackConfig::use_store, ["sqlite:x.db", "sqlite:x.db"]);
        check(said, StackConfig::use_default_store, ["sqlite:dns.db", "sqlite:x.db"]);
        check("", StackConfig::use_default_store, ["sqlite:x.db", "sqlite:x.db"]);
        assert!(StackConfig::new(settings(said)).unwrap().needs_store());
    }

    #[track_caller]
    fn check_refused(text: &str, key: &str) {
        assert_eq!(StackConfig::new(settings(text)).unwrap_err().key, key);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_service() {
        check_refused("[dns.server]\nlisten = \"x\"\n", "dns.server.listen");
        check_refused("[reporter.store]\nurl = \"x\"\n", "reporter.store.url");
        check_refused("[agent.balance]\nerr_rate = 2.0\n", "agent.balance.err_rate");
        check_refused("[agent]\napi = 3\n", "agent.api");
        assert!(toml::from_str::<Settings>("[dn]\n").is_err());
    }

    #[test]
    fn any_address_is_reached_by_the_loopback_one() {
        let check =
            |addr: &str, expect: &str| assert_eq!(from_here(addr.parse().unwrap()).to_string(), expect);
        check("0.0.0.0:7778", "127.0.0.1:7778");
        check("10.0.0.1:7778", "10.0.0.1:7778");
    }
}
