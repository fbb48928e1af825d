//! What can go wrong, one enum per thing that is asked.

use std::{io, net::SocketAddr, time::Duration};

use lars_proto::{HostAddrError, ModuleId};
use thiserror::Error;

/// Why there is no client, or no route.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The field of [`ClientConfig`](crate::ClientConfig).
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The system refuses a socket when the client is made.
    #[error("no socket to the agent at {agent}: {source}")]
    Socket {
        /// Where the socket would have led.
        agent: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent at {agent} did not answer within {waited:?}")]
    Timeout {
        /// The port asked.
        agent: SocketAddr,
        /// How long it had, retries included.
        waited: Duration,
    },
    /// The agent does not run, or the system does not let us reach it.
    #[error("the agent at {agent} cannot be reached: {source}")]
    AgentUnreachable {
        /// The port asked.
        agent: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Why there is no host to call.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GetHostError {
    /// The module has hosts, but all are overloaded and none is due for a probe. Call none; ask again later.
    #[error("module {0}: all hosts are overloaded")]
    Overloaded(ModuleId),
    /// The module has no hosts, or the agent has not learned of any within the time of the lookup.
    #[error("module {0}: no hosts known")]
    NotFound(ModuleId),
    /// The agent did not answer in time.
    #[error("the agent at {agent} did not answer within {waited:?}")]
    Timeout {
        /// The port asked.
        agent: SocketAddr,
        /// How long it had, retries included.
        waited: Duration,
    },
    /// The agent does not run, or the system does not let us reach it.
    #[error("the agent at {agent} cannot be reached: {source}")]
    AgentUnreachable {
        /// The port asked.
        agent: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The agent answered this very question, but not in a way that makes sense.
    #[error("module {module}: the agent {source}")]
    Protocol {
        /// The module asked for.
        module: ModuleId,
        /// What makes no sense.
        source: ProtocolError,
    },
}

/// What is wrong with the agent's answer to a lookup.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A return code that is no answer to a lookup: a system error in the agent, or a code of a later version.
    #[error("answered with return code {0}")]
    RetCode(i32),
    /// Success, but no host.
    #[error("found a host but did not name it")]
    HostMissing,
    /// The host is not one that can be called.
    #[error("named an impossible host: {0}")]
    Host(HostAddrError),
}

/// Why a module could not be registered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The module has no hosts, or the agent has not learned of any in time.
    #[error("module {0}: no hosts known")]
    NotFound(ModuleId),
    /// The last try failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Why a question got no answer; becomes part of the error of whoever asked.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    Timeout { agent: SocketAddr, waited: Duration },
    Unreachable { agent: SocketAddr, source: io::Error },
}

impl From<NoAnswer> for GetHostError {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::Timeout { agent, waited } => Self::Timeout { agent, waited },
            NoAnswer::Unreachable { agent, source } => Self::AgentUnreachable { agent, source },
        }
    }
}

impl From<NoAnswer> for ClientError {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::Timeout { agent, waited } => Self::Timeout { agent, waited },
            NoAnswer::Unreachable { agent, source } => Self::AgentUnreachable { agent, source },
        }
    }
}
