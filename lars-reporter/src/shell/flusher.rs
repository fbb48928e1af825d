//! [`Flusher`]: the thread that writes a writer's batches. It may hang in the database for as long as the store lets
//! it, while the writer goes on coalescing what comes in.

use std::{io, thread, time::Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use lars_proto::CallStatus;
use lars_store::StoreError;

use crate::core::coalescer::Batch;

/// A writer's end of it. At most one batch is out.
#[derive(Debug)]
pub(crate) struct Flusher {
    batches: Sender<Batch>,
    flushed: Receiver<FlushResult>,
    busy: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct FlushResult {
    pub(crate) batch: Batch,
    pub(crate) result: Result<(), StoreError>,
}

/// Where the thread writes: all rows of a batch, or none.
pub(crate) trait StatusTable: Send + 'static {
    /// Makes ready, before there is a first batch.
    fn open(&mut self);
    fn write(&mut self, rows: &[CallStatus]) -> Result<(), StoreError>;
    /// When [`Self::maintain`] is to be called; `None` for never.
    fn maintenance_due(&self) -> Option<Instant>;
    /// Does a small piece of what is to be done beside writing.
    fn maintain(&mut self, now: Instant);
}

impl Flusher {
    /// The thread ends when this is dropped and its last batch is done.
    pub(crate) fn spawn(name: String, table: impl StatusTable) -> io::Result<Self> {
        let (batches, to_flush) = flume::bounded::<Batch>(1);
        let (done, flushed) = flume::bounded(1);
        thread::Builder::new().name(name).spawn(move || run(table, &to_flush, &done))?;
        Ok(Self { batches, flushed, busy: false })
    }

    /// Whether a batch is out.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands a batch out, if none is.
    pub(crate) fn begin(&mut self, batch: Batch) {
        debug_assert!(!self.busy, "one batch at a time");
        self.batches.send(batch).expect("the flusher is there while its writer is");
        self.busy = true;
    }

    /// Waits for the end of the batch that is out, until `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Option<FlushResult> {
        match self.flushed.recv_deadline(deadline) {
            Ok(flushed) => {
                self.busy = false;
                Some(flushed)
            }
            Err(RecvTimeoutError::Timeout) => None,
            // So has the writer then, which is noticed.
            Err(RecvTimeoutError::Disconnected) => panic!("the flusher has panicked"),
        }
    }
}

fn run(mut table: impl StatusTable, batches: &Receiver<Batch>, done: &Sender<FlushResult>) {
    table.open();
    loop {
        let received = match table.maintenance_due() {
            Some(due) => batches.recv_deadline(due),
            None => batches.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(batch) => {
                let result = table.write(batch.rows());
                if done.send(FlushResult { batch, result }).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        if table.maintenance_due().is_some_and(|due| due <= now) {
            table.maintain(now);
        }
    }
}
