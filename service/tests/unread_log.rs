//! A process whose standard error is a pipe that nobody reads: this test binary, run again.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

use lars_service::{LogFormat, Shutdown, dropped_log_lines, init_logging};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const CHILD: &str = "LARS_TEST_UNREAD_LOG_CHILD";

/// More than a pipe and the queue hold.
const LINES: u32 = 12_000;

fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this binary has a path"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn say(line: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).expect("stdout");
}

#[test]
fn nobody_waits_for_a_reader() {
    if env::var_os(CHILD).is_some() {
        let guard = init_logging(LogFormat::Json, Some("info")).expect("a thread");
        let shutdown = Shutdown::on_signals().expect("signals can be caught");
        (0..LINES).for_each(|n| tracing::info!(n, "a line that nobody reads"));
        assert!(dropped_log_lines() > 0, "all lines fit");
        say("logged");
        shutdown.wait();
        drop(guard);
        say("ended");
        return;
    }
    let mut child = child("nobody_waits_for_a_reader").spawn().expect("the child runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("logged")), "it does not get stuck while it logs");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("the child is there");
    assert!(lines.any(|line| line.ends_with("ended")), "it hears the signal, and ends without a reader");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn what_was_dropped_is_said_and_the_last_line_is_written() {
    if env::var_os(CHILD).is_some() {
        let guard = init_logging(LogFormat::Json, Some("info")).expect("a thread");
        (0..LINES).for_each(|n| tracing::info!(n, "a line"));
        say("logged");
        // Until somebody reads, and there is room again.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("stdin");
        tracing::info!("the last line");
        drop(guard);
        return;
    }
    let test = "what_was_dropped_is_said_and_the_last_line_is_written";
    let mut child = child(test).stdin(Stdio::piped()).spawn().expect("the child runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("logged")));
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut text = String::new();
    while !text.contains("log lines were dropped") {
        assert!(log.read_line(&mut text).expect("UTF-8") > 0, "it says how many lines it dropped");
    }
    writeln!(child.stdin.take().expect("piped"), "go on").expect("it listens");
    log.read_to_string(&mut text).expect("UTF-8");
    let last = text.lines().last().expect("lines");
    assert!(last.contains("the last line"), "{last}");
    for line in text.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "not JSON: {line}");
    }
    assert!(child.wait().expect("it ends").success());
}
