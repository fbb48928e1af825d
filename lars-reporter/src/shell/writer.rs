//! [`Writer`]: the thread between one queue and the database.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flume::RecvTimeoutError;
use lars_store::StoreError;

use super::{
    queue::{Received, RowReceiver},
    sink::Sink,
};
use crate::core::{
    coalescer::{Batch, Coalescer, Limits},
    row::{StatusKey, StatusRow},
};

/// Takes rows from its queue, coalesces them, and writes what is due, until the queue is closed.
pub(crate) struct Writer {
    queue: RowReceiver,
    coalescer: Coalescer,
    sink: Sink,
    drain_timeout: Duration,
    counters: Arc<WriterCounters>,
    /// The cap drops rows, and that has been said. Once nothing is held any more, it may be said again.
    dropping: bool,
    /// The table refuses rows, and that has been said. Refusals come with every report, so it is said once.
    refusal_said: bool,
}

/// What a writer has done, and what it holds. It alone writes them; anybody reads.
#[derive(Debug, Default)]
pub(crate) struct WriterCounters {
    /// Keys held now.
    pub(crate) pending_keys: AtomicU64,
    /// Rows dropped because too many keys were held.
    pub(crate) dropped_at_cap: AtomicU64,
    /// Rows dropped because the table does not take them.
    pub(crate) dropped_refused: AtomicU64,
    /// Rows in the table.
    pub(crate) rows_written: AtomicU64,
    /// Transactions that wrote them.
    pub(crate) flushes: AtomicU64,
    /// Transactions that failed.
    pub(crate) flush_failures: AtomicU64,
}

/// A writer's thread.
#[derive(Debug)]
pub(crate) struct WriterThread {
    /// How many keys could not be written, at the end; closed without that if the writer panicked.
    keys_lost: flume::Receiver<usize>,
    pub(crate) counters: Arc<WriterCounters>,
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
        usize::try_from(self.counters.pending_keys.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

impl Writer {
    pub(crate) fn new(queue: RowReceiver, sink: Sink, limits: Limits, drain_timeout: Duration) -> Self {
        let (coalescer, counters) = (Coalescer::new(limits), Arc::default());
        Self { queue, coalescer, sink, drain_timeout, counters, dropping: false, refusal_said: false }
    }

    /// Runs on a thread of its own.
    pub(crate) fn spawn(self, name: String) -> io::Result<WriterThread> {
        let counters = Arc::clone(&self.counters);
        let (sender, keys_lost) = flume::bounded(1);
        thread::Builder::new().name(name).spawn(move || {
            // Nobody listens any more if it was given up.
            let _ = sender.send(self.run());
        })?;
        Ok(WriterThread { keys_lost, counters })
    }

    /// Returns how many keys could not be written.
    fn run(mut self) -> usize {
        self.sink.open();
        while self.turn() {}
        self.drain();
        self.coalescer.pending_keys()
    }

    /// Whether there may be another one. The queue is emptied before each transaction, so it only has to
    /// hold what comes during one.
    fn turn(&mut self) -> bool {
        let open = match self.queue.recv_until(self.coalescer.next_deadline()) {
            Received::Rows(rows) => {
                self.add(rows);
                true
            }
            Received::TimedOut => true,
            Received::Closed => false,
        };
        self.add_queued();
        self.flush_if_due();
        open
    }

    fn add(&mut self, rows: Vec<StatusRow>) {
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

    fn flush_if_due(&mut self) {
        if let Some(batch) = self.coalescer.poll(Instant::now()) {
            self.flush(batch);
            self.publish();
        }
    }

    fn flush(&mut self, batch: Batch) {
        match self.sink.write(batch.rows()) {
            Ok(()) => {
                add(&self.counters.flushes, 1);
                add(&self.counters.rows_written, batch.rows().len());
                self.coalescer.flushed(batch, Instant::now());
            }
            Err(error @ StoreError::RowRefused { .. }) => self.refused(batch, &error),
            Err(error) => {
                tracing::debug!(%error, rows = batch.rows().len(), "flush failed");
                add(&self.counters.flush_failures, 1);
                self.coalescer.failed(batch, Instant::now(), fastrand::u64(..));
            }
        }
    }

    fn refused(&mut self, batch: Batch, error: &StoreError) {
        if let ([row], false) = (batch.rows(), self.refusal_said) {
            let StatusKey { module, host, caller } = row.key;
            tracing::error!(%error, %module, %host, %caller, "dropped; further rows are dropped silently");
            self.refusal_said = true;
        }
        self.coalescer.refused(batch, Instant::now());
    }

    /// Writes what is held, for as long as the drain may take.
    fn drain(&mut self) {
        let give_up_at = Instant::now() + self.drain_timeout;
        self.coalescer.drain();
        while let Some(due) = self.coalescer.next_deadline() {
            let now = Instant::now();
            if now.max(due) > give_up_at {
                return;
            }
            thread::sleep(due.saturating_duration_since(now));
            self.flush_if_due();
        }
    }

    fn publish(&mut self) {
        let (pending, dropped) = (self.coalescer.pending_keys(), self.coalescer.dropped_at_cap());
        self.counters.pending_keys.store(pending as u64, Ordering::Relaxed);
        self.counters.dropped_refused.store(self.coalescer.dropped_refused(), Ordering::Relaxed);
        let dropped_before = self.counters.dropped_at_cap.swap(dropped, Ordering::Relaxed);
        if dropped > dropped_before && !self.dropping {
            tracing::warn!(pending, "too many rows wait for the database; rows of further keys are dropped");
            self.dropping = true;
        } else if pending == 0 {
            self.dropping = false;
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
