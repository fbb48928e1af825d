//! What to send, how long to wait, and which datagrams are answers: pure functions of their input and the
//! time they are told. The shells bring sockets and clocks.

mod lookup;
mod question;
mod registration;

pub use question::{HostQuestion, Question, Route, RouteQuestion, report_datagram};

pub(crate) use lookup::{Action, GiveUp, Lookup, Timeouts};
pub(crate) use registration::{Next, Registration};
