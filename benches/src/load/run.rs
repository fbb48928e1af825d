//! [`Run`]: one measurement from its first to its last operation; the clock of the load generator, and what it
//! counts. [`Measurement`] is what comes out.

use std::{
    mem,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    cpu,
    measurement::{Counts, Latency, Measurement},
    pace::{Pace, Schedule},
    transport::{IoKind, Patience},
};

/// Latencies are kept to three digits up to here; longer ones count as so long.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// So often, in nanoseconds, the clock is looked at if nothing else happens, and what is lost is given up.
const WAIT_MAX: u64 = 50_000_000;

/// More replies than this are not waited for at once.
const REPLIES_MAX: u64 = 64;

/// How long a run is, and how it goes about.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Before anything is measured.
    pub warmup: Duration,
    /// What is measured.
    pub measured: Duration,
    /// Closed or open loop.
    pub pace: Pace,
    /// A request without a reply for so long is lost.
    pub timeout: Duration,
    /// The process that answers, to see how much processor time it takes.
    pub server_pid: Option<u32>,
    /// How bytes come and go.
    pub io: IoKind,
    /// How long to wait for half of what is in flight before a single reply is worth a turn. That saves the load
    /// generator time, and adds up to as much to what it sees of the latency.
    pub gather: Duration,
}

/// A running measurement. Times are nanoseconds since it started.
pub(super) struct Run<'a> {
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
    /// Operations due before the end of the window that never began.
    overdue: u64,
    next_expiry: u64,
    /// Every socket is to be looked at for room.
    begin_all: bool,
    progress: &'a AtomicU64,
    schedule: Schedule,
    /// Of the whole run.
    pub(super) counts: Counts,
}

impl<'a> Run<'a> {
    /// Starts the clock. `progress` is kept at the number of operations that have ended.
    pub(super) fn start(plan: &Plan, progress: &'a AtomicU64) -> Self {
        let (warmup, measured) = (nanos(plan.warmup), nanos(plan.measured));
        let latencies = Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3);
        Self {
            started: Instant::now(),
            window: warmup..warmup + measured,
            timeout: nanos(plan.timeout),
            server_pid: plan.server_pid,
            gather: plan.gather,
            cpu_at_start: None,
            cpu_at_end: None,
            latencies: latencies.expect("the bounds are valid"),
            completed: 0,
            overdue: 0,
            next_expiry: WAIT_MAX,
            begin_all: true,
            progress,
            schedule: Schedule::new(plan.pace),
            counts: Counts::default(),
        }
    }

    /// Reads the clock, once a turn of the loop.
    pub(super) fn now(&mut self) -> u64 {
        let now = nanos(self.started.elapsed());
        if self.cpu_at_start.is_none() && now >= self.window.start {
            self.cpu_at_start = Some(CpuTimes::read(self.server_pid));
        }
        if self.cpu_at_end.is_none() && now >= self.window.end {
            self.cpu_at_end = Some(CpuTimes::read(self.server_pid));
            self.overdue = self.schedule.overdue(self.window.end);
        }
        self.progress.store(self.counts.replies, Ordering::Relaxed);
        now
    }

    /// From when the latency of an operation counts that begins now, if one is to begin now.
    pub(super) fn begin(&mut self, now: u64) -> Option<u64> {
        if now >= self.window.end { None } else { self.schedule.begin(now) }
    }

    /// The same for `count` operations, which begin together when the first is due.
    pub(super) fn begin_many(&mut self, now: u64, count: u64) -> Option<u64> {
        let since = self.begin(now)?;
        self.schedule.skip(count - 1);
        Some(since)
    }

    /// `count` operations whose latency counts from `since` have ended at `now`.
    pub(super) fn finish(&mut self, since: u64, now: u64, count: u64) {
        self.counts.replies += count;
        if self.window.contains(&now) {
            self.completed += count;
        }
        // One that began in the window and ended behind it counts here: it is one of the slow ones.
        if self.window.contains(&since) {
            self.latencies.saturating_record_n((now - since).max(1), count);
        }
    }

    /// Whether the window has passed, and what is in flight is either answered or lost.
    pub(super) fn is_over(&self, now: u64, in_flight: impl FnOnce() -> u64) -> bool {
        now >= self.window.end && (now >= self.window.end + self.timeout || in_flight() == 0)
    }

    /// Whether operations are to begin now that do not follow from a reply: the first of a closed loop, those
    /// that take the place of lost ones, and all of an open loop.
    pub(super) fn begins_by_itself(&mut self, now: u64) -> bool {
        self.schedule.next_due().is_some_and(|due| due <= now) || mem::take(&mut self.begin_all)
    }

    /// Whether it is time to give up what is lost.
    pub(super) fn expires(&mut self, now: u64) -> bool {
        let expires = now >= self.next_expiry;
        if expires {
            self.next_expiry = now + WAIT_MAX;
            self.begin_all = true;
        }
        expires
    }

    /// What was sent before this is lost, if it is not answered yet.
    pub(super) fn lost_before(&self, now: u64) -> u64 {
        now.saturating_sub(self.timeout)
    }

    /// How long to wait if so many replies, or pieces of a stream that hold some, can come at once.
    pub(super) fn patience(&self, now: u64, replies_max: u64) -> Patience {
        let due = self.schedule.next_due().filter(|_| now < self.window.end);
        let max = Duration::from_nanos(due.map_or(WAIT_MAX, |due| due.saturating_sub(now).min(WAIT_MAX)));
        let replies = if self.gather.is_zero() { 1 } else { (replies_max / 2).clamp(1, REPLIES_MAX) };
        Patience { replies: replies as usize, gather: self.gather.min(max), max }
    }

    /// Nothing more will happen: the window ends now, unless it has ended already.
    pub(super) fn end_now(&mut self) {
        self.window.end = self.window.end.min(nanos(self.started.elapsed()));
        self.now();
    }

    /// Ends the measurement; `in_flight` operations are not waited for any longer.
    pub(super) fn end(mut self, in_flight: u64) -> Measurement {
        self.counts.lost += in_flight;
        let seconds = Duration::from_nanos(self.window.end - self.window.start).as_secs_f64();
        let (start, end) = (self.cpu_at_start.unwrap_or_default(), self.cpu_at_end.unwrap_or_default());
        let server_time = end.server.zip(start.server).map(|(end, start)| end.saturating_sub(start));
        Measurement {
            seconds,
            completed: self.completed,
            per_second: self.completed as f64 / seconds,
            latency: Latency::of(&self.latencies),
            counts: self.counts,
            overdue: self.overdue,
            cpu_share: end.load.saturating_sub(start.load).as_secs_f64() / seconds,
            server_us: server_time.map(|time| time.as_secs_f64() * 1e6 / self.completed.max(1) as f64),
            ..Measurement::default()
        }
    }
}

/// Processor time taken so far.
#[derive(Clone, Copy, Debug, Default)]
struct CpuTimes {
    load: Duration,
    server: Option<Duration>,
}

impl CpuTimes {
    fn read(server_pid: Option<u32>) -> Self {
        Self { load: cpu::thread_time(), server: server_pid.and_then(cpu::process_time) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        warmup: Duration::from_nanos(100),
        measured: Duration::from_nanos(1_000),
        pace: Pace::Closed,
        timeout: Duration::from_nanos(500),
        server_pid: None,
        io: IoKind::Epoll,
        gather: Duration::ZERO,
    };

    #[test]
    fn what_began_in_the_window_has_a_latency_and_what_ended_in_it_counts() {
        let progress = AtomicU64::new(0);
        let mut run = Run::start(&PLAN, &progress);
        for (since, now, count) in [(50, 90, 1), (50, 150, 2), (200, 300, 4), (1_000, 1_200, 8)] {
            run.finish(since, now, count);
        }
        assert_eq!(run.counts.replies, 15);
        assert_eq!(run.completed, 6);
        assert_eq!(run.latencies.len(), 12);
        assert_eq!(run.latencies.max(), 200);
        let measurement = run.end(3);
        assert_eq!((measurement.completed, measurement.counts.lost), (6, 3));
    }

    #[test]
    fn a_run_ends_when_everything_is_answered_or_lost() {
        let progress = AtomicU64::new(0);
        let mut run = Run::start(&PLAN, &progress);
        assert!(!run.is_over(1_099, || 0));
        assert!(run.is_over(1_100, || 0));
        assert!(!run.is_over(1_599, || 1));
        assert!(run.is_over(1_600, || 1));
        assert_eq!((run.begin(1_099), run.begin(1_100)), (Some(1_099), None));
    }
}
