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

pub(crate) use self::choice::Chosen;
pub use self::choice::{TcpDriver, TcpDriverError, UnknownTcpDriver};
use self::ring::RingDriver;
use self::stream::StreamDriver;
use crate::{shard::local::Shard, tcp::connection::CloseReason, tcp::service::Service};

/// A connection that is driven while this is polled; resolves to why it ended, when nothing of it is left.
pub(crate) enum Driven<S: 'static> {
    Stream(Box<StreamDriver<S>>),
    Ring(ring::Attached),
}

/// Makes what all connections of the shard share. To be called once, on its thread.
pub(crate) fn install<S: 'static>(shard: &Shard<S>, chosen: Chosen) -> io::Result<()> {
    if chosen == Chosen::Ring {
        let ring = RingDriver::<S>::new(shard.net.borrow().pool())?;
        let _ = shard.driver.set(Box::new(ring));
    }
    Ok(())
}

/// Starts what drives all connections of the shard.
pub(crate) fn start<S: 'static>(shard: &Rc<Shard<S>>) {
    if ring_of(shard).is_some() {
        shard.spawn(ring::run(Rc::clone(shard)));
    }
}

/// To be called from time to time: makes up for a wake that was missed.
pub(crate) fn check<S: 'static>(shard: &Shard<S>) {
    if let Some(ring) = ring_of(shard) {
        ring.check();
    }
}

fn ring_of<S: 'static>(shard: &Shard<S>) -> Option<&RingDriver<S>> {
    shard.driver.get()?.downcast_ref()
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
    match ring_of(shard) {
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
