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

use lars_proto::{ModuleId, frame::BODY_LEN_MAX};

use super::{balancer::HostStatus, time::Moment};

/// The most hosts in one message; a module with more to tell is sent in portions.
pub const HOSTS_PER_MESSAGE_MAX: usize = 2_000;

/// A `HostCallResult` at its longest (ip 11, port 4, succ 6, err 6, overload 2 bytes) with tag and length.
const RESULT_LEN_MAX: usize = 29 + 2;
/// The other fields of a `ReportStatusRequest` at their longest (three `int32` of 11 bytes, ts 6).
const REPORT_LEN_MAX: usize = 3 * 11 + 6;
const _: () = assert!(REPORT_LEN_MAX + HOSTS_PER_MESSAGE_MAX * RESULT_LEN_MAX <= BODY_LEN_MAX);

/// What one message to the reporter says; the shell adds who says it and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    pub module: ModuleId,
    /// At most [`HOSTS_PER_MESSAGE_MAX`].
    pub hosts: Vec<HostStatus>,
}

/// Which queues of a [`Schedule`] hold a module; lives beside the module's hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket {
    urgent: bool,
    waiting: bool,
}

impl Ticket {
    pub(super) const fn is_queued(self) -> bool {
        self.urgent || self.waiting
    }
}

/// A module whose turn it is, and by which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) module: ModuleId,
    urgent: bool,
}

/// The modules that have something to tell, in the order of their turns. Each queue holds a module at most
/// once, so both are bounded by the number of modules.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    urgent: VecDeque<ModuleId>,
    /// With the time of their turn. The interval is the same for all, so first in is first out.
    waiting: VecDeque<(Moment, ModuleId)>,
}

impl Schedule {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, urgent: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Counts changed: the module's turn comes one interval from now, or when it comes anyway.
    pub(super) fn changed(&mut self, module: ModuleId, ticket: &mut Ticket, now: Moment) {
        if !ticket.waiting {
            ticket.waiting = true;
            self.waiting.push_back((now + self.interval, module));
        }
    }

    /// A host changed state: the module's turn is now.
    pub(super) fn urgent(&mut self, module: ModuleId, ticket: &mut Ticket) {
        if !ticket.urgent {
            ticket.urgent = true;
            self.urgent.push_back(module);
        }
    }

    /// The next module whose turn has come. It stays queued until [`Schedule::done`].
    pub(super) fn next_turn(&self, now: Moment) -> Option<Turn> {
        if let Some(&module) = self.urgent.front() {
            return Some(Turn { module, urgent: true });
        }
        let &(due, module) = self.waiting.front()?;
        now.is_due(due, self.interval).then_some(Turn { module, urgent: false })
    }

    /// Ends the turn that [`Schedule::next_turn`] gave last.
    pub(super) fn done(&mut self, turn: Turn, ticket: Option<&mut Ticket>) {
        let taken = if turn.urgent {
            self.urgent.pop_front()
        } else {
            self.waiting.pop_front().map(|(_, module)| module)
        };
        debug_assert_eq!(taken, Some(turn.module));
        match ticket {
            Some(ticket) if turn.urgent => ticket.urgent = false,
            Some(ticket) => ticket.waiting = false,
            None => {}
        }
    }

    /// Everybody's turn is now, whatever the interval: before a stop nothing is kept back.
    pub(super) fn hurry(&mut self) {
        for (due, _) in &mut self.waiting {
            *due = Moment::ORIGIN;
        }
    }

    /// When the next turn comes.
    pub(super) fn deadline(&self) -> Option<Moment> {
        if !self.urgent.is_empty() {
            return Some(Moment::ORIGIN);
        }
        self.waiting.front().map(|&(due, _)| due)
    }

    /// Whether a module is queued as its ticket says; only for `debug_assert`s.
    pub(super) fn agrees_with(&self, module: ModuleId, ticket: Ticket) -> bool {
        let urgent = self.urgent.iter().filter(|&&queued| queued == module).count();
        let waiting = self.waiting.iter().filter(|&&(_, queued)| queued == module).count();
        urgent == usize::from(ticket.urgent) && waiting == usize::from(ticket.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const A: ModuleId = ModuleId::new(1, 1);
    const B: ModuleId = ModuleId::new(2, 2);

    fn take(schedule: &mut Schedule, ticket: &mut Ticket, now: Moment) -> Option<ModuleId> {
        let turn = schedule.next_turn(now)?;
        schedule.done(turn, Some(ticket));
        Some(turn.module)
    }

    #[test]
    fn a_turn_per_interval_however_often_it_changes() {
        let (mut schedule, mut ticket) = (Schedule::new(SECOND), Ticket::default());
        let mut turns = 0;
        for ms in 0..10_000 {
            let now = Moment::since_origin(Duration::from_millis(ms));
            schedule.changed(A, &mut ticket, now);
            turns += usize::from(take(&mut schedule, &mut ticket, now).is_some());
        }
        // Each time a second after the first change since the last turn, a millisecond later.
        assert_eq!(turns, 9);
    }

    #[test]
    fn urgent_modules_go_first_and_at_once() {
        let (mut schedule, mut a, mut b) = (Schedule::new(SECOND), Ticket::default(), Ticket::default());
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
        let (mut schedule, mut ticket) = (Schedule::new(SECOND), Ticket::default());
        schedule.changed(A, &mut ticket, Moment::ORIGIN + 1_000 * SECOND);
        assert_eq!(take(&mut schedule, &mut ticket, Moment::ORIGIN), Some(A));
    }

    #[test]
    fn before_a_stop_nothing_is_kept_back() {
        let (mut schedule, mut ticket) = (Schedule::new(SECOND), Ticket::default());
        schedule.changed(A, &mut ticket, Moment::ORIGIN);
        schedule.hurry();
        assert_eq!(take(&mut schedule, &mut ticket, Moment::ORIGIN), Some(A));
    }
}
