//! [`Run`]: one measurement from its first to its last operation; the clock of the load generator, and what it
//! counts. [`Measurement`] is what comes out.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;

use super::{
    cpu::CpuTimes,
    measurement::{Counts, Latency, Measurement},
    values::{micros, seconds, seconds_or_none},
};
use crate::ring::Wait;

/// So often the clock is looked at if nothing else happens, and what is lost is given up.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(50);

/// When a request counts as lost if the plan does not say.
const TIMEOUT: Duration = Duration::from_secs(1);

/// More replies than this are not waited for at once.
const REPLIES_MAX: u64 = 64;

/// How a run goes. It is a closed loop: an operation begins as soon as there is room for it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct Plan {
    /// How long to measure
    #[arg(long, global = true, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// How long to run before that
    #[arg(long, global = true, value_name = "SECONDS", default_value = "0.3", value_parser = seconds_or_none)]
    pub warmup: Duration,
    /// When a request counts as lost [default: 1; pushes: 15]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Wait so long for half of what is in flight before going on with a single reply. Saves the load's time, and adds
    /// to the latency that it sees
    #[arg(long, global = true, value_name = "MICROSECONDS", default_value = "0", value_parser = micros)]
    pub gather: Duration,
    /// The server's process: say how much processor time it takes
    #[arg(long, global = true, value_name = "PID")]
    pub server_pid: Option<u32>,
}

impl Plan {
    /// When a request counts as lost.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

/// A running measurement. Times are nanoseconds since it started.
pub(super) struct Run {
    started: Instant,
    window: Range<u64>,
    timeout: u64,
    server_pid: Option<u32>,
    gather: Duration,
    cpu_at_start: Option<CpuTimes>,
    cpu_at_end: Option<CpuTimes>,
    latencies: Histogram<u64>,
    /// Operations that ended within the window.
    completed: u64,
    next_expiry: u64,
    /// When the clock was last read.
    pub(super) now: u64,
    /// Of the whole run.
    pub(super) counts: Counts,
}

impl Run {
    /// Starts the clock.
    pub(super) fn start(plan: &Plan) -> Self {
        let (warmup, measured) = (nanos(plan.warmup), nanos(plan.seconds));
        let mut run = Self {
            started: Instant::now(),
            window: warmup..warmup + measured,
            timeout: nanos(plan.timeout()),
            server_pid: plan.server_pid,
            gather: plan.gather,
            cpu_at_start: None,
            cpu_at_end: None,
            latencies: Latency::histogram(),
            completed: 0,
            next_expiry: 0,
            now: 0,
            counts: Counts::default(),
        };
        run.tick();
        run
    }

    /// Reads the clock, once a turn of the loop.
    pub(super) fn tick(&mut self) {
        self.now = nanos(self.started.elapsed());
        if self.cpu_at_start.is_none() && self.now >= self.window.start {
            self.cpu_at_start = Some(CpuTimes::read(self.server_pid));
        }
        if self.cpu_at_end.is_none() && self.now >= self.window.end {
            self.cpu_at_end = Some(CpuTimes::read(self.server_pid));
        }
    }

    /// Whether `count` operations may begin now; if so, they count as begun.
    pub(super) fn begin(&mut self, count: u64) -> bool {
        let begins = self.now < self.window.end;
        self.counts.requests += if begins { count } else { 0 };
        begins
    }

    /// `count` operations that began at `since` have ended now.
    pub(super) fn finish(&mut self, since: u64, count: u64) {
        self.counts.replies += count;
        if self.window.contains(&self.now) {
            self.completed += count;
        }
        // One that began in the window and ended behind it counts here: it is one of the slow ones.
        if self.window.contains(&since) {
            self.latencies.saturating_record_n((self.now - since).max(1), count);
        }
    }

    /// Whether the window has passed, and what is in flight is either answered or lost.
    pub(super) fn is_over(&self, in_flight: impl FnOnce() -> u64) -> bool {
        self.now >= self.window.end && (self.now >= self.window.end + self.timeout || in_flight() == 0)
    }

    /// Whether it is time to give up what is lost, and to begin what takes its place; so it is at first.
    pub(super) fn expires(&mut self) -> bool {
        let expires = self.now >= self.next_expiry;
        if expires {
            self.next_expiry = self.now + nanos(WAIT_MAX);
        }
        expires
    }

    /// What was sent before this is lost, if it is not answered yet.
    pub(super) fn lost_before(&self) -> u64 {
        self.now.saturating_sub(self.timeout)
    }

    /// How long to wait if so many replies, or pieces of a stream that hold some, can come at once.
    pub(super) fn wait(&self, replies_max: u64) -> Wait {
        let replies = if self.gather.is_zero() { 1 } else { (replies_max / 2).clamp(1, REPLIES_MAX) };
        Wait { events: replies as usize, gather: self.gather, max: WAIT_MAX }
    }

    /// Nothing more will happen: the window ends now, unless it has ended already.
    pub(super) fn end_now(&mut self) {
        self.window.end = self.window.end.min(nanos(self.started.elapsed()));
        self.tick();
    }

    /// Ends the measurement; `in_flight` operations are not waited for any longer.
    pub(super) fn end(mut self, in_flight: u64) -> Measurement {
        self.counts.lost += in_flight;
        let seconds = Duration::from_nanos(self.window.end - self.window.start).as_secs_f64();
        let cpu = self.cpu_at_end.unwrap_or_default().since(self.cpu_at_start.unwrap_or_default());
        Measurement {
            seconds,
            completed: self.completed,
            per_second: self.completed as f64 / seconds,
            latency: Latency::of(&self.latencies),
            counts: self.counts,
            cpu_share: cpu.load.as_secs_f64() / seconds,
            server_us: cpu.server.map(|time| time.as_secs_f64() * 1e6 / self.completed.max(1) as f64),
            ..Measurement::default()
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Run {
        /// 100 ns of warm-up, then 1,000; 500 until something is lost. It is `now`.
        pub(in crate::load) fn at(now: u64) -> Self {
            let [warmup, seconds, timeout] = [100, 1_000, 500].map(Duration::from_nanos);
            let plan =
                Plan { warmup, seconds, timeout: Some(timeout), gather: Duration::ZERO, server_pid: None };
            Self { now, ..Self::start(&plan) }
        }
    }

    #[test]
    fn what_began_in_the_window_has_a_latency_and_what_ended_in_it_counts() {
        let mut run = Run::at(0);
        for (since, now, count) in [(50, 90, 1), (50, 150, 2), (200, 300, 4), (1_000, 1_200, 8)] {
            run.now = now;
            run.finish(since, count);
        }
        assert_eq!((run.latencies.len(), run.latencies.max()), (12, 200));
        let measurement = run.end(3);
        let counts = measurement.counts;
        assert_eq!((measurement.completed, counts.replies, counts.lost), (6, 15, 3));
    }

    #[test]
    fn a_run_ends_when_everything_is_answered_or_lost() {
        let check =
            |now, in_flight, is_over| assert_eq!(Run::at(now).is_over(|| in_flight), is_over, "{now}");
        check(1_099, 0, false);
        check(1_100, 0, true);
        check(1_599, 1, false);
        check(1_600, 1, true);
        assert_eq!([Run::at(1_099).begin(1), Run::at(1_100).begin(1)], [true, false]);
    }
}
