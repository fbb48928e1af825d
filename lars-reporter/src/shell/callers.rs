//! [`Callers`]: which connection speaks for which agent's machine.
//!
//! The table has one row per caller, so two agents that name the same address overwrite each other's rows for ever.
//! An agent that connects again is no such case: its older connection is silent from then on.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use lars_runtime::{ConnId, LogThrottle};

/// How often it is said that agents share an address.
const SAID_EACH: Duration = Duration::from_secs(60);

/// What the shards know together. It is looked at once per connection, and then only what it returned.
#[derive(Clone, Debug)]
pub(crate) struct AllCallers(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    /// Connections of each caller, and the number of the newest.
    newest: AHashMap<Ipv4Addr, (usize, Arc<AtomicU64>)>,
    connections: u64,
    shared: LogThrottle,
}

impl AllCallers {
    pub(crate) fn new() -> Self {
        let shared = LogThrottle::each(SAID_EACH);
        Self(Arc::new(Mutex::new(Known { newest: AHashMap::new(), connections: 0, shared })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One shard's connections.
#[derive(Debug)]
pub(crate) struct Callers {
    all: AllCallers,
    open: AHashMap<ConnId, Speaker>,
}

/// What a connection said who it is.
#[derive(Debug)]
struct Speaker {
    caller: Ipv4Addr,
    number: u64,
    newest: Arc<AtomicU64>,
}

impl Callers {
    pub(crate) fn new(all: AllCallers) -> Self {
        Self { all, open: AHashMap::new() }
    }

    /// `conn` speaks for `caller`. Whether an older connection does, while there is a newer one.
    pub(crate) fn spoke(&mut self, conn: ConnId, caller: Ipv4Addr) -> bool {
        let Some(speaker) = self.open.get(&conn).filter(|speaker| speaker.caller == caller) else {
            self.closed(conn);
            self.open.insert(conn, self.all.with(|known| known.newest_of(caller)));
            return false;
        };
        if speaker.newest.load(Relaxed) == speaker.number {
            return false;
        }
        // Until the other one speaks again.
        speaker.newest.store(speaker.number, Relaxed);
        if let Some(suppressed) = self.all.with(|known| known.shared.due(Instant::now())) {
            tracing::warn!(%caller, suppressed, "two agents report as the same caller and overwrite each other");
        }
        true
    }

    pub(crate) fn closed(&mut self, conn: ConnId) {
        if let Some(speaker) = self.open.remove(&conn) {
            self.all.with(|known| known.left(speaker.caller));
        }
    }
}

impl Known {
    fn newest_of(&mut self, caller: Ipv4Addr) -> Speaker {
        self.connections += 1;
        let number = self.connections;
        let (connections, newest) = self.newest.entry(caller).or_default();
        *connections += 1;
        newest.store(number, Relaxed);
        Speaker { caller, number, newest: Arc::clone(newest) }
    }

    fn left(&mut self, caller: Ipv4Addr) {
        if let Some((connections, _)) = self.newest.get_mut(&caller) {
            *connections -= 1;
            if *connections == 0 {
                self.newest.remove(&caller);
            }
        }
    }
}
