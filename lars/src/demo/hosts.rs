//! The hosts of the demo's module: real TCP servers that answer, fail, or are not there.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fastrand::Rng;
use lars_proto::{HostAddr, ModuleId};
use socket2::{Domain, Socket, Type};

/// The module of the demo.
pub(crate) const MODULE: ModuleId = ModuleId::new(1, 1);
/// How many of a hundred requests the flaky host fails.
pub(crate) const FLAKY_FAILED_PERCENT: u8 = 80;

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
            Self::Leaving => "healthy, leaves",
            Self::Flaky => "flaky at first",
            Self::Dead => "dead",
            Self::Joining => "healthy, joins",
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// One server for each role, running until this is dropped.
pub(crate) struct Hosts {
    pub(crate) cast: Cast,
    /// All but the dead one.
    backends: Vec<Backend>,
    /// Bound, so that nobody else gets the port, but not listening: every connection is refused.
    _dead: Socket,
}

impl Hosts {
    pub(crate) fn start() -> io::Result<Self> {
        let dead = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        dead.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let dead_addr = dead.local_addr()?.as_socket_ipv4().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut backends = Vec::new();
        let mut hosts = [HostAddr::V4(dead_addr); ROLES.len()];
        for (n, role) in ROLES.into_iter().enumerate().filter(|(_, role)| *role != Role::Dead) {
            let failed_percent = if role == Role::Flaky { FLAKY_FAILED_PERCENT } else { 0 };
            let backend = Backend::start(failed_percent, Rng::with_seed(n as u64))?;
            hosts[n] = HostAddr::V4(backend.addr);
            backends.push(backend);
        }
        Ok(Self { cast: Cast::new(hosts), backends, _dead: dead })
    }

    /// From now on every host that runs answers every request.
    pub(crate) fn repair(&self) {
        for backend in &self.backends {
            backend.shared.failed_percent.store(0, Ordering::Relaxed);
        }
    }
}

/// A server on 127.0.0.1 that answers one request per connection at once.
struct Backend {
    addr: SocketAddrV4,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// How many of a hundred requests fail.
    failed_percent: AtomicU8,
    stopping: AtomicBool,
}

impl Backend {
    /// `failed_percent` of the requests fail, as `rng` draws it.
    fn start(failed_percent: u8, rng: Rng) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let shared = Arc::new(Shared { failed_percent: failed_percent.into(), ..Shared::default() });
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(format!("backend-{}", addr.port()))
            .spawn(move || serve(&listener, &serving, rng))?;
        Ok(Self { addr, shared, thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Wakes the thread, which waits for a connection.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared, mut rng: Rng) {
    for connection in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let fails = rng.u8(..100) < shared.failed_percent.load(Ordering::Relaxed);
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
        let gone = hosts.cast.host(Role::Healthy);
        drop(hosts);
        assert!(call(gone).is_err());
    }
}
