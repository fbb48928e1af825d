//! Ports that nobody else gets, whether or not anybody listens on them.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{self as unix, UnixListener},
    },
    sync::Mutex,
};

use crate::eventually_some;

/// Below the ports that the kernel gives to clients, and to listeners that leave the choice to it.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// The first of `count` ports of 127.0.0.1 in a row, TCP and UDP, on which nobody listens. They are this process's to
/// its end: no test beside it is given them, so what listens there may go and come back.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn reserved_ports(count: u16) -> u16 {
    /// One name of each reserved port, which the kernel keeps from everybody else as long as this process lives.
    static NAMES: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let (first, names) = eventually_some("free ports", || {
        let first = FIRST + random() % (COUNT - count);
        Some((first, (first..first + count).map(reserved).collect::<Option<Vec<_>>>()?))
    });
    NAMES.lock().expect("nobody panics with it").extend(names);
    first
}

/// An address as of [`reserved_ports`].
#[must_use]
pub fn reserved_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, reserved_ports(1)))
}

fn reserved(port: u16) -> Option<UnixListener> {
    let name = unix::SocketAddr::from_abstract_name(format!("lars-test-port-{port}")).ok()?;
    let name = UnixListener::bind_addr(&name).ok()?;
    let addr = (Ipv4Addr::LOCALHOST, port);
    (TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok()).then_some(name)
}

fn random() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_gets_a_port_twice() {
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let first = reserved_ports(3);
            for port in first..first + 3 {
                assert!(ports.insert(port), "{port} again");
                assert!(reserved(port).is_none());
                drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody listens"));
            }
        }
    }
}
