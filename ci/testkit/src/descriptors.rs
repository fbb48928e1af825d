//! How many descriptors a test may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For what is not a connection, here and in the tests beside.
const SPARED: usize = 400;

/// `wanted` connections, or as many as this process may have with both their ends in it. It may have all that the
/// system lets it have from now on.
///
/// # Panics
/// If the system does not tell.
#[must_use]
pub fn connections_possible(wanted: usize) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raising to the hard limit is allowed");
    wanted.min(usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(SPARED) / 2)
}
