//! The IO of lars-dns: a thread that talks to SQL, shards that talk to agents.

mod database;
mod poll;
mod serve;
mod service;
mod state;
mod stats;

pub use self::{
    service::{Dns, StartError, run},
    stats::DnsStats,
};
