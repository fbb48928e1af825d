//! Containing panics: one on an executor's thread would end the whole shard.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `f`. `None` if it panicked, which is logged.
///
/// The state that `f` changes may be half changed then. That is the service's own risk; ending the process
/// would only make it larger.
pub(crate) fn contain<R>(what: &str, shard: usize, f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f))
        .inspect_err(|panic| tracing::error!(shard, what, panic = text(&**panic), "panicked"))
        .ok()
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text")
}
