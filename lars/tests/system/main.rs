//! The whole system: real processes, real sockets, a real MariaDB, real kills.
//!
//! Every test starts its own services on ports of its own and waits for conditions, never for time.

mod balancing;
mod edits;
mod failures;
mod faults;
mod ids;
mod original;
mod scale;
mod world;
