//! The agent's IO: sockets, connections, shards. What is decided is decided in [`core`](crate::core).
//!
//! * [`api`]: datagrams to requests, and back.
//! * [`shard`]: drives one shard's core.
//! * [`uplinks`]: the connections to lars-dns and lars-reporter, both of them on one shard.
//! * [`caller`]: which address this machine has.
//! * [`agent`]: all of it started and stopped.

mod api;

mod shard;

mod uplinks;

mod caller;

mod agent;

pub use self::agent::{Agent, StartError, run};
