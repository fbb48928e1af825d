//! A shard's clock: which ticks are due, and when to look for connections that have been idle or stuck for too long.

use std::time::{Duration, Instant};

/// Time between two looks at all connections, unless timeouts are so short that they need closer ones.
const SWEEP_PERIOD_MAX: Duration = Duration::from_millis(500);

/// A timeout is noticed at most this part of itself late.
const SWEEPS_PER_TIMEOUT: u32 = 4;

struct Periodic<T> {
    period: Duration,
    due: Instant,
    run: T,
}

/// What is due when, on one shard; `T` is what is run at a tick.
pub(crate) struct Clock<T> {
    ticks: Vec<Periodic<T>>,
    sweep_period: Duration,
    sweep_due: Instant,
}

impl<T: Copy> Clock<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self { ticks: Vec::new(), sweep_period: SWEEP_PERIOD_MAX, sweep_due: now }
    }

    pub(crate) fn add_tick(&mut self, period: Duration, run: T, now: Instant) {
        self.ticks.push(Periodic { period, due: now + period, run });
    }

    /// Connections may have this timeout from now on.
    pub(crate) fn watch_timeout(&mut self, timeout: Duration) {
        self.sweep_period = self.sweep_period.min(timeout / SWEEPS_PER_TIMEOUT);
    }

    /// The ticks that are due. One that was missed several times is due once.
    pub(super) fn due_ticks(&mut self, now: Instant) -> Vec<T> {
        let mut due = Vec::new();
        for tick in self.ticks.iter_mut().filter(|tick| tick.due <= now) {
            due.push(tick.run);
            tick.due = (tick.due + tick.period).max(now);
        }
        due
    }

    pub(super) fn is_sweep_due(&mut self, now: Instant) -> bool {
        let due = self.sweep_due <= now;
        if due {
            self.sweep_due = now + self.sweep_period;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_due_each_period_and_once_after_a_stall() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock::new(start);
        clock.add_tick(Duration::from_millis(100), "tick", start);
        let due = |clock: &mut Clock<&'static str>, ms| clock.due_ticks(at(ms)).len();
        assert_eq!(due(&mut clock, 99), 0);
        assert_eq!(due(&mut clock, 105), 1);
        assert_eq!(due(&mut clock, 199), 0);
        assert_eq!(due(&mut clock, 200), 1, "being late does not shift the next");
        assert_eq!(due(&mut clock, 950), 1);
        assert_eq!(due(&mut clock, 951), 1, "the one that is due now");
        assert_eq!(due(&mut clock, 952), 0);
    }

    #[test]
    fn short_timeouts_are_looked_for_more_often() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock::<&str>::new(start);
        assert!(clock.is_sweep_due(start));
        assert!(!clock.is_sweep_due(at(499)));
        assert!(clock.is_sweep_due(at(500)));
        clock.watch_timeout(Duration::from_millis(100));
        assert!(clock.is_sweep_due(at(1000)));
        assert!(clock.is_sweep_due(at(1025)));
    }
}
