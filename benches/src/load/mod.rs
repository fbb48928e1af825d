//! The load generator: one thread that asks more cheaply than any server answers, and measures.
//!
//! What decides and counts is pure and driven by the clock of a `Run`; `sockets` does the IO; `conversation` leads requests
//! to their replies, whatever is asked: [`udp_lookups`], [`udp_routes`], [`tcp_echo`] and [`dns_query`] say what that is, and
//! [`reporter_ingest`], which nobody answers. [`dns_subscribe`] waits for pushes, [`sql_upserts`] for a database. Each is a
//! [`Load`], and its own command line.

mod conversation;
mod cpu;
pub mod dns_query;
pub mod dns_subscribe;
mod in_flight;
mod measurement;
pub mod reporter_ingest;
mod run;
mod sockets;
pub mod sql_upserts;
pub mod tcp_echo;
pub mod udp_lookups;
pub mod udp_routes;
pub mod values;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use lars_store::StoreError;

pub use self::{
    cpu::{pin, process_time, resident},
    dns_subscribe::allow_open_files,
    measurement::{Counts, Latency, Measurement, Pushes, Stored},
    run::Plan,
};

/// What is asked, and of whom.
pub trait Load {
    /// Measures.
    ///
    /// # Errors
    /// If there is nobody to ask, what comes is no answer, or a store refuses.
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError>;
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is free.
    #[error("nobody listens at {0}")]
    NobodyListens(SocketAddr),
    /// The server said something that no echo says, or hung up.
    #[error("{server}: {problem}")]
    Server {
        /// Who.
        server: SocketAddr,
        /// What was wrong.
        problem: &'static str,
    },
    /// The store could not be read or edited.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LoadError {
    /// A system call failed that talks to `server`.
    fn at(server: SocketAddr, error: io::Error) -> Self {
        if error.kind() == ErrorKind::ConnectionRefused {
            Self::NobodyListens(server)
        } else {
            Self::Io(error)
        }
    }
}
