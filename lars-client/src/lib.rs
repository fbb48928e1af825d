//! Asks the Lars agent on this machine which host to call, and tells it how the call went.
//!
//! ```no_run
//! use std::net::TcpStream;
//!
//! use lars_client::{Client, ModuleId, Outcome};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new()?; // one per process; clones share it
//! let host = client.get_host(ModuleId::new(1, 1))?;
//! let called = TcpStream::connect(host.addr.socket_addr());
//! client.report(&host, Outcome::from(&called));
//! # Ok(())
//! # }
//! ```
//!
//! Reporting matters as much as asking: the agent knows a failing host only by what its callers report.
//!
//! * [`Client`]: blocking, for any number of threads, on nothing but std.
//! * `AsyncClient`: the same for tokio, with feature `tokio`.
//!
//! Every call has a deadline ([`ClientConfig`]), nothing panics and nothing prints; what goes wrong is in the
//! error types. How an answer is come by is no part of the contract: do not count on a datagram per call, nor
//! on the agent being alive for one to succeed.
//!
//! Inside, `core` decides what to send, how long to wait and which datagrams are answers, and sees neither
//! clock nor socket; `shell` has the sockets and decides nothing.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod config;
// To be measured from outside. It is no part of what this crate promises.
#[doc(hidden)]
pub mod core;
mod error;
mod host;
mod shell;

pub use config::ClientConfig;
pub use error::{ClientError, GetHostError, ProtocolError, RegisterError};
pub use host::{Host, Outcome};
pub use lars_proto::{HostAddr, HostAddrError, ModuleId};
#[cfg(feature = "tokio")]
pub use shell::AsyncClient;
pub use shell::Client;

/// Has the example in the README compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
