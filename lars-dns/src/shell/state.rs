//! The routes on disk: read before the start, written while they change.

use std::{
    io,
    path::{self, Path},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use lars_service::{StateFile, StatePace, StateSource, StateWriter};
use lars_store::StoreUrl;

use crate::core::{
    saved::{SAVED_FORMAT, SavedRoutes},
    tracker::Tracker,
};

/// Within the folder.
const FILE: &str = "lars-dns.state";

/// Names the database. An account and its password may change, and it is still the same.
pub(super) fn store_name(url: &StoreUrl) -> String {
    match url {
        StoreUrl::Sqlite(file) => {
            let absolute = path::absolute(file);
            format!("sqlite:{}", absolute.as_ref().unwrap_or(file).display())
        }
        StoreUrl::Mysql(url) => format!("mysql:{}:{}/{}", url.host, url.port, url.database),
    }
}

/// What is to be written; the newest is all that counts.
#[derive(Clone, Default)]
pub(super) struct Newest(Arc<Mutex<Option<SavedRoutes>>>);

impl Newest {
    /// Hands on what `tracker` has, if that is not what was handed on last.
    pub(super) fn offer(&self, last: &mut Option<SavedRoutes>, tracker: &Tracker, store: &str) {
        let to_save = tracker.to_save(store);
        let is_known = last.as_ref().is_some_and(|last| {
            (last.position, last.spent_acceptance_id) == (to_save.position, to_save.spent_acceptance_id)
                && last.snapshot.is_same(&to_save.snapshot)
        });
        if !is_known {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(to_save.clone());
            *last = Some(to_save);
        }
    }
}

/// What the writer's thread asks.
struct Source {
    newest: Newest,
    /// For when it could not be written.
    collected: Option<SavedRoutes>,
}

impl StateSource for Source {
    fn has_news(&mut self) -> bool {
        self.newest.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        let news = self.newest.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.collected = news.or(self.collected.take());
        self.collected.as_ref().map(SavedRoutes::encode)
    }
}

/// Begins to write what is offered.
pub(super) fn start_writer(dir: &Path, newest: Newest) -> io::Result<StateWriter> {
    let file = StateFile::new(dir, FILE, SAVED_FORMAT);
    StateWriter::start(file, StatePace::default(), Source { newest, collected: None })
}

/// The routes of the database of this name that were written last. What cannot be used is logged.
pub(super) fn read(dir: &Path, store: &str) -> Option<SavedRoutes> {
    let (file, now) = (StateFile::new(dir, FILE, SAVED_FORMAT), SystemTime::now());
    let state = match file.read(now) {
        Ok(state) => state?,
        Err(error) => {
            tracing::warn!("{error}; starting without routes from before");
            return None;
        }
    };
    let saved = match SavedRoutes::decode(&state.body) {
        Ok(saved) => saved,
        Err(problem) => {
            let error = file.reject(problem.to_string());
            tracing::warn!("{error}; starting without routes from before");
            return None;
        }
    };
    if saved.store != store {
        tracing::warn!(of = saved.store, "routes from before the start are of another store and not used");
        return None;
    }
    let (age, hosts) = (state.age(now), saved.snapshot.host_count());
    tracing::info!(?age, hosts, "there are routes from before the start");
    (hosts > 0).then_some(saved)
}
