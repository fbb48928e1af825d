//! Bytes to messages and back: everything in Lars that knows how things lie on the wire.
//!
//! The wire is bit-compatible with the deployed C++ agents, clients and servers (`docs/PROTOCOL.md`). This
//! crate does no IO and never allocates by a length that it has not checked.
//!
//! * [`ModuleId`], [`HostAddr`]: the two things every part of Lars talks about.
//! * [`Endpoint`]: a host as a route lists it.
//! * [`CallStatus`]: what an agent reports of a host.
//! * [`frame`]: the 8-byte header, for TCP streams and for datagrams.
//! * [`messages`]: the protobuf messages, generated from `lars.proto`.
//! * [`lookup`]: those of a lookup, by hand and faster.
//! * [`route`]: route responses of any size, cut to what fits a frame.
//! * [`digest`]: sums by which agent and lars-dns find out whether they agree.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod call_status;
mod endpoint;
mod host;
mod module;

pub mod digest;
pub mod frame;
pub mod lookup;
pub mod messages;
pub mod route;

pub use call_status::{CallStatus, CallStatusKey};
pub use endpoint::{Endpoint, Zone};
pub use host::{HostAddr, HostAddrError};
pub use module::ModuleId;
