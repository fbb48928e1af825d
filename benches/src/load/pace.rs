//! [`Schedule`]: when operations are to begin. Pure; times are nanoseconds since the start of the run.

/// Whether operations wait for replies or for the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// An operation begins as soon as there is room for it: a slow server is asked less often.
    Closed,
    /// Operations are due at even intervals, whatever the server does.
    Open {
        /// Operations per second, above 0.
        rate: f64,
    },
}

/// Says when the next operation is to begin.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// `None`: closed loop.
    interval_ns: Option<f64>,
    begun: u64,
}

impl Schedule {
    /// Nothing has begun.
    pub fn new(pace: Pace) -> Self {
        let interval_ns = match pace {
            Pace::Closed => None,
            Pace::Open { rate } => Some(1e9 / rate),
        };
        Self { interval_ns, begun: 0 }
    }

    /// Takes the next operation if it may begin at `now`, and returns the time from which its latency counts.
    ///
    /// In an open loop that is when it was due: the wait of an operation that could not begin in time, because
    /// the server was slow with those before it, is part of its latency. (Counting from when it began would be
    /// the "coordinated omission".)
    pub fn begin(&mut self, now: u64) -> Option<u64> {
        let due = self.next_due().unwrap_or(now);
        let begins = due <= now;
        self.begun += u64::from(begins);
        begins.then_some(due)
    }

    /// The next `count` operations begin with the one before them.
    pub fn skip(&mut self, count: u64) {
        self.begun += count;
    }

    /// When the next operation is due; `None` in a closed loop.
    pub fn next_due(&self) -> Option<u64> {
        self.interval_ns.map(|interval| (self.begun as f64 * interval) as u64)
    }

    /// Operations that were due before `now` and have not begun.
    pub fn overdue(&self, now: u64) -> u64 {
        let due = self.interval_ns.map_or(0, |interval| (now as f64 / interval) as u64);
        due.saturating_sub(self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_begins_whenever_it_is_asked() {
        let mut schedule = Schedule::new(Pace::Closed);
        assert_eq!(schedule.next_due(), None);
        assert_eq!([schedule.begin(5), schedule.begin(5), schedule.begin(9)], [Some(5), Some(5), Some(9)]);
        assert_eq!(schedule.overdue(1_000_000_000), 0);
    }

    #[test]
    fn an_open_loop_begins_when_it_is_due() {
        let mut schedule = Schedule::new(Pace::Open { rate: 1_000.0 });
        assert_eq!(schedule.begin(0), Some(0));
        assert_eq!(schedule.begin(999_999), None);
        assert_eq!(schedule.next_due(), Some(1_000_000));
        assert_eq!(schedule.begin(1_000_001), Some(1_000_000));
    }

    #[test]
    fn what_a_stall_held_up_counts_from_when_it_was_due() {
        let mut schedule = Schedule::new(Pace::Open { rate: 1_000.0 });
        assert_eq!(schedule.begin(0), Some(0));
        // The server stalls for 5 ms; then all that was due meanwhile begins at once.
        assert_eq!(schedule.overdue(5_000_000), 4);
        let late: Vec<u64> = std::iter::from_fn(|| schedule.begin(5_000_000)).collect();
        assert_eq!(late, [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
        assert_eq!(schedule.overdue(5_000_000), 0);
    }
}
