//! The program `lars-dns`, as a user starts it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use lars_store::{OpenMode, StoreUrl};
use lars_testkit::{eventually, eventually_some, program};

/// Kills the program if a test fails while it runs.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the program has said so far.
fn collect_log(stderr: ChildStderr) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            collected.lock().expect("nobody panicked").push(line);
        }
    });
    lines
}

#[test]
fn waits_for_a_file_without_making_one_and_ends_at_sigterm() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let program = program(env!("CARGO_BIN_EXE_lars-dns"))
        .args(["--server-listen", "127.0.0.1:0"])
        .current_dir(&folder)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut program = Running(program);
    let log = collect_log(program.0.stderr.take().expect("piped"));
    let says = |what: [&str; 2]| {
        let log = log.lock().expect("nobody panicked");
        log.iter().any(|line| what.iter().all(|what| line.contains(what)))
    };
    eventually("it says what is missing", || says(["sqlite:lars.db", "there is no such file"]));
    let file = folder.path().join("lars.db");
    assert!(!file.exists());

    lars_store::open(&StoreUrl::Sqlite(file), OpenMode::Create).map(drop).expect("a new file");
    eventually("it says where it listens", || says(["listening", "127.0.0.1:"]));

    let killed = Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let status = eventually_some("it ends", || program.0.try_wait().expect("it can be waited for"));
    assert!(status.success(), "{status}");
}

#[test]
fn a_file_that_is_no_database_ends_it_as_a_wrong_configuration_does() {
    let folder = tempfile::TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("lars.db"), "not what SQLite writes ".repeat(100))
        .expect("it is written");
    let output = program(env!("CARGO_BIN_EXE_lars-dns"))
        .args(["--server-listen", "127.0.0.1:0"])
        .current_dir(&folder)
        .output()
        .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("store.url") && stderr.contains("lars.db"), "{stderr}");
}
