//! Typed mailboxes: messages from any thread to the state of a shard.
//!
//! Jobs ([`ShardHandle`](crate::ShardHandle)) carry code and are dropped when refused; a message is a plain value that
//! comes back when it is. A bounded flume channel per shard; what does not fit is refused, it never grows.

use std::{
    fmt, iter,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use flume::{Receiver, Sender, TrySendError};
use futures_lite::future;

use crate::{
    shard::context::ShardContext, shard::local::Shard, shard::mailbox::SubmitError, shard::panics::contain,
};

/// Messages received in a row before the shard looks at its IO.
const MESSAGES_PER_TURN: usize = 64;

/// What receives messages on a shard.
type Receive<S, M> = fn(&mut S, &mut ShardContext<S>, M);

/// A message was not taken; here it is again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused<M> {
    /// What was to be sent.
    pub message: M,
    /// Why it was not.
    pub reason: SubmitError,
}

/// A bounded queue of messages for each shard; see [`Shards::install_mailboxes`](crate::Shards::install_mailboxes).
/// Cheap to clone, and `Send` and `Sync` whatever the shards' state is.
pub struct Mailboxes<M> {
    queues: Arc<[Queue<M>]>,
}

struct Queue<M> {
    sender: Sender<M>,
    /// Until it is installed.
    receiver: Mutex<Option<Receiver<M>>>,
}

impl<M: Send + 'static> Mailboxes<M> {
    /// For so many shards; `messages_max` (1 at least) may wait for each.
    #[must_use]
    pub fn new(shards: usize, messages_max: usize) -> Self {
        let queue = |_| {
            let (sender, receiver) = flume::bounded(messages_max.max(1));
            Queue { sender, receiver: Mutex::new(Some(receiver)) }
        };
        Self { queues: (0..shards).map(queue).collect() }
    }

    /// From any thread: sends to shard `to`, at once or not at all. Messages of one thread to one shard arrive in
    /// their order. Until the mailboxes are installed they wait.
    ///
    /// # Errors
    /// If as many messages wait as may, or the shard has stopped.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn try_send(&self, to: usize, message: M) -> Result<(), Refused<M>> {
        self.queues[to].sender.try_send(message).map_err(|refused| match refused {
            TrySendError::Full(message) => Refused { message, reason: SubmitError::Full },
            TrySendError::Disconnected(message) => Refused { message, reason: SubmitError::Stopped },
        })
    }

    /// The receiving ends, in order.
    ///
    /// # Panics
    /// If they are gone already.
    pub(crate) fn take_receivers(&self) -> Vec<Receiver<M>> {
        let take = |queue: &Queue<M>| queue.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.queues.iter().map(|queue| take(queue).expect("mailboxes are installed once")).collect()
    }
}

impl<M> Clone for Mailboxes<M> {
    fn clone(&self) -> Self {
        Self { queues: Arc::clone(&self.queues) }
    }
}

impl<M> fmt::Debug for Mailboxes<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.queues.iter().map(|queue| queue.sender.len());
        f.write_str("Mailboxes ")?;
        f.debug_list().entries(waiting).finish()
    }
}

/// Receives these messages from now on.
pub(super) fn start<S: 'static, M: Send + 'static>(
    shard: &Rc<Shard<S>>,
    messages: Receiver<M>,
    receive: Receive<S, M>,
) {
    shard.spawn_urgent(run(Rc::clone(shard), messages.clone(), receive));
    shard.watch_messages(move || !messages.is_empty());
}

/// Receives until the shard stops or nobody can send any more.
async fn run<S: 'static, M: Send + 'static>(
    shard: Rc<Shard<S>>,
    messages: Receiver<M>,
    receive: Receive<S, M>,
) {
    let mut in_a_row = 0;
    while let Some(first) = next(&shard, &messages).await {
        in_a_row += shard.with(|state, net| {
            net.set_now(Instant::now());
            let others = messages.try_iter().take(MESSAGES_PER_TURN - 1);
            let mut received = 0;
            for message in iter::once(first).chain(others) {
                contain("a message", net.shard_index(), || receive(state, net, message));
                received += 1;
            }
            received
        });
        if in_a_row >= MESSAGES_PER_TURN {
            in_a_row = 0;
            shard.reactor_yield.wait().await;
        }
    }
    // Else what waits would be kept until the last sender is gone.
    drop(messages.drain());
}

/// `None` when it is over.
async fn next<S: 'static, M>(shard: &Shard<S>, messages: &Receiver<M>) -> Option<M> {
    let stopping = async {
        shard.stopping().await;
        None
    };
    future::or(stopping, async { messages.recv_async().await.ok() }).await
}
