//! The load generator: one thread that asks more cheaply than any server answers, and measures.
//!
//! What decides and counts is pure and driven by the clock of a `Run`; `transport` does the IO, on io_uring or epoll;
//! `udp` and `tcp` lead requests to their replies, whatever is asked: [`udp_lookups`], [`udp_routes`], [`tcp_echo`] and
//! [`dns_query`] say what that is. [`dns_subscribe`] and [`reporter_ingest`] wait for what nobody asks for each time: pushes,
//! and room to send.

pub mod agent;
mod answered;
mod cpu;
pub mod dns_query;
pub mod dns_subscribe;
pub mod in_flight;
mod measurement;
mod open_files;
pub mod pace;
pub mod reporter_ingest;
mod run;
pub mod sql_upserts;
mod tcp;
pub mod tcp_echo;
mod transport;
mod udp;
pub mod udp_lookups;
pub mod udp_routes;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use lars_store::StoreError;

pub use self::{
    cpu::{pin, process_time},
    measurement::{Counts, Latency, Measurement, Pushes, Stored},
    run::Plan,
    transport::IoKind,
};

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
    /// There are more connections than files may be open.
    #[error(
        "the limit on open files is {hard}, {needed} are needed: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    )]
    OpenFiles {
        /// The hard limit.
        hard: u64,
        /// What would do.
        needed: u64,
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
