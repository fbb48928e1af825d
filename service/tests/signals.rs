//! Signals, which go to a process: to this test binary, run again.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use lars_service::Shutdown;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const CHILD: &str = "LARS_TEST_SIGNALS_CHILD";

#[test]
fn the_first_signal_asks_and_the_second_kills() {
    if env::var_os(CHILD).is_some() {
        return ignore_the_wish_to_end();
    }
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut child = Command::new(env::current_exe().expect("this binary has a path"))
            .args(["--exact", "the_first_signal_asks_and_the_second_kills", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")));
        for stray in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
            kill(pid, stray).expect("the child is there");
        }
        kill(pid, signal).expect("the child is there");
        assert!(lines.any(|line| line.ends_with("asked to end")));
        kill(pid, signal).expect("the child is there");
        assert_eq!(child.wait().expect("the child ends").code(), Some(status));
    }
}

fn ignore_the_wish_to_end() {
    let say = |line: &str| {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).expect("stdout");
    };
    let shutdown = Shutdown::on_signals().expect("signals can be caught");
    say("ready");
    shutdown.wait();
    say("asked to end");
    thread::sleep(Duration::from_secs(60));
}
