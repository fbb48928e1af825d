//! Sleeping until the ring has something to collect.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use glommio::io::BufferedFile;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd, and the executor's read of it.
pub(super) struct Nap {
    eventfd: Rc<BufferedFile>,
    /// Goes on while the task is up for another reason.
    read: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Nap {
    /// To be called on a shard.
    pub(super) fn new() -> io::Result<Self> {
        // Blocking: the executor's read is to wait.
        let eventfd = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?).into_raw_fd();
        // SAFETY: the descriptor is open and nobody else owns it.
        let eventfd = Rc::new(unsafe { BufferedFile::from_raw_fd(eventfd) });
        Ok(Self { eventfd, read: None })
    }

    /// To be written to when there is something.
    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Ready when the eventfd was written to.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let eventfd = &self.eventfd;
        let read = self.read.get_or_insert_with(|| {
            let eventfd = Rc::clone(eventfd);
            Box::pin(async move {
                // What it brings is only a count. Should it fail, there is a look at the ring all the same.
                let _ = eventfd.read_at(0, 8).await;
            })
        });
        ready!(read.as_mut().poll(cx));
        self.read = None;
        Poll::Ready(())
    }

    /// Ends the read, if one goes on, and closes the eventfd; dropping it would leave that to a reactor which may
    /// not run again.
    pub(super) async fn end(mut self) {
        if let Some(read) = self.read.take() {
            // SAFETY: the file is open for as long as `self` is.
            let fd = unsafe { BorrowedFd::borrow_raw(self.eventfd.as_raw_fd()) };
            // The counter is far from its end.
            let _ = nix::unistd::write(fd, &1_u64.to_ne_bytes());
            read.await;
        }
        if let Ok(eventfd) = Rc::try_unwrap(self.eventfd)
            && let Err(error) = eventfd.close().await
        {
            tracing::debug!(%error, "closing a ring's eventfd");
        }
    }
}
