//! Telling a process to end: by signal or by call.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
    low_level,
};

/// A one-way switch that threads wait for. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Not triggered yet, and by nothing but [`trigger`](Self::trigger).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Triggered by the first SIGINT or SIGTERM. The second ends the process at once, with status
    /// 128 + its number. SIGHUP, SIGUSR1 and SIGUSR2, which would end a program that knows nothing of them, do nothing.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
        let triggered = shutdown.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let name = low_level::signal_name(signal).unwrap_or("a signal");
                if ![SIGINT, SIGTERM].contains(&signal) {
                    tracing::info!("{name} was ignored");
                    continue;
                }
                if triggered.is_triggered() {
                    low_level::exit(128 + signal);
                }
                triggered.trigger();
                tracing::info!("shutting down, because of {name}");
            }
        })?;
        Ok(shutdown)
    }

    /// Flips the switch; waiting threads go on.
    pub fn trigger(&self) {
        *self.lock() = true;
        self.0.1.notify_all();
    }

    /// Whether it was flipped.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.lock()
    }

    /// Waits until it is flipped.
    pub fn wait(&self) {
        let waited = self.0.1.wait_while(self.lock(), |triggered| !*triggered);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for `timeout` at most; whether it was flipped.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let waited = self.0.1.wait_timeout_while(self.lock(), timeout, |triggered| !*triggered);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_switch() {
        let shutdown = Shutdown::new();
        let waiter = thread::spawn({
            let shutdown = shutdown.clone();
            move || shutdown.wait()
        });
        assert!(!shutdown.is_triggered());
        assert!(!shutdown.wait_timeout(Duration::from_millis(1)));
        shutdown.trigger();
        waiter.join().expect("the waiter returns");
        assert!(shutdown.is_triggered());
        assert!(shutdown.wait_timeout(Duration::from_secs(60)));
    }
}
