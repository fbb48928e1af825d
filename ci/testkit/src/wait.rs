//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Long enough for the slowest machine: a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `check` is true.
///
/// # Panics
/// Naming `what`, if two minutes have not been enough.
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    eventually_some(what, || check().then_some(()));
}

/// Polls until `find` finds something, and returns it.
///
/// # Panics
/// Naming `what`, if two minutes have not been enough.
#[track_caller]
pub fn eventually_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}
