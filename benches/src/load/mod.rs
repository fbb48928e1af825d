//! The load generator: one thread that asks more cheaply than any server answers, and measures.
//!
//! What decides and counts is pure and driven by the clock of a `Run`; `transport` does the IO, on io_uring or epoll;
//! `udp` and `tcp` lead requests to their replies, whatever is asked; [`udp_lookups`], [`tcp_echo`] and
//! [`dns_query`] say what that is.

pub mod agent;
mod cpu;
pub mod dns_query;
pub mod in_flight;
mod measurement;
pub mod pace;
mod run;
mod tcp;
pub mod tcp_echo;
mod transport;
mod udp;
pub mod udp_lookups;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

pub use self::{
    cpu::{pin, process_time},
    measurement::{Counts, Latency, Measurement},
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
