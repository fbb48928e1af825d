//! The queue between those who log and standard error, which may be a pipe that nobody reads.
//!
//! Shards and the signal thread must never wait for it. So lines go through a bounded queue to a thread of their own; what
//! finds no room is dropped and counted, and the count is logged as soon as lines flow again.
//! (tracing-appender does as much, but at the end it prints to standard output when its queue is full, and waits
//! for ever where that is the same pipe.)

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written, at most. A start logs some ten, a busy shard some ten a second.
const LINES_MAX: usize = 8_192;
/// How long the end of a process waits for the last lines.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// The queue of this process, once it logs.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

enum Item {
    Line(Vec<u8>),
    /// Tells when everything before it has been written.
    Flush(SyncSender<()>),
}

/// The end of the queue that log lines are put in. Never blocks.
#[derive(Debug)]
pub(crate) struct LogQueue {
    items: SyncSender<Item>,
    dropped: AtomicU64,
}

impl LogQueue {
    /// The queue of this process, which writes to `sink` on a thread of its own. `None` if there is one already.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn install(sink: impl Write + Send + 'static) -> io::Result<Option<&'static Self>> {
        if QUEUE.get().is_some() {
            return Ok(None);
        }
        let (items, queued) = mpsc::sync_channel(LINES_MAX);
        thread::Builder::new().name("log".into()).spawn(move || write_all(&queued, sink))?;
        // Should two threads come here at once, the second's writer ends with its queue.
        Ok(QUEUE.set(Self { items, dropped: AtomicU64::new(0) }).ok().and_then(|()| QUEUE.get()))
    }

    fn put(&self, line: &[u8]) {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was logged is written, for [`FLUSH_TIME_MAX`] at most.
    fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIME_MAX;
        let (written, flushed) = mpsc::sync_channel(1);
        let mut item = Item::Flush(written);
        while let Err(TrySendError::Full(refused)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = refused;
            thread::sleep(FLUSH_POLL);
        }
        // In vain where nobody reads: the process ends all the same.
        let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_all(queued: &Receiver<Item>, mut sink: impl Write) {
    let mut told = 0;
    for item in queued {
        match item {
            // There is nobody to tell that standard error is closed.
            Item::Line(line) => drop(sink.write_all(&line)),
            // Whoever waited may have given up.
            Item::Flush(written) => drop(written.try_send(())),
        }
        let dropped = dropped_log_lines();
        if dropped > told {
            let lines = dropped - told;
            tracing::warn!(lines, "log lines were dropped: standard error was not read fast enough");
            told = dropped;
        }
    }
}

/// Log lines that were dropped since the start, because nobody read standard error.
#[must_use]
pub fn dropped_log_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped.load(Relaxed))
}

/// Sees to it that the last log lines are written: dropping it waits for them, a second at most.
#[derive(Debug)]
#[must_use = "dropping it waits for the log lines before it"]
pub struct LogGuard(pub(crate) ());

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(queue) = QUEUE.get() {
            queue.flush();
        }
    }
}

/// One log line on its way.
#[derive(Debug)]
pub(crate) struct Line(&'static LogQueue);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static LogQueue {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self)
    }
}
