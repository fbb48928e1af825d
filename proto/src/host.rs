//! [`HostAddr`]: where a module is served.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    str::FromStr,
};

use crate::messages::HostInfo;

/// The address of one host of a module.
///
/// An enum because the wire and the tables of today know IPv4 only and IPv6 is to come; nothing outside
/// this crate may take a host for a 32-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HostAddr {
    /// An IPv4 address and port.
    V4(SocketAddrV4),
}

/// Why something is not the address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostAddrError {
    /// The port is not in 1..=65535.
    Port(i64),
    /// Not of the form `a.b.c.d:port`.
    Form(String),
}

impl fmt::Display for HostAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port} is not in 1..=65535"),
            Self::Form(text) => write!(f, "'{text}' is not an IPv4 address and port like 10.0.0.7:8080"),
        }
    }
}

impl std::error::Error for HostAddrError {}

impl HostAddr {
    /// The host at `ip:port`.
    #[must_use]
    pub const fn v4(ip: Ipv4Addr, port: u16) -> Self {
        Self::V4(SocketAddrV4::new(ip, port))
    }

    /// The address without the port.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        match self {
            Self::V4(addr) => IpAddr::V4(*addr.ip()),
        }
    }

    /// The port, 1..=65535 for hosts that came from the wire, from text or from SQL.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::V4(addr) => addr.port(),
        }
    }

    /// What `connect` takes.
    #[must_use]
    pub const fn socket_addr(self) -> SocketAddr {
        match self {
            Self::V4(addr) => SocketAddr::V4(addr),
        }
    }

    /// The host as the wire has it.
    #[must_use]
    pub fn to_wire(self) -> HostInfo {
        let (ip, port) = self.to_unsigned();
        HostInfo { ip: ip.cast_signed(), port: port.cast_signed() }
    }

    /// The host that a message names.
    ///
    /// # Errors
    /// [`HostAddrError::Port`] if the port is not in 1..=65535.
    pub fn from_wire(host: &HostInfo) -> Result<Self, HostAddrError> {
        let port = checked_port(i64::from(host.port))?;
        Ok(Self::v4(Ipv4Addr::from_bits(host.ip.cast_unsigned()), port))
    }

    /// The host as SQL has it: IPv4 as a host-order number, and the port.
    #[must_use]
    pub fn to_unsigned(self) -> (u32, u32) {
        match self {
            Self::V4(addr) => (addr.ip().to_bits(), u32::from(addr.port())),
        }
    }

    /// The reverse of [`HostAddr::to_unsigned`].
    ///
    /// # Errors
    /// [`HostAddrError::Port`] if the port is not in 1..=65535.
    pub fn from_unsigned(ip: u32, port: u32) -> Result<Self, HostAddrError> {
        Ok(Self::v4(Ipv4Addr::from_bits(ip), checked_port(i64::from(port))?))
    }
}

fn checked_port(port: i64) -> Result<u16, HostAddrError> {
    u16::try_from(port).ok().filter(|&port| port != 0).ok_or(HostAddrError::Port(port))
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(addr) => addr.fmt(f),
        }
    }
}

impl FromStr for HostAddr {
    type Err = HostAddrError;

    fn from_str(text: &str) -> Result<Self, HostAddrError> {
        let addr: SocketAddrV4 = text.parse().map_err(|_| HostAddrError::Form(text.to_owned()))?;
        checked_port(i64::from(addr.port()))?;
        Ok(Self::V4(addr))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_form() {
        let host: HostAddr = "10.0.0.7:8080".parse().expect("a host");
        assert_eq!(host.to_string(), "10.0.0.7:8080");
        assert_eq!("10.0.0.7:0".parse::<HostAddr>(), Err(HostAddrError::Port(0)));
        for text in ["", "10.0.0.7", "10.0.0:1", "example.org:80", "10.0.0.7:65536", "[::1]:80"] {
            assert_eq!(text.parse::<HostAddr>(), Err(HostAddrError::Form(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn ports_out_of_range_are_refused() {
        for port in [0, -1, 65_536, i32::MIN, i32::MAX] {
            let refused = HostAddr::from_wire(&HostInfo { ip: 1, port });
            assert_eq!(refused, Err(HostAddrError::Port(i64::from(port))));
        }
    }

    proptest! {
        #[test]
        fn wire_and_sql_round_trip(ip: u32, port in 1u16..) {
            let host = HostAddr::v4(Ipv4Addr::from_bits(ip), port);
            prop_assert_eq!(HostAddr::from_wire(&host.to_wire()), Ok(host));
            let (ip, port) = host.to_unsigned();
            prop_assert_eq!(HostAddr::from_unsigned(ip, port), Ok(host));
            prop_assert_eq!(host.to_string().parse::<HostAddr>(), Ok(host));
        }
    }
}
