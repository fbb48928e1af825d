//! Call statistics to lars-reporter, as agents send them: as fast as it takes them, or each row once and then a wait until
//! SQL has all of them.
//!
//! Nobody answers a report. A row counts as accepted when the kernel has taken it; it takes no more than the reporter reads,
//! apart from the sockets' buffers, which the warm-up fills. At the end the load waits until those are empty.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::AtomicU64,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lars_proto::{
    ModuleId, frame,
    messages::{HostCallResult, MessageId, ReportStatusRequest},
};
use lars_store::CallStatusStore;
use nix::sys::epoll::EpollFlags;

use super::{
    LoadError,
    measurement::{Measurement, Stored},
    run::{Plan, Run},
    transport::Poller,
};

/// Bytes that are handed to the kernel at once.
const PIECE_LEN: usize = 64 << 10;

/// How long to wait before looking into the store again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The callers' addresses count up from here.
const FIRST_CALLER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);

/// What is reported.
#[derive(Clone, Debug)]
pub struct ReporterIngestLoad {
    /// lars-reporter.
    pub server: SocketAddr,
    /// How many callers, each with a connection.
    pub connections: usize,
    /// How many modules each calls.
    pub modules: u32,
    /// How many hosts of each module; one message has them all.
    pub hosts: u16,
}

impl ReporterIngestLoad {
    /// Rows of the table that this writes.
    pub fn rows(&self) -> u64 {
        self.connections as u64 * u64::from(self.modules) * u64::from(self.hosts)
    }

    /// Reports until the plan ends. `progress` is kept at the number of rows.
    ///
    /// # Errors
    /// If there is nobody to report to.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        self.send(plan, None, progress)
    }

    /// Reports each row once, and waits until `store` has all of them.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if the store cannot be read.
    pub fn run_until_stored(
        &self,
        store: &mut dyn CallStatusStore,
        plan: &Plan,
        progress: &AtomicU64,
    ) -> Result<Measurement, LoadError> {
        // Nothing is cut off by time, and everything counts.
        let plan = Plan { warmup: Duration::ZERO, measured: Duration::from_secs(1 << 20), ..*plan };
        let marker = fastrand::u32(1..);
        let started = Instant::now();
        let mut measurement = self.send(&plan, Some(marker), progress)?;
        let rows = self.await_rows(store, marker, plan.timeout)?;
        measurement.counts.lost = self.rows() - rows;
        measurement.stored = Some(Stored { rows, per_second: rows as f64 / started.elapsed().as_secs_f64() });
        Ok(measurement)
    }

    /// With a marker, each row once.
    fn send(&self, plan: &Plan, marker: Option<u32>, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let poller = Poller::new()?;
        let agents: Vec<Agent> =
            (0..self.connections).map(|n| Agent::connect(self, n, marker)).collect::<Result<_, _>>()?;
        for (token, agent) in agents.iter().enumerate() {
            poller.add(&agent.stream, token, EpollFlags::EPOLLOUT | EpollFlags::EPOLLET)?;
        }
        let mut driver = Driver { run: Run::start(plan, progress), poller, agents };
        driver.send()?;
        driver.agents.iter().try_for_each(|agent| agent.hang_up(plan.timeout))?;
        Ok(driver.run.end(0))
    }

    /// How many rows with the marker are there, at the latest when none has come for `timeout`.
    fn await_rows(
        &self,
        store: &mut dyn CallStatusStore,
        marker: u32,
        timeout: Duration,
    ) -> Result<u64, LoadError> {
        let each = self.rows() / u64::from(self.modules);
        let (mut complete, mut partial, mut moved) = (0, 0, Instant::now());
        let mut modules = (1..=self.modules).map(|modid| ModuleId::new(modid as i32, 1)).peekable();
        while let Some(module) = modules.peek()
            && moved.elapsed() < timeout
        {
            let rows = store.call_status(Some(*module))?;
            let stored = rows.iter().filter(|row| row.succ == marker).count() as u64;
            if stored != partial {
                (partial, moved) = (stored, Instant::now());
            }
            if stored == each {
                modules.next();
                (complete, partial) = (complete + each, 0);
            } else {
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(complete + partial)
    }
}

/// One caller's agent.
struct Agent {
    stream: TcpStream,
    server: SocketAddr,
    report: ReportStatusRequest,
    modules: u32,
    /// The next pass says so of every host.
    succ: u32,
    /// There is one pass only.
    once: bool,
    output: Vec<u8>,
    written: usize,
    /// Rows in `output`, and when they began.
    rows: u64,
    since: u64,
    /// Whether the kernel may take more.
    has_room: bool,
    /// Whether there is nothing more to begin.
    is_done: bool,
}

impl Agent {
    fn connect(load: &ReporterIngestLoad, number: usize, marker: Option<u32>) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(load.server).map_err(|error| LoadError::at(load.server, error))?;
        stream.set_nonblocking(true)?;
        let result = |port| HostCallResult { ip: 1, port, succ: 0, err: 1, overload: false };
        let caller = FIRST_CALLER.to_bits() + number as u32;
        let results = (1..=i32::from(load.hosts)).map(result).collect();
        let report = ReportStatusRequest { modid: 0, cmdid: 1, caller: caller as i32, results, ts: 0 };
        let (modules, once, succ) = (load.modules, marker.is_some(), marker.unwrap_or(1));
        let output = Vec::with_capacity(PIECE_LEN * 2);
        Ok(Self {
            stream,
            server: load.server,
            report,
            modules,
            succ,
            once,
            output,
            written: 0,
            rows: 0,
            since: 0,
            has_room: true,
            is_done: false,
        })
    }

    /// Sends what is begun, or begins more. Whether there is more to do at once.
    fn send_piece(&mut self, run: &mut Run<'_>, now: u64) -> Result<bool, LoadError> {
        if self.rows == 0 {
            self.begin(run, now);
        }
        self.has_room = self.write()?;
        if self.has_room {
            run.finish(self.since, now, std::mem::take(&mut self.rows));
        }
        Ok(self.has_room && !self.output.is_empty() && !self.is_done)
    }

    /// The next messages, as far as `run` lets them begin.
    fn begin(&mut self, run: &mut Run<'_>, now: u64) {
        self.written = 0;
        self.output.clear();
        let hosts = self.report.results.len() as u64;
        while self.output.len() < PIECE_LEN
            && !self.is_done
            && let Some(since) = run.begin_many(now, hosts)
        {
            if self.rows == 0 {
                self.since = since;
            }
            self.put_report();
            self.rows += hosts;
        }
        run.counts.requests += self.rows;
    }

    fn put_report(&mut self) {
        self.report.modid += 1;
        let (succ, ts) = (self.succ, unix_seconds());
        self.report.results.iter_mut().for_each(|result| result.succ = succ);
        self.report.ts = ts;
        frame::encode(MessageId::ReportStatusRequest, &self.report, &mut self.output)
            .expect("the number of hosts is limited");
        if self.report.modid as u32 == self.modules {
            self.report.modid = 0;
            self.succ = if self.once { succ } else { succ.wrapping_add(1) };
            self.is_done = self.once;
        }
    }

    /// Waits until the reporter has read everything, so that whoever reports next comes behind this.
    fn hang_up(&self, timeout: Duration) -> Result<(), LoadError> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.shutdown(Shutdown::Write)?;
        match (&self.stream).read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(LoadError::Server { server: self.server, problem: "answers reports" }),
            Err(error) => Err(error.into()),
        }
    }

    /// `false` if the kernel takes no more at the moment.
    fn write(&mut self) -> Result<bool, LoadError> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(LoadError::Server { server: self.server, problem: "hung up" }),
            }
        }
        Ok(true)
    }
}

fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

struct Driver<'a> {
    run: Run<'a>,
    poller: Poller,
    agents: Vec<Agent>,
}

impl Driver<'_> {
    fn send(&mut self) -> Result<(), LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || 0)
            && !self.agents.iter().all(|agent| agent.is_done && agent.rows == 0)
        {
            let mut more = false;
            for agent in self.agents.iter_mut().filter(|agent| agent.has_room) {
                more |= agent.send_piece(&mut self.run, now)?;
            }
            let patience = if more { Duration::ZERO } else { self.run.patience(now, 1).max };
            let ready = self.poller.wait(patience)?;
            (0..ready).for_each(|index| self.agents[self.poller.token(index)].has_room = true);
            now = self.run.now();
        }
        self.run.end_now();
        Ok(())
    }
}
