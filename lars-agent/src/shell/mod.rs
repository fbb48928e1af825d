//! The agent's IO: sockets, links, shards. What is decided is decided in [`core`](crate::core).
//!
//! * [`request`]: datagrams to requests.
//! * [`shard`]: one shard, its table and what it does with requests.
//! * [`post`]: letters between shards.
//! * [`dns`], [`reporter`]: the two links, both of them on shard 0.
//! * [`service`]: all of it started and stopped.

mod request;

mod shard;

mod post;

mod dns;

mod reporter;

mod service;

mod stats;

pub use self::{
    service::{Agent, StartError, run},
    stats::AgentStats,
};
