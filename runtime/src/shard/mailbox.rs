//! A shard's mailbox: how any thread has a job run on a shard.
//!
//! A bounded flume channel per shard. The shard drains many jobs per turn; what does not fit is refused
//! ([`SubmitError::Full`]) or waits ([`ShardHandle::submit`]), it never grows.

use std::{cell::Cell, fmt, rc::Rc, time::Duration};

use flume::RecvTimeoutError;

use crate::{shard::context::ShardContext, shard::local::Shard};

/// The shard has stopped; the job was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has stopped")]
pub struct Stopped;

/// A job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The mailbox is full; the shard is behind.
    #[error("the shard's mailbox is full")]
    Full,
    /// See [`Stopped`].
    #[error("the shard has stopped")]
    Stopped,
}

/// How often a waiting caller looks whether the shard is still there.
const ANSWER_POLL: Duration = Duration::from_millis(50);

pub(crate) type Job<S> = Box<dyn FnOnce(&mut S, &mut ShardContext<S>) + Send>;

/// Work that needs the shard itself, to spawn tasks on it.
pub(crate) type Install<S> = Box<dyn FnOnce(&Rc<Shard<S>>) + Send>;

pub(crate) enum Message<S> {
    Job(Job<S>),
    Install(Install<S>),
    /// The last message that is looked at.
    Stop,
}

thread_local! {
    /// Whether this thread is a shard's, where waiting for a shard would wait for ever.
    static ON_SHARD: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn mark_shard_thread() {
    ON_SHARD.set(true);
}

/// Where to submit jobs for one shard; `Send`, `Sync` and cheap to clone, whatever the state is.
pub struct ShardHandle<S> {
    index: usize,
    sender: flume::Sender<Message<S>>,
}

impl<S: 'static> ShardHandle<S> {
    pub(crate) fn new(index: usize, sender: flume::Sender<Message<S>>) -> Self {
        Self { index, sender }
    }

    /// Its place among the shards, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// From any thread: has `job` run on the shard, with the shard's state and network. Jobs of one thread run
    /// in their order.
    ///
    /// # Errors
    /// If the mailbox is full or the shard has stopped; the job is dropped.
    pub fn try_submit(
        &self,
        job: impl FnOnce(&mut S, &mut ShardContext<S>) + Send + 'static,
    ) -> Result<(), SubmitError> {
        self.sender.try_send(Message::Job(Box::new(job))).map_err(|refused| match refused {
            flume::TrySendError::Full(_) => SubmitError::Full,
            flume::TrySendError::Disconnected(_) => SubmitError::Stopped,
        })
    }

    /// Like [`try_submit`](Self::try_submit), but waits while the mailbox is full. For OS threads only.
    ///
    /// # Errors
    /// If the shard has stopped.
    ///
    /// # Panics
    /// When called on a shard, where it could wait for ever.
    pub fn submit(
        &self,
        job: impl FnOnce(&mut S, &mut ShardContext<S>) + Send + 'static,
    ) -> Result<(), Stopped> {
        self.post(Message::Job(Box::new(job)))
    }

    /// Submits `f` and waits for its value. For OS threads only.
    ///
    /// # Errors
    /// If the shard has stopped, or `f` panicked.
    ///
    /// # Panics
    /// When called on a shard, where it could wait for ever.
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut S, &mut ShardContext<S>) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (answer, question) = flume::bounded(1);
        self.submit(move |state, net| {
            // A caller that is gone needs no answer.
            let _ = answer.send(f(state, net));
        })?;
        loop {
            match question.recv_timeout(ANSWER_POLL) {
                Ok(answer) => return Ok(answer),
                // A job that slips into the mailbox while the shard stops lies there, neither run nor dropped.
                Err(RecvTimeoutError::Timeout) if self.sender.is_disconnected() => {
                    return question.try_recv().map_err(|_| Stopped);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    /// Whether something waits to be done by the shard.
    pub(crate) fn has_mail(&self) -> bool {
        !self.sender.is_empty()
    }

    pub(crate) fn install(
        &self,
        install: impl FnOnce(&Rc<Shard<S>>) + Send + 'static,
    ) -> Result<(), Stopped> {
        self.post(Message::Install(Box::new(install)))
    }

    pub(crate) fn stop(&self) -> Result<(), Stopped> {
        self.post(Message::Stop)
    }

    fn post(&self, message: Message<S>) -> Result<(), Stopped> {
        assert!(!ON_SHARD.get(), "a shard must not wait for a shard");
        self.sender.send(message).map_err(|_| Stopped)
    }
}

impl<S> Clone for ShardHandle<S> {
    fn clone(&self) -> Self {
        Self { index: self.index, sender: self.sender.clone() }
    }
}

impl<S> fmt::Debug for ShardHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle").field("index", &self.index).finish_non_exhaustive()
    }
}
