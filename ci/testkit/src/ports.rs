//! Ports that nobody else gets, whether or not anybody listens on them.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    net::{Ipv4Addr, SocketAddr},
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
    (!is_taken(port)).then_some(name)
}

/// Whether any socket of this machine has the local port, as the kernel's tables say. Binding it to find out would take
/// it for a moment longer than the attempt: a program that another thread starts just then inherits the socket until
/// its `exec`, and whoever the port is given to finds it in use.
fn is_taken(port: u16) -> bool {
    let local_port = format!(":{port:04X}");
    ["tcp", "tcp6", "udp", "udp6"].iter().any(|table| {
        // A kernel without IPv6 has no table of it.
        let table = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        table
            .lines()
            .skip(1)
            .any(|line| line.split_whitespace().nth(1).is_some_and(|addr| addr.ends_with(&local_port)))
    })
}

fn random() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{TcpListener, UdpSocket},
    };

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

    #[test]
    fn ports_that_somebody_listens_on_are_taken() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        assert!(is_taken(tcp.local_addr().expect("bound").port()));
        assert!(is_taken(udp.local_addr().expect("bound").port()));
    }
}
