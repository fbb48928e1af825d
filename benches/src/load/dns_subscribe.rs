//! Many subscribers of one module at lars-dns: how long after an edit each of them has the push.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;
use lars_proto::{
    HostAddr, ModuleId,
    frame::{self, HEADER_LEN},
    messages::{GetRouteRequest, GetRouteResponse, HostInfo, MessageId},
};
use lars_store::{RouteEdit, RouteStore, StoreUrl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::{
    LoadError, cpu,
    measurement::{Counts, Latency, Measurement, Pushes},
    run::BenchArgs,
    sockets::{Input, PIECE_LEN, Sockets},
    values::{at_least, module, seconds},
};
use crate::{frames::Frames, ring::SocketKind, spread::Spread};

/// Connections from one loopback address to one port, at most: the kernel gives out some 28,000 ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// How long a wait lasts before the clock is looked at.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Pauses before edits lie within one poll interval of lars-dns, spread over it.
const PAUSE_STEP_MS: u64 = 377;
const PAUSE_MAX_MS: u64 = 1_000;

/// Latencies are kept to three digits up to here, an hour; longer ones count as so long.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Who subscribes to what, and how often that changes.
#[derive(Clone, Debug, Args)]
pub struct DnsSubscribeLoad {
    /// lars-dns
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7778")]
    pub dns: SocketAddr,
    /// The database that it serves, to edit the route: sqlite:PATH or mysql://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub store: StoreUrl,
    /// The module to subscribe to. Its hosts are replaced
    #[arg(long, value_name = "MODID/CMDID", default_value = "1/1", value_parser = module,
        allow_hyphen_values = true)]
    pub module: ModuleId,
    /// How many subscribers
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least::<1>)]
    pub connections: usize,
    /// How many edits
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub changes: u16,
    /// When a push counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub timeout: Duration,
    /// Where it runs, and what it writes.
    #[command(flatten)]
    pub bench: BenchArgs,
}

impl DnsSubscribeLoad {
    /// Subscribes, edits through `store`, and measures.
    ///
    /// # Errors
    /// If there is nobody to subscribe at, the limit on open files is too low, or the store refuses an edit.
    pub fn run(&self, store: &mut dyn RouteStore) -> Result<Measurement, LoadError> {
        allow_open_files()?;
        let streams = (0..self.connections).map(|n| connect(self.dns, n)).collect::<Result<_, _>>()?;
        let sockets = Sockets::over(streams, SocketKind::Stream, PIECE_LEN)?;
        let inputs = (0..self.connections).map(|_| Frames::default()).collect();
        let mut audience = Audience { load: self, sockets, inputs, pushed: vec![false; self.connections] };
        audience.subscribe()?;
        let mut seen = Seen::default();
        for change in 1..=self.changes {
            thread::sleep(Duration::from_millis(u64::from(change) * PAUSE_STEP_MS % PAUSE_MAX_MS));
            audience.change(store, change, &mut seen)?;
        }
        Ok(seen.measurement(self))
    }
}

/// As many connections as the hard limit on open files allows.
///
/// # Errors
/// If the kernel refuses.
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
    sockets: Sockets,
    inputs: Vec<Frames>,
    /// Who has what is waited for.
    pushed: Vec<bool>,
}

impl Audience<'_> {
    /// Every connection asks for the module, and has its answer.
    fn subscribe(&mut self) -> Result<(), LoadError> {
        let ModuleId { modid, cmdid } = self.load.module;
        let query = GetRouteRequest { modid, cmdid, ..Default::default() };
        let mut bytes = Vec::new();
        frame::encode(MessageId::GetRouteRequest, &query, &mut bytes).expect("a short message");
        for connection in 0..self.load.connections {
            self.sockets.push(connection, &bytes)?;
            self.sockets.flush(connection)?;
        }
        let missing = self.await_frames(|_| true, |_| ())?;
        if missing == 0 { Ok(()) } else { Err(self.failed("does not answer all subscribers")) }
    }

    /// One edit, and the pushes that follow.
    fn change(&mut self, store: &mut dyn RouteStore, number: u16, seen: &mut Seen) -> Result<(), LoadError> {
        let cpu_before = (cpu::thread_time(), self.load.bench.server_pid.and_then(cpu::process_time));
        let started = Instant::now();
        // What a run before this one has left is changed as well.
        let address = Ipv4Addr::from_bits(fastrand::u32(0x0a00_0001..=0x0aff_fffe));
        store.edit(&[RouteEdit::Replace(self.load.module, vec![HostAddr::v4(address, number)])])?;
        let expected = route(self.load.module, address, number);
        let edited = Instant::now();
        let (mut first, mut last) = (None, Duration::ZERO);
        let missing = self.await_frames(
            |frame| frame[HEADER_LEN..] == expected[..],
            |now| {
                last = now.saturating_duration_since(edited);
                first.get_or_insert(last);
                seen.pushed(last);
            },
        )?;
        seen.counts.lost += missing as u64;
        seen.changed(first.unwrap_or_default(), last);
        let server = self.load.bench.server_pid.and_then(cpu::process_time);
        let took = server.zip(cpu_before.1).map(|(after, before)| after - before);
        seen.server_us.extend(took.map(|took| took.as_secs_f64() * 1e6 / self.load.connections as f64));
        seen.load += cpu::thread_time() - cpu_before.0;
        seen.elapsed += started.elapsed();
        Ok(())
    }

    /// Waits until each connection has a frame that is `wanted`; `each` hears when one has. How many have none in time.
    fn await_frames(
        &mut self,
        wanted: impl Fn(&[u8]) -> bool,
        mut each: impl FnMut(Instant),
    ) -> Result<usize, LoadError> {
        self.pushed.fill(false);
        let mut missing = self.pushed.len();
        let mut heard = Instant::now();
        while missing > 0 && heard.elapsed() < self.load.timeout {
            self.sockets.wait_for_one(WAIT_MAX)?;
            let now = Instant::now();
            while let Some((connection, input)) = self.sockets.next() {
                let bytes = match input? {
                    Input::Bytes(bytes) => bytes,
                    Input::Sent => continue,
                    Input::HungUp => return Err(self.failed("hung up")),
                };
                let pushed = &mut self.pushed[connection];
                let whole = self.inputs[connection].take(bytes, |frame| {
                    if !*pushed && wanted(frame) {
                        *pushed = true;
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

/// The body of the push that says so.
fn route(ModuleId { modid, cmdid }: ModuleId, address: Ipv4Addr, port: u16) -> Vec<u8> {
    let host = vec![HostInfo { ip: address.to_bits() as i32, port: i32::from(port) }];
    let route = GetRouteResponse { modid, cmdid, host, ..GetRouteResponse::default() };
    let mut push = Vec::new();
    frame::encode(MessageId::GetRouteResponse, &route, &mut push).expect("a short message");
    push.split_off(HEADER_LEN)
}

/// What came of the edits.
struct Seen {
    latencies: Histogram<u64>,
    counts: Counts,
    to_first_ms: Vec<f64>,
    to_last_ms: Vec<f64>,
    first_to_last_ms: Vec<f64>,
    /// Processor time of the server, in microseconds for each subscriber.
    server_us: Vec<f64>,
    elapsed: Duration,
    load: Duration,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid"),
            counts: Counts::default(),
            to_first_ms: Vec::new(),
            to_last_ms: Vec::new(),
            first_to_last_ms: Vec::new(),
            server_us: Vec::new(),
            elapsed: Duration::ZERO,
            load: Duration::ZERO,
        }
    }
}

impl Seen {
    fn pushed(&mut self, latency: Duration) {
        self.counts.replies += 1;
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    fn changed(&mut self, first: Duration, last: Duration) {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        self.to_first_ms.push(millis(first));
        self.to_last_ms.push(millis(last));
        self.first_to_last_ms.push(millis(last - first));
    }

    fn measurement(self, load: &DnsSubscribeLoad) -> Measurement {
        let spread = |figures: Vec<f64>| Spread::of(figures).unwrap_or_default();
        let seconds = self.elapsed.as_secs_f64();
        let completed = self.counts.replies;
        let server_us = Spread::of(self.server_us);
        Measurement {
            seconds,
            completed,
            per_second: completed as f64 / seconds,
            latency: Latency::of(&self.latencies),
            counts: Counts { requests: completed + self.counts.lost, ..self.counts },
            cpu_share: self.load.as_secs_f64() / seconds,
            server_us: server_us.map(|us| us.median),
            pushes: Some(Pushes {
                subscribers: load.connections,
                to_first_ms: spread(self.to_first_ms),
                to_last_ms: spread(self.to_last_ms),
                first_to_last_ms: spread(self.first_to_last_ms),
                server_us,
            }),
            ..Measurement::default()
        }
    }
}
