//! The program `lars-agent`.

mod support;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Output, Stdio},
};

use lars_proto::{ModuleId, messages::RetCode};
use lars_testkit::{eventually, program, reserved_addr, reserved_ports};

use self::support::Client;

fn lars_agent() -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_lars-agent"));
    command.stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends with the test, whatever comes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_is_a_valid_configuration() {
    let example = lars_agent().arg("--example-config").output().expect("runs");
    assert!(example.status.success());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lars-agent.toml");
    fs::write(&path, &example.stdout).expect("written");
    let check = lars_agent().arg("--check-config").arg("--config").arg(&path).output().expect("runs");
    assert!(check.status.success(), "{}", stderr(&check));
}

#[test]
fn a_wrong_key_is_named() {
    let wrong = lars_agent().args(["--check-config", "--balance-err-rate", "1.5"]).output().expect("runs");
    assert_eq!(wrong.status.code(), Some(78));
    assert!(stderr(&wrong).contains("balance.err_rate: 1.5 is not in 0.0..=1.0"), "{}", stderr(&wrong));
    let unknown =
        lars_agent().args(["--check-config", "--config"]).arg(unknown_key().path()).output().expect("runs");
    assert_eq!(unknown.status.code(), Some(78));
    assert!(stderr(&unknown).contains("idle_timeout"), "{}", stderr(&unknown));
}

/// As operators of the original would write it.
fn unknown_key() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "[balance]\nidle_timeout = 15\n").expect("written");
    file
}

#[test]
fn an_api_for_other_machines_says_what_it_opens_up() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let base_port = reserved_ports(3);
    let child = lars_agent()
        .args(["--api-base-port", &base_port.to_string(), "--api-listen-ip", "0.0.0.0"])
        .args(["--api-routes-to-anyone", "true"])
        .stderr(log.reopen().expect("a second handle"))
        .spawn()
        .expect("starts");
    let _running = Running(child);
    let said = |words: &str| fs::read_to_string(log.path()).is_ok_and(|text| text.contains(words));
    eventually("it warns of reports", || said("api.listen_ip"));
    eventually("and of routes", || said("api.routes_to_anyone"));
}

#[test]
fn answers_until_it_is_told_to_stop() {
    let base_port = reserved_ports(3);
    let child = lars_agent()
        .args(["--api-base-port", &base_port.to_string()])
        .args([
            "--dns-servers",
            &reserved_addr().to_string(),
            "--reporter-servers",
            &reserved_addr().to_string(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut running = Running(child);
    let addrs: Vec<SocketAddr> = (0..3).map(|i| SocketAddr::from(([127, 0, 0, 1], base_port + i))).collect();
    eventually("its ports are taken", || addrs.iter().all(|addr| UdpSocket::bind(addr).is_err()));
    let response = Client::new(addrs).get_host(ModuleId::new(1, 1));
    assert_eq!(response.retcode, RetCode::Noexist as i32);

    let kill = Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status().expect("runs");
    assert!(kill.success());
    assert!(running.0.wait().expect("ends").success());
}
