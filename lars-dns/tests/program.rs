//! The program `lars-dns`, as a user starts it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use lars_proto::ModuleId;
use lars_store::{OpenMode, RouteEdit, StoreUrl};
use lars_testkit::{eventually, eventually_some, program, reserved_addr};

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

/// A program with its database and its state in `folder`, and what it says.
fn start_in(folder: &Path, addr: SocketAddr) -> (Running, Arc<Mutex<Vec<String>>>) {
    let started = program(env!("CARGO_BIN_EXE_lars-dns"))
        .args(["--server-listen", &addr.to_string(), "--state-dir", "state"])
        .current_dir(folder)
        .stderr(Stdio::piped())
        .spawn();
    let mut running = Running(started.expect("the program runs"));
    let log = collect_log(running.0.stderr.take().expect("piped"));
    (running, log)
}

/// What is answered to a question for module 1/1.
fn ask(addr: SocketAddr) -> Vec<u8> {
    let mut stream = eventually_some("it listens", || TcpStream::connect(addr).ok());
    stream.write_all(b"\x01\0\0\0\x04\0\0\0\x08\x01\x10\x01").expect("it reads");
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("it answers");
    let mut body = vec![0; usize::from(header[4])];
    stream.read_exact(&mut body).expect("it answers");
    body
}

/// Killed, its database gone: it never listens with nothing.
#[test]
fn after_a_kill_and_without_its_database_it_serves_what_it_served() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (addr, database) = (reserved_addr(), folder.path().join("lars.db"));
    let mut store = lars_store::open(&StoreUrl::Sqlite(database.clone()), OpenMode::Create).expect("a file");
    let host = "10.0.0.1:80".parse().expect("a host");
    store.edit(&[RouteEdit::Add(ModuleId::new(1, 1), host)]).expect("an edit");
    drop(store);
    let (program, _) = start_in(folder.path(), addr);
    let answer = ask(addr);
    assert!(answer.len() > 4, "a host: {answer:?}");
    let state = folder.path().join("state/lars-dns.state");
    eventually("the routes are on disk", || state.exists());
    drop(program);

    std::fs::rename(&database, folder.path().join("away.db")).expect("it is there");
    let (_program, log) = start_in(folder.path(), addr);
    assert_eq!(ask(addr), answer);
    let says = |what: &str| log.lock().expect("nobody panicked").iter().any(|line| line.contains(what));
    eventually("it says so", || says("the routes from before the start are served"));
}
