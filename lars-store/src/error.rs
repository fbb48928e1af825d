//! [`StoreError`]: why an operation on the database failed.

use lars_proto::{HostAddr, ModuleId};

use crate::HOSTS_PER_MODULE_MAX;

/// Why an operation on the database failed. Nothing of a failed operation is in the database, unless the
/// connection was lost while a commit was under way: then it is there whole or not at all. Edits and
/// upserts may simply be made again, because making one twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The server cannot be reached, or the connection was lost. The next call connects again.
    #[error("{store} is away: {problem}")]
    Away {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the driver said.
        problem: String,
    },
    /// Others hold what this call needs: deadlocks and waits for locks, after several tries.
    #[error("{store} is busy: {problem}")]
    Busy {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the database said.
        problem: String,
    },
    /// The database refuses: a wrong password, a missing right, a full disk, a broken file.
    #[error("{store}: {problem}")]
    Refused {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the database said.
        problem: String,
    },
    /// A column does not take a value: it is signed in this database, or a condition or trigger forbids it.
    /// Other rows may be taken.
    #[error("{store} does not take a row: {problem}")]
    RowRefused {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the database said.
        problem: String,
    },
    /// An edit would leave a module with more than [`HOSTS_PER_MODULE_MAX`] hosts.
    #[error("module {module} would have {count} hosts, more than {HOSTS_PER_MODULE_MAX}")]
    TooManyHosts {
        /// The module.
        module: ModuleId,
        /// How many hosts it would have.
        count: usize,
    },
    /// An edit would add a host that cannot be called.
    #[error("module {module}: {host} is not a host: its port is not in 1..=65535")]
    NotAHost {
        /// The module.
        module: ModuleId,
        /// The address.
        host: HostAddr,
    },
}

impl StoreError {
    /// Whether the same call may succeed later with nobody doing anything: the server is away, or busy.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Busy { .. } => true,
            Self::Refused { .. }
            | Self::RowRefused { .. }
            | Self::TooManyHosts { .. }
            | Self::NotAHost { .. } => false,
        }
    }
}

/// How the work on a connection fails. `E` is the error of the driver.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// What the driver says.
    Sql(E),
    /// Another editor was faster; the transaction may be tried again.
    Overtaken,
    /// What is asked for breaks a rule of ours; the same again would too.
    NotAllowed(StoreError),
}

impl<E> Failure<E> {
    /// The error for the caller. `classified` is told the name of the store.
    pub(crate) fn into_store_error(self, store: &str, classified: fn(&str, &E) -> StoreError) -> StoreError {
        match self {
            Self::Sql(error) => classified(store, &error),
            Self::Overtaken => {
                StoreError::Busy { store: store.to_owned(), problem: "another editor was faster".to_owned() }
            }
            Self::NotAllowed(error) => error,
        }
    }
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Sql(error)
    }
}
