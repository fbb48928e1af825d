//! Exponential backoff with jitter, as a pure function.

use std::time::Duration;

/// How long to wait before the next try: a random time up to a bound that doubles with each failure, so that many
/// clients of one dead server do not come back in step; and no less than half the first bound, so that none comes back
/// at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound after the first failure.
    pub base: Duration,
    /// The bound never exceeds this.
    pub max: Duration,
}

impl Backoff {
    /// The wait before try `attempt` (0 is the first retry). `random` is uniform in `0.0..1.0`; what lies
    /// outside is taken for the nearer end.
    #[must_use]
    pub fn next(&self, attempt: u32, random: f64) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let bound = self.base.checked_mul(factor).map_or(self.max, |bound| bound.min(self.max));
        let least = (self.base / 2).min(bound);
        least + (bound - least).mul_f64(if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) })
    }
}

impl Default for Backoff {
    /// 100 ms to 5 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };
        let bounds: Vec<_> = (0..6).map(|attempt| backoff.next(attempt, 1.0).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(u32::MAX, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.next(3, 0.5), Duration::from_millis(425));
    }

    #[test]
    fn nobody_comes_back_at_once() {
        for attempt in [0, 1, 10, u32::MAX] {
            assert_eq!(Backoff::default().next(attempt, 0.0), Duration::from_millis(50));
        }
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_the_maximum(base: u32, max: u32, attempt: u32, random: f64) {
            let backoff = Backoff { base: Duration::from_micros(base.into()), max: Duration::from_micros(max.into()) };
            let wait = backoff.next(attempt, random);
            prop_assert!(wait <= backoff.max && wait >= (backoff.base / 2).min(backoff.max));
        }
    }
}
