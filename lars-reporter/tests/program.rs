//! The program `lars-reporter`, from its first log line to its exit status.

mod rig;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, ExitStatus, Stdio},
};

use lars_proto::ModuleId;
use lars_testkit::{eventually_some, program};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rig::{AgentLink, SqliteFile, host, message, result, rows};

/// The running program; it ends with its owner.
struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
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
        Self { child, log }
    }

    /// Where its log says that it listens.
    fn listen_addr(&mut self) -> SocketAddr {
        for line in (&mut self.log).lines() {
            let line = line.expect("text");
            let event: serde_json::Value = serde_json::from_str(&line).expect(&line);
            if let Some(addr) = event["addr"].as_str() {
                return addr.parse().expect("an address");
            }
        }
        panic!("the program has ended without listening");
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("it runs");
        eventually_some("the program ends", || self.child.try_wait().expect("our child"))
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
