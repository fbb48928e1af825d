//! [`CallStatus`]: how the calls of one agent's machine to one host of a module went.

use std::net::Ipv4Addr;

use crate::{HostAddr, ModuleId};

/// Whose calls to which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallStatusKey {
    /// The module that was called.
    pub module: ModuleId,
    /// The host that was called.
    pub host: HostAddr,
    /// The agent's address on the caller's machine.
    pub caller: Ipv4Addr,
}

/// The calls of one caller to one host, in the window that was last reported: one result of a
/// [`ReportStatusRequest`](crate::messages::ReportStatusRequest), and one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallStatus {
    /// Whose calls to which host.
    pub key: CallStatusKey,
    /// Calls that succeeded.
    pub succ: u32,
    /// Calls that failed.
    pub err: u32,
    /// When the agent said so, in unix seconds.
    pub ts: u64,
    /// Whether the host is overloaded in the eyes of that agent.
    pub overload: bool,
}
