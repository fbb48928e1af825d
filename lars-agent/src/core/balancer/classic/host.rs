//! One host as the classic policy sees it: its state, its window and what was counted in it.

use lars_proto::HostAddr;

use super::{
    super::{
        HostStatus, Outcome,
        ring::{Linked, Links},
    },
    ClassicParams,
};
use crate::core::time::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Overloaded,
}

/// Calls counted in the current window. The virtual ones start from what the state prescribes and decide
/// changes of state; the real ones are what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) vsucc: u32,
    pub(super) verr: u32,
    pub(super) rsucc: u32,
    pub(super) rerr: u32,
    pub(super) contin_succ: u32,
    pub(super) contin_err: u32,
}

impl Counts {
    /// What the window of a host that enters `state` starts with.
    pub(super) fn fresh(state: State, params: &ClassicParams) -> Self {
        match state {
            State::Idle => Self { vsucc: params.init_succ_cnt, ..Self::default() },
            State::Overloaded => Self { verr: params.init_err_cnt, ..Self::default() },
        }
    }

    fn count(&mut self, outcome: Outcome) {
        let (virtual_calls, real_calls, in_a_row, other_in_a_row) = match outcome {
            Outcome::Success => {
                (&mut self.vsucc, &mut self.rsucc, &mut self.contin_succ, &mut self.contin_err)
            }
            Outcome::Failure => (&mut self.verr, &mut self.rerr, &mut self.contin_err, &mut self.contin_succ),
        };
        for counter in [virtual_calls, real_calls, in_a_row] {
            *counter = counter.saturating_add(1);
        }
        *other_in_a_row = 0;
    }
}

/// `part` of `part + rest`. A true division, because that is what the configured rates mean: 1 of 10 must
/// not exceed 0.1.
fn share(part: u32, rest: u32) -> f64 {
    f64::from(part) / (f64::from(part) + f64::from(rest))
}

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) addr: HostAddr,
    pub(super) state: State,
    /// Its status is not what was taken last.
    pub(super) news: bool,
    /// Its status was taken at least once.
    pub(super) told: bool,
    /// The last update that listed it.
    pub(super) listed_in: u32,
    pub(super) window_start: Moment,
    pub(super) counts: Counts,
    links: [Links; 2],
}

impl Host {
    /// A host that joins, in no ring yet.
    pub(super) fn new(addr: HostAddr, listed_in: u32, params: &ClassicParams, now: Moment) -> Self {
        Self {
            addr,
            state: State::Idle,
            news: false,
            told: false,
            listed_in,
            window_start: now,
            counts: Counts::fresh(State::Idle, params),
            links: [Links::NONE; 2],
        }
    }

    /// Counts a call and returns the state the host should be in now.
    pub(super) fn count(&mut self, outcome: Outcome, params: &ClassicParams) -> State {
        self.counts.count(outcome);
        let Counts { vsucc, verr, contin_succ, contin_err, .. } = self.counts;
        match (self.state, outcome) {
            (State::Idle, Outcome::Failure)
                if share(verr, vsucc) > params.err_rate || contin_err >= params.contin_err_limit =>
            {
                State::Overloaded
            }
            (State::Overloaded, Outcome::Success)
                if share(vsucc, verr) > params.succ_rate || contin_succ >= params.contin_succ_limit =>
            {
                State::Idle
            }
            (state, _) => state,
        }
    }

    /// The state the host should be in now that its window has ended.
    pub(super) fn state_after_window(&self, params: &ClassicParams) -> State {
        let Counts { rsucc, rerr, .. } = self.counts;
        let failing = self.has_calls() && share(rerr, rsucc) >= params.window_err_rate;
        match self.state {
            State::Idle if failing => State::Overloaded,
            State::Idle | State::Overloaded => State::Idle,
        }
    }

    /// Whether any real call was counted in this window.
    pub(super) fn has_calls(&self) -> bool {
        self.counts.rsucc > 0 || self.counts.rerr > 0
    }

    pub(super) fn status(&self) -> HostStatus {
        HostStatus {
            host: self.addr,
            succ: self.counts.rsucc,
            err: self.counts.rerr,
            overloaded: self.state == State::Overloaded,
        }
    }
}

impl Linked for Host {
    fn links(&self, which: usize) -> &Links {
        &self.links[which]
    }

    fn links_mut(&mut self, which: usize) -> &mut Links {
        &mut self.links[which]
    }
}
