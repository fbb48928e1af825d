//! Many subscribers of one module at lars-dns: how long after an edit each of them has the push.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use lars_proto::{
    HostAddr, ModuleId,
    frame::{self, HEADER_LEN},
    messages::{GetRouteRequest, GetRouteResponse, HostInfo, MessageId},
};
use lars_store::{RouteEdit, RouteStore};
use socket2::{Domain, Socket, Type};

use super::{
    LoadError, cpu,
    measurement::{Counts, Latency, Measurement, Pushes},
    open_files,
    transport::{EpollStreams, Input, IoKind, Patience, RingStreams, Sockets, Stream, Streams},
};
use crate::{frames::Frames, spread::Spread};

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
#[derive(Clone, Debug)]
pub struct DnsSubscribeLoad {
    /// lars-dns.
    pub server: SocketAddr,
    /// Its hosts are replaced.
    pub module: ModuleId,
    /// How many subscribers.
    pub connections: usize,
    /// How many edits.
    pub changes: u16,
    /// A push that has not come for so long is lost.
    pub timeout: Duration,
    /// The process that answers, to see how much processor time it takes.
    pub server_pid: Option<u32>,
    /// How bytes come and go.
    pub io: IoKind,
}

impl DnsSubscribeLoad {
    /// How many operations there will be: a subscription each, and a push for each change.
    pub fn operations(&self) -> u64 {
        self.connections as u64 * (1 + u64::from(self.changes))
    }

    /// Subscribes, edits through `store`, and measures. `progress` is kept at the number of replies and pushes.
    ///
    /// # Errors
    /// If there is nobody to subscribe at, the limit on open files is too low, or the store refuses an edit.
    pub fn run(&self, store: &mut dyn RouteStore, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        open_files::make_room(self.connections)?;
        let streams: Vec<Stream> =
            (0..self.connections).map(|n| connect(self.server, n)).collect::<Result<_, _>>()?;
        match self.io {
            IoKind::Ring => self.over(RingStreams::over(streams)?, store, progress),
            IoKind::Epoll => self.over(EpollStreams::over(streams)?, store, progress),
        }
    }

    fn over(
        &self,
        streams: impl Streams,
        store: &mut dyn RouteStore,
        progress: &AtomicU64,
    ) -> Result<Measurement, LoadError> {
        let inputs = (0..self.connections).map(|_| Frames::default()).collect();
        let mut audience =
            Audience { load: self, streams, inputs, pushed: vec![false; self.connections], progress };
        audience.subscribe()?;
        let mut seen = Seen::default();
        for change in 1..=self.changes {
            thread::sleep(Duration::from_millis(u64::from(change) * PAUSE_STEP_MS % PAUSE_MAX_MS));
            audience.change(store, change, &mut seen)?;
        }
        Ok(seen.measurement(self))
    }
}

/// Loopback connections come from as many addresses as they need.
fn connect(server: SocketAddr, number: usize) -> Result<TcpStream, LoadError> {
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
struct Audience<'a, S> {
    load: &'a DnsSubscribeLoad,
    streams: S,
    inputs: Vec<Frames>,
    /// Who has what is waited for.
    pushed: Vec<bool>,
    progress: &'a AtomicU64,
}

impl<S: Streams> Audience<'_, S> {
    /// Every connection asks for the module, and has its answer.
    fn subscribe(&mut self) -> Result<(), LoadError> {
        let ModuleId { modid, cmdid } = self.load.module;
        let mut query = Vec::new();
        frame::encode(
            MessageId::GetRouteRequest,
            &GetRouteRequest { modid, cmdid, ..Default::default() },
            &mut query,
        )
        .expect("a short message");
        for connection in 0..self.load.connections {
            self.streams.output(connection).extend_from_slice(&query);
            self.streams.flush(connection)?;
        }
        let missing = self.await_frames(|_| true, |_| ())?;
        if missing == 0 { Ok(()) } else { Err(self.failed("does not answer all subscribers")) }
    }

    /// One edit, and the pushes that follow.
    fn change(&mut self, store: &mut dyn RouteStore, number: u16, seen: &mut Seen) -> Result<(), LoadError> {
        let cpu_before = (cpu::thread_time(), self.load.server_pid.and_then(cpu::process_time));
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
        let server = self.load.server_pid.and_then(cpu::process_time);
        seen.server += server.zip(cpu_before.1).map_or(Duration::ZERO, |(after, before)| after - before);
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
        let (mut heard, before) = (Instant::now(), self.progress.load(Ordering::Relaxed));
        while missing > 0 && heard.elapsed() < self.load.timeout {
            self.streams.wait(Patience { replies: 1, gather: Duration::ZERO, max: WAIT_MAX })?;
            let now = Instant::now();
            while let Some((connection, input)) = self.streams.next() {
                let Input::Bytes(bytes) = input? else {
                    return Err(LoadError::Server { server: self.load.server, problem: "hung up" });
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
            self.progress.store(before + (self.pushed.len() - missing) as u64, Ordering::Relaxed);
        }
        Ok(missing)
    }

    fn failed(&self, problem: &'static str) -> LoadError {
        LoadError::Server { server: self.load.server, problem }
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
    elapsed: Duration,
    load: Duration,
    server: Duration,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid"),
            counts: Counts::default(),
            to_first_ms: Vec::new(),
            to_last_ms: Vec::new(),
            first_to_last_ms: Vec::new(),
            elapsed: Duration::ZERO,
            load: Duration::ZERO,
            server: Duration::ZERO,
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
        let server_us = self.server.as_secs_f64() * 1e6 / completed.max(1) as f64;
        Measurement {
            seconds,
            completed,
            per_second: completed as f64 / seconds,
            latency: Latency::of(&self.latencies),
            counts: Counts { requests: completed + self.counts.lost, ..self.counts },
            cpu_share: self.load.as_secs_f64() / seconds,
            server_us: load.server_pid.map(|_| server_us),
            pushes: Some(Pushes {
                subscribers: load.connections,
                to_first_ms: spread(self.to_first_ms),
                to_last_ms: spread(self.to_last_ms),
                first_to_last_ms: spread(self.first_to_last_ms),
            }),
            ..Measurement::default()
        }
    }
}
