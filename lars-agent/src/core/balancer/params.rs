//! [`BalancerParams`]: the numbers that balancers go by.

use super::{health::Health, limits::Limits};

/// The numbers that balancers go by, named as operators know them. The shell's configuration checks their
/// ranges; in here any values are safe, if not sensible.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancerParams {
    /// After so many lookups of a module with overloaded hosts the next one probes one of these.
    pub probe_num: u32,
    /// When a host is ejected and when it recovers.
    pub health: Health,
    /// How many may be ejected at once, and when the ejected ones are picked all the same.
    pub limits: Limits,
}

impl Default for BalancerParams {
    fn default() -> Self {
        Self { probe_num: 10, health: Health::default(), limits: Limits::default() }
    }
}
