//! [`Moment`]: the clock reading that callers pass in; `Pause`: the wait before something is tried again.

use std::{ops::Add, time::Duration};

/// After so long what was refused for want of room is offered again.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A point on a clock that is meant to be monotonic: nanoseconds since an origin that the caller chose once.
///
/// A clock may still step backwards (virtual clocks in tests do, suspended machines have). Nothing built on
/// this type panics then, and nothing waits longer than the timeout it was configured with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The caller's origin.
    pub const ORIGIN: Self = Self(0);

    /// So long after the origin.
    #[must_use]
    pub fn since_origin(elapsed: Duration) -> Self {
        Self(nanos(elapsed))
    }

    /// How long after the origin this is.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The earlier moment `ago` before this one, or the origin.
    #[must_use]
    pub fn saturating_sub(self, ago: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(ago)))
    }

    /// Whether `deadline` has come, which was set at most `wait_max` ahead of its time. One that lies
    /// further ahead was set before the clock stepped back: it counts as come, lest it never does.
    #[must_use]
    pub fn is_due(self, deadline: Self, wait_max: Duration) -> bool {
        deadline <= self || deadline.0 - self.0 > nanos(wait_max)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// Saturates; the end of the scale is 584 years off.
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(nanos(later)))
    }
}

/// The wait of something that was refused for want of room, before it is offered again. It ends early where somebody
/// tells that there is room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause(Option<Moment>);

impl Pause {
    pub(super) fn begin(&mut self, now: Moment) {
        self.0 = Some(now + RETRY_INTERVAL);
    }

    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    pub(super) fn is_over(&mut self, now: Moment) -> bool {
        self.0 = self.0.filter(|&at| !now.is_due(at, RETRY_INTERVAL));
        self.0.is_none()
    }

    /// When it is over; long ago if there is none.
    pub(super) fn deadline(self) -> Moment {
        self.0.unwrap_or_default()
    }
}

/// 64-bit arithmetic only: this is on the path of every lookup.
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn arithmetic_saturates() {
        let late = Moment::since_origin(Duration::MAX);
        assert_eq!(late + SECOND, late);
        assert_eq!(Moment::ORIGIN.saturating_sub(SECOND), Moment::ORIGIN);
        assert_eq!((Moment::ORIGIN + SECOND).saturating_sub(SECOND), Moment::ORIGIN);
    }

    #[test]
    fn a_deadline_comes_once_it_is_reached() {
        let deadline = Moment::ORIGIN + 3 * SECOND;
        assert!(!(Moment::ORIGIN + 2 * SECOND).is_due(deadline, 2 * SECOND));
        assert!((Moment::ORIGIN + 3 * SECOND).is_due(deadline, 2 * SECOND));
        assert!((Moment::ORIGIN + 4 * SECOND).is_due(deadline, 2 * SECOND));
    }

    #[test]
    fn a_deadline_that_a_step_back_put_out_of_reach_has_come() {
        let deadline = Moment::ORIGIN + 100 * SECOND;
        assert!(Moment::ORIGIN.is_due(deadline, 2 * SECOND));
    }
}
