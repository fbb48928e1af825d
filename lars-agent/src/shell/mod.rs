//! The agent's IO: sockets, connections, shards. What is decided is decided in [`core`](crate::core).
//!
//! * [`shard`]: one shard: datagrams to requests, what its core puts out to bytes.
//! * [`uplinks`]: the connections to lars-dns and lars-reporter, both of them on one shard.
//! * [`caller`]: which address this machine has.
//! * [`agent`]: all of it started and stopped.

mod shard;
mod state;

mod uplinks;

mod caller;

mod agent;

pub use self::agent::{Agent, StartError, run};
