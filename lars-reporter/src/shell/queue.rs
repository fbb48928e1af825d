//! The queue between the shards and one writer, bounded by rows: a message may hold one of them or 16,000.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use lars_proto::CallStatus;

/// Why rows were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// They would exceed the bound now; later they may not.
    Full,
    /// There is no writer any more.
    Closed,
}

/// What came out of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Rows(Vec<CallStatus>),
    /// Nothing until the deadline.
    TimedOut,
    /// Nothing, and nothing will come any more.
    Closed,
}

/// The shards' end. Every shard has a clone.
#[derive(Clone, Debug)]
pub(crate) struct RowSender {
    messages: Sender<Vec<CallStatus>>,
    rows: Arc<AtomicUsize>,
    rows_max: usize,
}

/// The writer's end.
#[derive(Debug)]
pub(crate) struct RowReceiver {
    messages: Receiver<Vec<CallStatus>>,
    rows: Arc<AtomicUsize>,
}

/// A queue for at most `rows_max` rows; what is larger than that is never taken.
pub(crate) fn bounded(rows_max: usize) -> (RowSender, RowReceiver) {
    // Nobody sends a message without a row, so there are never more messages than rows.
    let (sender, receiver) = flume::bounded(rows_max);
    let rows = Arc::new(AtomicUsize::new(0));
    (
        RowSender { messages: sender, rows: Arc::clone(&rows), rows_max },
        RowReceiver { messages: receiver, rows },
    )
}

impl RowSender {
    /// Takes all of `rows`, or none. Never waits.
    pub(crate) fn offer(&self, rows: Vec<CallStatus>) -> Result<(), Refused> {
        let count = rows.len();
        if count == 0 {
            return Ok(());
        }
        self.reserve(count)?;
        self.messages.try_send(rows).map_err(|error| {
            self.rows.fetch_sub(count, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => Refused::Full,
                TrySendError::Disconnected(_) => Refused::Closed,
            }
        })
    }

    fn reserve(&self, count: usize) -> Result<(), Refused> {
        let fits = |rows: usize| rows.checked_add(count).filter(|&rows| rows <= self.rows_max);
        // The count guards no other memory, so its order with anything else does not matter.
        let reserved = self.rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        reserved.map(drop).map_err(|_| Refused::Full)
    }

    /// Rows in the queue.
    pub(crate) fn queued_rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }
}

impl RowReceiver {
    /// The next rows; waits until `deadline`, or for ever.
    pub(crate) fn recv_until(&self, deadline: Option<Instant>) -> Received {
        let received = match deadline {
            Some(deadline) => self.messages.recv_deadline(deadline),
            None => self.messages.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(rows) => Received::Rows(self.taken(rows)),
            Err(RecvTimeoutError::Timeout) => Received::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }

    /// What is in the queue now. What comes meanwhile is left for the next call, so that this one ends.
    pub(crate) fn queued(&self) -> impl Iterator<Item = Vec<CallStatus>> + '_ {
        self.messages.try_iter().take(self.messages.len()).map(|rows| self.taken(rows))
    }

    /// Whether nothing is there and nothing will come any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_disconnected() && self.messages.is_empty()
    }

    fn taken(&self, rows: Vec<CallStatus>) -> Vec<CallStatus> {
        self.rows.fetch_sub(rows.len(), Ordering::Relaxed);
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::{CallStatusKey, HostAddr, ModuleId};

    use super::*;

    fn rows(count: u16) -> Vec<CallStatus> {
        let row = |port| CallStatus {
            key: CallStatusKey {
                module: ModuleId::new(1, 1),
                host: HostAddr::v4(Ipv4Addr::LOCALHOST, port),
                caller: Ipv4Addr::LOCALHOST,
            },
            succ: 1,
            err: 0,
            ts: 1,
            overload: false,
        };
        (1..=count).map(row).collect()
    }

    #[test]
    fn the_bound_counts_rows_and_is_given_back() {
        let (sender, receiver) = bounded(10);
        assert_eq!(sender.offer(rows(11)), Err(Refused::Full));
        assert_eq!(sender.offer(rows(6)), Ok(()));
        assert_eq!(sender.offer(rows(5)), Err(Refused::Full));
        assert_eq!(sender.offer(rows(4)), Ok(()));
        assert_eq!(sender.queued_rows(), 10);
        assert_eq!(sender.offer(rows(1)), Err(Refused::Full));

        assert_eq!(receiver.recv_until(None), Received::Rows(rows(6)));
        assert_eq!(receiver.queued().collect::<Vec<_>>(), [rows(4)]);
        assert_eq!(sender.queued_rows(), 0);
        assert_eq!(receiver.recv_until(Some(Instant::now())), Received::TimedOut);
    }

    #[test]
    fn nothing_is_not_queued() {
        let (sender, receiver) = bounded(10);
        assert_eq!(sender.offer(rows(0)), Ok(()));
        assert_eq!(receiver.queued().count(), 0);
    }

    #[test]
    fn what_was_queued_comes_before_the_end() {
        let (sender, receiver) = bounded(10);
        sender.offer(rows(2)).expect("room");
        drop(sender);
        assert!(!receiver.is_closed());
        assert_eq!(receiver.recv_until(None), Received::Rows(rows(2)));
        assert!(receiver.is_closed());
        assert_eq!(receiver.recv_until(None), Received::Closed);
    }

    #[test]
    fn without_a_writer_nothing_is_taken() {
        let (sender, receiver) = bounded(10);
        drop(receiver);
        assert_eq!(sender.offer(rows(2)), Err(Refused::Closed));
        assert_eq!(sender.queued_rows(), 0);
    }
}
