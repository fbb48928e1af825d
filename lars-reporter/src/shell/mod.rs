//! The reporter's sockets and threads: agents' messages come in on the shards, cross a bounded queue, and
//! leave through writer threads, each with one beside it that writes, into SQL. What is decided is decided in `core`.

mod intake;
mod pen;
mod queue;
mod reporter;
mod sink;
mod writer;

pub use reporter::{Drained, Reporter, ReporterStats, StartError, run};
