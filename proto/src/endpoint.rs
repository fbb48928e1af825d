//! [`Endpoint`]: a host as a route lists it.

use std::{fmt, num::NonZeroU16};

use crate::{HostAddr, HostAddrError, messages::HostInfo};

/// One entry of a module's route: where the host is, and what a balancer may want to know about it.
///
/// The messages carry the address alone; what they do not say is as [`Endpoint::new`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where the host is; no route lists an address twice.
    pub addr: HostAddr,
    /// The host's share of the calls in proportion to the other hosts of its module.
    pub weight: u16,
    /// Where the host stands, if that was said.
    pub zone: Option<Zone>,
}

impl Endpoint {
    /// The weight of a host of which nothing else was said.
    pub const WEIGHT_DEFAULT: u16 = 100;

    /// A host of the usual weight and without a zone.
    #[must_use]
    pub const fn new(addr: HostAddr) -> Self {
        Self { addr, weight: Self::WEIGHT_DEFAULT, zone: None }
    }

    /// What a route message says of a host.
    ///
    /// # Errors
    /// [`HostAddrError::Port`] if the port is not in 1..=65535.
    pub fn from_wire(host: &HostInfo) -> Result<Self, HostAddrError> {
        HostAddr::from_wire(host).map(Self::new)
    }
}

impl From<HostAddr> for Endpoint {
    fn from(addr: HostAddr) -> Self {
        Self::new(addr)
    }
}

/// A part of the network within which calls are cheap, by the number that operators gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(NonZeroU16);

impl Zone {
    /// The zone of this number; `None` for 0, which means no zone.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, 1..=65535.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_alone_has_the_usual_weight_and_no_zone() {
        let addr = HostAddr::v4(Ipv4Addr::LOCALHOST, 80);
        let expected = Endpoint { addr, weight: 100, zone: None };
        assert_eq!(Endpoint::from(addr), expected);
        assert_eq!(Endpoint::from_wire(&addr.to_wire()), Ok(expected));
        let no_port = HostInfo { port: 0, ..addr.to_wire() };
        assert_eq!(Endpoint::from_wire(&no_port), Err(HostAddrError::Port(0)));
    }

    #[test]
    fn zones_are_numbered_from_one() {
        assert_eq!(Zone::new(0), None);
        assert_eq!(Zone::new(7).map(Zone::number), Some(7));
    }
}
