//! Many subscribers of module 1/1 at lars-dns: how long after an edit each of them has the push.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;
use lars_proto::{HostAddr, ModuleId, frame::HEADER_LEN, messages::MessageId};
use lars_store::{OpenMode, RouteEdit, RouteStore, StoreUrl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::{
    Load, LoadError,
    cpu::CpuTimes,
    measurement::{Counts, Latency, Measurement, Pushes},
    run::{Plan, WAIT_MAX},
    sockets::{PIECE_LEN, ring_over},
    values::some,
};
use crate::{
    frames::{Frames, route_query, route_reply},
    ring::{Event, Ring, SocketKind, Wait},
    spread::Spread,
};

/// What everybody subscribes to. Its hosts are replaced.
const MODULE: ModuleId = ModuleId::new(1, 1);

/// Connections from one loopback address to one port, at most: the kernel gives out some 28,000 ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// When a push counts as lost if the plan does not say.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Pauses before edits lie within one poll interval of lars-dns, spread over it.
const PAUSE_STEP_MS: u64 = 377;
const PAUSE_MAX_MS: u64 = 1_000;

/// Who subscribes to what, and how often that changes.
#[derive(Clone, Debug, Args)]
pub struct DnsSubscribeLoad {
    /// lars-dns
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7778")]
    pub dns: SocketAddr,
    /// The database that it serves, to edit the route: sqlite:PATH or mysql://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub store: StoreUrl,
    /// How many subscribers
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = some)]
    pub connections: usize,
    /// How many edits
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub changes: u16,
}

impl Load for DnsSubscribeLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let mut store = lars_store::open(&self.store, OpenMode::Create)?;
        allow_open_files()?;
        let streams = (0..self.connections).map(|n| connect(self.dns, n)).collect::<Result<_, _>>()?;
        let ring = ring_over(streams, SocketKind::Stream, PIECE_LEN)?;
        let (inputs, has_it) = (vec![Frames::default(); self.connections], vec![false; self.connections]);
        let mut audience = Audience { load: self, plan, ring, inputs, has_it };
        audience.subscribe()?;
        let mut seen = Seen { latencies: Latency::histogram(), changes: Vec::new(), lost: 0 };
        for number in 1..=self.changes {
            thread::sleep(Duration::from_millis(u64::from(number) * PAUSE_STEP_MS % PAUSE_MAX_MS));
            audience.change(&mut *store, number, &mut seen)?;
        }
        Ok(seen.measurement(self.connections))
    }
}

/// As many connections as the hard limit on open files allows.
pub fn allow_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Loopback connections come from as many addresses as they need.
fn connect(server: SocketAddr, number: usize) -> Result<OwnedFd, LoadError> {
    let at = |error| LoadError::at(server, error);
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    let source = number / CONNECTIONS_PER_SOURCE;
    if server.ip().is_loopback() && server.is_ipv4() && source > 0 {
        let address = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + source as u32);
        socket.bind(&SocketAddr::from((address, 0)).into())?;
    }
    socket.connect(&server.into()).map_err(at)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// The subscribers.
struct Audience<'a> {
    load: &'a DnsSubscribeLoad,
    plan: &'a Plan,
    ring: Ring,
    inputs: Vec<Frames>,
    /// Who has what is waited for.
    has_it: Vec<bool>,
}

impl Audience<'_> {
    /// Every connection asks for the module, and has its answer.
    fn subscribe(&mut self) -> Result<(), LoadError> {
        let query = route_query(MessageId::GetRouteRequest, MODULE);
        for connection in 0..self.load.connections {
            self.ring.push(connection, &query)?;
            self.ring.flush(connection)?;
        }
        let missing = self.await_frames(|_| true, |_| ())?;
        if missing == 0 { Ok(()) } else { Err(self.failed("does not answer all subscribers")) }
    }

    /// One edit, and the pushes that follow.
    fn change(&mut self, store: &mut dyn RouteStore, number: u16, seen: &mut Seen) -> Result<(), LoadError> {
        let (cpu_before, started) = (CpuTimes::read(self.plan.server_pid), Instant::now());
        // What a run before this one has left is changed as well.
        let address = Ipv4Addr::from_bits(fastrand::u32(0x0a00_0001..=0x0aff_fffe));
        let host = HostAddr::v4(address, number);
        store.edit(&[RouteEdit::Replace(MODULE, vec![host])])?;
        let push = route_reply(MessageId::GetRouteResponse, MODULE, vec![host.to_wire()]);
        let edited = Instant::now();
        let (mut first, mut last) = (None, Duration::ZERO);
        let missing = self.await_frames(
            |frame| frame[HEADER_LEN..] == push[HEADER_LEN..],
            |now| {
                last = now.saturating_duration_since(edited);
                first.get_or_insert(last);
                seen.latencies.saturating_record((last.as_nanos() as u64).max(1));
            },
        )?;
        seen.lost += missing as u64;
        let cpu = CpuTimes::read(self.plan.server_pid).since(cpu_before);
        seen.changes.push(Change { first: first.unwrap_or_default(), last, cpu, took: started.elapsed() });
        Ok(())
    }

    /// Waits until each connection has a frame that is `wanted`; `each` hears when one has. How many have none in time.
    fn await_frames(
        &mut self,
        wanted: impl Fn(&[u8]) -> bool,
        mut each: impl FnMut(Instant),
    ) -> Result<usize, LoadError> {
        self.has_it.fill(false);
        let (mut missing, mut heard) = (self.has_it.len(), Instant::now());
        while missing > 0 && heard.elapsed() < self.plan.timeout.unwrap_or(TIMEOUT) {
            self.ring.turn(Wait::for_one(WAIT_MAX))?;
            let now = Instant::now();
            while let Some(event) = self.ring.next() {
                let connection = match event {
                    Event::Received(socket) => socket,
                    Event::HungUp(_) => return Err(self.failed("hung up")),
                    Event::Failed(_, error) => return Err(error.into()),
                    Event::Sent(_) | Event::Accepted(_) => continue,
                };
                let has_it = &mut self.has_it[connection];
                let whole = self.inputs[connection].take(self.ring.received(), |frame| {
                    if !*has_it && wanted(frame) {
                        *has_it = true;
                        missing -= 1;
                        each(now);
                    }
                });
                whole.map_err(io::Error::other)?;
                heard = now;
            }
        }
        Ok(missing)
    }

    fn failed(&self, problem: &'static str) -> LoadError {
        LoadError::Server { server: self.load.dns, problem }
    }
}

/// What came of one edit.
struct Change {
    /// Since the edit.
    first: Duration,
    last: Duration,
    cpu: CpuTimes,
    /// The edit included.
    took: Duration,
}

/// What came of all edits.
struct Seen {
    /// Of each push, in nanoseconds.
    latencies: Histogram<u64>,
    changes: Vec<Change>,
    lost: u64,
}

impl Seen {
    fn measurement(self, subscribers: usize) -> Measurement {
        let millis = |time: fn(&Change) -> Duration| {
            Spread::of(self.changes.iter().map(|change| time(change).as_secs_f64() * 1e3)).unwrap_or_default()
        };
        let server_us = self.changes.iter().filter_map(|change| change.cpu.server);
        let server_us = Spread::of(server_us.map(|time| time.as_secs_f64() * 1e6 / subscribers as f64));
        let seconds = self.changes.iter().map(|change| change.took.as_secs_f64()).sum::<f64>();
        let load = self.changes.iter().map(|change| change.cpu.load.as_secs_f64()).sum::<f64>();
        let replies = self.latencies.len();
        let requests = replies + self.lost;
        Measurement {
            seconds,
            completed: replies,
            per_second: replies as f64 / seconds,
            latency: Latency::of(&self.latencies),
            counts: Counts { requests, replies, lost: self.lost, ..Counts::default() },
            cpu_share: load / seconds,
            server_us: server_us.map(|us| us.median),
            pushes: Some(Pushes {
                subscribers,
                to_first_ms: millis(|change| change.first),
                to_last_ms: millis(|change| change.last),
                first_to_last_ms: millis(|change| change.last - change.first),
                server_us,
            }),
            ..Measurement::default()
        }
    }
}
