//! Runs the binary with nothing of the environment but what a test says.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use lars_testkit::{eventually_some, program};
use tempfile::TempDir;

/// A user with an empty home folder.
pub(crate) struct Lars {
    home: TempDir,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lars {
    pub(crate) fn new() -> Self {
        Self { home: TempDir::new().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file into the home folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// Where the database is if nothing says otherwise.
    pub(crate) fn default_database(&self) -> PathBuf {
        self.path(".local/share/lars/lars.db")
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_lars"));
        command.env_remove("XDG_DATA_HOME").env("HOME", self.home.path()).current_dir(self.home.path());
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, |_| ())
    }

    pub(crate) fn run_with(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Ended {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        let child = command.spawn().expect("the lars binary starts");
        let output = child.wait_with_output().expect("its end");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let ended =
            Ended { status: code(output.status), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!ended.stderr.contains("panicked"), "lars {args:?} panicked:\n{}", ended.stderr);
        assert!(!ended.stdout.contains('\x1b'), "lars {args:?} colours what is not a terminal");
        ended
    }

    /// Runs with `input` on standard input.
    pub(crate) fn run_on(&self, input: &str, args: &[&str]) -> Ended {
        let file = self.file("input", input);
        self.run_with(args, |command| {
            command.stdin(std::fs::File::open(file).expect("the input"));
        })
    }

    /// Runs to the end, which must be success, and returns standard output.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let Ended { status, stdout, stderr } = self.run(args);
        assert_eq!(status, 0, "lars {args:?}:\n{stdout}{stderr}");
        stdout
    }

    /// Runs to the end, which must be failure with `status` and an error that has these words.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], status: i32, words: &[&str]) {
        let ended = self.run(args);
        check_failed(&ended, status, words);
    }

    /// `lars up` on free ports, with more arguments.
    pub(crate) fn up(&self, more: &[&str]) -> Up {
        let ports = ["up", "--dns-port", "0", "--reporter-port", "0", "--agent-base-port", "0"];
        let mut child = self
            .command(&[&ports, more].concat())
            .env("LARS_LOG", env::var("LARS_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the lars binary starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut up = Up { child, said: Vec::new() };
        for line in lines {
            up.said.push(line.expect("a line"));
            if up.said.last().is_some_and(|line| line.starts_with("store ")) {
                return up;
            }
        }
        panic!("lars up ended early, having said {:?}", up.said);
    }
}

#[track_caller]
pub(crate) fn check_failed(ended: &Ended, status: i32, words: &[&str]) {
    let Ended { status: actual, stdout, stderr } = ended;
    assert_eq!(*actual, status, "{stdout}{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "'{word}' is not in: {stderr}");
    }
}

/// Statuses of processes that a signal ended count as -1.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

/// A running `lars up`. Dropping it kills it.
pub(crate) struct Up {
    child: Child,
    said: Vec<String>,
}

impl Up {
    /// What was said about `part`, like `127.0.0.1:7778 (TCP)`.
    pub(crate) fn said(&self, part: &str) -> &str {
        let line = self.said.iter().find_map(|line| line.strip_prefix(part));
        line.unwrap_or_else(|| panic!("{part} is not in {:?}", self.said)).trim()
    }

    /// The port of the agent's first shard.
    pub(crate) fn agent_base_port(&self) -> String {
        let first = self.said("agent").split(' ').next().expect("an address");
        first.rsplit(':').next().expect("a port").to_owned()
    }

    /// SIGTERM, then the status it ended with.
    pub(crate) fn terminate(mut self) -> i32 {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        code(eventually_some("lars up ends after SIGTERM", || self.child.try_wait().expect("waits")))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sqlite:` and a path.
pub(crate) fn sqlite(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Reads one line of what `command` prints, closes the pipe, and waits for the end.
pub(crate) fn read_one_line(command: &mut Command) -> (String, Ended) {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the lars binary starts");
    let mut line = String::new();
    // No larger buffer than the line, so that most of the output stays unread.
    let stdout = child.stdout.take().expect("its output");
    BufReader::with_capacity(16, stdout).read_line(&mut line).expect("a line");
    let output = child.wait_with_output().expect("the end");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    (line, Ended { status: code(output.status), stdout: String::new(), stderr })
}

/// Many routes in a file for `route import`.
pub(crate) fn many_routes(path: &Path, count: u32) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
    writeln!(file, "modid,cmdid,host").expect("a line");
    for n in 0..count {
        writeln!(file, "{},1,10.0.{}.{}:80", n / 1_000, n / 250 % 250, n % 250).expect("a line");
    }
}
