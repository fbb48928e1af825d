//! How a command ends: its exit status, and what it says when it fails.

use std::{error::Error, ffi::OsString, io, process::ExitCode};

use lars_client::{ClientError, GetHostError, HostAddr, ModuleId, RegisterError};
use lars_runtime::preflight::PreflightError;
use lars_service::{ConfigError, LoadError};
use lars_store::{StoreError, StoreUrl};

use crate::{
    out::{Complaint, NoteForm, Out, Terminal},
    route_file::RouteFileError,
    store_location::LocationError,
};

/// Exit statuses, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Success = 0,
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// All hosts of the module are overloaded.
    Overloaded = 3,
    /// The module has no hosts, or not this one.
    NotFound = 4,
    /// The agent did not answer in time.
    Timeout = 5,
    /// No agent there.
    Unreachable = 6,
    /// Ended by SIGINT or SIGTERM before it was done (128 + SIGINT, as shells have it).
    Interrupted = 130,
    /// A configuration or a machine with which nothing can start (`EX_CONFIG` of sysexits.h).
    Config = lars_service::EXIT_CONFIG,
}

/// For `--help`.
pub(crate) const EXIT_HELP: &str = "\
Exit status:
  0   done
  1   failed: the store, a file, an unexpected answer, an expectation of the demo, a removal not confirmed
  2   the command line is wrong
  3   overloaded: all hosts of the module are, and none is due for a probe
  4   not found: the module has no hosts, or not this one, or is unknown
  5   timeout: the agent did not answer in time
  6   unreachable: no agent there
  78  a configuration or a machine with which nothing can start
  130 interrupted";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    RouteFile(#[from] RouteFileError),
    #[error(transparent)]
    Lookup(#[from] GetHostError),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Flags of the agent that are wrong together.
    #[error("{flag}: {problem}")]
    AgentFlag { flag: &'static str, problem: String },
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("module {0}: no hosts known")]
    UnknownModule(ModuleId),
    #[error("module {module} has no host {host}, as far as the agent knows; it would ignore the report")]
    UnknownHost { module: ModuleId, host: HostAddr },
    #[error("module {module} has no hosts in {store}")]
    NoHosts { module: ModuleId, store: StoreUrl },
    #[error("module {module} has neither hosts nor calls in {store}")]
    NoModule { module: ModuleId, store: StoreUrl },
    #[error("module {0} would have no hosts left; nothing was changed")]
    LastHosts(ModuleId),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Machine(#[from] PreflightError),
    #[error("{service} cannot start: {}", lars_service::with_causes(&**source))]
    Start { service: &'static str, source: Box<dyn Error + Send + Sync> },
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start the thread that logs: {0}")]
    Logging(io::Error),
    #[error("cannot set the demo up: {0}")]
    DemoSetup(io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("{failed} of {all} expectations failed")]
    Expectations { failed: usize, all: usize },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Load(error.into())
    }
}

impl Failure {
    /// Whether the reader of the output went away, like `head` does. There is nothing to say then, and
    /// nobody to say it to.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Lookup(error) => lookup_exit(error),
            Self::Client(error) => client_exit(error),
            Self::Register(RegisterError::Client(error)) => client_exit(error),
            Self::AgentFlag { .. } => Exit::Usage,
            Self::Register(_)
            | Self::UnknownModule(_)
            | Self::UnknownHost { .. }
            | Self::NoHosts { .. }
            | Self::NoModule { .. } => Exit::NotFound,
            Self::Load(_) | Self::Machine(_) => Exit::Config,
            Self::Start { source, .. } if lars_service::is_of_machine(&**source) => Exit::Config,
            Self::Interrupted => Exit::Interrupted,
            Self::Output(_)
            | Self::Location(_)
            | Self::Store(_)
            | Self::RouteFile(_)
            | Self::LastHosts(_)
            | Self::Start { .. }
            | Self::Signals(_)
            | Self::Logging(_)
            | Self::DemoSetup(_)
            | Self::Expectations { .. } => Exit::Failure,
        }
    }

    /// What the person can do about it.
    fn advice(&self) -> Option<&'static str> {
        match (self, self.exit()) {
            (_, Exit::Unreachable) => Some(
                "does one run there? `lars up` starts one, --agent-ip and --agent-base-port name another",
            ),
            (_, Exit::Timeout) => Some("a busy or distant agent may need more: --timeout-ms"),
            (_, Exit::Overloaded) => Some("its hosts fail; call none now and ask again later"),
            (Self::UnknownModule(_) | Self::Lookup(_), Exit::NotFound) => Some(
                "see `lars route list`; what `lars route add` adds is known to agents in a second or two",
            ),
            (Self::NoHosts { .. } | Self::NoModule { .. }, _) => {
                Some("`lars route list` shows all that have")
            }
            (Self::LastHosts(_), _) => {
                Some("add other hosts first, or say --last if nobody is to serve it any more")
            }
            (Self::Location(LocationError::Missing(_)), _) => {
                Some("`lars up` and `lars route add` create it; --store names another")
            }
            (Self::Location(LocationError::NoDataDir), _) => Some("name a folder with --data-dir"),
            (Self::Location(LocationError::Url(_)), _) => {
                Some("write sqlite:PATH or mysql://user:password@host:port/database")
            }
            (
                Self::Store(StoreError::Away { .. })
                | Self::Location(LocationError::Store(StoreError::Away { .. })),
                _,
            ) => Some("nothing was changed; try again when the database is back"),
            _ => None,
        }
    }
}

fn lookup_exit(error: &GetHostError) -> Exit {
    match error {
        GetHostError::Overloaded(_) => Exit::Overloaded,
        GetHostError::NotFound(_) => Exit::NotFound,
        GetHostError::Timeout { .. } => Exit::Timeout,
        GetHostError::AgentUnreachable { .. } => Exit::Unreachable,
        GetHostError::Protocol { .. } | _ => Exit::Failure,
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Timeout { .. } => Exit::Timeout,
        ClientError::AgentUnreachable { .. } => Exit::Unreachable,
        ClientError::Config { .. } | ClientError::Socket { .. } | _ => Exit::Failure,
    }
}

/// Ends a command: says what went wrong and what to do, and returns the status.
pub(crate) fn finish(result: Result<(), Failure>, out: &mut Out<'_>) -> Exit {
    let result = result.and_then(|()| Ok(out.flush()?));
    let Err(failure) = result else { return Exit::Success };
    if failure.is_broken_pipe() {
        return Exit::Success;
    }
    let (error, status) = (failure.to_string(), failure.exit());
    // Nobody is left to tell if this fails.
    let _ = out.complain(Complaint { error: &error, advice: failure.advice(), status: status as u8 });
    status
}

/// Ends a command whose line is no command, or asks for help: says so, as JSON where the line asks for that.
pub(crate) fn refuse(error: &clap::Error, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8);
    if error.use_stderr() && args.into_iter().any(|arg| arg == "--json") {
        let text = usage_problem(&error.to_string());
        let (mut data, mut notes) = (io::sink(), io::stderr());
        let mut out = Out::new(&mut data, &mut notes, Terminal::default()).with_note_form(NoteForm::Json);
        let _ = out.complain(Complaint { error: &text, advice: Some("see --help"), status });
    } else {
        let _ = error.print();
    }
    ExitCode::from(status)
}

/// What is wrong, in one line, without what clap says after it.
fn usage_problem(text: &str) -> String {
    let (problem, _) = text.split_once("\n\n").unwrap_or((text, ""));
    let words: Vec<&str> = problem.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(failure: impl Into<Failure>, status: Exit) {
        let failure = failure.into();
        assert_eq!(failure.exit(), status, "{failure}");
    }

    #[test]
    fn an_agent_out_of_reach_is_told_from_a_silent_one() {
        let agent = ([203, 0, 113, 1], 8888).into();
        let source = || io::Error::from(io::ErrorKind::NetworkUnreachable);
        check(ClientError::AgentUnreachable { agent, source: source() }, Exit::Unreachable);
        check(GetHostError::AgentUnreachable { agent, source: source() }, Exit::Unreachable);
        check(ClientError::Timeout { agent, waited: Duration::ZERO }, Exit::Timeout);
    }

    #[test]
    fn each_status_is_in_the_help() {
        for status in [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Overloaded,
            Exit::NotFound,
            Exit::Timeout,
            Exit::Unreachable,
            Exit::Interrupted,
            Exit::Config,
        ] {
            let column = format!("\n  {:<4}", status as u8);
            assert!(EXIT_HELP.contains(column.trim_end()), "{status:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  <CMDID>\n\nUsage: lars";
        assert_eq!(usage_problem(text), "the following required arguments were not provided: <CMDID>");
    }
}
