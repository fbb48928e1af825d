//! [`RouteStore`]: who serves which module.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use lars_proto::{HostAddr, ModuleId};

use crate::StoreError;

/// The most hosts an edit may leave a module with: what fits a frame of the wire, with room to spare.
pub const HOSTS_PER_MODULE_MAX: usize = 4_096;

/// The tables `RouteData`, `RouteVersion` and `RouteChange`.
///
/// Other programs write these tables too, old ones without a transaction and without a `RouteChange` row.
/// So changes and versions tell early what happened; [`RouteStore::load`] tells what is.
pub trait RouteStore {
    /// The version of the routes. It moves with every edit; 0 in a new database, and where there is none that can be
    /// read.
    fn version(&mut self) -> Result<u64, StoreError> {
        Ok(self.position()?.version.unwrap_or(0))
    }

    /// How far the database is.
    fn position(&mut self) -> Result<RoutePosition, StoreError>;

    /// Calls `each` with every host of every module, from one consistent snapshot.
    ///
    /// The order is that of the columns (`modid`, `cmdid`, `serverip`, `serverport`, all unsigned): hosts of
    /// one module come together, each once. At most a table of 16 bytes per host is held meanwhile.
    ///
    /// # Errors
    /// An error may come after `each` was called: what it got is then incomplete.
    fn load(&mut self, each: &mut dyn FnMut(ModuleId, HostAddr)) -> Result<LoadReport, StoreError> {
        Ok(self.load_all(each)?.report)
    }

    /// Like [`RouteStore::load`], and says how far the database was that the rows are from: read on the same
    /// connection, in the same transaction.
    ///
    /// # Errors
    /// As those of [`RouteStore::load`].
    fn load_all(&mut self, each: &mut dyn FnMut(ModuleId, HostAddr)) -> Result<Loaded, StoreError>;

    /// The ids of rows of `RouteData` that name no host, ascending, at most `limit`.
    fn skipped_row_ids(&mut self, limit: usize) -> Result<Vec<u64>, StoreError>;

    /// The hosts of one module, sorted and distinct; empty if it is unknown.
    fn hosts(&mut self, module: ModuleId) -> Result<Vec<HostAddr>, StoreError>;

    /// The hosts of each of these modules, in as few round trips as may be.
    fn hosts_of_each(
        &mut self,
        modules: &[ModuleId],
    ) -> Result<BTreeMap<ModuleId, Vec<HostAddr>>, StoreError> {
        modules.iter().map(|&module| Ok((module, self.hosts(module)?))).collect()
    }

    /// The changes with an id above `after_id`, ascending by id, at most `limit`.
    fn changes(&mut self, after_id: u64, limit: usize) -> Result<Vec<RouteChange>, StoreError>;

    /// The highest id of a change that is still there; 0 if there is none.
    fn newest_change_id(&mut self) -> Result<u64, StoreError> {
        Ok(self.position()?.newest_change_id)
    }

    /// Makes all edits, in their order, or none.
    ///
    /// The rows, one [`RouteChange`] for each module whose hosts are others than before, and a version higher
    /// than any before it are one transaction. Edits that change nothing leave the version as it is.
    ///
    /// # Errors
    /// [`StoreError::TooManyHosts`] and [`StoreError::NotAHost`] if the edits ask for that.
    fn edit(&mut self, edits: &[RouteEdit]) -> Result<EditOutcome, StoreError>;

    /// Records that the routes are meant as they are now, however many are gone: [`Loaded::accepted`] of every load from
    /// here on. The version moves, so that everybody loads them.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the table for it is not there; [`crate::OpenMode::Create`] makes it.
    fn accept(&mut self) -> Result<RouteAcceptance, StoreError>;

    /// Deletes the changes whose version, in unix seconds, is older than `now − age`, and says how many.
    fn prune_changes(&mut self, age: Duration, now: SystemTime) -> Result<u64, StoreError>;
}

/// One change to make to the routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEdit {
    /// The host serves the module. Nothing changes if it does already.
    Add(ModuleId, HostAddr),
    /// The host does not serve the module any more. Nothing changes if it did not.
    Remove(ModuleId, HostAddr),
    /// Nobody serves the module any more.
    RemoveModule(ModuleId),
    /// Exactly these hosts serve the module.
    Replace(ModuleId, Vec<HostAddr>),
}

impl RouteEdit {
    /// The module whose hosts this changes.
    #[must_use]
    pub fn module(&self) -> ModuleId {
        match self {
            Self::Add(module, _)
            | Self::Remove(module, _)
            | Self::RemoveModule(module)
            | Self::Replace(module, _) => *module,
        }
    }
}

/// What an edit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditOutcome {
    /// The version that the routes have since; `None` if nothing changed.
    pub version: Option<u64>,
    /// Hosts that serve a module and did not before.
    pub added: usize,
    /// Hosts that served a module and do not any more.
    pub removed: usize,
    /// Modules whose hosts are others than before.
    pub modules_changed: usize,
}

/// What a load saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Hosts handed on.
    pub rows: u64,
    /// Rows that name no host: an id, address or port out of range.
    pub skipped: u64,
}

/// How far a database is. Several may hold the same routes, one behind the other; what is larger has seen more,
/// as long as only editors of ours write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutePosition {
    /// `RouteVersion.version`; `None` if there is none, or it is no number from 0 up.
    pub version: Option<u64>,
    /// The highest id in `RouteChange`; 0 if there is none.
    pub newest_change_id: u64,
}

/// What came of [`RouteStore::load_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// What was seen.
    pub report: LoadReport,
    /// How far the database was.
    pub position: RoutePosition,
    /// The newest acceptance; none where its table is not there, or may not be read.
    pub accepted: Option<RouteAcceptance>,
}

/// A row of `LarsRouteAccept`: somebody has said that the routes are meant as they were then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAcceptance {
    /// Ascends from acceptance to acceptance.
    pub id: u64,
    /// The version that it made.
    pub version: u64,
    /// How many hosts the table had.
    pub hosts: u64,
}

/// A row of `RouteChange`: the hosts of a module are others since a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Ascends from change to change.
    pub id: u64,
    /// The module.
    pub module: ModuleId,
    /// The version that the change made; for edits of ours at least the unix time in seconds.
    pub version: u64,
}
