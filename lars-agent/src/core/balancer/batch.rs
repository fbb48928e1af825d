//! [`Batch`]: how the calls of one host went that are reported together.
//!
//! What counts the calls of a host (a message that carries one, memory that a program writes and the agent
//! reads now and then) knows the sums of all of them and the order of the latest few. [`Batch::take_part`]
//! gives them back from the oldest to the newest in parts that can each be judged in one go, however many
//! calls they are.

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

impl Outcome {
    /// The wire's return code: 0 is success, anything else a failure.
    #[must_use]
    pub const fn from_retcode(retcode: i32) -> Self {
        if retcode == 0 { Self::Success } else { Self::Failure }
    }
}

/// Calls of one host, the order of the newest ones known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// All calls, at least `newest_len`.
    calls: u32,
    /// The failures among all calls.
    failures: u32,
    /// The outcomes of the newest calls, bit 0 the newest, 1 a failure; no bits from `newest_len` up.
    newest: u32,
    newest_len: u32,
}

/// Calls that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// So many calls that went alike.
    Run(Outcome, u32),
    /// At least one of each, in an order that nobody knows.
    Mixed { successes: u32, failures: u32 },
}

impl Part {
    pub(super) const fn calls(self) -> u32 {
        match self {
            Self::Run(_, calls) => calls,
            Self::Mixed { successes, failures } => successes + failures,
        }
    }
}

impl Batch {
    /// The most outcomes whose order a batch can know, if not all calls went alike.
    pub const NEWEST_MAX: u32 = u32::BITS;

    /// `calls` calls of which `failures` failed. The newest `newest_len` of them, at most
    /// [`Batch::NEWEST_MAX`], went as `newest` says: bit 0 is the newest, 1 a failure; higher bits are ignored.
    ///
    /// `None` if these numbers contradict each other.
    #[must_use]
    pub const fn new(calls: u32, failures: u32, newest: u32, newest_len: u32) -> Option<Self> {
        if newest_len > Self::NEWEST_MAX || newest_len > calls || failures > calls {
            return None;
        }
        let newest = newest & low_bits(newest_len);
        let newest_failures = newest.count_ones();
        if newest_failures > failures || newest_len - newest_failures > calls - failures {
            return None;
        }
        Some(Self { calls, failures, newest, newest_len })
    }

    /// The batch of one.
    #[must_use]
    pub const fn single(outcome: Outcome) -> Self {
        let failures = matches!(outcome, Outcome::Failure) as u32;
        Self { calls: 1, failures, newest: failures, newest_len: 1 }
    }

    /// Both batches as one whose order is unknown, as it is when they come from programs that ran side by
    /// side. The sums end at the greatest number there is.
    #[must_use]
    pub const fn merge(self, other: Self) -> Self {
        let calls = self.calls.saturating_add(other.calls);
        let failures = self.failures.saturating_add(other.failures);
        Self { calls, failures, newest: 0, newest_len: 0 }
    }

    /// Takes the oldest calls out that can be judged together: all of unknown order, unless they went alike,
    /// or else at most `run_max` that did. `None` when no calls are left.
    pub(super) fn take_part(&mut self, run_max: u32) -> Option<Part> {
        let older = self.calls - self.newest_len;
        if older == 0 {
            return self.take_newest(run_max);
        }
        let older_failures = self.failures - self.newest.count_ones();
        let part = match (older - older_failures, older_failures) {
            (successes, 0) => Part::Run(Outcome::Success, successes.min(run_max)),
            (0, failures) => Part::Run(Outcome::Failure, failures.min(run_max)),
            (successes, failures) => Part::Mixed { successes, failures },
        };
        self.subtract(part);
        Some(part)
    }

    fn take_newest(&mut self, run_max: u32) -> Option<Part> {
        let oldest = self.newest_len.checked_sub(1)?;
        let failed = (self.newest >> oldest) & 1 == 1;
        // The outcomes with the oldest in the top bit, turned so that those like it are zeros.
        let outcomes = self.newest << (Self::NEWEST_MAX - self.newest_len);
        let unlike_oldest = if failed { !outcomes } else { outcomes };
        let len = unlike_oldest.leading_zeros().min(self.newest_len).min(run_max);
        let part = Part::Run(if failed { Outcome::Failure } else { Outcome::Success }, len);
        self.newest_len -= len;
        self.newest &= low_bits(self.newest_len);
        self.subtract(part);
        Some(part)
    }

    const fn subtract(&mut self, part: Part) {
        let (calls, failures) = match part {
            Part::Run(Outcome::Success, calls) => (calls, 0),
            Part::Run(Outcome::Failure, calls) => (calls, calls),
            Part::Mixed { successes, failures } => (successes + failures, failures),
        };
        self.calls -= calls;
        self.failures -= failures;
    }
}

/// A word whose lowest `len` bits are set.
const fn low_bits(len: u32) -> u32 {
    if len == 0 { 0 } else { u32::MAX >> (u32::BITS - len) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Outcome::{Failure, Success};

    fn parts(mut batch: Batch) -> Vec<Part> {
        std::iter::from_fn(|| batch.take_part(u32::MAX)).collect()
    }

    #[test]
    fn runs_of_known_order_from_the_oldest_to_the_newest() {
        let batch = Batch::new(6, 3, 0b011_001, 6).expect("consistent");
        let expected =
            [Part::Run(Success, 1), Part::Run(Failure, 2), Part::Run(Success, 2), Part::Run(Failure, 1)];
        assert_eq!(parts(batch), expected);
    }

    #[test]
    fn older_calls_that_went_alike_are_a_run_and_others_are_mixed() {
        let alike = Batch::new(1_002, 1, 0b01, 2).expect("consistent");
        assert_eq!(parts(alike), [Part::Run(Success, 1_000), Part::Run(Success, 1), Part::Run(Failure, 1)]);
        let mixed = Batch::new(1_002, 8, 0b01, 2).expect("consistent");
        let older = Part::Mixed { successes: 993, failures: 7 };
        assert_eq!(parts(mixed), [older, Part::Run(Success, 1), Part::Run(Failure, 1)]);
    }

    #[test]
    fn a_run_can_be_cut() {
        let mut batch = Batch::new(5, 5, 0b111, 3).expect("consistent");
        assert_eq!(batch.take_part(1), Some(Part::Run(Failure, 1)));
        assert_eq!(parts(batch), [Part::Run(Failure, 1), Part::Run(Failure, 3)]);
    }

    #[test]
    fn numbers_that_contradict_each_other_are_no_batch() {
        for (calls, failures, newest, newest_len) in
            [(1, 2, 0, 0), (1, 0, 0, 2), (40, 0, 0, 33), (3, 1, 0b11, 2), (3, 3, 0b01, 2)]
        {
            assert_eq!(Batch::new(calls, failures, newest, newest_len), None);
        }
        assert!(Batch::new(u32::MAX, u32::MAX, u32::MAX, 32).is_some());
    }

    #[test]
    fn merged_batches_keep_their_sums_only() {
        let one = Batch::new(3, 1, 0b100, 3).expect("consistent");
        assert_eq!(parts(one.merge(one)), [Part::Mixed { successes: 4, failures: 2 }]);
        let failed = Batch::single(Failure);
        assert_eq!(parts(failed.merge(failed)), [Part::Run(Failure, 2)]);
        let most = Batch::new(u32::MAX, 0, 0, 0).expect("consistent");
        assert_eq!(parts(most.merge(most)), [Part::Run(Success, u32::MAX)]);
    }

    proptest! {
        /// Whatever the numbers, nothing panics, and a batch gives back exactly what was put in.
        #[test]
        fn parts_add_up(calls in 0u32..80, failures in 0u32..80, newest: u32, newest_len in 0u32..40, cut in 1u32..40) {
            let Some(mut batch) = Batch::new(calls, failures, newest, newest_len) else {
                return Ok(());
            };
            let (mut successes_seen, mut failures_seen) = (0, 0);
            while let Some(part) = batch.take_part(cut) {
                match part {
                    Part::Run(Success, n) => successes_seen += n,
                    Part::Run(Failure, n) => failures_seen += n,
                    Part::Mixed { successes, failures } => {
                        successes_seen += successes;
                        failures_seen += failures;
                    }
                }
            }
            prop_assert_eq!((successes_seen + failures_seen, failures_seen), (calls, failures));
        }
    }

    #[test]
    fn return_codes() {
        assert_eq!(Outcome::from_retcode(0), Success);
        for retcode in [1, -1, i32::MIN, i32::MAX] {
            assert_eq!(Outcome::from_retcode(retcode), Failure);
        }
    }
}
