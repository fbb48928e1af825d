//! lars-reporter: takes call statistics from agents over TCP and writes them to SQL, for people to look at.
//!
//! * [`core`]: which rows a message holds, who writes them, and when.
//! * `shell`: the sockets, queues and threads that do it.
//! * [`RawConfig`], [`ReporterConfig`]: what can be configured, as written and as used.
//! * [`Reporter`]: the service in a program; [`ReporterDaemon`]: the service as one.

#![forbid(unsafe_code)]

mod config;
mod daemon;
mod shell;

pub mod core;

pub use config::{RawConfig, ReporterConfig, StoreSection};
pub use daemon::ReporterDaemon;
pub use shell::{Drained, Reporter, ReporterStats, RunError, StartError, run};
