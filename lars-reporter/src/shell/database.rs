//! [`Database`]: a flusher's connection to SQL, which may be away at any time, also at the start.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lars_proto::CallStatus;
use lars_store::{ExpiryCursor, OpenMode, OutageLog, Store, StoreError, StoreUrl};

use super::{flusher::StatusTable, stats::ReporterCounters};

/// How soon a database that could not be opened is tried again while there is nothing to write.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Between two steps of one sweep through the table.
const EXPIRY_STEP_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two sweeps; the tenth of the age that rows may have, where that is shorter.
const EXPIRY_SWEEP_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The database as one flusher has it.
pub(crate) struct Database {
    url: StoreUrl,
    /// `None` until it could be opened once; a connection lost later is made again by the store.
    store: Option<Box<dyn Store>>,
    /// What all flushers say together.
    health: Arc<Mutex<Health>>,
    /// Whether the last call failed.
    failing: bool,
    /// After it could not be opened.
    reopen_at: Option<Instant>,
    expiry: Option<Expiry>,
    counters: Arc<ReporterCounters>,
}

/// Deleting old rows.
struct Expiry {
    max_age: Duration,
    due: Instant,
    cursor: ExpiryCursor,
}

/// How the flushers fare with the one database that they all write to.
#[derive(Debug, Default)]
pub(crate) struct Health {
    flushers_failing: usize,
    outage: OutageLog,
    start: StartState,
}

/// Whether the database could be used at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StartState {
    /// It has not answered yet.
    #[default]
    Waiting,
    /// At least one flusher could use it; whatever happens from then on is retried.
    Opened,
    /// It cannot be used as it is configured.
    Failed(StoreError),
}

impl Health {
    pub(crate) fn start_state(&self) -> StartState {
        self.start.clone()
    }
}

pub(crate) fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    /// With `status_max_age`, rows that are older are deleted.
    pub(crate) fn new(
        url: StoreUrl,
        health: Arc<Mutex<Health>>,
        status_max_age: Option<Duration>,
        counters: Arc<ReporterCounters>,
    ) -> Self {
        let expiry = status_max_age.map(|max_age| Expiry {
            max_age,
            due: Instant::now(),
            cursor: ExpiryCursor::default(),
        });
        Self { url, store: None, health, failing: false, reopen_at: None, expiry, counters }
    }

    /// The open store. It counts as open when it could be written to.
    fn opened(&mut self) -> Result<&mut dyn Store, StoreError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => open_to_write(&self.url)?,
        };
        Ok(&mut **self.store.insert(store))
    }

    fn note(&mut self, result: &Result<(), StoreError>) {
        let mut health = lock(&self.health);
        match result {
            Err(error) if !error.may_be_a_row() => {
                health.flushers_failing += usize::from(!self.failing);
                if health.start == StartState::Waiting && error.is_fatal() {
                    health.start = StartState::Failed(error.clone());
                }
                if let Some(unsaid) = health.outage.failed(error.to_string(), Instant::now()) {
                    say_failure(&self.url, error, unsaid);
                }
                self.failing = true;
            }
            // That a row is refused is an answer.
            Ok(()) | Err(_) => {
                health.flushers_failing -= usize::from(self.failing);
                health.start = StartState::Opened;
                self.failing = false;
                if health.flushers_failing == 0 && health.outage.over() {
                    tracing::info!(store = %self.url, "call status is written again");
                }
            }
        }
    }

    /// Some rows less, at most; an error ends the sweep until the next one.
    fn expire(&mut self, expiry: &mut Expiry, now: Instant) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest_ts = since_1970.saturating_sub(expiry.max_age).as_secs();
        let cursor = expiry.cursor;
        let step = self.opened().and_then(|store| store.expire_step(cursor, oldest_ts));
        let next = match step {
            Ok(step) => {
                self.counters.rows_expired.add(step.deleted);
                step.next
            }
            Err(error) => {
                tracing::debug!(%error, "old rows could not be deleted");
                None
            }
        };
        let pause = (expiry.max_age / 10).clamp(EXPIRY_STEP_PAUSE, EXPIRY_SWEEP_PAUSE_MAX);
        expiry.due = now + if next.is_some() { EXPIRY_STEP_PAUSE } else { pause };
        expiry.cursor = next.unwrap_or_default();
    }
}

impl StatusTable for Database {
    /// Opens the database ahead of the first row, so that what is wrong with it is known from the start. If
    /// this fails, it is tried again, by the next write at the latest.
    fn open(&mut self) {
        let opened = self.opened().map(drop);
        self.reopen_at = opened.is_err().then(|| Instant::now() + REOPEN_PAUSE);
        self.note(&opened);
    }

    fn write(&mut self, rows: &[CallStatus]) -> Result<(), StoreError> {
        let written = self.opened().and_then(|store| store.upsert(rows));
        self.note(&written);
        written
    }

    fn maintenance_due(&self) -> Option<Instant> {
        if self.store.is_none() { self.reopen_at } else { self.expiry.as_ref().map(|expiry| expiry.due) }
    }

    fn maintain(&mut self, now: Instant) {
        if self.store.is_none() {
            self.open();
        } else if let Some(mut expiry) = self.expiry.take() {
            self.expire(&mut expiry, now);
            self.expiry = Some(expiry);
        }
    }
}

/// A refusal to open has nothing to do with a row, whatever it is.
fn open_to_write(url: &StoreUrl) -> Result<Box<dyn Store>, StoreError> {
    let opened = lars_store::open(url, OpenMode::Create).and_then(|mut store| {
        store.check_upsert()?;
        Ok(store)
    });
    opened.map_err(|error| match error {
        StoreError::Refused { store, problem } | StoreError::RowRefused { store, problem } => {
            StoreError::Away { store, problem }
        }
        error @ (StoreError::Away { .. }
        | StoreError::Busy { .. }
        | StoreError::Missing { .. }
        | StoreError::Unusable { .. }
        | StoreError::ReadOnly { .. }
        | _) => error,
    })
}

fn say_failure(store: &StoreUrl, error: &StoreError, unsaid: u64) {
    if error.is_fatal() {
        tracing::error!(%store, %error, failures_not_logged = unsaid, "the database refuses call status; it is kept and retried");
    } else {
        tracing::warn!(%store, %error, failures_not_logged = unsaid, "cannot write call status; it is kept and retried");
    }
}
