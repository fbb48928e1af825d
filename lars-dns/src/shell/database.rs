//! Carries out the tracker's requests on a store.

use std::{collections::BTreeSet, io, sync::Arc, thread, time::SystemTime};

use lars_proto::ModuleId;
use lars_store::{OpenMode, Store, StoreError, StoreUrl};

use super::stats::DnsCounters;
use crate::core::{
    snapshot::{Snapshot, SnapshotBuilder},
    tracker::{CHANGES_READ_MAX, LoadedRoutes, Reply, Request},
};

/// The store, opened when it is first needed. Once open it reconnects by itself. Nothing is ever created: where
/// there is no table, the last routes shall stay in force, and not those of an empty table.
pub(super) struct Database {
    url: StoreUrl,
    store: Opened,
    /// For loading, so that changes are seen meanwhile. Not here while a load goes on.
    loading_store: Opened,
    load: Option<flume::Receiver<Loaded>>,
}

/// Ids of rows that name no host, in a log line.
const SKIPPED_IDS_SHOWN: usize = 10;

/// How often a load reads on in `RouteChange`, a million rows in all; modules that are named behind that count as not
/// named.
const NAME_READS_MAX: usize = 256;

type Opened = Option<Box<dyn Store>>;

/// What comes back from the thread of a load.
struct Loaded {
    store: Opened,
    result: Result<LoadedRoutes, StoreError>,
}

/// How a load ended.
pub(super) enum LoadEnd {
    Done(Result<LoadedRoutes, StoreError>),
    Panicked,
}

impl Database {
    pub(super) fn new(url: StoreUrl) -> Self {
        Self { url, store: None, loading_store: None, load: None }
    }

    pub(super) fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Does what `request` says. `current` tells how much memory a load will need.
    pub(super) fn perform(
        &mut self,
        request: &Request,
        current: &Arc<Snapshot>,
        stats: &Arc<DnsCounters>,
    ) -> Result<Reply, StoreError> {
        if let Request::BeginLoad { names_after_id } = request {
            return self.begin_load(*names_after_id, Arc::clone(current), Arc::clone(stats));
        }
        perform(opened(&mut self.store, &self.url)?, request)
    }

    /// How the load ended, if it has.
    pub(super) fn load_end(&mut self) -> Option<LoadEnd> {
        match self.load.as_ref()?.try_recv() {
            Err(flume::TryRecvError::Empty) => None,
            // Closed without a word.
            Err(flume::TryRecvError::Disconnected) => Some(LoadEnd::Panicked),
            Ok(Loaded { store, result }) => {
                (self.loading_store, self.load) = (store, None);
                Some(LoadEnd::Done(result))
            }
        }
    }

    fn begin_load(
        &mut self,
        names_after_id: u64,
        current: Arc<Snapshot>,
        stats: Arc<DnsCounters>,
    ) -> Result<Reply, StoreError> {
        let (sender, load) = flume::bounded(1);
        let (url, mut store) = (self.url.clone(), self.loading_store.take());
        let begun = thread::Builder::new().name("lars-dns-load".into()).spawn(move || {
            let result =
                opened(&mut store, &url).and_then(|store| load_all(store, names_after_id, &current, &stats));
            // Nobody waits for it any more if the service was told to end.
            let _ = sender.send(Loaded { store, result });
        });
        begun.map_err(|error| self.no_thread(&error))?;
        self.load = Some(load);
        Ok(Reply::LoadBegun)
    }

    /// Threads run out and come back as connections do.
    fn no_thread(&self, error: &io::Error) -> StoreError {
        StoreError::Busy { store: self.url.to_string(), problem: format!("no thread to load with: {error}") }
    }
}

fn opened<'a>(store: &'a mut Opened, url: &StoreUrl) -> Result<&'a mut dyn Store, StoreError> {
    let open = match store.take() {
        Some(open) => open,
        None => lars_store::open(url, OpenMode::Existing)?,
    };
    Ok(store.insert(open).as_mut())
}

fn perform(store: &mut dyn Store, request: &Request) -> Result<Reply, StoreError> {
    match request {
        Request::ReadPosition => Ok(Reply::Position(store.position()?)),
        Request::ReadChanges { after_id } => Ok(Reply::Changes(store.changes(*after_id, CHANGES_READ_MAX)?)),
        Request::ReadHosts(modules) => Ok(Reply::Hosts(store.hosts_of_each(modules)?)),
        Request::Prune(age) => store.prune_changes(*age, SystemTime::now()).map(|_| Reply::Pruned),
        Request::BeginLoad { .. } => unreachable!("needs no open store"),
    }
}

fn load_all(
    store: &mut dyn Store,
    names_after_id: u64,
    current: &Snapshot,
    stats: &DnsCounters,
) -> Result<LoadedRoutes, StoreError> {
    let mut builder = SnapshotBuilder::sized_like(current);
    let loaded = store.load_all(&mut |module, host| builder.push(module, host))?;
    let skipped = loaded.report.skipped;
    if stats.rows_skipped.get() != skipped {
        stats.rows_skipped.set(skipped);
        log_skipped(store, skipped)?;
    }
    let named = named(store, names_after_id, current)?;
    Ok(LoadedRoutes {
        snapshot: builder.finish(),
        position: loaded.position,
        named,
        accepted: loaded.accepted,
    })
}

/// The modules of `current` that the rows of `RouteChange` behind this id name. They are read after the routes: what
/// the load has seen of an edit, its rows tell.
fn named(
    store: &mut dyn Store,
    mut after_id: u64,
    current: &Snapshot,
) -> Result<BTreeSet<ModuleId>, StoreError> {
    let mut named = BTreeSet::new();
    // Before there are routes, none can be lost.
    if current.module_count() == 0 {
        return Ok(named);
    }
    for _ in 0..NAME_READS_MAX {
        let changes = store.changes(after_id, CHANGES_READ_MAX)?;
        let modules = changes.iter().map(|change| change.module);
        named.extend(modules.filter(|&module| !current.hosts(module).is_empty()));
        match changes.last() {
            Some(last) if changes.len() == CHANGES_READ_MAX => after_id = last.id,
            _ => break,
        }
    }
    Ok(named)
}

fn log_skipped(store: &mut dyn Store, rows: u64) -> Result<(), StoreError> {
    if rows == 0 {
        tracing::info!("every row of RouteData names a host again");
        return Ok(());
    }
    let first_ids = store.skipped_row_ids(SKIPPED_IDS_SHOWN)?;
    tracing::warn!(rows, ?first_ids, "rows of RouteData name no host and are not served");
    Ok(())
}
