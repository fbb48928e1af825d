//! [`Agent`]: the far end as both clients see it, shared by all clones of one.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Instant,
};

use lars_proto::ModuleId;

use super::idle::Idle;
use crate::{
    ClientConfig, ClientError, Host, Outcome,
    core::{GiveUp, HostQuestion, Lookup, Patience, Question, report_datagram},
    error::NoAnswer,
};

/// The agent. `L` is a lane: a socket connected to one of its ports and used by one call at a time, so that
/// no call ever reads the answer to another one that runs beside it.
#[derive(Debug)]
pub(crate) struct Agent<L> {
    ports: Box<[Port<L>]>,
    patience: Patience,
    next_seq: AtomicU32,
}

/// One port of the agent, which is where one of its shards listens.
#[derive(Debug)]
pub(crate) struct Port<L> {
    addr: SocketAddr,
    /// Lanes that got their last answer; nothing but late answers to host questions can arrive on them.
    pub(crate) idle: Idle<L>,
    /// Not blocking, shared by all threads and never read.
    reports: UdpSocket,
    reports_dropped: AtomicU64,
    /// The last lookup found nobody there.
    absent: AtomicBool,
}

impl<L> Agent<L> {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let patience = config.patience()?;
        let ports = config.agent_addrs()?.into_iter().map(Port::new).collect::<Result<_, _>>()?;
        Ok(Self { ports, patience, next_seq: AtomicU32::new(random()) })
    }

    /// The port of the shard that owns `module`.
    pub(crate) fn port(&self, module: ModuleId) -> &Port<L> {
        &self.ports[module.shard(self.ports.len())]
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    pub(crate) fn host_question(&self, module: ModuleId) -> HostQuestion {
        HostQuestion { seq: self.next_seq.fetch_add(1, Ordering::Relaxed), module }
    }

    pub(crate) fn lookup<Q: Question>(&self, port: &Port<L>, question: Q, now: Instant) -> Lookup<Q> {
        Lookup::new(question, self.patience, port.absent.load(Ordering::Relaxed), now)
    }

    /// Remembers how a lookup on `port` ended without an answer, and makes it an error.
    pub(crate) fn gave_up(&self, port: &Port<L>, why: GiveUp, problem: Option<io::Error>) -> NoAnswer {
        port.absent.store(why == GiveUp::Unreachable, Ordering::Relaxed);
        match why {
            GiveUp::Timeout => NoAnswer::Timeout { agent: port.addr, waited: self.patience.total },
            GiveUp::Unreachable => {
                port.unreachable(problem.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
            }
        }
    }

    /// One send, and no waiting for anything.
    pub(crate) fn report(&self, host: &Host, outcome: Outcome) {
        self.port(host.module).report(&report_datagram(host, outcome));
    }

    pub(crate) fn reports_dropped(&self) -> u64 {
        self.ports.iter().map(|port| port.reports_dropped.load(Ordering::Relaxed)).sum()
    }
}

impl<L> Port<L> {
    fn new(addr: SocketAddr) -> Result<Self, ClientError> {
        let reports = connected_socket(addr)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|source| ClientError::Socket { agent: addr, source })?;
        Ok(Self {
            addr,
            idle: Idle::new(),
            reports,
            reports_dropped: AtomicU64::new(0),
            absent: AtomicBool::new(false),
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
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

/// A UDP socket that sends to `agent`, receives from nobody else, and learns when the port there is closed.
pub(super) fn connected_socket(agent: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(agent)?;
    Ok(socket)
}

/// Where to begin counting, so that a restarted program that is given its old UDP port again does not take
/// late answers to its former self for its own.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
