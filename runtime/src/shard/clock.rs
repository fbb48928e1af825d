//! A shard's clock: at each pulse it runs the ticks that are due, and looks for connections that have been idle or
//! stuck for too long.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{glommio_facts::ticker::Beat, shard::Shard, shard::context::ShardContext};

pub(crate) type Tick<S> = fn(&mut S, &mut ShardContext<S>);

/// Time between two looks at all connections, unless timeouts are so short that they need closer ones.
const SWEEP_PERIOD_MAX: Duration = Duration::from_millis(500);

/// A timeout is noticed at most this part of itself late.
const SWEEPS_PER_TIMEOUT: u32 = 4;

struct Periodic<S> {
    period: Duration,
    due: Instant,
    run: Tick<S>,
}

/// What is due when, on one shard.
pub(crate) struct Clock<S> {
    ticks: Vec<Periodic<S>>,
    sweep_period: Duration,
    sweep_due: Instant,
}

impl<S> Clock<S> {
    pub(crate) fn new(now: Instant) -> Self {
        Self { ticks: Vec::new(), sweep_period: SWEEP_PERIOD_MAX, sweep_due: now }
    }

    pub(crate) fn add_tick(&mut self, period: Duration, run: Tick<S>, now: Instant) {
        self.ticks.push(Periodic { period, due: now + period, run });
    }

    /// Connections may have this timeout from now on.
    pub(crate) fn watch_timeout(&mut self, timeout: Duration) {
        self.sweep_period = self.sweep_period.min(timeout / SWEEPS_PER_TIMEOUT);
    }

    /// The ticks that are due. One that was missed several times is due once.
    fn due_ticks(&mut self, now: Instant) -> Vec<Tick<S>> {
        let mut due = Vec::new();
        for tick in self.ticks.iter_mut().filter(|tick| tick.due <= now) {
            due.push(tick.run);
            tick.due = (tick.due + tick.period).max(now);
        }
        due
    }

    fn is_sweep_due(&mut self, now: Instant) -> bool {
        let due = self.sweep_due <= now;
        if due {
            self.sweep_due = now + self.sweep_period;
        }
        due
    }
}

/// Runs until the shard stops.
pub(crate) async fn run<S: 'static>(shard: Rc<Shard<S>>, beat: Arc<Beat>) {
    while !shard.is_stopping() {
        beat.next().await;
        let now = Instant::now();
        let due = shard.clock.borrow_mut().due_ticks(now);
        for tick in due {
            shard.turn("a tick", tick);
        }
        let sweep = shard.clock.borrow_mut().is_sweep_due(now);
        if sweep {
            for conn in shard.net.borrow_mut().table().iter_mut() {
                conn.check_timeouts(now);
            }
        }
        if let Some(ring) = &shard.ring {
            ring.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_tick(_: &mut (), _: &mut ShardContext<()>) {}

    #[test]
    fn a_tick_is_due_each_period_and_once_after_a_stall() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock::new(start);
        clock.add_tick(Duration::from_millis(100), no_tick, start);
        let due = |clock: &mut Clock<()>, ms| clock.due_ticks(at(ms)).len();
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
        let mut clock = Clock::<()>::new(start);
        assert!(clock.is_sweep_due(start));
        assert!(!clock.is_sweep_due(at(499)));
        assert!(clock.is_sweep_due(at(500)));
        clock.watch_timeout(Duration::from_millis(100));
        assert!(clock.is_sweep_due(at(1000)));
        assert!(clock.is_sweep_due(at(1025)));
    }
}
