//! [`StateWriter`]: keeps a [`StateFile`] as its service is, on a thread of its own.
//!
//! The disk may be slow, full or gone: whoever serves never waits for it and never hears of it. The thread looks whether
//! there is news, collects the newest state and writes it; what changes meanwhile is found at the next look.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use lars_runtime::counters;

use crate::state_file::{STATE_AHEAD_MAX, StateError, StateFile};

counters! {
    /// What became of the state on disk.
    pub struct StateStats, atomic StateCounters {
        /// Times the state was written.
        counter writes: u64,
        /// Times it could not be; tried again while that lasts.
        counter write_failures: u64,
        /// Bytes of the state written last, without what the file has around it.
        gauge bytes: u64,
    }
}

/// What a writer asks for the state; on the writer's thread, so it may take its time.
pub trait StateSource: Send + 'static {
    /// Whether anything changed since [`StateSource::collect`] was called last.
    fn has_news(&mut self) -> bool;

    /// The newest state, as the body of a file; `None` if it cannot be had.
    fn collect(&mut self) -> Option<Vec<u8>>;
}

/// How often a writer looks and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePace {
    /// Between two looks whether there is news.
    pub look_interval: Duration,
    /// The least time between two writes.
    pub write_interval: Duration,
}

impl Default for StatePace {
    /// News of a quiet service is on disk after a second; a busy one writes every 5 seconds.
    fn default() -> Self {
        Self { look_interval: Duration::from_secs(1), write_interval: Duration::from_secs(5) }
    }
}

/// A thread that writes a state. Dropping it ends the thread without a last write; see [`StateWriter::stop`].
#[derive(Debug)]
pub struct StateWriter {
    stop: SyncSender<()>,
    stopped: Receiver<()>,
    counters: Arc<StateCounters>,
}

impl StateWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(file: StateFile, pace: StatePace, source: impl StateSource) -> io::Result<Self> {
        let counters = Arc::<StateCounters>::default();
        let mut writing = Writing {
            file,
            pace,
            source,
            counters: Arc::clone(&counters),
            last_try: None,
            written_at: None,
            is_failing: false,
        };
        let (stop, stops) = mpsc::sync_channel(1);
        let (done, stopped) = mpsc::sync_channel(1);
        thread::Builder::new().name("state".into()).spawn(move || {
            writing.run(&stops);
            // Whoever waited may have given up.
            let _ = done.try_send(());
        })?;
        Ok(Self { stop, stopped, counters })
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        self.counters.load()
    }

    /// Has what changed written, if the disk manages within `wait_max`, and ends. To be called while the source still
    /// answers.
    pub fn stop(self, wait_max: Duration) {
        // It has ended already if its source panicked.
        let _ = self.stop.try_send(());
        if let Err(RecvTimeoutError::Timeout) = self.stopped.recv_timeout(wait_max) {
            tracing::warn!("the disk takes too long: the last changes of the state are not written");
        }
    }
}

/// What the thread works on.
struct Writing<S> {
    file: StateFile,
    pace: StatePace,
    source: S,
    counters: Arc<StateCounters>,
    /// When a write was begun last, however it ended.
    last_try: Option<Instant>,
    /// By the system's clock, of the file that is there now.
    written_at: Option<SystemTime>,
    /// The last write failed.
    is_failing: bool,
}

impl<S: StateSource> Writing<S> {
    fn run(&mut self, stop: &Receiver<()>) {
        loop {
            match stop.recv_timeout(self.pace.look_interval) {
                Err(RecvTimeoutError::Timeout) => {
                    let waits = |at: Instant| at.elapsed() < self.pace.write_interval;
                    if !self.last_try.is_some_and(waits) {
                        self.look();
                    }
                }
                Ok(()) => return self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look(&mut self) {
        let now = SystemTime::now();
        // Where the clock was set back the file would be of the future, and not be used.
        let is_ahead = self.written_at.is_some_and(|at| at > now + STATE_AHEAD_MAX);
        if !(self.source.has_news() || self.is_failing || is_ahead) {
            return;
        }
        let Some(body) = self.source.collect() else { return };
        self.last_try = Some(Instant::now());
        match self.file.write(&body, now) {
            Ok(()) => self.succeeded(body.len(), now),
            Err(error) => self.failed(&error),
        }
    }

    fn succeeded(&mut self, bytes: usize, now: SystemTime) {
        self.counters.writes.add(1);
        self.counters.bytes.set(bytes as u64);
        self.written_at = Some(now);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(file = %self.file.path().display(), "the state is written again");
        }
    }

    fn failed(&mut self, error: &StateError) {
        self.counters.write_failures.add(1);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!("{error}; after a restart the state would be an older one; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use super::*;

    /// News that a test makes.
    #[derive(Clone, Default)]
    struct News {
        unread: Arc<Mutex<Option<Vec<u8>>>>,
        newest: Vec<u8>,
        looks: Arc<AtomicUsize>,
    }

    impl News {
        fn tell(&self, text: &str) {
            *self.unread.lock().unwrap() = Some(text.into());
        }
    }

    impl StateSource for News {
        fn has_news(&mut self) -> bool {
            self.looks.fetch_add(1, Relaxed);
            self.unread.lock().unwrap().is_some()
        }

        fn collect(&mut self) -> Option<Vec<u8>> {
            if let Some(newest) = self.unread.lock().unwrap().take() {
                self.newest = newest;
            }
            Some(self.newest.clone())
        }
    }

    const QUICK: StatePace =
        StatePace { look_interval: Duration::from_millis(1), write_interval: Duration::from_millis(2) };
    const NEVER: StatePace =
        StatePace { look_interval: Duration::from_secs(3_600), write_interval: Duration::from_secs(3_600) };
    const LONG: Duration = Duration::from_secs(60);

    #[track_caller]
    fn eventually(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !condition() {
            assert!(Instant::now() < deadline, "it did not happen");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn start(dir: &Path, pace: StatePace) -> (StateFile, News, StateWriter) {
        let (file, news) = (StateFile::new(dir, "state", 1), News::default());
        let writer = StateWriter::start(file.clone(), pace, news.clone()).unwrap();
        (file, news, writer)
    }

    fn body(file: &StateFile) -> Option<Vec<u8>> {
        file.read(SystemTime::now()).unwrap().map(|saved| saved.body)
    }

    #[test]
    fn what_changes_is_written_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (file, news, writer) = start(dir.path(), QUICK);
        for text in ["one", "two"] {
            news.tell(text);
            eventually(|| body(&file).as_deref() == Some(text.as_bytes()));
        }
        eventually(|| writer.stats().writes == 2);
        let looks = news.looks.load(Relaxed);
        eventually(|| news.looks.load(Relaxed) > looks + 3);
        assert_eq!(writer.stats(), StateStats { writes: 2, write_failures: 0, bytes: 3 });
    }

    #[test]
    fn a_clean_stop_writes_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let (file, news, writer) = start(dir.path(), NEVER);
        news.tell("last");
        writer.stop(LONG);
        assert_eq!(body(&file).as_deref(), Some(&b"last"[..]));
        let (file, _, writer) = start(&dir.path().join("other"), NEVER);
        writer.stop(LONG);
        assert_eq!(body(&file), None, "nothing was new");
    }

    #[test]
    fn failures_are_counted_and_end_when_the_disk_is_back() {
        let dir = tempfile::tempdir().unwrap();
        // Nobody, not even root, can write a file where a folder is.
        let obstacle = dir.path().join("state.new");
        fs::create_dir(&obstacle).unwrap();
        let (file, news, writer) = start(dir.path(), QUICK);
        news.tell("it");
        eventually(|| writer.stats().write_failures > 2);
        assert_eq!(writer.stats().writes, 0);
        fs::remove_dir(&obstacle).unwrap();
        eventually(|| writer.stats().writes == 1);
        assert_eq!(body(&file).as_deref(), Some(&b"it"[..]), "although nothing is new");
    }

    #[test]
    fn a_file_that_the_clock_has_put_into_the_future_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path(), "state", 1);
        let mut writing = Writing {
            file: file.clone(),
            pace: NEVER,
            source: News { newest: b"it".into(), ..News::default() },
            counters: Arc::default(),
            last_try: None,
            written_at: Some(SystemTime::now() + 2 * STATE_AHEAD_MAX),
            is_failing: false,
        };
        writing.look();
        assert_eq!(body(&file).as_deref(), Some(&b"it"[..]));
        writing.look();
        assert_eq!(writing.counters.load().writes, 1, "it is of now");
    }
}
