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
    /// What is to be read is not there (yet): the file, or a table in it. Whoever may create it does so with
    /// [`crate::OpenMode::Create`].
    #[error("{store} is not there: {problem}")]
    Missing {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What is missing.
        problem: String,
    },
    /// It cannot be used as it is configured: a wrong password, an unknown database, a missing right, a table
    /// without our columns, a file that is no database.
    #[error("{store} cannot be used: {problem}")]
    Unusable {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the database said.
        problem: String,
    },
    /// It takes no writes: a replica, a server that another one took over from, a file that may only be read.
    #[error("{store} is read-only: {problem}")]
    ReadOnly {
        /// The database, as [`crate::StoreUrl`] shows it.
        store: String,
        /// What the database said.
        problem: String,
    },
    /// The database refuses for a reason that this crate does not know. It may be the values of a row.
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
    /// Whether the same call may succeed later with nobody doing anything: the server is away, or busy, or
    /// another one takes over from one that is read-only.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Busy { .. } | Self::ReadOnly { .. })
    }

    /// Whether a service that meets this when it starts should end: what is configured is wrong, and waiting does
    /// not make it right. A server that is away, a file or table that is not there yet and a refusal that nobody
    /// knows are waited for. A service that has worked with the database retries this, too: passwords, rights and
    /// primaries come back.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Unusable { .. } | Self::ReadOnly { .. })
    }

    /// Whether it may be the values of a row, so that other rows are taken.
    #[must_use]
    pub fn may_be_a_row(&self) -> bool {
        matches!(self, Self::RowRefused { .. } | Self::Refused { .. })
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
