//! Drivers: what moves bytes between a socket and a [`Connection`](crate::conn::Connection).
//!
//! A driver reads when the connection's next [`Step`](crate::conn::Step) says so, hands what it read to
//! [`serve`](crate::conn::serve), and writes what the connection's output holds.

mod stream;

pub(crate) use self::stream::StreamDriver;
