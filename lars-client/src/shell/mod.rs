//! Sockets and clocks. What to do with them, `core` says.
//!
//! * `calls`: what both clients do, written once over a `Transport`.
//! * `agent`: the far end, and the sockets to it.
//! * `process`: what a forked child must not share with its parent.
//! * `client`, `async_client`: the two transports, and the faces of the crate.

mod calls;

mod agent;

mod pool;

mod process;

mod client;

#[cfg(feature = "tokio")]
mod async_client;

#[cfg(feature = "tokio")]
pub use async_client::AsyncClient;
pub use client::Client;
