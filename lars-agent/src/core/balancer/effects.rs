//! [`Effects`]: what a call of a balancer brought about besides its answer, and why.

use std::fmt;

use lars_proto::HostAddr;

use crate::core::time::Moment;

/// What a call of a balancer brought about besides its answer. A call adds to what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The host picked is an overloaded one whose turn it was.
    pub probed: bool,
    /// The counts or the state of some host changed.
    pub dirty: bool,
    /// Calls after which a host would have been ejected, had the cap on ejections not kept it idle.
    pub spared: u32,
    /// In the order in which it happened. A call adds a few per host at most.
    pub changes: Vec<Change>,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The host is overloaded now.
    Ejected { host: HostAddr, rule: EjectionRule },
    /// The host is idle again.
    Recovered { host: HostAddr, rule: RecoveryRule },
    /// So few hosts are idle that all are picked.
    PanicEntered,
    /// Enough hosts are idle again.
    PanicLeft,
}

/// Why a host was ejected. The number is what a byte that carries it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EjectionRule {
    /// Its share of failures, virtual successes counted, is greater than `err_rate`.
    ErrorRate = 1,
    /// `contin_err_limit` failures followed each other.
    ErrorsInARow = 2,
    /// Its window ended with a share of failures of at least `window_err_rate`.
    WindowErrorRate = 3,
}

impl EjectionRule {
    /// The rule that a byte names.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::ErrorRate, Self::ErrorsInARow, Self::WindowErrorRate]
            .into_iter()
            .find(|rule| *rule as u8 == byte)
    }
}

/// Why a host is idle again. The numbers go on where those of [`EjectionRule`] end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecoveryRule {
    /// Its share of successes, virtual failures counted, is greater than `succ_rate`.
    SuccessRate = 4,
    /// `contin_succ_limit` successes followed each other.
    SuccessesInARow = 5,
    /// It was overloaded for `overload_timeout`.
    Timeout = 6,
}

impl fmt::Display for EjectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ErrorRate => "too many failures (err_rate)",
            Self::ErrorsInARow => "too many failures in a row (contin_err_limit)",
            Self::WindowErrorRate => "too many failures in its window (window_err_rate)",
        })
    }
}

impl fmt::Display for RecoveryRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SuccessRate => "enough successes (succ_rate)",
            Self::SuccessesInARow => "enough successes in a row (contin_succ_limit)",
            Self::Timeout => "its time is over (overload_timeout)",
        })
    }
}

/// As a log says it, after the name of the module.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ejected { host, rule } => write!(f, "ejected {host}: {rule}"),
            Self::Recovered { host, rule } => write!(f, "{host} recovered: {rule}"),
            Self::PanicEntered => f.write_str("too few hosts are idle: all are picked (panic_percent)"),
            Self::PanicLeft => {
                f.write_str("enough hosts are idle again: the overloaded ones are probed only")
            }
        }
    }
}

/// A host that is overloaded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    pub host: HostAddr,
    pub rule: EjectionRule,
    /// When it was ejected, or when the clock stepped back since then.
    pub since: Moment,
}
