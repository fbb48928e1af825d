//! The limits of this process: raised to what it may have, and what is left of them.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limits on open files and on locked memory to the hard ones. The usual soft limit on open files,
/// 1,024, is for programs that use `select`.
pub(crate) fn raise() {
    let before = soft(Resource::RLIMIT_NOFILE);
    let descriptors = raise_one(Resource::RLIMIT_NOFILE);
    if descriptors > before {
        tracing::info!(before, now = descriptors, "limit on open files raised");
    }
    raise_one(Resource::RLIMIT_MEMLOCK);
}

/// How many descriptors this process may open beside those that it has.
pub(crate) fn descriptors_left() -> usize {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    usize::try_from(soft(Resource::RLIMIT_NOFILE)).unwrap_or(usize::MAX).saturating_sub(open)
}

/// How many descriptors this process may have.
pub(crate) fn descriptors_max() -> u64 {
    soft(Resource::RLIMIT_NOFILE)
}

/// Bytes that this user may have locked.
pub(crate) fn locked_bytes_max() -> u64 {
    soft(Resource::RLIMIT_MEMLOCK)
}

fn soft(resource: Resource) -> u64 {
    getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft)
}

/// What the limit is then.
fn raise_one(resource: Resource) -> u64 {
    let Ok((soft, hard)) = getrlimit(resource) else { return u64::MAX };
    if soft < hard && setrlimit(resource, hard, hard).is_ok() { hard } else { soft }
}
