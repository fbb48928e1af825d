//! What the reporter decides, without a clock, a socket or a table: which rows a message holds, which writer
//! keeps a module's rows, and when which of them are to be written.
//!
//! Everything here takes `(input, now)` and returns plain values; `shell` drives it.

pub mod coalescer;
pub mod ingest;
