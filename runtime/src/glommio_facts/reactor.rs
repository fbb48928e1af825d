//! Making glommio look at its IO.
//!
//! A task that always has work starves the others: glommio 0.9.0 polls for IO only when no task is runnable or
//! its preempt timer fires, and none of its yields does so either. Waiting for a read that is ready, and that
//! only the reactor can complete, does.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
};

use glommio::io::BufferedFile;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd whose reads the reactor completes.
pub(crate) struct ReactorYield(BufferedFile);

impl ReactorYield {
    /// To be called on a shard.
    pub(crate) fn new() -> io::Result<Self> {
        // As a semaphore each read takes one of the writes, however many tasks wait at once.
        let eventfd = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC)?;
        let fd = OwnedFd::from(eventfd).into_raw_fd();
        // SAFETY: the descriptor is open and nobody else owns it.
        Ok(Self(unsafe { BufferedFile::from_raw_fd(fd) }))
    }

    /// Returns after the reactor has submitted and collected IO.
    pub(crate) async fn wait(&self) {
        // SAFETY: the file is open for as long as `self` is.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        if nix::unistd::write(fd, &1_u64.to_ne_bytes()).is_ok() {
            // The read takes what was just written; should it fail, the reactor has had its turn all the same.
            let _ = self.0.read_at(0, 8).await;
        }
    }

    /// Closes the eventfd; dropping it instead would leave that to a reactor which may not run again.
    pub(crate) async fn close(self) {
        if let Err(error) = self.0.close().await {
            tracing::debug!(%error, "closing a shard's eventfd");
        }
    }
}
