//! A process that may not have more threads. The limit is the user's, so this happens as a user of its own: this test
//! binary, run again.

mod support;

use std::{env, io::Write, os::unix::process::CommandExt, process::Command};

use lars_runtime::Shards;
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::Uid,
};
use support::*;

const CHILD: &str = "LARS_TEST_THREADS_CHILD";
/// Whose processes these are nobody else's.
const USER: u32 = 61_347;

#[test]
fn a_thread_that_is_refused_is_an_error() {
    if env::var_os(CHILD).is_some() {
        return start_with_few_threads();
    }
    let this = env::current_exe().expect("this binary has a path");
    let mut command = Command::new(this);
    command.args(["--exact", "a_thread_that_is_refused_is_an_error", "--nocapture"]).env(CHILD, "1");
    if Uid::effective().is_root() {
        // The limit is not for root.
        command.uid(USER).current_dir("/");
    }
    let Ok(output) = command.output() else {
        return eprintln!("skipped: another user cannot run this binary");
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Passed on, to be seen when this test fails.
    std::io::stderr().write_all(&output.stderr).expect("stderr");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!stderr.contains("panicked"), "an error, not a panic");
}

fn start_with_few_threads() {
    let mut errors = Vec::new();
    // Where the user has other processes as well, there is no thread to be had at all.
    for threads in 1..40 {
        setrlimit(Resource::RLIMIT_NPROC, threads, 40).expect("lower the limit");
        match Shards::start(shards_config(2), |_| Log::default()) {
            Ok(shards) => {
                assert_eq!(total(&shards, |_| 1), 2, "all run");
                break;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    assert!(errors.len() > 3, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("temporarily unavailable")), "{errors:?}");
}
