//! Which host of a module comes next.
//!
//! A [`Policy`] owns the hosts of one module, hands them out and learns from reports how they fare. The rest
//! of the agent knows no more of it than this file: what a host's state consists of is each policy's own
//! affair. [`Classic`] is the policy of `DESIGN` section 7.

use std::sync::Arc;

use lars_proto::HostAddr;

use super::time::Moment;

mod ring;

mod classic;

pub use classic::{Classic, ClassicParams};

/// The hosts of one module and the rule by which they are handed out.
///
/// Every method that takes `now` may eject hosts and let them recover; what it brought about besides its
/// answer is added to `effects`.
pub trait Policy {
    /// The host for the next call.
    fn pick(&mut self, now: Moment, effects: &mut Effects) -> Pick;

    /// Learns how a call went. False if `host` is not (or no longer) one of the module's.
    fn report(&mut self, host: HostAddr, outcome: Outcome, now: Moment, effects: &mut Effects) -> bool;

    /// Makes `hosts` the module's hosts: new ones are added, vanished ones leave, the others keep their
    /// state. A host that is listed twice counts once.
    fn update(&mut self, hosts: &[HostAddr], now: Moment);

    /// Does what is due by time alone; called about once a second.
    fn sweep(&mut self, now: Moment, effects: &mut Effects);

    /// How many hosts there are in each state.
    fn census(&self) -> Census;

    /// Grows whenever the set of hosts or the state of one changes, so that a copy of the pick state made
    /// with [`Policy::each_host`] can tell whether it is current.
    fn version(&self) -> u64;

    /// Visits every host: the idle ones first, each group in the order in which it will be picked.
    fn each_host(&self, visit: &mut dyn FnMut(HostStatus));

    /// Whether [`Policy::take_news`] has anything to take.
    fn has_news(&self) -> bool;

    /// Appends up to `limit` hosts whose status is not what was taken last to `out`; they count as told.
    fn take_news(&mut self, limit: usize, out: &mut Vec<HostStatus>);

    /// What was told may have been lost on the way: all hosts told of are news again.
    fn retell(&mut self);
}

/// The answer to a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    Host(HostAddr),
    /// There are hosts, but none should be called now.
    Overloaded,
    /// The module has no hosts.
    NoHosts,
}

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

/// What a call of a policy brought about besides its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Hosts that became overloaded.
    pub ejected: u32,
    /// Hosts that became idle again.
    pub recovered: u32,
    /// The host picked is an overloaded one.
    pub probed: bool,
    /// The counts or the state of some host changed.
    pub news: bool,
}

/// A host as people see it in the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStatus {
    pub host: HostAddr,
    /// Real successes in the current window.
    pub succ: u32,
    /// Real failures in the current window.
    pub err: u32,
    pub overloaded: bool,
}

/// How many hosts there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub idle: usize,
    pub overloaded: usize,
}

/// Which policy modules get, with its parameters.
#[derive(Clone, Debug)]
pub enum PolicyChoice {
    Classic(Arc<ClassicParams>),
}

impl PolicyChoice {
    /// The policy for a module that has no hosts yet.
    #[must_use]
    pub fn build(&self) -> Box<dyn Policy> {
        match self {
            Self::Classic(params) => Box::new(Classic::new(Arc::clone(params))),
        }
    }
}

impl Default for PolicyChoice {
    fn default() -> Self {
        Self::Classic(Arc::default())
    }
}
