//! The reporter's sockets and threads: agents' messages come in on the shards, cross a bounded queue, and
//! leave through writer threads, each with a flusher beside it that writes, into SQL. What is decided is decided in
//! `core`.

mod callers;
mod database;
mod flusher;
mod queue;
mod reporter;
mod shard;
mod stats;
mod writer;

pub use reporter::{Drained, Reporter, RunError, StartError, run};
pub use stats::ReporterStats;
