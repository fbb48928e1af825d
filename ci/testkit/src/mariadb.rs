//! A private MariaDB server for tests: own folder, socket and port, gone when the test process is.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{User, geteuid};

use crate::reserved_ports;

/// Long enough for the slowest machine to start a server.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where the folder of a server is made: short enough for a socket's path, and reachable for the account
/// `mysql`, which a home folder of root is not.
const PARENT: &str = "/tmp";

/// The account that tests log in with. Its password has every character that a URL must encode.
const USER: &str = "lars";
const PASSWORD: &str = "p@ss:w/rd%#?";
const PASSWORD_ENCODED: &str = "p%40ss%3Aw%2Frd%25%23%3F";

/// Makes the system tables if there are none, starts the server, says its process id, and kills it when
/// standard input ends: by [`Drop`], or because the test process is gone, however it went. The line "keep" on
/// standard input leaves the folder there.
const KEEPER: &str = r#"
    trap '' PIPE # The test process may be gone before it is told the id.
    folder=$1 install=$2 server=$3
    shift 3
    exec 2>>"$folder/server.log"
    [ -d "$folder/db" ] || "$install" "$@" --auth-root-authentication-method=normal --skip-test-db >&2
    "$server" "$@" >&2 &
    echo $!
    read -r word
    kill -9 $!
    wait
    [ "$word" = keep ] || rm -rf "$folder"
"#;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0} is missing: apt-get install mariadb-server")]
    Missing(&'static str),
    #[error("mariadbd does not answer; its log ends: {0}")]
    Silent(String),
}

/// A running MariaDB server of its own. Dropping it kills it and removes its folder.
pub struct MariaDb {
    folder: PathBuf,
    port: u16,
    /// `None` between [`MariaDb::kill9`] and [`MariaDb::restart`].
    keeper: Option<Child>,
}

impl MariaDb {
    /// Starts a server, which takes some seconds.
    ///
    /// # Panics
    /// Saying what to install, if there is no server on this machine; or with its log, if it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// One server for all tests of this process, started by the first. Each test takes a database of its own.
    ///
    /// # Panics
    /// As [`MariaDb::start`].
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn try_start() -> Result<Self, StartError> {
        let folder = tempfile::Builder::new()
            .prefix("lars-mariadb-")
            .tempdir_in(PARENT)
            .expect("a folder for the server");
        if let Some(user) = account() {
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may chown");
        }
        let mut server = Self { folder: folder.keep(), port: reserved_ports(1), keeper: None };
        server.launch()?;
        Ok(server)
    }

    /// Where the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The URL of a database, which is created if it is missing, with an account that owns it.
    ///
    /// # Panics
    /// If the server is not running.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.addr(), database)
    }

    /// Like [`MariaDb::url`], by way of another address, such as that of a [`crate::Proxy`].
    ///
    /// # Panics
    /// If the server is not running.
    #[must_use]
    pub fn url_at(&self, addr: SocketAddr, database: &str) -> String {
        self.execute(
            "",
            &format!(
                "CREATE DATABASE IF NOT EXISTS `{database}`;
                 CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
                 GRANT ALL ON `{database}`.* TO '{USER}'@'%';"
            ),
        );
        format!("mysql://{USER}:{PASSWORD_ENCODED}@{addr}/{database}")
    }

    /// Runs statements as the server's root, by the server's own client. An empty database name is none.
    ///
    /// # Panics
    /// With what the server said, if it refuses one.
    pub fn execute(&self, database: &str, sql: &str) {
        let _ = self.query(database, sql);
    }

    /// Like [`MariaDb::execute`], and returns the rows: one a line, columns separated by tabs.
    ///
    /// # Panics
    /// With what the server said, if it refuses a statement.
    #[must_use]
    pub fn query(&self, database: &str, sql: &str) -> String {
        self.try_query(database, sql).unwrap_or_else(|refusal| panic!("{sql}: {refusal}"))
    }

    /// Like [`MariaDb::query`].
    ///
    /// # Errors
    /// With what the server said, if it refuses a statement.
    pub fn try_query(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.client(database, sql);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Kills the server as a crash of its machine would, but for the page cache.
    pub fn kill9(&mut self) {
        self.end("keep");
    }

    /// Starts the server again, in the same folder and on the same port.
    ///
    /// # Panics
    /// With the server's log, if it does not start.
    pub fn restart(&mut self) {
        self.end("keep");
        self.launch().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Ends the keeper, and with it the server; both are gone afterwards.
    fn end(&mut self, word: &str) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut stdin) = keeper.stdin.take() {
                // It is gone already if somebody killed it; then there is nobody to tell.
                let _ = writeln!(stdin, "{word}");
            }
            let _ = keeper.wait();
        }
    }

    fn launch(&mut self) -> Result<(), StartError> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(&self.folder)
            .arg(program("mariadb-install-db")?)
            .arg(program("mariadbd")?)
            .args(self.server_options())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Who interrupts or kills all processes of the test's group does not hit the keeper before its work.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let stdout = keeper.stdout.take().expect("a piped output");
        self.keeper = Some(keeper);
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid).expect("the server's process id");
        self.wait_until_it_answers(pid.trim())
    }

    fn server_options(&self) -> Vec<String> {
        let folder = self.folder.display();
        let mut options = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={folder}/db"),
            format!("--socket={folder}/socket"),
            format!("--pid-file={folder}/pid"),
            format!("--tmpdir={folder}"),
            format!("--port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--skip-name-resolve".to_owned(),
            "--skip-log-bin".to_owned(),
            "--performance-schema=OFF".to_owned(),
            "--innodb-buffer-pool-size=64M".to_owned(),
            "--innodb-log-file-size=32M".to_owned(),
            // Survives a kill of the server, not of the machine, and spares a sync per commit.
            "--innodb-flush-log-at-trx-commit=2".to_owned(),
            "--innodb-use-native-aio=OFF".to_owned(),
        ];
        options.extend(account().map(|user| format!("--user={}", user.name)));
        options
    }

    fn wait_until_it_answers(&self, pid: &str) -> Result<(), StartError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.client("", "SELECT 1").status.success() {
            if has_ended(pid) || Instant::now() > deadline {
                return Err(StartError::Silent(self.end_of_log()));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn client(&self, database: &str, sql: &str) -> Output {
        let client = program("mariadb").unwrap_or_else(|error| panic!("{error}"));
        let mut child = Command::new(client)
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(format!("--socket={}/socket", self.folder.display()))
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client runs");
        let mut stdin = child.stdin.take().expect("a piped input");
        // A client that cannot connect has closed its input; its exit status tells.
        let _ = stdin.write_all(sql.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("the client ends")
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.end("");
        // There is no keeper to do it if the server was killed last.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The account that the server runs as, if that is not ours: it refuses to run as root.
fn account() -> Option<User> {
    geteuid().is_root().then(|| {
        User::from_name("mysql").ok().flatten().expect("the account 'mysql', which comes with mariadb-server")
    })
}

/// Finds a program. Servers lie in folders that are not on everybody's `PATH`.
fn program(name: &'static str) -> Result<PathBuf, StartError> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or(StartError::Missing(name))
}

/// Whether the process is gone, or waits only for its parent to notice.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // The state is the first word behind the name, which stands in parentheses.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::eventually;

    #[test]
    fn killed_and_restarted_it_has_its_rows_and_dropped_it_is_gone() {
        let mut server = MariaDb::start();
        let url = server.url("kept");
        assert!(url.starts_with("mysql://lars:"), "{url}");
        server.execute("kept", "CREATE TABLE t (n INT); INSERT INTO t VALUES (1), (2)");

        server.kill9();
        assert!(TcpStream::connect(server.addr()).is_err());
        server.restart();
        assert_eq!(server.query("kept", "SELECT n FROM t ORDER BY n"), "1\n2\n");

        let (folder, addr) = (server.folder.clone(), server.addr());
        drop(server);
        assert!(!folder.exists());
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn the_keeper_cleans_up_after_a_process_that_is_gone() {
        let mut server = MariaDb::start();
        let (folder, addr) = (server.folder.clone(), server.addr());
        // What the kernel does for a process that was killed: its ends of all pipes close, and no more.
        let mut keeper = server.keeper.take().expect("a running server");
        drop(keeper.stdin.take());
        std::mem::forget(server);
        keeper.wait().expect("the keeper ends");
        eventually("server and folder are gone", || !folder.exists() && TcpStream::connect(addr).is_err());
    }
}
