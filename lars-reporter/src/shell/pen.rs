//! [`Pen`]: the thread that writes a writer's batches. It may hang in the database for as long as the store lets
//! it, while the writer goes on coalescing what comes in.

use std::{io, thread, time::Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use lars_store::StoreError;

use crate::core::{coalescer::Batch, row::StatusRow};

/// A writer's end of it. At most one batch is out.
#[derive(Debug)]
pub(crate) struct Pen {
    batches: Sender<Batch>,
    written: Receiver<Written>,
    busy: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) batch: Batch,
    pub(crate) result: Result<(), StoreError>,
}

/// What the thread does with rows: writes all of them, or none.
pub(crate) trait Write: Send + 'static {
    /// Makes ready, before there is a first batch.
    fn open(&mut self);
    fn write(&mut self, rows: &[StatusRow]) -> Result<(), StoreError>;
}

impl Pen {
    /// The thread ends when this is dropped and its last batch is done.
    pub(crate) fn spawn(name: String, mut write: impl Write) -> io::Result<Self> {
        let (batches, to_write) = flume::bounded::<Batch>(1);
        let (done, written) = flume::bounded(1);
        thread::Builder::new().name(name).spawn(move || {
            write.open();
            for batch in to_write {
                let result = write.write(batch.rows());
                if done.send(Written { batch, result }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { batches, written, busy: false })
    }

    /// Whether a batch is out.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands a batch out, if none is.
    pub(crate) fn begin(&mut self, batch: Batch) {
        debug_assert!(!self.busy, "one batch at a time");
        self.batches.send(batch).expect("the pen is there while its writer is");
        self.busy = true;
    }

    /// Waits for the end of the batch that is out, until `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Option<Written> {
        match self.written.recv_deadline(deadline) {
            Ok(written) => {
                self.busy = false;
                Some(written)
            }
            Err(RecvTimeoutError::Timeout) => None,
            // So has the writer then, which is noticed.
            Err(RecvTimeoutError::Disconnected) => panic!("the pen has panicked"),
        }
    }
}
