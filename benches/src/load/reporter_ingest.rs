//! Call statistics to lars-reporter, as agents send them: as fast as it takes them, or each row once and then a wait until
//! SQL has all of them.
//!
//! Nobody answers a report. A row counts as accepted when the kernel has taken it; it takes no more than the reporter reads,
//! apart from the sockets' buffers, which the warm-up fills. At the end the load waits until those are empty.

use std::{
    mem,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use lars_proto::{
    ModuleId, frame,
    messages::{HostCallResult, MessageId, ReportStatusRequest},
};
use lars_store::{CallStatusStore, StoreUrl};

use super::{
    LoadError,
    conversation::broken,
    measurement::{Measurement, Stored},
    run::{Plan, Run},
    sockets::{Input, Sockets, connect},
    values::at_least,
};
use crate::ring::SocketKind;

/// Bytes that are handed to the kernel at once.
const PIECE_LEN: usize = 64 << 10;

/// How long to wait before looking into the store again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The callers' addresses count up from here.
const FIRST_CALLER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);

/// What is reported.
#[derive(Clone, Debug, Args)]
pub struct ReporterIngestLoad {
    /// lars-reporter
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7779")]
    pub reporter: SocketAddr,
    /// How many callers, each with a connection
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least::<1>)]
    pub connections: usize,
    /// How many modules each calls
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub modules: u32,
    /// How many hosts of each; one message has them all
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub hosts: u16,
    /// Report each row once, and wait until the reporter has stored all of them in this database: sqlite:PATH or
    /// mysql://user:password@host:port/database [default: report as much as the reporter takes]
    #[arg(long, value_name = "URL")]
    pub store: Option<StoreUrl>,
}

impl ReporterIngestLoad {
    /// Reports until the plan ends.
    ///
    /// # Errors
    /// If there is nobody to report to.
    pub fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        self.send(plan, None)
    }

    /// Reports each row once, and waits until `store` has all of them.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if the store cannot be read.
    pub fn run_until_stored(
        &self,
        store: &mut dyn CallStatusStore,
        plan: &Plan,
    ) -> Result<Measurement, LoadError> {
        // Nothing is cut off by time, and everything counts.
        let plan = Plan { warmup: Duration::ZERO, seconds: Duration::from_secs(1 << 20), ..plan.clone() };
        let marker = fastrand::u32(1..);
        let started = Instant::now();
        let mut measurement = self.send(&plan, Some(marker))?;
        let rows = self.await_rows(store, marker, plan.timeout)?;
        measurement.counts.lost = self.rows() - rows;
        measurement.stored = Some(Stored { rows, per_second: rows as f64 / started.elapsed().as_secs_f64() });
        Ok(measurement)
    }

    /// Rows of the table that this writes.
    fn rows(&self) -> u64 {
        self.connections as u64 * u64::from(self.modules) * u64::from(self.hosts)
    }

    /// With a marker, each row once.
    fn send(&self, plan: &Plan, marker: Option<u32>) -> Result<Measurement, LoadError> {
        let (mut fds, mut agents) = (Vec::new(), Vec::new());
        for number in 0..self.connections {
            let fd = connect(self.reporter, SocketKind::Stream)?;
            agents.push(Agent::new(self, number, fd.try_clone()?.into(), marker));
            fds.push(fd);
        }
        // Nothing comes back.
        let sockets = Sockets::over(fds, SocketKind::Stream, 1)?;
        let mut driver = Driver { run: Run::start(plan), sockets, agents, server: self.reporter };
        driver.send()?;
        driver.hang_up(plan.timeout)?;
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
    report: ReportStatusRequest,
    modules: u32,
    /// The next pass says so of every host.
    succ: u32,
    /// There is one pass only.
    once: bool,
    output: Vec<u8>,
    /// Rows that the kernel has not taken, and when they began.
    rows: u64,
    since: u64,
    /// Whether there is nothing more to begin.
    is_done: bool,
}

impl Agent {
    fn new(load: &ReporterIngestLoad, number: usize, stream: TcpStream, marker: Option<u32>) -> Self {
        let result = |port| HostCallResult { ip: 1, port, succ: 0, err: 1, overload: false };
        let caller = FIRST_CALLER.to_bits() + number as u32;
        let results = (1..=i32::from(load.hosts)).map(result).collect();
        Self {
            stream,
            report: ReportStatusRequest { modid: 0, cmdid: 1, caller: caller as i32, results, ts: 0 },
            modules: load.modules,
            succ: marker.unwrap_or(1),
            once: marker.is_some(),
            output: Vec::with_capacity(PIECE_LEN * 2),
            rows: 0,
            since: 0,
            is_done: false,
        }
    }

    /// The next messages, as far as `run` lets them begin.
    fn begin(&mut self, run: &mut Run, now: u64) {
        self.output.clear();
        self.since = now;
        let hosts = self.report.results.len() as u64;
        while self.output.len() < PIECE_LEN && !self.is_done && run.begin_many(now, hosts) {
            self.put_report();
            self.rows += hosts;
        }
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
}

fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

struct Driver {
    run: Run,
    sockets: Sockets,
    agents: Vec<Agent>,
    server: SocketAddr,
}

impl Driver {
    fn send(&mut self) -> Result<(), LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || 0)
            && !self.agents.iter().all(|agent| agent.is_done && agent.rows == 0)
        {
            for (number, agent) in self.agents.iter_mut().enumerate().filter(|(_, agent)| agent.rows == 0) {
                agent.begin(&mut self.run, now);
                self.sockets.push(number, &agent.output)?;
                self.sockets.flush(number)?;
            }
            self.sockets.wait(self.run.wait(1))?;
            now = self.run.now();
            if self.take(now)? > 0 {
                return Err(LoadError::Server { server: self.server, problem: "hung up" });
            }
        }
        self.run.end_now();
        Ok(())
    }

    /// Takes what has happened; how many have hung up.
    fn take(&mut self, now: u64) -> Result<usize, LoadError> {
        let mut hung_up = 0;
        while let Some((number, input)) = self.sockets.next() {
            match input.map_err(|error| broken(self.server, error))? {
                Input::Sent => {
                    let agent = &mut self.agents[number];
                    self.run.finish(agent.since, now, mem::take(&mut agent.rows));
                }
                Input::HungUp => hung_up += 1,
                Input::Bytes(_) => {
                    return Err(LoadError::Server { server: self.server, problem: "answers reports" });
                }
            }
        }
        Ok(hung_up)
    }

    /// Waits until the reporter has read everything, so that whoever reports next comes behind this.
    fn hang_up(&mut self, timeout: Duration) -> Result<(), LoadError> {
        let (mut open, started) = (self.agents.len(), Instant::now());
        let mut sending: Vec<usize> = (0..open).collect();
        while open > 0 {
            let (busy, idle) = sending.iter().partition(|number| self.agents[**number].rows > 0);
            sending = busy;
            let idle: Vec<usize> = idle;
            idle.iter().try_for_each(|number| self.agents[*number].stream.shutdown(Shutdown::Write))?;
            self.sockets.wait(self.run.wait(1))?;
            let now = self.run.now();
            open -= self.take(now)?;
            if started.elapsed() > timeout {
                return Err(LoadError::Server { server: self.server, problem: "does not read everything" });
            }
        }
        Ok(())
    }
}
