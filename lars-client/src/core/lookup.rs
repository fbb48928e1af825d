//! [`Lookup`]: one question, asked until it is answered or time is up.

use std::time::{Duration, Instant};

use super::Question;

/// How long to wait before a datagram is sent again after the agent's port was found closed. The agent may
/// be restarting, and this is how late we may notice that it is back.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// So much of what is left, and no more, is kept for the agent's no to come back, when a module is not learned in time.
const RETURN_SHARE: u32 = 8;
const RETURN_TIME_MAX: Duration = Duration::from_millis(50);

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Between a datagram and the next one.
    pub(crate) per_try: Duration,
    /// For the whole lookup.
    pub(crate) total: Duration,
}

/// What the shell is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// Send this datagram.
    Send(&'a [u8]),
    /// Receive until then; if that has passed, take only what is there already.
    ReceiveUntil(Instant),
    /// Do nothing until then: there is nothing to receive.
    PauseUntil(Instant),
    /// There will be no answer.
    GiveUp(GiveUp),
}

/// Why there will be no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// The agent took the question, or the network lost it, and time is up.
    Timeout,
    /// The last datagram could not be delivered.
    Unreachable,
}

/// The state of a lookup is that of its last datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastSend {
    NotSentYet,
    /// Before anything else, see whether there is an answer: a thread that was kept off the CPU past its
    /// deadline still finds it.
    JustSent,
    Awaited,
    Undeliverable,
}

/// One question on its way. The shell asks [`Lookup::poll`] what to do, does it, and tells what came of it.
#[derive(Debug)]
pub(crate) struct Lookup<Q> {
    question: Q,
    /// The one sent last.
    datagram: Vec<u8>,
    last: LastSend,
    per_try: Duration,
    next_send: Instant,
    deadline: Instant,
    /// The agent was found absent before: believe it at once, so that an absent agent makes a program wait
    /// once and not in each lookup.
    believe_absence: bool,
}

impl<Q: Question> Lookup<Q> {
    pub(crate) fn new(question: Q, timeouts: Timeouts, believe_absence: bool, now: Instant) -> Self {
        Self {
            question,
            datagram: Vec::new(),
            last: LastSend::NotSentYet,
            per_try: timeouts.per_try,
            next_send: now,
            deadline: now + timeouts.total,
            believe_absence,
        }
    }

    /// What to do now; counts as done. First of all comes a `Send`.
    pub(crate) fn poll(&mut self, now: Instant) -> Action<'_> {
        let wake = self.next_send.min(self.deadline);
        match self.last {
            LastSend::JustSent => {
                self.last = LastSend::Awaited;
                Action::ReceiveUntil(wake)
            }
            LastSend::Awaited if now < wake => Action::ReceiveUntil(wake),
            LastSend::Awaited if now >= self.deadline => Action::GiveUp(GiveUp::Timeout),
            LastSend::Undeliverable if now < wake => Action::PauseUntil(wake),
            LastSend::Undeliverable if now >= self.deadline => Action::GiveUp(GiveUp::Unreachable),
            LastSend::NotSentYet | LastSend::Awaited | LastSend::Undeliverable => {
                self.last = LastSend::JustSent;
                self.next_send = now + self.per_try;
                self.datagram =
                    self.question.to_datagram(wait_ms(self.deadline.saturating_duration_since(now)));
                Action::Send(&self.datagram)
            }
        }
    }

    /// The answer, if that is what was received. Anything else is skipped and changes nothing.
    pub(crate) fn handle_datagram(&self, datagram: &[u8]) -> Option<Q::Answer> {
        self.question.answer_in(datagram)
    }

    /// The last datagram could not be sent, or came back as undeliverable.
    pub(crate) fn handle_unreachable(&mut self, now: Instant) {
        self.last = LastSend::Undeliverable;
        if self.believe_absence {
            self.deadline = now;
        } else {
            self.next_send = now + REFUSED_PAUSE.min(self.per_try);
        }
    }
}

/// How long the agent may take to learn the module, where we wait for its answer for `left`.
fn wait_ms(left: Duration) -> u32 {
    let wait = left - (left / RETURN_SHARE).min(RETURN_TIME_MAX);
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use lars_proto::ModuleId;
    use proptest::prelude::*;

    use super::*;
    use crate::core::RouteQuestion;

    const QUESTION: RouteQuestion = RouteQuestion { module: ModuleId::new(1, 1) };
    const TIMEOUTS: Timeouts = Timeouts { per_try: ms(100), total: ms(200) };

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn lookup(now: Instant) -> Lookup<RouteQuestion> {
        Lookup::new(QUESTION, TIMEOUTS, false, now)
    }

    #[test]
    fn asks_twice_then_gives_up() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        assert_eq!(lookup.poll(start), Action::Send(&QUESTION.to_datagram(175)));
        assert_eq!(lookup.poll(start), Action::ReceiveUntil(start + ms(100)));
        assert_eq!(lookup.poll(start + ms(99)), Action::ReceiveUntil(start + ms(100)));
        let again = QUESTION.to_datagram(87);
        assert_eq!(lookup.poll(start + ms(100)), Action::Send(&again), "the agent is told what is left");
        assert_eq!(lookup.poll(start + ms(100)), Action::ReceiveUntil(start + ms(200)));
        assert_eq!(lookup.poll(start + ms(200)), Action::GiveUp(GiveUp::Timeout));
    }

    #[test]
    fn the_agent_is_left_the_time_to_say_no() {
        let waits = [0, 1, 8, 80, 200, 400, 10_000].map(|left| wait_ms(ms(left)));
        assert_eq!(waits, [0, 0, 7, 70, 175, 350, 9_950]);
    }

    #[test]
    fn a_late_second_try_does_not_move_the_end() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        assert!(matches!(lookup.poll(start), Action::Send(_)));
        assert!(matches!(lookup.poll(start), Action::ReceiveUntil(_)));
        assert!(matches!(lookup.poll(start + ms(170)), Action::Send(_)));
        assert_eq!(lookup.poll(start + ms(170)), Action::ReceiveUntil(start + ms(200)));
    }

    #[test]
    fn an_answer_that_waited_longer_than_we_would_is_still_heard() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        assert!(matches!(lookup.poll(start), Action::Send(_)));
        let late = start + ms(5_000);
        assert_eq!(lookup.poll(late), Action::ReceiveUntil(start + ms(100)));
        assert_eq!(lookup.poll(late), Action::GiveUp(GiveUp::Timeout));
    }

    #[test]
    fn a_closed_port_is_tried_again_until_time_is_up() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let mut now = start;
        let mut sent = 0;
        loop {
            match lookup.poll(now) {
                Action::Send(_) => {
                    sent += 1;
                    lookup.handle_unreachable(now);
                }
                Action::PauseUntil(until) => now = until,
                Action::ReceiveUntil(until) => panic!("nothing comes until {until:?}"),
                Action::GiveUp(why) => {
                    assert_eq!(why, GiveUp::Unreachable);
                    break;
                }
            }
        }
        assert_eq!((sent, now), (20, start + ms(200)));
    }

    #[test]
    fn an_agent_that_is_back_but_silent_is_a_timeout() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        assert!(matches!(lookup.poll(start), Action::Send(_)));
        lookup.handle_unreachable(start);
        assert!(matches!(lookup.poll(start + ms(10)), Action::Send(_)));
        assert_eq!(lookup.poll(start + ms(10)), Action::ReceiveUntil(start + ms(110)));
        assert_eq!(lookup.poll(start + ms(200)), Action::GiveUp(GiveUp::Timeout));
    }

    #[test]
    fn absence_that_is_known_is_believed_at_once() {
        let start = Instant::now();
        let mut lookup = Lookup::new(QUESTION, TIMEOUTS, true, start);
        assert!(matches!(lookup.poll(start), Action::Send(_)));
        lookup.handle_unreachable(start + ms(1));
        assert_eq!(lookup.poll(start + ms(1)), Action::GiveUp(GiveUp::Unreachable));
    }

    proptest! {
        /// Whatever happens and whenever: nobody waits or sends after the deadline, and after a last look
        /// at what is there it is over.
        #[test]
        fn ends_in_time(events in prop::collection::vec((0u64..30, any::<bool>()), 1..50), believe: bool) {
            let start = Instant::now();
            let deadline = start + TIMEOUTS.total;
            let mut lookup = Lookup::new(QUESTION, TIMEOUTS, believe, start);
            let mut now = start;
            for (wait_ms, unreachable) in events {
                match lookup.poll(now) {
                    Action::Send(_) => prop_assert!(now < deadline),
                    Action::ReceiveUntil(until) | Action::PauseUntil(until) => prop_assert!(until <= deadline),
                    Action::GiveUp(_) => return Ok(()),
                }
                now += ms(wait_ms);
                if unreachable {
                    lookup.handle_unreachable(now);
                }
            }
            now = now.max(deadline);
            if let Action::ReceiveUntil(until) = lookup.poll(now) {
                prop_assert!(until <= deadline);
            }
            prop_assert!(matches!(lookup.poll(now), Action::GiveUp(_)));
        }
    }
}
