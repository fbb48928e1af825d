//! What the agent decides, without any IO: time and messages come in as values, answers and questions go
//! out as values. Nothing here reads a clock, knows a socket or logs; the shell drives it.
//!
//! * [`agent`]: one shard of the agent, all of what follows put together.
//! * [`api`]: what a client and the agent say to each other.
//! * [`pending`]: requests that wait for a route.
//! * [`table`]: one shard's modules.
//! * [`balancer`]: one module's hosts and which of them comes next.
//! * [`statistics`]: when a module's call counts are sent, and in what portions.
//! * [`dns_link`]: which routes are asked for, and when.
//! * [`digest`]: whether lars-dns agrees on what is subscribed, asked all at once.
//! * [`reporter_link`]: what goes to lars-reporter.
//! * `outbox`: what goes to the other shards.
//! * [`time`]: the clock reading that is passed in.

pub mod agent;

pub mod api;

pub mod pending;

pub mod table;

pub mod saved;

pub mod balancer;

pub mod statistics;

pub mod dns_link;

pub mod digest;

pub mod reporter_link;

mod outbox;

pub mod time;
