//! [`Writer`]: the thread between one queue and the [`Flusher`] that writes to the database.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use flume::RecvTimeoutError;
use lars_proto::{CallStatus, CallStatusKey};
use lars_runtime::{Backoff, LogThrottle};
use lars_store::StoreError;

use super::{
    flusher::{FlushResult, Flusher, StatusTable},
    queue::{Received, RowReceiver},
    stats::ReporterCounters,
};
use crate::core::coalescer::{Batch, Coalescer, Limits};

/// How often a writer says which row it dropped. Refusals come with every report.
const REFUSED_SAID_EACH: Duration = Duration::from_secs(1);

/// While a batch is being written, the queue is looked into so often. A message that finds a full queue keeps its
/// agent waiting for no longer than this, however long the write takes.
const QUEUE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Takes rows from its queue, coalesces them, and has written what is due, until the queue is closed.
pub(crate) struct Writer {
    queue: RowReceiver,
    coalescer: Coalescer,
    flusher: Flusher,
    retries: Backoff,
    drain_timeout: Duration,
    counters: Arc<ReporterCounters>,
    /// The cap drops rows, and that has been said. Once nothing is held any more, it may be said again.
    dropping: bool,
    refused: LogThrottle,
}

/// A writer's thread.
#[derive(Debug)]
pub(crate) struct WriterThread {
    /// How many keys could not be written, at the end; closed without that if the writer panicked.
    keys_lost: flume::Receiver<usize>,
    pub(crate) counters: Arc<ReporterCounters>,
}

impl WriterThread {
    /// Waits until the writer has drained, after its queue was closed, but not beyond `give_up_at`: a write
    /// to a database that hangs cannot be interrupted. Returns how many keys are not known to be written.
    pub(crate) fn wait_for_end(self, give_up_at: Instant) -> usize {
        match self.keys_lost.recv_deadline(give_up_at) {
            Ok(keys_lost) => return keys_lost,
            Err(RecvTimeoutError::Timeout) => tracing::warn!("a write is still under way; it is left alone"),
            Err(RecvTimeoutError::Disconnected) => tracing::error!("a writer has panicked"),
        }
        usize::try_from(self.counters.pending_keys.get()).unwrap_or(usize::MAX)
    }
}

impl Writer {
    /// Starts the writer number `index`, with a thread of its own and one that writes.
    pub(crate) fn spawn(
        index: usize,
        queue: RowReceiver,
        table: impl StatusTable,
        limits: Limits,
        drain_timeout: Duration,
        counters: Arc<ReporterCounters>,
    ) -> io::Result<WriterThread> {
        let writer = Self {
            queue,
            coalescer: Coalescer::new(limits),
            flusher: Flusher::spawn(format!("lars-flush-{index}"), table)?,
            retries: Backoff::default(),
            drain_timeout,
            counters: Arc::clone(&counters),
            dropping: false,
            refused: LogThrottle::each(REFUSED_SAID_EACH),
        };
        let (sender, keys_lost) = flume::bounded(1);
        thread::Builder::new().name(format!("lars-writer-{index}")).spawn(move || {
            // Nobody listens any more if it was given up.
            let _ = sender.send(writer.run());
        })?;
        Ok(WriterThread { keys_lost, counters })
    }

    /// Returns how many keys could not be written.
    fn run(mut self) -> usize {
        while self.step() {}
        self.drain();
        self.coalescer.pending_keys()
    }

    /// Whether there may be another one. The queue is emptied all the time, so that agents are not kept
    /// waiting by the database.
    fn step(&mut self) -> bool {
        let open = if self.flusher.is_busy() {
            self.wait_for_flush(Instant::now() + QUEUE_CHECK_INTERVAL);
            !self.queue.is_closed()
        } else {
            self.wait_for_rows()
        };
        self.add_queued();
        self.write_if_due();
        open
    }

    /// Until a batch is due, at most. Whether the queue is open.
    fn wait_for_rows(&mut self) -> bool {
        match self.queue.recv_until(self.coalescer.next_deadline()) {
            Received::Rows(rows) => self.add(rows),
            Received::TimedOut => {}
            Received::Closed => return false,
        }
        true
    }

    fn add(&mut self, rows: Vec<CallStatus>) {
        let now = Instant::now();
        for row in rows {
            self.coalescer.add(row, now);
        }
    }

    fn add_queued(&mut self) {
        let now = Instant::now();
        for row in self.queue.queued().flatten() {
            self.coalescer.add(row, now);
        }
        self.publish();
    }

    fn write_if_due(&mut self) {
        if let Some(batch) = self.coalescer.poll(Instant::now()) {
            self.flusher.begin(batch);
        }
    }

    fn wait_for_flush(&mut self, deadline: Instant) {
        if let Some(flushed) = self.flusher.wait_until(deadline) {
            self.take(flushed);
            self.publish();
        }
    }

    fn take(&mut self, FlushResult { batch, result }: FlushResult) {
        match result {
            Ok(()) => {
                self.counters.flushes.add(1);
                self.counters.rows_written.add(batch.rows().len() as u64);
                self.coalescer.flushed(batch, Instant::now());
            }
            Err(error) if error.may_be_a_row() => self.take_refusal(batch, &error),
            Err(error) => {
                tracing::debug!(%error, rows = batch.rows().len(), "flush failed");
                self.counters.flush_failures.add(1);
                let delay = self.retries.next(self.coalescer.failures_in_a_row(), fastrand::f64());
                self.coalescer.failed(batch, Instant::now(), delay);
            }
        }
    }

    fn take_refusal(&mut self, batch: Batch, error: &StoreError) {
        let now = Instant::now();
        let Some(CallStatus { key: CallStatusKey { module, host, caller }, .. }) =
            self.coalescer.refused(batch, now)
        else {
            return;
        };
        if let Some(suppressed) = self.refused.due(now) {
            tracing::error!(%error, %module, %host, %caller, suppressed, "the table does not take a row; it is dropped");
        }
    }

    /// Writes what is held, for as long as the drain may take. A write that hangs at its end is waited for by
    /// nobody but this thread: see [`WriterThread::wait_for_end`].
    fn drain(&mut self) {
        let give_up_at = Instant::now() + self.drain_timeout;
        self.coalescer.drain();
        loop {
            while self.flusher.is_busy() {
                self.wait_for_flush(Instant::now() + QUEUE_CHECK_INTERVAL);
            }
            let now = Instant::now();
            match self.coalescer.next_deadline() {
                Some(due) if now.max(due) <= give_up_at => {
                    thread::sleep(due.saturating_duration_since(now));
                }
                Some(_) | None => return,
            }
            self.write_if_due();
        }
    }

    fn publish(&mut self) {
        let (pending, dropped) = (self.coalescer.pending_keys(), self.coalescer.dropped_at_cap());
        self.counters.pending_keys.set(pending as u64);
        self.counters.dropped_refused.set(self.coalescer.dropped_refused());
        let dropped_before = self.counters.dropped_at_cap.get();
        self.counters.dropped_at_cap.set(dropped);
        if dropped > dropped_before && !self.dropping {
            tracing::warn!(pending, "too many rows wait for the database; rows of further keys are dropped");
            self.dropping = true;
        } else if pending == 0 {
            self.dropping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::{HostAddr, ModuleId};
    use lars_testkit::eventually;

    use super::*;
    use crate::shell::queue::{self, RowSender};

    const QUEUE_ROWS: usize = 10;
    const KEYS: u16 = 5;

    /// A database that answers when it is told to, and says what it was given.
    struct Slow {
        may_answer: flume::Receiver<()>,
        given: flume::Sender<Vec<CallStatus>>,
    }

    impl StatusTable for Slow {
        fn open(&mut self) {}

        fn maintenance_due(&self) -> Option<Instant> {
            None
        }

        fn maintain(&mut self, _: Instant) {}

        fn write(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
            self.given.send(rows.to_vec()).expect("the test listens");
            self.may_answer.recv().expect("the test answers");
            Ok(())
        }
    }

    struct Rig {
        queue: RowSender,
        writer: WriterThread,
        answer: flume::Sender<()>,
        given: flume::Receiver<Vec<CallStatus>>,
    }

    fn rig() -> Rig {
        let (queue, receiver) = queue::bounded(QUEUE_ROWS);
        let ((answer, may_answer), (give, given)) = (flume::unbounded(), flume::unbounded());
        let limits = Limits { flush_interval: Duration::ZERO, flush_rows: 100, pending_keys_max: 100 };
        let slow = Slow { may_answer, given: give };
        let writer = Writer::spawn(0, receiver, slow, limits, Duration::from_secs(60), Arc::default())
            .expect("threads");
        Rig { queue, writer, answer, given }
    }

    /// A row for each key.
    fn rows(ts: u64) -> Vec<CallStatus> {
        let row = |port| CallStatus {
            key: CallStatusKey {
                module: ModuleId::new(1, 1),
                host: HostAddr::v4(Ipv4Addr::LOCALHOST, port),
                caller: Ipv4Addr::LOCALHOST,
            },
            succ: 1,
            err: 0,
            ts,
            overload: false,
        };
        (1..=KEYS).map(row).collect()
    }

    #[test]
    fn rows_are_taken_and_coalesced_while_a_write_hangs() {
        let Rig { queue, writer, answer, given } = rig();
        queue.offer(rows(1)).expect("room");
        assert_eq!(given.recv(), Ok(rows(1)));
        // Many times what the queue holds.
        for ts in 2..=50 {
            eventually("there is room", || queue.offer(rows(ts)).is_ok());
        }
        eventually("all of it is held, each key once", || {
            queue.queued_rows() == 0 && writer.counters.pending_keys.get() == u64::from(KEYS)
        });
        answer.send(()).expect("it waits");
        assert_eq!(given.recv(), Ok(rows(50)), "only the newest");
        answer.send(()).expect("it waits");
        drop(queue);
        assert_eq!(writer.wait_for_end(Instant::now() + Duration::from_secs(60)), 0);
    }

    #[test]
    fn what_hangs_when_the_queue_is_closed_is_given_up_by_whoever_waits() {
        let Rig { queue, writer, answer: _hangs, given } = rig();
        queue.offer(rows(1)).expect("room");
        assert_eq!(given.recv(), Ok(rows(1)));
        queue.offer(rows(2)).expect("room");
        drop(queue);
        eventually("what was queued is held", || writer.counters.pending_keys.get() == u64::from(KEYS));
        assert_eq!(writer.wait_for_end(Instant::now()), usize::from(KEYS));
    }
}
