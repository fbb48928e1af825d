//! The DNS service of Lars: it serves the routes of modules from SQL and pushes each change to the agents
//! that asked. (No relation to port 53.)
//!
//! * [`core`]: what it decides, without IO: the route table, who is subscribed, what to read next.
//! * `shell`: the thread that talks to SQL, the shards that talk to agents.
//! * [`Dns`]: the service, started and stopped; [`run`]: until it is told to end; [`DnsDaemon`]: as a program.
//!
//! One OS thread polls the store. It finds what changed, hands the next immutable [`core::snapshot::Snapshot`]
//! to every shard, and each shard pushes the changed modules to its own subscribers. Everything is loaded by a
//! thread beside it, so that a change is pushed as soon while a large table is read. A query is answered from
//! the shard's own pointer, so that no lock and no other thread is ever in its way.

#![forbid(unsafe_code)]

mod config;
pub mod core;
mod daemon;
mod shell;

pub use self::{
    config::{DnsConfig, PushSection, RawConfig, StoreSection},
    core::{
        shrink_guard::{Hold, ShrinkRules},
        tracker::Timing,
    },
    daemon::DnsDaemon,
    shell::{Dns, DnsStats, StartError, run},
};
