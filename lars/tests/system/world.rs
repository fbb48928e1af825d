//! The system under test: services as child processes, a store to edit, a client to ask.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lars_client::{Client, ClientConfig, GetHostError};
use lars_proto::{HostAddr, ModuleId};
use lars_store::{CallStatus, OpenMode, RouteEdit, Store, StoreUrl};
use lars_testkit::{MariaDb, eventually, eventually_some, program, reserved_addr, reserved_ports};
use tempfile::TempDir;

/// Which SQL server is behind a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sql {
    Sqlite,
    MariaDb,
}

/// A service as a child process. Dropping it kills it.
pub(crate) struct Service {
    args: Vec<String>,
    child: Option<Child>,
}

impl Service {
    fn start(args: Vec<String>) -> Self {
        let mut service = Self { args, child: None };
        service.restart();
        service
    }

    /// Starts the process (again), with the same arguments.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "{:?} still runs", self.args);
        // Log lines are for whoever reads a failed test; LARS_LOG=off silences them.
        let child = program(env!("CARGO_BIN_EXE_lars"))
            .args(&self.args)
            .env("LARS_LOG", env::var("LARS_LOG").unwrap_or_else(|_| "warn".into()))
            .env("LARS_DNS_SERVER_TCP_DRIVER", lars_testkit::tcp_driver())
            .env("LARS_REPORTER_SERVER_TCP_DRIVER", lars_testkit::tcp_driver())
            .env("LARS_AGENT_TCP_DRIVER", lars_testkit::tcp_driver())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the lars binary starts");
        self.child = Some(child);
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("the service runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// SIGTERM, then the exit status it ended with.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the service runs");
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        let status = eventually_some("the service ends after SIGTERM", || child.try_wait().expect("waits"));
        status.code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Longer than any answer takes, and short enough for a second try within the time that tests wait for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of the agent at this port that waits for so long, twice.
pub(crate) fn client(base_port: u16, timeout: Duration) -> Client {
    Client::with_config(ClientConfig { base_port, timeout, ..ClientConfig::default() }).expect("a client")
}

/// A store, the addresses of services that may or may not run, and a client.
pub(crate) struct World {
    dir: TempDir,
    /// A server of its own, so that a test may kill it.
    pub(crate) mariadb: Option<(MariaDb, String)>,
    pub(crate) store_url: String,
    pub(crate) dns_addrs: Vec<SocketAddr>,
    pub(crate) reporter_addr: SocketAddr,
    pub(crate) agent_port: u16,
    pub(crate) client: Client,
}

impl World {
    /// With one lars-dns address.
    pub(crate) fn new(sql: Sql) -> Self {
        Self::with_dns_servers(sql, 1)
    }

    pub(crate) fn with_dns_servers(sql: Sql, dns_servers: usize) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let mariadb = (sql == Sql::MariaDb).then(|| (MariaDb::start(), "lars_system".to_owned()));
        let store_url = match &mariadb {
            Some((server, database)) => server.url(database),
            None => format!("sqlite:{}", dir.path().join("lars.db").display()),
        };
        let agent_port = reserved_ports(3);
        Self {
            dir,
            mariadb,
            store_url,
            dns_addrs: (0..dns_servers).map(|_| reserved_addr()).collect(),
            reporter_addr: reserved_addr(),
            agent_port,
            client: client(agent_port, PATIENCE),
        }
    }

    /// Everything running: lars-dns (all), lars-reporter, lars-agent.
    pub(crate) fn start_all(&self) -> Vec<Service> {
        let mut services: Vec<Service> = (0..self.dns_addrs.len()).map(|i| self.start_dns(i)).collect();
        services.extend([self.start_reporter(), self.start_agent()]);
        services
    }

    pub(crate) fn start_dns(&self, i: usize) -> Service {
        self.service(
            "dns",
            &[
                ("server-listen", &self.dns_addrs[i].to_string()),
                ("store-url", &self.store_url),
                ("store-poll-interval-ms", "50"),
                ("store-full-reload-interval-ms", "500"),
            ],
        )
    }

    pub(crate) fn start_reporter(&self) -> Service {
        self.service(
            "reporter",
            &[
                ("server-listen", &self.reporter_addr.to_string()),
                ("store-url", &self.store_url),
                ("store-flush-interval-ms", "50"),
            ],
        )
    }

    pub(crate) fn start_agent(&self) -> Service {
        self.start_agent_with(&[])
    }

    pub(crate) fn start_agent_with(&self, more: &[(&str, &str)]) -> Service {
        let dns: Vec<String> = self.dns_addrs.iter().map(SocketAddr::to_string).collect();
        let own = [
            ("api-base-port", self.agent_port.to_string()),
            ("dns-servers", dns.join(",")),
            ("reporter-servers", self.reporter_addr.to_string()),
            ("caller-ip", "10.9.8.7".to_owned()),
            // Windows that do not end within a test, so that every call stays counted.
            ("balance-idle-timeout-ms", "3600000".to_owned()),
            ("balance-overload-timeout-ms", "3600000".to_owned()),
            ("state-dir", self.state_dir().display().to_string()),
        ];
        let own = own.iter().map(|(key, value)| (*key, value.as_str()));
        self.service("agent", &own.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    /// Where the agent's state is.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    fn service(&self, name: &str, keys: &[(&str, &str)]) -> Service {
        let flags = keys.iter().map(|(key, value)| format!("--{key}={value}"));
        Service::start(std::iter::once(name.to_owned()).chain(flags).collect())
    }

    /// The `lars` tool on this world's store; returns what it printed.
    pub(crate) fn lars(&self, args: &[&str]) -> String {
        let output = program(env!("CARGO_BIN_EXE_lars"))
            .args(args)
            .env("LARS_STORE_URL", &self.store_url)
            .output()
            .expect("the lars binary starts");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "lars {args:?} failed:\n{stdout}{stderr}");
        stdout.into_owned()
    }

    pub(crate) fn store(&self) -> Box<dyn Store> {
        let url: StoreUrl = self.store_url.parse().expect("a store URL");
        eventually_some("the store opens", || lars_store::open(&url, OpenMode::Create).ok())
    }

    pub(crate) fn add(&self, module: ModuleId, hosts: &[HostAddr]) {
        let edits: Vec<RouteEdit> = hosts.iter().map(|host| RouteEdit::Add(module, *host)).collect();
        self.store().edit(&edits).expect("the edit is made");
    }

    /// `lars route accept`.
    pub(crate) fn accept_routes(&self) {
        let lars = program(env!("CARGO_BIN_EXE_lars"))
            .args(["route", "accept", "--store", &self.store_url])
            .status()
            .expect("the lars binary starts");
        assert!(lars.success(), "{lars}");
    }

    /// Raw SQL, as somebody with a database shell would type it.
    pub(crate) fn raw_sql(&self, sql: &str) {
        match &self.mariadb {
            Some((server, database)) => server.execute(database, sql),
            None => {
                let path: PathBuf = self.store_url.trim_start_matches("sqlite:").into();
                let connection = rusqlite::Connection::open(path).expect("the database opens");
                connection.busy_timeout(Duration::from_secs(60)).expect("a busy timeout");
                connection.execute_batch(sql).expect("the statements run");
            }
        }
    }

    /// Waits until lookups of `module` give exactly these hosts.
    pub(crate) fn await_route(&self, module: ModuleId, hosts: &[HostAddr]) {
        let mut expected = hosts.to_vec();
        expected.sort_unstable();
        let mut last = None;
        eventually(&format!("the agent has {expected:?} for {module}"), || {
            let mut route = self.client.get_route(module).unwrap_or_default();
            route.sort_unstable();
            let same = route == expected;
            last = Some(route);
            same
        });
    }

    /// Waits until the agent answers at all. It has no time to learn a module.
    pub(crate) fn await_agent(&self) {
        let client = client(self.agent_port, Duration::from_millis(200));
        eventually("the agent answers", || {
            !matches!(
                client.get_host(ModuleId::new(77, 77)),
                Err(GetHostError::AgentUnreachable { .. } | GetHostError::Timeout { .. })
            )
        });
    }

    /// The stored statistics of `module`.
    pub(crate) fn stored(&self, module: ModuleId) -> Vec<CallStatus> {
        self.store().call_status(Some(module)).unwrap_or_default()
    }
}

/// 10.0.`a`.`b`:8000
pub(crate) fn host(a: u8, b: u8) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(10, 0, a, b), 8_000)
}

/// A statement that adds a row to RouteData, as the original's operators do it.
pub(crate) fn insert_route(module: ModuleId, host: HostAddr) -> String {
    let ((modid, cmdid), (ip, port)) = (module.to_unsigned(), host.to_unsigned());
    format!(
        "INSERT INTO RouteData(modid, cmdid, serverip, serverport) VALUES ({modid}, {cmdid}, {ip}, {port});"
    )
}
