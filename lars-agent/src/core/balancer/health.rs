//! [`Health`]: when a host is ejected and when it recovers, by the classic rules (`docs/BALANCER.md`).
//!
//! It judges counts and knows nothing of other hosts or of the time.

use std::time::Duration;

use super::{
    batch::{Outcome, Part},
    effects::{EjectionRule, RecoveryRule},
};

/// What a host is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Overloaded,
}

/// The real calls counted in a host's current window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) succ: u32,
    pub(super) err: u32,
    pub(super) contin_succ: u32,
    pub(super) contin_err: u32,
}

impl Counts {
    /// Adds calls; the numbers end at the greatest there is. Calls of unknown order end what was in a row.
    pub(super) fn add(&mut self, part: Part) {
        match part {
            Part::Run(Outcome::Success, calls) => {
                self.succ = self.succ.saturating_add(calls);
                self.contin_succ = self.contin_succ.saturating_add(calls);
                self.contin_err = 0;
            }
            Part::Run(Outcome::Failure, calls) => {
                self.err = self.err.saturating_add(calls);
                self.contin_err = self.contin_err.saturating_add(calls);
                self.contin_succ = 0;
            }
            Part::Mixed { successes, failures } => {
                self.succ = self.succ.saturating_add(successes);
                self.err = self.err.saturating_add(failures);
                self.contin_succ = 0;
                self.contin_err = 0;
            }
        }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.succ == 0 && self.err == 0
    }
}

/// A change of state that a rule calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Eject(EjectionRule),
    Recover(RecoveryRule),
}

/// The classic rules and their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Successes that a fresh window of an idle host starts with, so that its first few failures weigh
    /// little.
    pub init_succ_cnt: u32,
    /// Failures that the window of an overloaded host starts with, so that it must earn its return.
    pub init_err_cnt: u32,
    /// An idle host with a greater share of failures, virtual successes counted, is overloaded.
    pub err_rate: f64,
    /// An overloaded host with a greater share of successes, virtual failures counted, is idle again.
    pub succ_rate: f64,
    /// An idle host is overloaded after so many failures in a row.
    pub contin_err_limit: u32,
    /// An overloaded host is idle again after so many successes in a row.
    pub contin_succ_limit: u32,
    /// An idle host whose window ends with at least this share of real failures is overloaded.
    pub window_err_rate: f64,
    /// Length of an idle host's window.
    pub idle_timeout: Duration,
    /// How long a host stays overloaded at most.
    pub overload_timeout: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            init_succ_cnt: 180,
            init_err_cnt: 5,
            err_rate: 0.1,
            succ_rate: 0.5,
            contin_err_limit: 15,
            contin_succ_limit: 15,
            window_err_rate: 0.7,
            idle_timeout: Duration::from_secs(15),
            overload_timeout: Duration::from_secs(15),
        }
    }
}

impl Health {
    pub(super) const fn window_len(&self, state: State) -> Duration {
        match state {
            State::Idle => self.idle_timeout,
            State::Overloaded => self.overload_timeout,
        }
    }

    /// What the rules say about a host in `state` after calls that `counts` includes already. Only failures
    /// eject, and only successes let a host recover.
    pub(super) fn judge_calls(&self, state: State, counts: Counts, part: Part) -> Option<Verdict> {
        match (state, part) {
            (State::Idle, Part::Run(Outcome::Failure, _) | Part::Mixed { .. }) => {
                let virtual_succ = counts.succ.saturating_add(self.init_succ_cnt);
                if share(counts.err, virtual_succ) > self.err_rate {
                    Some(Verdict::Eject(EjectionRule::ErrorRate))
                } else if counts.contin_err >= self.contin_err_limit {
                    Some(Verdict::Eject(EjectionRule::ErrorsInARow))
                } else {
                    None
                }
            }
            (State::Overloaded, Part::Run(Outcome::Success, _) | Part::Mixed { .. }) => {
                let virtual_err = counts.err.saturating_add(self.init_err_cnt);
                if share(counts.succ, virtual_err) > self.succ_rate {
                    Some(Verdict::Recover(RecoveryRule::SuccessRate))
                } else if counts.contin_succ >= self.contin_succ_limit {
                    Some(Verdict::Recover(RecoveryRule::SuccessesInARow))
                } else {
                    None
                }
            }
            (State::Idle, Part::Run(Outcome::Success, _))
            | (State::Overloaded, Part::Run(Outcome::Failure, _)) => None,
        }
    }

    /// After which of its calls, counted from 1, a part changes the state of a host, if [`Health::judge_calls`]
    /// found after all of them that it does; and by which rule. `before` is what had been counted before it.
    ///
    /// In a run the rules can only turn from "stay" to "change", so that halving finds the call. Of a part
    /// without order it is the last call.
    pub(super) fn find_change(
        &self,
        state: State,
        before: Counts,
        part: Part,
        verdict: Verdict,
    ) -> (u32, Verdict) {
        let Part::Run(outcome, calls) = part else {
            return (part.calls(), verdict);
        };
        let judge_first = |calls| {
            let (mut counts, first) = (before, Part::Run(outcome, calls));
            counts.add(first);
            self.judge_calls(state, counts, first)
        };
        let (mut stays, mut changes) = (0, (calls, verdict));
        while changes.0 - stays > 1 {
            let middle = stays + (changes.0 - stays) / 2;
            match judge_first(middle) {
                Some(verdict) => changes = (middle, verdict),
                None => stays = middle,
            }
        }
        changes
    }

    /// What the rules say about a host whose window in `state` has ended with these counts.
    pub(super) fn judge_window(&self, state: State, counts: Counts) -> Option<Verdict> {
        match state {
            State::Idle => {
                let failing = !counts.is_empty() && share(counts.err, counts.succ) >= self.window_err_rate;
                failing.then_some(Verdict::Eject(EjectionRule::WindowErrorRate))
            }
            State::Overloaded => Some(Verdict::Recover(RecoveryRule::Timeout)),
        }
    }
}

/// `part` of `part + rest`. A true division, because that is what the configured rates mean: 1 of 10 must
/// not exceed 0.1.
fn share(part: u32, rest: u32) -> f64 {
    f64::from(part) / (f64::from(part) + f64::from(rest))
}
