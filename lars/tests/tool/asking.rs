//! What `get-host`, `get-route` and `report` say when there is nobody to answer, and the small commands.

use std::net::UdpSocket;

use lars_testkit::{eventually_some, reserved_ports};

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
    lars.fails(&["get-host", "1", "1", "--agent-shards", "0"], 1, &["shards: 0"]);
    lars.fails(&["get-host", "1", "1", "--agent-ip", "nowhere"], 2, &["--agent-ip"]);
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
