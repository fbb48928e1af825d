//! What can be wrong with a configuration.

use std::{io, path::PathBuf};

/// A key has a value that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key with its section, like `balance.err_rate`.
    pub key: String,
    /// What is wrong, naming the value and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// `key` is wrong because of `problem`.
    #[must_use]
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// A configuration could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, of the wrong type, or has a value that cannot be.
    #[error("{0}")]
    Key(#[from] ConfigError),
}
