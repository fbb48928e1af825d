//! [`SocketPool`]: what is left open between calls.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// As many callers at once as find an open socket on their next call; those beyond open a new one.
const POOLED_MAX: usize = 32;

/// Sockets to take out, use alone and put back. The lock is held for a push or a pop, never for a call.
pub(crate) struct SocketPool<S>(Mutex<Vec<S>>);

impl<S> SocketPool<S> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The one put back last.
    pub(crate) fn take(&self) -> Option<S> {
        self.lock().pop()
    }

    /// Drops `socket` if [`POOLED_MAX`] are there.
    pub(crate) fn put(&self, socket: S) {
        let mut pooled = self.lock();
        if pooled.len() < POOLED_MAX {
            pooled.push(socket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for SocketPool<S> {
    /// Only how many; what they hold is of no use to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketPool({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_bounded_number() {
        let pool = SocketPool::new();
        assert_eq!(pool.take(), None);
        for n in 0..POOLED_MAX + 5 {
            pool.put(n);
        }
        let kept: Vec<usize> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(kept, (0..POOLED_MAX).rev().collect::<Vec<_>>());
    }
}
