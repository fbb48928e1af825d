//! What a process may have: locked memory, which is a user's for all programs, and descriptors. So these happen in
//! processes of their own, this test binary run again, the former as a user that has no others.

mod support;

use std::{
    env,
    io::Write,
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use lars_runtime::{Shards, StartError, TcpServer, TcpServerConfig, preflight::PreflightError};
use lars_testkit::eventually_some;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Uid,
};
use support::*;

const CHILD: &str = "LARS_TEST_LIMITS_CHILD";

/// What a user has without further ado.
const USUAL_LOCKED_BYTES: u64 = 8 << 20;

/// Runs this test again, where [`CHILD`] is set, as that user if need be and can be.
fn run_child(test: &str, user: Option<u32>) {
    if user.is_some() && !Uid::effective().is_root() {
        return skip("this user has other programs");
    }
    let mut command = Command::new(env::current_exe().expect("this binary has a path"));
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1").current_dir("/");
    if let Some(user) = user {
        command.uid(user);
    }
    match command.output() {
        Ok(output) => check_child(&output),
        Err(_) => skip("another user cannot run this binary"),
    }
}

fn skip(why: &str) {
    writeln!(std::io::stderr(), "skipped: {why}").expect("stderr");
}

fn check_child(output: &Output) {
    // Passed on, to be seen when this test fails.
    std::io::stderr().write_all(&output.stderr).expect("stderr");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn two_programs_of_14_shards_fit_what_a_user_may_lock() {
    if env::var_os(CHILD).is_none() {
        return run_child("two_programs_of_14_shards_fit_what_a_user_may_lock", Some(61_348));
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, USUAL_LOCKED_BYTES, USUAL_LOCKED_BYTES).expect("lower the limit");
    let first = Shards::start(shards_config(14), |_| Log::default()).expect("one program");
    let second = Shards::start(shards_config(14), |_| Log::default()).expect("another one");
    assert_eq!(total(&first, |_| 1) + total(&second, |_| 1), 28, "all run");
}

#[test]
fn too_little_lockable_memory_is_said_with_what_is_needed() {
    if env::var_os(CHILD).is_none() {
        return run_child("too_little_lockable_memory_is_said_with_what_is_needed", Some(61_349));
    }
    const HARD: u64 = 1 << 20;
    let start = |shards, limit| {
        setrlimit(Resource::RLIMIT_MEMLOCK, limit, HARD).expect("set the soft limit");
        Shards::start(shards_config(shards), |_| Log::default())
    };
    // The soft limit is raised, but so many shards need more than the hard one.
    let (have, needed, shards) = match start(64, HARD / 2) {
        Err(StartError::Preflight(PreflightError::Memlock { have, needed, shards })) => {
            (have, needed, shards)
        }
        Err(other) => panic!("not the limit: {other}"),
        Ok(_) => {
            return eprintln!(
                "skipped: this kernel charges registered memory only, which can be done without"
            );
        }
    };
    assert_eq!((have, shards), (HARD, 64));
    assert!(needed > have, "{needed}");

    // As many as there is room for do start; the kernel frees what the others had when it comes to it.
    let possible = usize::try_from((have - (16 << 10)) / (needed / 64)).expect("some");
    let shards = eventually_some("there is room", || start(possible, have).ok());
    assert_eq!(total(&shards, |_| 1), possible as u64);
}

#[test]
fn a_program_may_open_as_many_files_as_its_hard_limit_says() {
    if env::var_os(CHILD).is_none() {
        return run_child("a_program_may_open_as_many_files_as_its_hard_limit_says", None);
    }
    setrlimit(Resource::RLIMIT_NOFILE, 64, 200).expect("lower the limits");
    let shards = shards(1);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("a limit"), (200, 200));

    let mut config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.connections_max = 100_000;
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    // Both ends of each are of this process.
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(server.local_addr())).collect();
    for client in &mut clients {
        assert_eq!(client.ask(ECHO, b"here"), b"here");
    }
    assert!(descriptors() > 64);
}
