//! What `get-host`, `get-route` and `report` say when there is nobody to answer, and the small commands.

use std::net::UdpSocket;

use lars_testkit::{eventually_some, reserved_ports};
use serde_json::Value;

use crate::lars::{Lars, check_failed};

/// An agent that is there but never answers, on one port.
fn silent_agent() -> (UdpSocket, String) {
    let port = reserved_ports(1);
    (UdpSocket::bind(("127.0.0.1", port)).expect("a socket"), port.to_string())
}

#[test]
fn no_agent_is_told_from_a_silent_one() {
    let lars = Lars::new();
    let (socket, port) = silent_agent();
    let agent = ["--agent-shards", "1", "--timeout-ms", "20", "--wait-ms", "0", "--agent-base-port", &port];
    let questions =
        [&["get-host", "1", "1"][..], &["get-route", "1", "1"], &["report", "1", "1", "10.0.0.1:80", "--ok"]];
    for question in questions {
        lars.fails(&[question, &agent].concat(), 5, &["did not answer", "--timeout-ms"]);
    }
    drop(socket);
    for question in questions {
        // A machine that has more to do may tell too late that the port is closed.
        let args = [question, &agent].concat();
        let ended =
            eventually_some("that is told", || Some(lars.run(&args)).filter(|ended| ended.status != 5));
        check_failed(&ended, 6, &["cannot be reached", "`lars up`"]);
    }
}

#[test]
fn the_environment_says_where_the_agent_is() {
    let lars = Lars::new();
    let (_socket, port) = silent_agent();
    let ended = lars.run_with(&["get-host", "1", "1"], |command| {
        command.env("LARS_AGENT_BASE_PORT", &port).env("LARS_AGENT_SHARDS", "1");
        command.env("LARS_AGENT_TIMEOUT_MS", "20");
    });
    assert_eq!(ended.status, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains(&port), "{}", ended.stderr);
}

#[test]
fn an_impossible_agent_is_named() {
    let lars = Lars::new();
    let wrong = |flags: &[&str], words: &[&str]| {
        lars.fails(&[&["get-host", "1", "1"], flags].concat(), 2, words);
    };
    wrong(&["--agent-shards", "0"], &["--agent-shards", "0 is not in 1..=65535"]);
    wrong(&["--agent-base-port", "0"], &["--agent-base-port", "0 is not in 1..=65535"]);
    wrong(&["--timeout-ms", "0"], &["--timeout-ms", "0 is not in 1.."]);
    wrong(&["--agent-base-port", "65534"], &["--agent-shards", "3 ports from 65534 up go beyond 65535"]);
    wrong(&["--timeout-ms", "3600000"], &["--timeout-ms", "at most"]);
    wrong(&["--agent-ip", "nowhere"], &["--agent-ip"]);
}

#[test]
fn a_number_that_cannot_be_is_refused_with_its_range() {
    let range = "is not a whole number from -2147483648 to 2147483647";
    let lars = Lars::new();
    lars.fails(&["get-host", "abc", "1"], 2, &["<MODID>", "'abc'", range]);
    lars.fails(&["route", "list", "1", "2147483648"], 2, &["CMDID", "'2147483648'", range]);
}

/// An error for scripts: one JSON object, and nothing else, on standard error.
fn json_error(args: &[&str], status: i32) -> Value {
    let ended = Lars::new().run(args);
    assert_eq!((ended.status, ended.stdout.as_str()), (status, ""), "{}", ended.stderr);
    let error: Value = serde_json::from_str(&ended.stderr).expect(&ended.stderr);
    assert_eq!(error["status"], status, "{error}");
    error
}

#[test]
fn who_asks_for_json_gets_errors_as_json() {
    let port = reserved_ports(1).to_string();
    let agent = ["--agent-shards", "1", "--wait-ms", "0", "--agent-base-port", &port];
    let error = json_error(&[&["get-route", "1", "1", "--json"][..], &agent].concat(), 6);
    assert!(error["error"].as_str().expect("words").contains("cannot be reached"), "{error}");
    assert!(error["advice"].as_str().expect("words").contains("`lars up`"), "{error}");

    let error = json_error(&["status", "--json"], 1);
    assert!(error["error"].as_str().expect("words").contains("there is no database"), "{error}");
    let error = json_error(&["get-host", "abc", "1", "--json"], 2);
    assert!(error["error"].as_str().expect("words").contains("'abc'"), "{error}");
}

#[test]
fn services_have_their_own_flags() {
    let lars = Lars::new();
    for (name, key) in
        [("dns", "--store-url"), ("reporter", "--store-writers"), ("agent", "--balance-probe-num")]
    {
        let help = lars.ok(&[name, "--help"]);
        assert!(help.contains(key) && help.contains(&format!("lars {name}")), "{help}");
        assert_eq!(lars.ok(&[name, "--check-config"]), "configuration is valid\n");
    }
    lars.fails(&["agent", "--balance-err-rate", "2"], 78, &["balance.err_rate"]);
}

#[test]
fn completions_know_the_commands() {
    let script = Lars::new().ok(&["completions", "bash"]);
    assert!(script.contains("get-host") && script.contains("--agent-base-port"));
}

#[test]
fn help_and_version() {
    let lars = Lars::new();
    assert!(lars.ok(&["--help"]).contains("Exit status:"));
    assert_eq!(lars.ok(&["--version"]), format!("lars {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["get-host", "get-route", "report", "simulate"] {
        assert!(lars.ok(&[command, "--help"]).contains("unreachable"), "{command}");
    }
}
