//! `lars-bench scale`: how cost and memory grow, from small to larger than anybody's fleet, and what a fleet takes.
//!
//! - [`cores`]: time of an operation in process; [`services`]: whole services over loopback sockets; [`heap`]: memory
//!   to the byte.
//! - [`curve`]: what comes out; [`report`]: where it is kept; [`plot`]: how it looks.
//! - [`plan`]: what a fleet takes, computed from the figures.
//! - [`args`]: the command line.
//!
//! What was measured for `docs/SCALING.md` is in `benches/curves`.

pub mod args;
pub mod cores;
pub mod curve;
pub mod effort;
pub mod fleet;
pub mod heap;
pub mod plan;
pub mod plot;
pub mod report;
mod service;
pub mod services;

use std::io;

use clap::ValueEnum;
use lars_store::StoreError;

pub use self::effort::Effort;
use self::report::Report;
use crate::load::LoadError;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Cost of an operation against the number of modules
    Modules,
    /// Cost of an operation against the hosts of its module
    Hosts,
    /// Cost of a change against the number of its subscribers
    Subscribers,
    /// Cost of a route query against the number of connections
    Queries,
    /// Memory of cores and of whole services, and lookups over UDP
    Memory,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// A program that is measured is not where this one is.
    #[error("{0} is not beside this program: build it in the same profile")]
    NotBuilt(&'static str),
    /// A program ended instead of running.
    #[error("{name} has ended: {said}")]
    Ended {
        /// Which.
        name: &'static str,
        /// Its last words.
        said: String,
    },
    /// Something did not come, however long it was waited for.
    #[error("{0} did not come")]
    Silent(&'static str),
    /// A file is not what this program writes.
    #[error("not what lars-bench scale writes: {0}")]
    Json(#[from] serde_json::Error),
    /// A curve cannot be drawn.
    #[error("cannot draw {0}")]
    Plot(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Measures.
///
/// # Errors
/// If a program that is measured is not built or fails.
pub fn measure(subject: Subject, effort: &Effort) -> Result<Report, ScaleError> {
    Ok(match subject {
        Subject::Modules => cores::by_modules(effort),
        Subject::Hosts => cores::by_hosts(effort).into(),
        Subject::Subscribers => services::fan_out(effort)?.and(cores::publish_by_subscribers(effort).into()),
        Subject::Queries => services::queries(effort)?,
        Subject::Memory => heap::measure()?.and(services::by_size(effort)?),
    })
}
