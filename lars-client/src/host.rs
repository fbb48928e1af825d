//! [`Host`] and [`Outcome`]: what a lookup yields, and what a report says.

use lars_proto::{HostAddr, ModuleId};

/// A host to call, picked for a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Host {
    /// The module it was picked for, and to which a report counts.
    pub module: ModuleId,
    /// Where to connect.
    pub addr: HostAddr,
}

impl Host {
    /// A host that did not come from a lookup of this client, to be reported on.
    #[must_use]
    pub const fn new(module: ModuleId, addr: HostAddr) -> Self {
        Self { module, addr }
    }
}

/// How a call went.
///
/// Only what speaks about the host is a failure: no connection, no answer, an answer that it is broken. A
/// correct "no such user" is a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The host did its work.
    Success,
    /// It did not. The number is the caller's own and not interpreted; 0, which would say success on the
    /// wire, is sent as -1.
    Failure(i32),
}

impl Outcome {
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failure(0) => -1,
            Self::Failure(code) => code,
        }
    }
}

impl<T, E> From<&Result<T, E>> for Outcome {
    /// `Failure(-1)` for any error.
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure(-1) }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn a_failure_is_never_sent_as_a_success() {
        assert_eq!(Outcome::Success.to_wire(), 0);
        assert_eq!(Outcome::Failure(0).to_wire(), -1);
        assert_eq!(Outcome::Failure(i32::MIN).to_wire(), i32::MIN);
        assert_ne!(Outcome::from(&Err::<(), _>("refused")).to_wire(), 0);
    }
}
