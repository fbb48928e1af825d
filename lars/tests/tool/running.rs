//! `lars up`, and the commands that talk to it; `lars demo`.

use lars_testkit::eventually;
use serde_json::{Value, json};

use crate::lars::{Lars, check_failed};

/// The stored statistics of module 1/1.
fn status(lars: &Lars) -> Value {
    serde_json::from_str(&lars.ok(&["status", "1", "1", "--json"])).expect("JSON")
}

/// Longer than any edit takes to become known.
const PATIENTLY: [&str; 4] = ["--wait-ms", "60000", "--timeout-ms", "20000"];

#[test]
fn a_host_is_added_looked_up_reported_and_shown() {
    let lars = Lars::new();
    let config = lars.file("up.toml", "[agent]\ncaller_ip = \"10.9.8.7\"\n");
    let up = lars.up(&["--config", config.to_str().expect("UTF-8")]);
    let port = up.agent_base_port();
    let ask = |args: &[&str]| lars.run(&[args, &PATIENTLY, &["--agent-base-port", &port]].concat());
    assert_eq!(up.said("store"), format!("sqlite:{}", lars.default_database().display()));

    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    let host = ask(&["get-host", "1", "1"]);
    assert_eq!((host.status, host.stdout.as_str()), (0, "10.0.0.1:80\n"), "{}", host.stderr);
    let host = ask(&["get-host", "1", "1", "--json"]);
    let expect = json!({ "modid": 1, "cmdid": 1, "host": "10.0.0.1:80" });
    assert_eq!(serde_json::from_str::<Value>(&host.stdout).expect("JSON"), expect);
    assert_eq!(ask(&["get-route", "1", "1"]).stdout, "10.0.0.1:80\n");
    let route = ask(&["get-route", "1", "1", "--json"]).stdout;
    let expect = json!({ "modid": 1, "cmdid": 1, "hosts": ["10.0.0.1:80"] });
    assert_eq!(serde_json::from_str::<Value>(&route).expect("JSON"), expect);

    assert_eq!(ask(&["report", "1", "1", "10.0.0.1:80", "--ok"]).status, 0);
    assert_eq!(ask(&["report", "1", "1", "10.0.0.1:80", "--retcode", "-3"]).status, 0);
    eventually("both reports are stored", || {
        let rows = status(&lars);
        let row = &rows[0];
        row["succ"] == 1 && row["err"] == 1 && row["host"] == "10.0.0.1:80" && row["caller"] == "10.9.8.7"
    });
    assert!(lars.ok(&["status"]).contains("10.0.0.1:80"));
    let strange = lars.run(&["report", "1", "1", "10.0.0.9:80", "--ok", "--agent-base-port", &port]);
    check_failed(&strange, 4, &["has no host 10.0.0.9:80"]);
    assert_eq!(up.terminate(), 0);
    let state = lars.default_database().with_file_name("lars-dns.state");
    assert!(state.exists(), "the routes are kept beside the database");
}

#[test]
fn not_found_and_overloaded_have_their_own_statuses() {
    let lars = Lars::new();
    let config = lars.file("up.toml", "[agent.balance]\ncontin_err_limit = 1\n");
    let up = lars.up(&["--config", config.to_str().expect("UTF-8")]);
    let port = up.agent_base_port();
    let agent = ["--agent-base-port", &port, "--timeout-ms", "20000"];
    lars.fails(&[&["get-host", "9", "9", "--wait-ms", "0"][..], &agent].concat(), 4, &["module 9/9"]);
    lars.fails(&[&["get-route", "-9", "9", "--wait-ms", "0"][..], &agent].concat(), 4, &["module -9/9"]);

    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80"]);
    let patiently = [&PATIENTLY[..], &["--agent-base-port", &port]].concat();
    lars.ok(&[&["report", "1", "1", "10.0.0.1:80", "--failed"][..], &patiently].concat());
    // The report and the lookup go to the same port, in this order.
    let overloaded = [&["get-host", "1", "1"][..], &patiently].concat();
    lars.fails(&overloaded, 3, &["module 1/1", "overloaded"]);
    assert_eq!(up.terminate(), 0);
}

#[test]
fn what_is_simulated_is_spread_and_stored() {
    let lars = Lars::new();
    let up = lars.up(&[]);
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80", "10.0.0.2:80"]);
    let simulate = ["simulate", "1", "1", "--calls", "300", "--rate", "0", "--fail", "10.0.0.1:80=1"];
    let ended =
        lars.run(&[&simulate[..], &PATIENTLY, &["--agent-base-port", &up.agent_base_port()]].concat());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stderr.starts_with("warning: this changes live state"), "{}", ended.stderr);
    let simulated = ended.stdout;
    let calls = |host: &str| -> (u32, u32) {
        let line = simulated.lines().find(|line| line.starts_with(host)).expect("a line");
        let cells: Vec<&str> = line.split_whitespace().collect();
        (cells[1].parse().expect("calls"), cells[3].parse().expect("failed"))
    };
    let (failing, healthy) = (calls("10.0.0.1:80"), calls("10.0.0.2:80"));
    assert_eq!(failing.0 + healthy.0, 300);
    assert_eq!((failing.1, healthy.1), (failing.0, 0));
    // 15 failures in a row eject a host; after that it gets one lookup in 11.
    assert!((15..=15 + 1 + 300 / 11).contains(&failing.0), "{simulated}");
    eventually("the ejection is stored", || {
        let rows = status(&lars);
        rows[0]["host"] == "10.0.0.1:80" && rows[0]["overload"] == true && rows[1]["overload"] == false
    });
    assert_eq!(up.terminate(), 0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let lars = Lars::new();
    let up = lars.up(&[]);
    let dns = up.said("dns").split(' ').next().expect("an address").to_owned();
    let port = dns.rsplit(':').next().expect("a port");
    let second = ["up", "--dns-port", port, "--reporter-port", "0", "--agent-base-port", "0"];
    lars.fails(&second, 1, &["dns cannot start", &dns]);

    // For a machine, each line is JSON, also the error at the end. The flag wins over the variable.
    let port = up.agent_base_port();
    let args = ["up", "--dns-port", "0", "--reporter-port", "0", "--agent-base-port", &port];
    let third =
        lars.run_with(&[&args[..], &["--log-format", "json", "--log-filter", "error"]].concat(), |command| {
            command.env("LARS_LOG", "off");
        });
    let lines: Vec<Value> =
        third.stderr.lines().map(|line| serde_json::from_str(line).expect(&third.stderr)).collect();
    assert_eq!(third.status, 1, "{}", third.stderr);
    let last = lines.last().expect("a line");
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().expect("words").contains("agent cannot start"), "{last}");
}

#[test]
fn a_database_that_cannot_be_used_is_a_wrong_configuration() {
    let lars = Lars::new();
    lars.ok(&["route", "add", "1", "1", "10.0.0.1:80", "--store", "sqlite:good.db"]);
    lars.file("text.db", &"this is no database ".repeat(100));
    let check = |[dns, reporter]: [&str; 2], key: &str| {
        let text =
            format!("[dns.store]\nurl = \"sqlite:{dns}\"\n[reporter.store]\nurl = \"sqlite:{reporter}\"\n");
        lars.file("up.toml", &text);
        let ports = ["--dns-port", "0", "--reporter-port", "0", "--agent-base-port", "0"];
        lars.fails(&[&["up", "--config", "up.toml"][..], &ports].concat(), 78, &[key, "sqlite:text.db"]);
    };
    check(["text.db", "good.db"], "dns.store.url");
    check(["good.db", "text.db"], "reporter.store.url");
}

#[test]
fn the_example_configuration_is_printed_and_valid() {
    let lars = Lars::new();
    let example = lars.ok(&["up", "--example-config"]);
    assert_eq!(example, include_str!("../../lars-up.example.toml"));
    lars.file("up.toml", &example);
    assert_eq!(lars.ok(&["up", "--config", "up.toml", "--check-config"]), "configuration is valid\n");
}

#[test]
fn a_wrong_configuration_is_said_in_the_form_of_the_log() {
    let lars = Lars::new();
    lars.file("key.toml", "[dns.store]\npoll_interval_ms = 0\n");
    // Often, because a last line that is not waited for is lost now and then only.
    for _ in 0..50 {
        let ended = lars.run(&["up", "--config", "key.toml", "--log-format", "json"]);
        assert_eq!(ended.status, 78, "{}", ended.stderr);
        let line: Value = serde_json::from_str(&ended.stderr).expect("a line of JSON");
        assert!(line["message"].as_str().expect("words").contains("dns.store.poll_interval_ms"), "{line}");
    }
}

#[test]
fn a_wrong_configuration_is_named_before_anything_starts() {
    let lars = Lars::new();
    lars.file("key.toml", "[dns.store]\npoll_interval_ms = 0\n");
    lars.file("unknown.toml", "[dns.store]\npol_interval_ms = 1000\n");
    lars.file("syntax.toml", "[dns\n");
    lars.file("table.toml", "[reporters.store]\n");
    lars.fails(&["up", "--config", "key.toml"], 78, &["dns.store.poll_interval_ms"]);
    lars.fails(&["up", "--config", "unknown.toml"], 78, &["dns.store", "pol_interval_ms"]);
    lars.fails(&["up", "--config", "syntax.toml"], 78, &["syntax.toml"]);
    lars.fails(&["up", "--config", "table.toml"], 78, &["table.toml", "reporters"]);
    lars.fails(&["up", "--config", "absent.toml"], 78, &["absent.toml"]);
}

#[test]
fn a_configuration_says_where_the_database_is() {
    let lars = Lars::new();
    let url = crate::lars::sqlite(&lars.path("configured.db"));
    let text = format!("[dns.store]\nurl = \"{url}\"\n[reporter.store]\nurl = \"{url}\"\n");
    let config = lars.file("up.toml", &text);
    let up = lars.up(&["--config", config.to_str().expect("UTF-8")]);
    assert_eq!(up.said("store"), url);
    assert_eq!(up.terminate(), 0);
    assert!(!lars.default_database().exists());
}

#[test]
fn the_demo_keeps_its_promises() {
    let lars = Lars::new();
    let ended = lars.run_with(&["demo", "--seconds", "1"], |command| {
        command.env("TMPDIR", lars.path(""));
    });
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stdout.matches("  ok  ").count(), 10, "{}", ended.stdout);
    assert!(!ended.stdout.lines().any(|line| line.starts_with("  FAILED")), "{}", ended.stdout);
    let left: Vec<_> = std::fs::read_dir(lars.path("")).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "the demo left {left:?} behind");
}

#[test]
fn a_demo_that_is_kept_can_be_looked_at() {
    let lars = Lars::new();
    let ended = lars.run_with(&["demo", "--seconds", "1", "--keep"], |command| {
        command.env("TMPDIR", lars.path(""));
    });
    let (_, url) = ended.stdout.rsplit_once("--store ").expect("where the database is");
    let rows: Value =
        serde_json::from_str(&lars.ok(&["status", "--json", "--store", url.trim()])).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(6), "{}{}", ended.stdout, ended.stderr);
}
