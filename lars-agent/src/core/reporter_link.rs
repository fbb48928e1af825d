//! What waits to go to lars-reporter, and who may put something there.
//!
//! The tables are asked for statistics only while the connection takes them, so that a message says what is the case as
//! it leaves. All shards are told whether it does ([`ReporterState`]). What was on its way when the connection filled up
//! waits here; what was sent may be lost with the connection, and so may what waits. Then the state counts on, and every
//! table sends everything again.

use std::collections::VecDeque;

use lars_proto::messages::ReportStatusRequest;

use super::time::{Moment, Pause};
use crate::stats::ReporterStats;

/// Messages that may wait. Beyond, one is dropped, and all is sent again as if the connection had broken.
pub const MESSAGES_MAX: usize = 256;

/// What a shard has to know of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReporterState {
    pub is_up: bool,
    /// The connection takes more now.
    pub takes_more: bool,
    /// Grows whenever something may have been lost.
    pub losses: u64,
}

/// The link to lars-reporter, without the link.
#[derive(Debug, Default)]
pub struct ReporterLink {
    state: ReporterState,
    /// Who says what is sent: this machine's address as the wire has it.
    caller: i32,
    messages: VecDeque<ReportStatusRequest>,
    /// Since the connection refused one.
    pause: Pause,
    stats: ReporterStats,
}

impl ReporterLink {
    /// The link came up. What is sent says that it comes from `caller`, an IPv4 address in host order.
    pub fn connected(&mut self, caller: i32) {
        self.disconnected();
        self.caller = caller;
        self.state = ReporterState { is_up: true, takes_more: true, losses: self.state.losses + 1 };
    }

    pub fn disconnected(&mut self) {
        self.stats.messages_lost += self.messages.len() as u64;
        self.messages.clear();
        self.pause.end();
        (self.state.is_up, self.state.takes_more) = (false, false);
    }

    #[must_use]
    pub const fn state(&self) -> ReporterState {
        self.state
    }

    /// Takes a message of some table.
    pub fn push(&mut self, message: ReportStatusRequest) {
        if !self.state.is_up {
            // Sent again on the next connection.
            self.stats.messages_lost += 1;
        } else if self.messages.len() >= MESSAGES_MAX {
            self.stats.messages_lost += 1;
            self.state.losses += 1;
        } else {
            self.messages.push_back(message);
        }
    }

    /// The next message to send now. It counts as sent.
    pub fn poll_message(&mut self, now: Moment) -> Option<ReportStatusRequest> {
        if !self.pause.is_over(now) {
            return None;
        }
        let Some(mut message) = self.messages.pop_front() else {
            self.state.takes_more = self.state.is_up;
            return None;
        };
        message.caller = self.caller;
        self.stats.messages += 1;
        Some(message)
    }

    /// The message given last could not be sent: it is the first one next time.
    pub fn unsent(&mut self, message: ReportStatusRequest, now: Moment) {
        self.stats.messages -= 1;
        self.messages.push_front(message);
        self.state.takes_more = false;
        self.pause.begin(now);
    }

    /// The connection takes more.
    pub fn writable(&mut self) {
        self.pause.end();
    }

    /// When [`ReporterLink::poll_message`] has something to do, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let has_to_do = !self.messages.is_empty() || self.state.takes_more != self.state.is_up;
        has_to_do.then(|| self.pause.deadline())
    }

    /// Whether messages wait for the connection to take them.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.messages.is_empty()
    }

    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        ReporterStats { is_up: u64::from(self.state.is_up), ..self.stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::RETRY_INTERVAL;

    const T0: Moment = Moment::ORIGIN;

    fn message(modid: i32) -> ReportStatusRequest {
        ReportStatusRequest { modid, ..Default::default() }
    }

    fn up() -> ReporterLink {
        let mut link = ReporterLink::default();
        link.connected(7);
        link
    }

    fn polled(link: &mut ReporterLink, now: Moment) -> Vec<i32> {
        std::iter::from_fn(|| link.poll_message(now)).map(|message| message.modid).collect()
    }

    #[test]
    fn messages_leave_in_order_and_say_who_sends_them() {
        let mut link = up();
        link.push(message(1));
        assert_eq!(link.poll_message(T0), Some(ReportStatusRequest { caller: 7, ..message(1) }));
        link.push(message(2));
        link.push(message(3));
        assert_eq!(polled(&mut link, T0), [2, 3]);
        assert_eq!((link.stats().messages, link.poll_timeout()), (3, None));
    }

    #[test]
    fn what_the_connection_does_not_take_waits_and_no_more_is_asked_for() {
        let mut link = up();
        (1..=3).for_each(|n| link.push(message(n)));
        let refused = link.poll_message(T0).expect("a message");
        link.unsent(refused, T0);
        assert!(!link.state().takes_more && link.is_behind());
        assert_eq!((polled(&mut link, T0), link.poll_timeout()), (vec![], Some(T0 + RETRY_INTERVAL)));
        link.writable();
        assert_eq!(polled(&mut link, T0), [1, 2, 3]);
        assert!(link.state().takes_more);
        assert_eq!(link.stats().messages, 3);
    }

    #[test]
    fn a_loss_is_counted_and_has_everything_sent_again() {
        let mut link = up();
        let losses = link.state().losses;
        link.push(message(1));
        link.disconnected();
        link.push(message(2));
        assert_eq!((link.stats().messages_lost, link.is_behind()), (2, false));
        link.connected(7);
        assert!(link.state().losses > losses);

        let losses = link.state().losses;
        (0..MESSAGES_MAX as i32).for_each(|n| link.push(message(n)));
        assert_eq!(link.state().losses, losses);
        link.push(message(-1));
        assert!(link.state().losses > losses, "more than may wait");
        assert_eq!(polled(&mut link, T0).len(), MESSAGES_MAX);
    }
}
