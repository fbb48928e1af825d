//! The agent of Lars, one per machine: it tells local programs which host to call next, and learns from
//! their reports which hosts fare well.
//!
//! * [`core`]: what it decides, without IO: the balancer, the tables of modules, when to ask
//!   lars-dns, when to tell lars-reporter.
//! * `shell`: the UDP sockets, the two links, the shards.
//! * [`Agent`]: the agent, started and stopped; [`run`]: until it is told to end; [`AgentDaemon`]: as a
//!   program.
//!
//! Each shard owns the modules whose ids lead to it and answers lookups of them from its own memory: no
//! lock, no other thread and no other service is ever in the way of an answer.

#![forbid(unsafe_code)]

mod config;
pub mod core;
mod daemon;
mod shell;
mod stats;

pub use self::{
    config::{AgentConfig, ApiConfig, ApiSection, BalanceSection, DnsSection, RawConfig, ReporterSection},
    daemon::AgentDaemon,
    shell::{Agent, StartError, run},
    stats::{AgentStats, ApiStats, DnsStats, ReporterStats, TableStats},
};
