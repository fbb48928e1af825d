//! What the agent decides, without any IO: time and messages come in as values, answers and questions go
//! out as values. Nothing here reads a clock, knows a socket or logs; the shell drives it.
//!
//! * [`time`]: the clock reading that is passed in.
//! * [`balancer`]: one module's hosts and which of them comes next.
//! * [`table`]: one shard's modules.
//! * [`statistics`]: when a module's call counts are sent, and in what portions.
//! * [`dns_link`]: which routes are asked for, and when.

pub mod time;

pub mod balancer;

pub mod table;

pub mod statistics;

pub mod dns_link;
