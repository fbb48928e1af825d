//! When a module's call counts go to the reporter, and in what portions.
//!
//! Nothing is queued per call: a module is merely noted as changed, and what is sent is its hosts' status at
//! the moment of sending. So while the reporter is away memory does not grow, and when it is back it gets the
//! newest state. A module is sent at most once per interval, one interval after its first change since, plus
//! at once when one of its hosts changed state.
//!
//! Only hosts whose counts or state are not what was sent last are in a message. (The original sends all
//! hosts of the module for every single call.) So nothing is told of a host before its first call, and
//! nothing more of a host that left the route.

use std::{collections::VecDeque, time::Duration};

use lars_proto::{
    ModuleId,
    frame::BODY_LEN_MAX,
    messages::{HostCallResult, ReportStatusRequest},
};

use super::{balancer::HostStatus, time::Moment};

/// The most hosts in one message; a module with more to tell is sent in portions.
pub const HOSTS_PER_MESSAGE_MAX: usize = 2_000;

/// A `HostCallResult` at its longest (ip 11, port 4, succ 6, err 6, overload 2 bytes) with tag and length.
const RESULT_LEN_MAX: usize = 29 + 2;
/// The other fields of a `ReportStatusRequest` at their longest (three `int32` of 11 bytes, ts 6).
const REPORT_LEN_MAX: usize = 3 * 11 + 6;
const _: () = assert!(REPORT_LEN_MAX + HOSTS_PER_MESSAGE_MAX * RESULT_LEN_MAX <= BODY_LEN_MAX);

/// The message that says how these hosts of `module` fare, at most [`HOSTS_PER_MESSAGE_MAX`] of them. Who says so is
/// added where the connection is, and when, as it leaves.
pub(super) fn status_report(module: ModuleId, hosts: &[HostStatus]) -> ReportStatusRequest {
    debug_assert!(hosts.len() <= HOSTS_PER_MESSAGE_MAX);
    let results = hosts.iter().map(|status| {
        let host = status.host.to_wire();
        let (succ, err, overload) = (status.succ, status.err, status.overloaded);
        HostCallResult { ip: host.ip, port: host.port, succ, err, overload }
    });
    let ModuleId { modid, cmdid } = module;
    ReportStatusRequest { modid, cmdid, results: results.collect(), ..Default::default() }
}

/// Which queues of a [`Schedule`] hold a module; lives beside the module's hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queued {
    urgent: bool,
    waiting: bool,
}

impl Queued {
    pub(super) const fn is_queued(self) -> bool {
        self.urgent || self.waiting
    }
}

/// A module that is due, and by which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) module: ModuleId,
    urgent: bool,
}

/// The modules that have something to tell, in the order in which they are due. Each queue holds a module at most
/// once, so both are bounded by the number of modules.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    urgent: VecDeque<ModuleId>,
    /// With the time when they are due. The interval is the same for all, so first in is first out.
    waiting: VecDeque<(Moment, ModuleId)>,
}

impl Schedule {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, urgent: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Counts changed: the module is due one interval from now, or when it is due anyway.
    pub(super) fn changed(&mut self, module: ModuleId, queued: &mut Queued, now: Moment) {
        if !queued.waiting {
            queued.waiting = true;
            self.waiting.push_back((now + self.interval, module));
        }
    }

    /// A host changed state: the module is due now.
    pub(super) fn urgent(&mut self, module: ModuleId, queued: &mut Queued) {
        if !queued.urgent {
            queued.urgent = true;
            self.urgent.push_back(module);
        }
    }

    /// The next module that is due. It stays queued until [`Schedule::done`].
    pub(super) fn next_due(&self, now: Moment) -> Option<Due> {
        if let Some(&module) = self.urgent.front() {
            return Some(Due { module, urgent: true });
        }
        let &(at, module) = self.waiting.front()?;
        now.is_due(at, self.interval).then_some(Due { module, urgent: false })
    }

    /// Takes out what [`Schedule::next_due`] gave last.
    pub(super) fn done(&mut self, due: Due, queued: Option<&mut Queued>) {
        let taken = if due.urgent {
            self.urgent.pop_front()
        } else {
            self.waiting.pop_front().map(|(_, module)| module)
        };
        debug_assert_eq!(taken, Some(due.module));
        match queued {
            Some(queued) if due.urgent => queued.urgent = false,
            Some(queued) => queued.waiting = false,
            None => {}
        }
    }

    /// Everything is due now, whatever the interval: before a stop nothing is kept back.
    pub(super) fn flush_now(&mut self) {
        for (at, _) in &mut self.waiting {
            *at = Moment::ORIGIN;
        }
    }

    /// When the next module is due.
    pub(super) fn deadline(&self) -> Option<Moment> {
        if !self.urgent.is_empty() {
            return Some(Moment::ORIGIN);
        }
        self.waiting.front().map(|&(at, _)| at)
    }

    /// Whether a module is queued as it says itself; only for `debug_assert`s.
    pub(super) fn agrees_with(&self, module: ModuleId, queued: Queued) -> bool {
        let urgent = self.urgent.iter().filter(|&&id| id == module).count();
        let waiting = self.waiting.iter().filter(|&&(_, id)| id == module).count();
        urgent == usize::from(queued.urgent) && waiting == usize::from(queued.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const A: ModuleId = ModuleId::new(1, 1);
    const B: ModuleId = ModuleId::new(2, 2);

    fn take(schedule: &mut Schedule, queued: &mut Queued, now: Moment) -> Option<ModuleId> {
        let due = schedule.next_due(now)?;
        schedule.done(due, Some(queued));
        Some(due.module)
    }

    #[test]
    fn one_message_per_interval_however_often_it_changes() {
        let (mut schedule, mut queued) = (Schedule::new(SECOND), Queued::default());
        let mut taken = 0;
        for ms in 0..10_000 {
            let now = Moment::since_origin(Duration::from_millis(ms));
            schedule.changed(A, &mut queued, now);
            taken += usize::from(take(&mut schedule, &mut queued, now).is_some());
        }
        // Each time a second after the first change since the last one, a millisecond later.
        assert_eq!(taken, 9);
    }

    #[test]
    fn urgent_modules_go_first_and_at_once() {
        let (mut schedule, mut a, mut b) = (Schedule::new(SECOND), Queued::default(), Queued::default());
        schedule.changed(A, &mut a, Moment::ORIGIN);
        assert_eq!(schedule.deadline(), Some(Moment::ORIGIN + SECOND));
        schedule.urgent(B, &mut b);
        schedule.urgent(B, &mut b);
        assert_eq!(schedule.deadline(), Some(Moment::ORIGIN));
        assert_eq!(take(&mut schedule, &mut b, Moment::ORIGIN), Some(B));
        assert_eq!(take(&mut schedule, &mut a, Moment::ORIGIN), None);
        assert_eq!(take(&mut schedule, &mut a, Moment::ORIGIN + SECOND), Some(A));
        assert!(!a.is_queued() && !b.is_queued());
        assert_eq!(schedule.deadline(), None);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_silence_a_module() {
        let (mut schedule, mut queued) = (Schedule::new(SECOND), Queued::default());
        schedule.changed(A, &mut queued, Moment::ORIGIN + 1_000 * SECOND);
        assert_eq!(take(&mut schedule, &mut queued, Moment::ORIGIN), Some(A));
    }

    #[test]
    fn before_a_stop_nothing_is_kept_back() {
        let (mut schedule, mut queued) = (Schedule::new(SECOND), Queued::default());
        schedule.changed(A, &mut queued, Moment::ORIGIN);
        schedule.flush_now();
        assert_eq!(take(&mut schedule, &mut queued, Moment::ORIGIN), Some(A));
    }
}
