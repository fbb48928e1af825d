//! Sockets and clocks. What to do with them, `core` says.

mod agent;
#[cfg(feature = "tokio")]
mod async_client;
mod client;
mod idle;

#[cfg(feature = "tokio")]
pub use async_client::AsyncClient;
pub use client::Client;
