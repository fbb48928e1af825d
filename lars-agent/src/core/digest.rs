//! When lars-dns is asked whether this agent has what it should have, and what follows from the answer.
//!
//! Once per `update_timeout` a sum over everything that is subscribed goes to lars-dns, which says whether that is what
//! it serves. If not, the sums of 256 buckets follow, and lars-dns names what it has in those that differ. Both
//! answers come behind all that was sent before them, so what this agent has by then is what they are to be compared
//! with: a push that was under way is no difference.
//!
//! Servers that were deployed long ago know none of this, and [`Digests`] rest while the connection is to one of those.

use std::{num::NonZeroU64, time::Duration};

use lars_proto::{
    ModuleId,
    digest::{BUCKETS, BucketSums, Digest},
    messages::{self, SubscriptionDigestAnswer},
};

use super::time::Moment;

/// A question to lars-dns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Is this what I should have?
    Digest(Digest),
    /// Where does it differ?
    Buckets(messages::BucketSums),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The server has not said that it knows digests.
    Unknown,
    /// The next digest is due then.
    Rests(Moment),
    /// The digest that was sent then is not answered yet.
    AwaitsAnswer(Moment),
    /// It differed, and the buckets from this one on are to be asked about.
    Differs { first: usize },
    /// The question about these was sent then.
    AwaitsBuckets { first: usize, asked_at: Moment },
}

/// The sums of one connection, and the questions about them.
#[derive(Debug)]
pub struct Digests {
    interval: Duration,
    /// An answer that takes longer was lost.
    answer_timeout: Duration,
    /// After so long the first one of a connection is due: each agent has its own, because many connect at once when a
    /// server ends.
    first_after: Duration,
    whole: Digest,
    buckets: BucketSums,
    step: Step,
    /// When the last digest was sent.
    begun_at: Moment,
}

impl Digests {
    /// One digest per `interval`; `spread` is drawn at random by each agent. If no answer comes for `answer_timeout`,
    /// though other messages do, the next one is sent.
    #[must_use]
    pub fn new(interval: Duration, answer_timeout: Duration, spread: u32) -> Self {
        let part = f64::from(spread) / f64::from(u32::MAX);
        Self {
            interval,
            answer_timeout: interval.max(answer_timeout),
            first_after: interval.mul_f64(part),
            whole: Digest::default(),
            buckets: BucketSums::default(),
            step: Step::Unknown,
            begun_at: Moment::ORIGIN,
        }
    }

    /// The connection is another one: nothing is subscribed to, and its server may not know digests.
    pub(super) fn reset(&mut self) {
        (self.whole, self.buckets, self.step) = (Digest::default(), BucketSums::default(), Step::Unknown);
    }

    /// The server knows digests.
    pub(super) fn begin(&mut self, now: Moment) {
        if self.step == Step::Unknown {
            self.step = Step::Rests(now + self.first_after);
        }
    }

    pub(super) fn add(&mut self, module: ModuleId, hash: NonZeroU64) {
        self.whole.add(hash);
        self.buckets.add(module, hash);
    }

    pub(super) fn remove(&mut self, module: ModuleId, hash: NonZeroU64) {
        self.whole.remove(hash);
        self.buckets.remove(module, hash);
    }

    pub(super) const fn whole(&self) -> Digest {
        self.whole
    }

    /// Whether the server owes an answer.
    pub(super) const fn is_owed(&self) -> bool {
        matches!(self.step, Step::AwaitsAnswer(_) | Step::AwaitsBuckets { .. })
    }

    /// When the digest was sent that is not answered yet.
    pub(super) const fn unanswered_since(&self) -> Option<Moment> {
        match self.step {
            Step::AwaitsAnswer(asked_at) => Some(asked_at),
            Step::Unknown | Step::Rests(_) | Step::Differs { .. } | Step::AwaitsBuckets { .. } => None,
        }
    }

    /// The next question, if it is time for one. It counts as sent.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Question> {
        if let Step::AwaitsAnswer(at) | Step::AwaitsBuckets { asked_at: at, .. } = self.step
            && now.is_due(at + self.answer_timeout, self.answer_timeout)
        {
            self.step = Step::Rests(now);
        }
        match self.step {
            Step::Rests(until) if now.is_due(until, self.interval) => {
                (self.begun_at, self.step) = (now, Step::AwaitsAnswer(now));
                Some(Question::Digest(self.whole))
            }
            Step::Differs { first } => {
                self.step = Step::AwaitsBuckets { first, asked_at: now };
                Some(Question::Buckets(self.buckets.question(first)))
            }
            Step::Unknown | Step::Rests(_) | Step::AwaitsAnswer(_) | Step::AwaitsBuckets { .. } => None,
        }
    }

    /// The question given last could not be sent: it comes again, with what the sums are then.
    pub(super) fn unsent(&mut self) {
        self.step = match self.step {
            Step::AwaitsAnswer(at) => Step::Rests(at),
            Step::AwaitsBuckets { first, .. } => Step::Differs { first },
            Step::Unknown | Step::Rests(_) | Step::Differs { .. } => self.step,
        };
    }

    /// When [`Digests::poll`] has something to give, if nothing else happens before.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match self.step {
            Step::Rests(until) => Some(until),
            Step::Differs { .. } => Some(Moment::ORIGIN),
            Step::AwaitsAnswer(at) | Step::AwaitsBuckets { asked_at: at, .. } => {
                Some(at + self.answer_timeout)
            }
            Step::Unknown => None,
        }
    }

    /// What the server makes of the digest. Whether that differs from what there is now.
    pub(super) fn answered(&mut self, answer: SubscriptionDigestAnswer) -> bool {
        let Step::AwaitsAnswer(_) = self.step else { return false };
        let theirs = Digest { count: answer.count, sum: answer.sum };
        let differs = answer.differs && theirs != self.whole;
        if differs {
            self.step = Step::Differs { first: 0 };
        } else {
            self.rest();
        }
        differs
    }

    /// The server has looked at the buckets up to `end`. Since when they had been asked about; `None` if they had not.
    pub(super) fn buckets_answered(&mut self, end: usize) -> Option<Moment> {
        let Step::AwaitsBuckets { first, asked_at } = self.step else { return None };
        if end > first && end < BUCKETS {
            self.step = Step::Differs { first: end };
        } else {
            self.rest();
        }
        Some(asked_at)
    }

    fn rest(&mut self) {
        self.step = Step::Rests(self.begun_at + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(16);
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
    const T0: Moment = Moment::ORIGIN;
    const MODULE: ModuleId = ModuleId::new(1, 1);

    fn hash(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n).expect("not 0")
    }

    /// Of a connection whose first answer has come.
    fn begun(spread: u32) -> Digests {
        let mut digests = Digests::new(INTERVAL, ANSWER_TIMEOUT, spread);
        digests.begin(T0);
        digests.add(MODULE, hash(7));
        digests
    }

    fn differing(sum: u64) -> SubscriptionDigestAnswer {
        SubscriptionDigestAnswer { differs: true, count: 1, sum }
    }

    const SAME: SubscriptionDigestAnswer = SubscriptionDigestAnswer { differs: false, count: 0, sum: 0 };

    #[test]
    fn each_agent_has_its_own_time_and_keeps_it() {
        for (spread, first) in [(0, 0), (u32::MAX / 2 + 1, 8), (u32::MAX, 16)] {
            let mut digests = begun(spread);
            let first = T0 + first * SECOND;
            let due = digests.poll_timeout().expect("it is known when");
            assert!(first.elapsed().abs_diff(due.elapsed()) < SECOND / 1_000, "{due:?}");
            assert_eq!(digests.poll(due), Some(Question::Digest(digests.whole())));
            assert!(!digests.answered(SAME));
            assert_eq!(digests.poll_timeout(), Some(due + INTERVAL));
            assert_eq!(digests.poll(due + INTERVAL.mul_f32(0.9)), None);
        }
        assert_eq!(
            Digests::new(INTERVAL, ANSWER_TIMEOUT, 0).poll_timeout(),
            None,
            "deployed servers know no digests"
        );
    }

    #[test]
    fn what_has_come_before_the_answer_is_no_difference() {
        let mut digests = begun(0);
        digests.poll(T0);
        digests.remove(MODULE, hash(7));
        digests.add(MODULE, hash(8));
        assert!(!digests.answered(differing(8)), "a push was under way");
        assert_eq!(digests.poll_timeout(), Some(T0 + INTERVAL));
        digests.poll(T0 + INTERVAL);
        assert!(digests.answered(differing(9)));
        let question = digests.poll(T0 + INTERVAL);
        assert!(matches!(question, Some(Question::Buckets(sums)) if sums.sums.len() == BUCKETS));
    }

    #[test]
    fn buckets_are_asked_about_until_none_is_left() {
        let mut digests = begun(0);
        digests.poll(T0);
        digests.answered(differing(0));
        for (first, end) in [(0, 100), (100, 255), (255, BUCKETS)] {
            let question = digests.poll(T0);
            assert!(matches!(question, Some(Question::Buckets(sums)) if sums.first as usize == first));
            assert_eq!(digests.buckets_answered(end), Some(T0));
            assert_eq!(digests.buckets_answered(end), None, "nothing was asked");
        }
        assert_eq!(digests.poll_timeout(), Some(T0 + INTERVAL));
        digests.poll(T0 + INTERVAL);
        digests.answered(differing(0));
        digests.poll(T0 + INTERVAL);
        digests.buckets_answered(0);
        assert_eq!(
            digests.poll_timeout(),
            Some(T0 + 2 * INTERVAL),
            "a server that gets nowhere is asked later"
        );
    }

    #[test]
    fn what_could_not_be_sent_comes_again() {
        let mut digests = begun(0);
        digests.poll(T0);
        digests.unsent();
        assert!(!digests.is_owed());
        assert_eq!(digests.poll(T0), Some(Question::Digest(digests.whole())));
        digests.answered(differing(0));
        let question = digests.poll(T0);
        digests.unsent();
        assert_eq!(digests.poll(T0), question);
        assert!(digests.is_owed());
    }

    #[test]
    fn after_an_answer_that_was_lost_the_next_digest_is_sent() {
        let mut digests = begun(0);
        digests.poll(T0);
        assert_eq!(digests.poll_timeout(), Some(T0 + ANSWER_TIMEOUT));
        assert_eq!(digests.poll(T0 + ANSWER_TIMEOUT), Some(Question::Digest(digests.whole())));
        assert!(digests.answered(differing(0)));
        digests.poll(T0 + ANSWER_TIMEOUT);
        let later = T0 + 2 * ANSWER_TIMEOUT;
        assert_eq!(digests.poll_timeout(), Some(later));
        assert_eq!(digests.poll(later), Some(Question::Digest(digests.whole())));
        digests.reset();
        assert_eq!((digests.poll_timeout(), digests.answered(differing(0))), (None, false));
    }
}
