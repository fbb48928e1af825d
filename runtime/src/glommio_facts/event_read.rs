//! Waiting on the executor for a descriptor whose reads wait: an eventfd, a timerfd.
//!
//! The read is a request to the executor's io_uring, so it ends whatever the thread waits in, a socket included. It is
//! not cancelled by those who stop waiting: it goes on, and the next wait is for the same one.

use std::{
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use glommio::io::BufferedFile;

/// A descriptor and the executor's read of it.
pub(crate) struct EventRead {
    file: Rc<BufferedFile>,
    /// Goes on while its task is up for another reason.
    read: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl EventRead {
    /// Of a descriptor that blocks. To be called on a shard.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is open and nobody else owns it.
        let file = unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) };
        Self { file: Rc::new(file), read: None }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the file is open for as long as `self` is.
        unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) }
    }

    /// Ready when there was something to read.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let file = &self.file;
        let read = self.read.get_or_insert_with(|| {
            let file = Rc::clone(file);
            Box::pin(async move {
                // What it brings is only a count. Should it fail, its task looks at what there is all the same.
                let _ = file.read_at(0, 8).await;
            })
        });
        ready!(read.as_mut().poll(cx));
        self.read = None;
        Poll::Ready(())
    }

    /// Ends the read, if one goes on, by making the descriptor readable with `fire`; then closes it. Dropping it
    /// would leave that to a reactor which may not run again.
    pub(crate) async fn end(mut self, fire: impl FnOnce(BorrowedFd<'_>)) {
        if let Some(read) = self.read.take() {
            fire(self.fd());
            read.await;
        }
        if let Ok(file) = Rc::try_unwrap(self.file)
            && let Err(error) = file.close().await
        {
            tracing::debug!(%error, "closing a shard's descriptor");
        }
    }
}
