//! Which address this machine has in the statistics.
//!
//! lars-reporter keeps a row for each module, host and caller, so callers must differ. Where the connection to it goes
//! by the loopback address (both on one machine, or a tunnel), that address is everybody's.

use std::net::{Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// The configured address; else this end of the connection to lars-reporter; else, if that is a loopback or no IPv4
/// address, the first one of the machine that is neither; else what there is.
pub(super) fn address(configured: Option<Ipv4Addr>, connection: Option<SocketAddr>) -> Ipv4Addr {
    let connection = connection.and_then(|addr| match addr.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    });
    configured.unwrap_or_else(|| choose(connection, machine_addresses))
}

fn choose(connection: Option<Ipv4Addr>, machine: impl FnOnce() -> Vec<Ipv4Addr>) -> Ipv4Addr {
    if let Some(ip) = connection.filter(|ip| !ip.is_loopback()) {
        return ip;
    }
    let own = machine().into_iter().find(|ip| !ip.is_loopback() && !ip.is_unspecified());
    own.or(connection).unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// In the order of the interfaces. If the kernel does not tell, none.
fn machine_addresses() -> Vec<Ipv4Addr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 7);

    #[test]
    fn a_loopback_address_is_nobodys_name() {
        assert_eq!(choose(Some(OTHER), || vec![LOOPBACK, OWN]), OTHER);
        assert_eq!(choose(Some(LOOPBACK), || vec![LOOPBACK, OWN, OTHER]), OWN);
        assert_eq!(choose(None, || vec![LOOPBACK, OWN]), OWN, "a connection over IPv6");
        assert_eq!(choose(Some(LOOPBACK), || vec![LOOPBACK]), LOOPBACK);
        assert_eq!(choose(None, Vec::new), Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn what_is_configured_wins() {
        assert_eq!(address(Some(OWN), Some((OTHER, 1).into())), OWN);
    }
}
