//! [`Sink`]: a writer's way into the database, which may be away at any time, also at the start.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use lars_store::{CallStatus, CallStatusKey, OpenMode, Store, StoreError, StoreUrl};

use super::pen::Write;
use crate::core::row::StatusRow;

/// The database as one writer has it.
pub(crate) struct Sink {
    url: StoreUrl,
    /// `None` until it could be opened once; a connection lost later is made again by the store.
    store: Option<Box<dyn Store>>,
    outage: Arc<Outage>,
    failing: bool,
}

/// Whether the database is away, so that it is said once by all writers together.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    writers_failing: AtomicUsize,
}

impl Sink {
    pub(crate) fn new(url: StoreUrl, outage: Arc<Outage>) -> Self {
        Self { url, store: None, outage, failing: false }
    }

    fn opened(&mut self) -> Result<&mut dyn Store, StoreError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => lars_store::open(&self.url, OpenMode::Create)?,
        };
        Ok(&mut **self.store.insert(store))
    }

    /// Says when the trouble begins and when it is over.
    fn note(&mut self, result: &Result<(), StoreError>) {
        if matches!(result, Err(StoreError::RowRefused { .. })) {
            // Which is an answer, so it is not away.
            return self.note(&Ok(()));
        }
        match (result, self.failing) {
            (Err(error), false) => self.outage.begin(&self.url, error),
            (Ok(()), true) => self.outage.end(&self.url),
            (Err(_), true) | (Ok(()), false) => {}
        }
        self.failing = result.is_err();
    }
}

impl Write for Sink {
    /// Opens the database ahead of the first row, so that what is wrong with it is known from the start. If
    /// this fails, the next write tries again.
    fn open(&mut self) {
        let opened = self.opened().map(drop);
        self.note(&opened);
    }

    fn write(&mut self, rows: &[StatusRow]) -> Result<(), StoreError> {
        let rows: Vec<CallStatus> = rows.iter().map(to_call_status).collect();
        let written = self.opened().and_then(|store| store.upsert(&rows));
        self.note(&written);
        written
    }
}

impl Outage {
    fn begin(&self, url: &StoreUrl, error: &StoreError) {
        if self.writers_failing.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        if error.is_retryable() {
            tracing::warn!(store = %url, %error, "cannot write call status; it is kept and retried");
        } else {
            tracing::error!(store = %url, %error, "the database refuses call status; it is kept and retried");
        }
    }

    fn end(&self, url: &StoreUrl) {
        if self.writers_failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!(store = %url, "call status is written again");
        }
    }
}

fn to_call_status(row: &StatusRow) -> CallStatus {
    let (key, status) = (row.key, row.status);
    CallStatus {
        key: CallStatusKey { module: key.module, host: key.host, caller: key.caller },
        succ: status.succ,
        err: status.err,
        ts: status.ts,
        overload: status.overload,
    }
}
