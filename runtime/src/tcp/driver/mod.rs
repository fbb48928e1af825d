//! Drivers: what moves bytes between a socket and a [`Connection`](crate::tcp::connection::Connection).
//!
//! A driver reads when the connection's next [`Step`](crate::tcp::connection::Step) says so, hands what it read to
//! [`serve`](crate::tcp::serve::serve), and writes what the connection's output holds. There are two:
//!
//! * `uring`: one task per shard moves the bytes of all its connections through an io_uring of its own. Linux 6.1.
//! * `stream`: one task per connection, on glommio's `TcpStream`. It works everywhere.

mod choice;
mod open_connection;
mod stream;
mod uring;

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
use self::stream::StreamDriver;
use self::uring::UringDriver;
use crate::{shard::local::Shard, tcp::connection::CloseReason, tcp::service::Service};

/// A connection that is driven while this is polled; resolves to why it ended, when nothing of it is left.
pub(crate) enum Driven<S: 'static> {
    Stream(Box<StreamDriver<S>>),
    Uring(uring::Attached),
}

/// Makes what all connections of the shard share. To be called once, on its thread.
pub(crate) fn install<S: 'static>(shard: &Shard<S>, chosen: Chosen) -> io::Result<()> {
    if chosen == Chosen::Uring {
        let driver = UringDriver::<S>::new(shard.net.borrow().pool())?;
        let _ = shard.driver.set(Box::new(driver));
    }
    Ok(())
}

/// Starts what drives all connections of the shard.
pub(crate) fn start<S: 'static>(shard: &Rc<Shard<S>>) {
    if uring_of(shard).is_some() {
        shard.spawn(uring::run(Rc::clone(shard)));
    }
}

/// To be called from time to time: makes up for a wake that was missed.
pub(crate) fn check<S: 'static>(shard: &Shard<S>) {
    if let Some(driver) = uring_of(shard) {
        driver.check();
    }
}

fn uring_of<S: 'static>(shard: &Shard<S>) -> Option<&UringDriver<S>> {
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
    match uring_of(shard) {
        Some(driver) => driver.open(shard, service, socket).map(Driven::Uring),
        None => StreamDriver::open(shard, service, socket).map(|driver| Driven::Stream(Box::new(driver))),
    }
}

impl<S: 'static> Future for Driven<S> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.get_mut() {
            Self::Stream(driver) => Pin::new(&mut **driver).poll(cx),
            Self::Uring(attached) => Pin::new(attached).poll(cx),
        }
    }
}
