//! [`Idle`]: what is left open between calls.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// As many callers at once as find an open socket on their next call; those beyond open a new one.
const IDLE_MAX: usize = 32;

/// Things to take out, use alone and put back. The lock is held for a push or a pop, never for a call.
pub(crate) struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The one put back last.
    pub(crate) fn take(&self) -> Option<T> {
        self.lock().pop()
    }

    /// Drops `thing` if [`IDLE_MAX`] are there.
    pub(crate) fn put(&self, thing: T) {
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push(thing);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Idle<T> {
    /// Only how many; what they hold is of no use to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Idle({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_bounded_number() {
        let idle = Idle::new();
        assert_eq!(idle.take(), None);
        for n in 0..IDLE_MAX + 5 {
            idle.put(n);
        }
        let kept: Vec<usize> = std::iter::from_fn(|| idle.take()).collect();
        assert_eq!(kept, (0..IDLE_MAX).rev().collect::<Vec<_>>());
    }
}
