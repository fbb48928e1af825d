//! What waits to go to other shards.
//!
//! A shard's mailbox may be full. What it refused stays here, in its place, and is offered again a moment later. Each
//! other shard has a queue of its own, so that one that is behind holds up nothing that is for the others.

use std::collections::VecDeque;

use super::{
    agent::Message,
    time::{Moment, Pause},
};

/// Messages that may wait for one shard. Beyond, whoever has more keeps it: modules stay noted in the table, and a route
/// is not taken from the connection to lars-dns.
pub(super) const MESSAGES_MAX: usize = 1_024;

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// Since its shard refused one.
    pause: Pause,
}

/// The messages of one shard to the others.
#[derive(Debug)]
pub(super) struct Outbox {
    queues: Vec<Queue>,
    /// Messages in all queues.
    len: usize,
}

impl Outbox {
    pub(super) fn new(shards: usize) -> Self {
        Self { queues: (0..shards).map(|_| Queue::default()).collect(), len: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn has_room(&self, to: usize) -> bool {
        self.queues[to].messages.len() < MESSAGES_MAX
    }

    /// Whether something waits for shard `to`.
    pub(super) fn is_behind(&self, to: usize) -> bool {
        !self.queues[to].messages.is_empty()
    }

    /// Appends a message; there must be room.
    pub(super) fn push(&mut self, to: usize, message: Message) {
        debug_assert!(self.has_room(to), "messages to shard {to} are bounded");
        self.queues[to].messages.push_back(message);
        self.len += 1;
    }

    /// The next message to a shard that may take it.
    pub(super) fn poll(&mut self, now: Moment) -> Option<(usize, Message)> {
        if self.is_empty() {
            return None;
        }
        for (to, queue) in self.queues.iter_mut().enumerate() {
            if queue.pause.is_over(now)
                && let Some(message) = queue.messages.pop_front()
            {
                self.len -= 1;
                return Some((to, message));
            }
        }
        None
    }

    /// The message given last was refused: it is the first one next time.
    pub(super) fn put_back(&mut self, to: usize, message: Message, now: Moment) {
        let queue = &mut self.queues[to];
        queue.messages.push_front(message);
        queue.pause.begin(now);
        self.len += 1;
    }

    /// When [`Outbox::poll`] has something to give, if nothing else happens before.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        if self.is_empty() {
            return None;
        }
        let waiting = self.queues.iter().filter(|queue| !queue.messages.is_empty());
        waiting.map(|queue| queue.pause.deadline()).min()
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::ModuleId;

    use super::*;
    use crate::core::{table::Interest, time::RETRY_INTERVAL};

    const T0: Moment = Moment::ORIGIN;

    fn message(n: i32) -> Message {
        Message::Interest(Interest::Want(ModuleId::new(n, 0)))
    }

    #[test]
    fn what_was_refused_is_offered_again_in_its_place() {
        let mut outbox = Outbox::new(3);
        assert_eq!(outbox.poll_timeout(), None);
        outbox.push(1, message(1));
        outbox.push(1, message(2));
        outbox.push(2, message(3));
        assert_eq!(outbox.poll(T0), Some((1, message(1))));
        outbox.put_back(1, message(1), T0);
        assert_eq!(outbox.poll(T0), Some((2, message(3))), "one that is behind holds up no other");
        assert_eq!(outbox.poll(T0), None);
        assert_eq!(outbox.poll_timeout(), Some(T0 + RETRY_INTERVAL));
        let later = T0 + RETRY_INTERVAL;
        assert_eq!(outbox.poll(later), Some((1, message(1))));
        assert_eq!(outbox.poll(later), Some((1, message(2))));
        assert!(outbox.is_empty() && !outbox.is_behind(1));
    }

    #[test]
    fn a_queue_has_a_bound() {
        let mut outbox = Outbox::new(2);
        (0..MESSAGES_MAX as i32).for_each(|n| outbox.push(0, message(n)));
        assert!(!outbox.has_room(0) && outbox.has_room(1));
    }
}
