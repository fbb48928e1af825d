//! What a client and the agent say to each other.

use std::{net::SocketAddr, time::Duration};

use lars_proto::{HostAddr, ModuleId};

use super::{balancer::Outcome, table::Answer};

/// What a client may ask of an agent. `wait_ms` is how long the client waits for a module that the agent has not
/// learned yet; 0: it is to be answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    GetHost { seq: u32, module: ModuleId, wait_ms: u32 },
    Report { module: ModuleId, host: HostAddr, outcome: Outcome },
    GetRoute { module: ModuleId, wait_ms: u32 },
}

impl Request {
    #[must_use]
    pub const fn module(&self) -> ModuleId {
        match self {
            Self::GetHost { module, .. } | Self::Report { module, .. } | Self::GetRoute { module, .. } => {
                *module
            }
        }
    }

    /// How long the client waits.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::GetHost { wait_ms, .. } | Self::GetRoute { wait_ms, .. } => {
                Duration::from_millis((*wait_ms).into())
            }
            Self::Report { .. } => Duration::ZERO,
        }
    }

    /// Whether `other` is the same question, asked once more because the client has heard no answer.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::GetHost { seq, module, .. },
                Self::GetHost { seq: other_seq, module: other_module, .. },
            ) => (seq, module) == (other_seq, other_module),
            (Self::GetRoute { module, .. }, Self::GetRoute { module: other_module, .. }) => {
                module == other_module
            }
            (Self::GetHost { .. } | Self::GetRoute { .. } | Self::Report { .. }, _) => false,
        }
    }
}

/// Who sent a request, and which of the agent's sockets the reply must leave by, or the client would not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub socket: usize,
    pub addr: SocketAddr,
}

/// What a request is replied with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Host {
        seq: u32,
        module: ModuleId,
        answer: Answer,
    },
    /// `confirmed` says of an empty route that lars-dns has none, and is told to clients that wait.
    Route {
        module: ModuleId,
        hosts: Vec<HostAddr>,
        confirmed: bool,
    },
}
