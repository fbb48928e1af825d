//! The hosts of the demo's module: real TCP servers that answer, fail, or are not there.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use lars_proto::{HostAddr, ModuleId};
use socket2::{Domain, Socket, Type};

use crate::simulation::Dice;

/// The module of the demo.
pub(crate) const MODULE: ModuleId = ModuleId::new(1, 1);
/// How many of ten requests the flaky host fails.
pub(crate) const FLAKY_FAILED_OF_TEN: u8 = 8;

pub(super) const REQUEST: &str = "ping\n";
pub(super) const REPLY: &str = "pong\n";
const FAILURE: &str = "broken\n";
/// A caller that connects and then keeps silent must not stop the others.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a host does in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers, from the first to the last call.
    Healthy,
    /// Answers, and is taken out of the route.
    Leaving,
    /// Fails most calls, until it is repaired.
    Flaky,
    /// Refuses every connection.
    Dead,
    /// Answers; comes into the route when the other leaves.
    Joining,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Leaving => "leaves",
            Self::Flaky => "flaky",
            Self::Dead => "dead",
            Self::Joining => "joins",
        }
    }
}

/// The parts, in the order of their letters.
pub(crate) const ROLES: [Role; 6] =
    [Role::Healthy, Role::Healthy, Role::Leaving, Role::Flaky, Role::Dead, Role::Joining];

/// A host with its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// What the demo calls it.
    pub(crate) letter: char,
    pub(crate) role: Role,
    pub(crate) host: HostAddr,
}

/// Who plays which part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cast(pub(crate) Vec<Member>);

impl Cast {
    /// One host for each of [`ROLES`].
    pub(crate) fn new(hosts: [HostAddr; ROLES.len()]) -> Self {
        let parts = ('A'..).zip(ROLES).zip(hosts);
        Self(parts.map(|((letter, role), host)| Member { letter, role, host }).collect())
    }

    /// The hosts that play one of `roles`.
    pub(crate) fn hosts<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = HostAddr> + 'a {
        self.0.iter().filter(|member| roles.contains(&member.role)).map(|member| member.host)
    }

    /// The first host that plays `role`.
    pub(crate) fn host(&self, role: Role) -> HostAddr {
        self.hosts(&[role]).next().expect("every role is cast")
    }
}

/// One server for each role. They answer, each in a thread, for as long as the process runs.
pub(crate) struct Hosts {
    pub(crate) cast: Cast,
    is_repaired: Arc<AtomicBool>,
    /// Bound, so that nobody else gets the port, but not listening: every connection is refused.
    _dead: Socket,
}

impl Hosts {
    pub(crate) fn start() -> io::Result<Self> {
        let dead = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        dead.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let dead_addr = dead.local_addr()?.as_socket_ipv4().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut hosts = [HostAddr::V4(dead_addr); ROLES.len()];
        let is_repaired = Arc::new(AtomicBool::new(false));
        for (host, role) in hosts.iter_mut().zip(ROLES).filter(|(_, role)| *role != Role::Dead) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            *host = HostAddr::v4(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
            let failed = if role == Role::Flaky { f64::from(FLAKY_FAILED_OF_TEN) / 10.0 } else { 0.0 };
            let (host, dice, is_repaired) =
                (*host, Dice::new(0, failed, BTreeMap::new()), Arc::clone(&is_repaired));
            thread::Builder::new()
                .name(format!("backend {host}"))
                .spawn(move || serve(&listener, host, dice, &is_repaired))?;
        }
        Ok(Self { cast: Cast::new(hosts), is_repaired, _dead: dead })
    }

    /// From now on every host that runs answers every request.
    pub(crate) fn repair(&self) {
        self.is_repaired.store(true, Ordering::Relaxed);
    }
}

/// Answers one request per connection at once.
fn serve(listener: &TcpListener, host: HostAddr, mut dice: Dice, is_repaired: &AtomicBool) {
    for connection in listener.incoming() {
        let fails = dice.roll(host).is_err() && !is_repaired.load(Ordering::Relaxed);
        // What goes wrong with one connection is seen by its caller.
        let _ = connection.and_then(|connection| answer(&connection, fails));
    }
}

fn answer(mut connection: &TcpStream, fails: bool) -> io::Result<()> {
    connection.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = String::new();
    BufReader::with_capacity(REQUEST.len(), connection).read_line(&mut request)?;
    let is_healthy = request == REQUEST && !fails;
    connection.write_all(if is_healthy { REPLY } else { FAILURE }.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{super::callers::call, *};

    #[test]
    fn each_host_plays_its_part() {
        let hosts = Hosts::start().unwrap();
        let failed = |role| (0..100).filter(|_| call(hosts.cast.host(role)).is_err()).count();
        assert_eq!((failed(Role::Healthy), failed(Role::Dead)), (0, 100));
        let flaky = failed(Role::Flaky);
        assert!((50..100).contains(&flaky), "{flaky} of 100 failed");
        hosts.repair();
        assert_eq!(failed(Role::Flaky), 0);
    }
}
