//! Drivers: what moves bytes between a socket and a [`Connection`](crate::conn::Connection).
//!
//! A driver reads when the connection's next [`Step`](crate::conn::Step) says so, hands what it read to
//! [`serve`](crate::conn::serve), and writes what the connection's output holds. There are two:
//!
//! * `ring`: one task per shard moves the bytes of all its connections through an io_uring of its own. Linux 6.1.
//! * `stream`: one task per connection, on glommio's `TcpStream`. It works everywhere.

mod choice;
mod life;
mod ring;
mod stream;

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

pub use self::choice::{TcpDriver, TcpDriverError, UnknownTcpDriver};
use self::stream::StreamDriver;
pub(crate) use self::{
    choice::Chosen,
    ring::{RingDriver, run as run_ring},
};
use crate::{shard::Shard, tcp::connection::Service, tcp::handlers::CloseReason};

/// A connection that is driven while this is polled; resolves to why it ended, when nothing of it is left.
pub(crate) enum Driven<S: 'static> {
    Stream(Box<StreamDriver<S>>),
    Ring(ring::Attached),
}

/// Takes a connected socket over, and runs the `opened` hook.
///
/// # Errors
/// If the peer is gone already; then nothing was opened.
pub(crate) fn open<S: 'static>(
    shard: &Rc<Shard<S>>,
    service: &Arc<Service<S>>,
    socket: OwnedFd,
) -> io::Result<Driven<S>> {
    match &shard.ring {
        Some(ring) => ring.open(shard, service, socket).map(Driven::Ring),
        None => StreamDriver::open(shard, service, socket).map(|driver| Driven::Stream(Box::new(driver))),
    }
}

impl<S: 'static> Future for Driven<S> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.get_mut() {
            Self::Stream(driver) => Pin::new(&mut **driver).poll(cx),
            Self::Ring(attached) => Pin::new(attached).poll(cx),
        }
    }
}
