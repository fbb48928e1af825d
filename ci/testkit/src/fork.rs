//! Forking, as programs do that embed a library.

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

/// Whether `check` holds in a child that is forked now. The child has the calling thread only, and ends when `check`
/// returns or panics; nothing else of the test runs in it.
///
/// # Panics
/// If there can be no child.
pub fn holds_in_a_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `check` on the one thread that it has and then ends without unwinding into the harness.
    // What it allocates is safe to allocate: glibc makes its allocator usable in the child of a threaded process.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let holds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_or(false);
            std::process::exit(if holds { 0 } else { 1 })
        }
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None).expect("the child ends"), WaitStatus::Exited(_, 0))
        }
    }
}
