//! [`Agent`]: the far end as both clients see it, shared by all clones of one.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    process,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use lars_proto::ModuleId;

use super::pool::SocketPool;
use crate::{
    ClientConfig, ClientError, Host, Outcome,
    core::{GiveUp, HostQuestion, Lookup, Question, Timeouts, report_datagram},
    error::NoAnswer,
};

/// How often a local port is looked for that is none of the agent's.
const BIND_TRIES: usize = 64;

/// The agent, with the sockets `S` that lead there.
#[derive(Debug)]
pub(crate) struct Agent<S> {
    ports: Box<[Port<S>]>,
    timeouts: Timeouts,
    next_seq: AtomicU32,
}

/// One port of the agent, which is where one of its shards listens.
#[derive(Debug)]
pub(crate) struct Port<S> {
    addr: SocketAddr,
    /// Sockets between two calls.
    pub(crate) pooled: SocketPool<S>,
    /// Not blocking, shared by all threads and never read.
    reports: UdpSocket,
    reports_dropped: AtomicU64,
    /// The last lookup found nobody there.
    absent: AtomicBool,
}

impl<S> Agent<S> {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let timeouts = config.timeouts()?;
        let numbers = config.agent_ports()?;
        let port = |number| Port::new((config.agent_ip, number).into(), &numbers);
        let ports = numbers.clone().map(port).collect::<Result<_, _>>()?;
        Ok(Self { ports, timeouts, next_seq: AtomicU32::new(random()) })
    }

    /// The port of the shard that owns `module`.
    pub(crate) fn port(&self, module: ModuleId) -> &Port<S> {
        &self.ports[module.shard(self.ports.len())]
    }

    pub(crate) fn port_numbers(&self) -> RangeInclusive<u16> {
        let number = |port: Option<&Port<S>>| port.map_or(0, |port| port.addr.port());
        number(self.ports.first())..=number(self.ports.last())
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub(crate) fn host_question(&self, module: ModuleId) -> HostQuestion {
        HostQuestion { seq: self.next_seq.fetch_add(1, Ordering::Relaxed), module }
    }

    /// One send, and no waiting for anything.
    pub(crate) fn report(&self, host: &Host, outcome: Outcome) {
        self.port(host.module).report(&report_datagram(host, outcome));
    }

    pub(crate) fn reports_dropped(&self) -> u64 {
        self.ports.iter().map(|port| port.reports_dropped.load(Ordering::Relaxed)).sum()
    }
}

impl<S> Port<S> {
    fn new(addr: SocketAddr, agent_ports: &RangeInclusive<u16>) -> Result<Self, ClientError> {
        let reports = connected_socket(addr, agent_ports)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|source| refused(addr, source))?;
        Ok(Self {
            addr,
            pooled: SocketPool::new(),
            reports,
            reports_dropped: AtomicU64::new(0),
            absent: AtomicBool::new(false),
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn lookup<Q: Question>(&self, question: Q, timeouts: Timeouts, now: Instant) -> Lookup<Q> {
        Lookup::new(question, timeouts, self.absent.load(Ordering::Relaxed), now)
    }

    /// Remembers how a lookup ended that got no answer and had `waited`, and makes it an error.
    pub(crate) fn gave_up(&self, why: GiveUp, problem: Option<io::Error>, waited: Duration) -> NoAnswer {
        self.absent.store(why == GiveUp::Unreachable, Ordering::Relaxed);
        match why {
            GiveUp::Timeout => NoAnswer::Timeout { agent: self.addr, waited },
            GiveUp::Unreachable => {
                self.unreachable(problem.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
            }
        }
    }

    /// The agent is there.
    pub(crate) fn answered(&self) {
        self.absent.store(false, Ordering::Relaxed);
    }

    pub(crate) fn unreachable(&self, source: io::Error) -> NoAnswer {
        NoAnswer::Unreachable { agent: self.addr, source }
    }

    fn report(&self, datagram: &[u8]) {
        let sent = match self.reports.send(datagram) {
            // That is the fate of an earlier report; this one has not been sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.reports.send(datagram),
            sent => sent,
        };
        if sent.is_err() {
            self.reports_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn refused(agent: SocketAddr, source: io::Error) -> ClientError {
    if matches!(source.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) {
        ClientError::AgentUnreachable { agent, source }
    } else {
        ClientError::Socket { agent, source }
    }
}

/// A UDP socket that sends to `agent`, receives from nobody else, and learns when the port there is closed.
///
/// The system may hand out the agent's ports as well (`net.ipv4.ip_local_port_range` and its reserved ports say so).
/// A client on one of them would keep the agent from starting, and until then would hear its own questions; so the
/// socket is bound to none of `agent_ports`.
pub(super) fn connected_socket(
    agent: SocketAddr,
    agent_ports: &RangeInclusive<u16>,
) -> io::Result<UdpSocket> {
    // Kept meanwhile, or the system might offer the same port again.
    let mut unwanted = Vec::new();
    while unwanted.len() < BIND_TRIES {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        if !agent_ports.contains(&socket.local_addr()?.port()) {
            socket.connect(agent)?;
            return Ok(socket);
        }
        unwanted.push(socket);
    }
    Err(io::Error::other(format!(
        "the system offers only the agent's own ports {}-{}: reserve them (net.ipv4.ip_local_reserved_ports)",
        agent_ports.start(),
        agent_ports.end()
    )))
}

/// Where to begin counting, so that a restarted program that is given its old UDP port again does not take
/// late answers to its former self for its own. Children of one process hash alike, but for their ids.
fn random() -> u32 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(process::id());
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_socket_takes_a_port_of_the_agent() {
        // Half of what Linux offers unless told otherwise.
        let agent_ports = 32_768..=46_883;
        for _ in 0..100 {
            let socket = connected_socket(([127, 0, 0, 1], 8888).into(), &agent_ports).expect("a socket");
            let port = socket.local_addr().expect("bound").port();
            assert!(!agent_ports.contains(&port), "{port} is the agent's");
        }
        let error =
            connected_socket(([127, 0, 0, 1], 8888).into(), &(1..=u16::MAX)).expect_err("no port is left");
        assert!(error.to_string().contains("net.ipv4.ip_local_reserved_ports"), "{error}");
    }

    #[test]
    fn no_way_to_the_agent_is_not_a_lack_of_sockets() {
        let error = refused(([127, 0, 0, 1], 8888).into(), io::ErrorKind::NetworkUnreachable.into());
        assert!(matches!(error, ClientError::AgentUnreachable { .. }));
        let error = refused(([127, 0, 0, 1], 8888).into(), io::Error::from_raw_os_error(24));
        assert!(matches!(error, ClientError::Socket { .. }));
    }
}
