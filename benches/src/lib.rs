//! Benchmarks of Lars.
//!
//! - `benches/`: what can be measured in one process, one file a subject; `cargo bench -p lars-benches` runs all.
//! - `lars-bench load`: the load generator ([`load`]), on a private io_uring ([`ring`]; Linux 6.1).
//! - `lars-bench serve`: servers to compare with ([`serve`]).
//! - `lars-bench scale`: how cost and memory grow ([`scale`]).
//! - `compare`: a script that measures Lars and those side by side, and `lars-bench summary`, which makes a table of
//!   what it wrote down ([`summary`]). What it said is in `RESULTS.md`.
//!
//! Figures are compared within one run only, and nothing fails because of one.

#![deny(unsafe_code)]

pub mod cli;
pub mod frames;
pub mod load;
#[allow(unsafe_code)]
pub mod ring;
pub mod scale;
pub mod serve;
pub mod spread;
pub mod summary;
