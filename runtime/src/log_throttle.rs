//! Log lines about what may come in floods.

use std::time::{Duration, Instant};

/// Lets one line through per interval and counts the others.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use lars_runtime::LogThrottle;
/// let mut refusals = LogThrottle::each(Duration::from_secs(5));
/// if let Some(suppressed) = refusals.due(Instant::now()) {
///     tracing::warn!(suppressed, "too many connections, closing new ones");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct LogThrottle {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// One line per `interval`.
    #[must_use]
    pub fn each(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// If a line is due at `now`: how many were held back since the last one.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_tells_of_the_others() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throttle = LogThrottle::each(Duration::from_millis(100));
        let due: Vec<_> = [0, 10, 99, 100, 101, 300].map(|ms| throttle.due(at(ms))).into();
        assert_eq!(due, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
