//! `[state]`: where a service keeps what it wants to know again after its next start.

use std::{env, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Set by systemd for a unit with `StateDirectory=`.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Where a service keeps its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateSection {
    /// The folder; empty: `$STATE_DIRECTORY`, or none if that is not set either.
    pub dir: String,
}

impl StateSection {
    /// The folder, which may not be there yet; `None`: nothing is kept.
    #[must_use]
    pub fn resolve(&self) -> Option<PathBuf> {
        folder(&self.dir, env::var(STATE_DIRECTORY).ok().as_deref())
    }
}

/// systemd separates several folders by colons; the first one is the unit's own.
fn folder(configured: &str, of_unit: Option<&str>) -> Option<PathBuf> {
    let of_unit = || of_unit.and_then(|dirs| dirs.split(':').next());
    let dir = if configured.is_empty() { of_unit()? } else { configured };
    (!dir.is_empty()).then(|| dir.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_wins_over_what_the_unit_has() {
        let check = |configured, of_unit, expect: Option<&str>| {
            assert_eq!(folder(configured, of_unit), expect.map(PathBuf::from));
        };
        check("", None, None);
        check("", Some(""), None);
        check("/a", None, Some("/a"));
        check("", Some("/var/lib/lars-agent"), Some("/var/lib/lars-agent"));
        check("", Some("/var/lib/lars-agent:/var/lib/other"), Some("/var/lib/lars-agent"));
        check("/a", Some("/b"), Some("/a"));
    }
}
