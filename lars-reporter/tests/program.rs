//! The program `lars-reporter`, from its first log line to its exit status.

mod rig;

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, ExitStatus, Stdio},
};

use lars_proto::ModuleId;
use lars_testkit::{MariaDb, eventually_some, program};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rig::{AgentLink, SqliteFile, host, message, result, rows};

/// The running program; it ends with its owner.
struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
    before_listening: VecDeque<serde_json::Value>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut child = program(env!("CARGO_BIN_EXE_lars-reporter"))
            .args(["--log-format", "json", "--log-filter", "info"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, log, before_listening: VecDeque::new() }
    }

    /// Where its log says that it listens.
    fn listen_addr(&mut self) -> SocketAddr {
        loop {
            let event = self.next_event();
            if let Some(addr) = event["addr"].as_str() {
                return addr.parse().expect("an address");
            }
            self.before_listening.push_back(event);
        }
    }

    /// The error in the next line of its log at `level` that has one.
    fn error_at(&mut self, level: &str) -> String {
        loop {
            let event = self.before_listening.pop_front().unwrap_or_else(|| self.next_event());
            if let (true, Some(error)) = (event["level"] == level, event["error"].as_str()) {
                return error.to_owned();
            }
        }
    }

    fn next_event(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("text");
        assert!(!line.is_empty(), "the program has ended without saying it");
        serde_json::from_str(&line).expect(&line)
    }

    fn end(&mut self) -> ExitStatus {
        eventually_some("the program ends", || self.child.try_wait().expect("our child"))
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.end()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_writes_what_is_held() {
    let file = SqliteFile::new();
    let url = file.url().to_string();
    let mut program = Program::start(&[
        "--server-listen=127.0.0.1:0",
        "--store-flush-interval-ms=60000",
        "--store-flush-rows=2",
        "--store-status-max-age-s=0",
        "--store-url",
        &url,
    ]);
    let mut agent = AgentLink::connect(program.listen_addr());
    agent.send(&message(ModuleId::new(1, 1), 100, (0..3).map(|n| result(host(n), 1)).collect()));
    // Two rows are enough for a batch: once they are there, the third is held.
    eventually_some("the batch is written", || (rows(&file.url(), None).len() == 2).then_some(()));
    assert!(program.terminate().success());
    assert_eq!(rows(&file.url(), None).len(), 3);
}

#[test]
fn a_configuration_that_cannot_be_is_said_and_ends_it() {
    let mut program = Program::start(&["--store-writers=0"]);
    let mut said = String::new();
    program.log.read_line(&mut said).expect("text");
    assert!(said.contains("store.writers: 0 is not in 1..=64"), "{said}");
    let status = eventually_some("the program ends", || program.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(78));
}

#[test]
fn a_database_that_is_configured_wrong_ends_it_with_the_status_of_a_wrong_configuration() {
    let right = MariaDb::shared().url("configured_wrong");
    for wrong in [right.replacen("p%40ss", "wrong", 1), right.replacen("configured_wrong", "nowhere", 1)] {
        let mut program = Program::start(&["--server-listen=127.0.0.1:0", "--store-url", &wrong]);
        program.listen_addr();
        assert!(program.error_at("ERROR").contains("cannot be used"), "{wrong}");
        assert_eq!(program.end().code(), Some(78), "{wrong}");
    }
}

#[test]
fn rows_that_are_lost_at_the_end_are_said_by_the_exit_status() {
    let file = SqliteFile::new();
    let url = file.url_that_is_away().to_string();
    let mut program =
        Program::start(&["--server-listen=127.0.0.1:0", "--store-drain-timeout-ms=50", "--store-url", &url]);
    let mut agent = AgentLink::connect(program.listen_addr());
    agent.send(&message(ModuleId::new(1, 1), 100, vec![result(host(1), 1)]));
    assert!(program.error_at("WARN").contains("there is no folder"));
    assert_eq!(program.terminate().code(), Some(1));
}

#[test]
fn a_reason_that_changed_in_an_outage_is_said() {
    let mut server = MariaDb::start();
    let url = server.url("reasons");
    let mut program = Program::start(&[
        "--server-listen=127.0.0.1:0",
        "--store-flush-interval-ms=10",
        "--store-status-max-age-s=0",
        "--store-drain-timeout-ms=50",
        "--store-url",
        &url,
    ]);
    let mut agent = AgentLink::connect(program.listen_addr());
    let report = message(ModuleId::new(1, 1), 100, vec![result(host(1), 1)]);
    agent.send(&report);
    let store = url.parse().expect("a URL");
    eventually_some("the row is written", || {
        let mut store = lars_store::open(&store, lars_store::OpenMode::Create).ok()?;
        (store.call_status(None).ok()?.len() == 1).then_some(())
    });
    server.execute("", "ALTER USER lars@'%' ACCOUNT LOCK; KILL USER lars");
    agent.send(&report);
    while !program.error_at("ERROR").contains("cannot be used") {}
    server.kill9();
    while !program.error_at("WARN").contains("is away") {}
}
