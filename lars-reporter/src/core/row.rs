//! [`StatusRow`]: one host of one module as one agent sees it.

use std::net::Ipv4Addr;

use lars_proto::{HostAddr, ModuleId};

/// The key of a row: the table holds one row per module, host and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusKey {
    /// The module that was called.
    pub module: ModuleId,
    /// The host that was called.
    pub host: HostAddr,
    /// The agent that reports.
    pub caller: Ipv4Addr,
}

/// How the calls to a host went, in the agent's current window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Calls that succeeded.
    pub succ: u32,
    /// Calls that failed.
    pub err: u32,
    /// When the agent took these numbers, in Unix seconds.
    pub ts: u64,
    /// Whether the agent holds the host for overloaded.
    pub overload: bool,
}

/// A row of the call status table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRow {
    /// Which row.
    pub key: StatusKey,
    /// Its content.
    pub status: Status,
}
