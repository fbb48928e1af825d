//! Call statistics to lars-reporter, as agents send them: as fast as it takes them, or each row once and then a wait until
//! SQL has all of them.
//!
//! Nobody answers a report. A row counts as accepted when the kernel has taken it; it takes no more than the reporter reads,
//! apart from the sockets' buffers, which the warm-up fills. At the end the load waits until those are empty.

use std::{
    mem,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use lars_proto::{
    ModuleId, frame,
    messages::{HostCallResult, MessageId, ReportStatusRequest},
};
use lars_store::{CallStatusStore, OpenMode, StoreUrl};

use super::{
    Load, LoadError,
    conversation::{self, Conversation},
    measurement::{Measurement, Stored},
    run::{Plan, Run},
    values::some,
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
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = some)]
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

impl Load for ReporterIngestLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let Some(url) = &self.store else { return self.send(plan, None) };
        let mut store = lars_store::open(url, OpenMode::Create)?;
        // Nothing is cut off by time, and everything counts.
        let plan = Plan { warmup: Duration::ZERO, seconds: Duration::from_secs(1 << 20), ..plan.clone() };
        let marker = fastrand::u32(1..);
        let started = Instant::now();
        let mut measurement = self.send(&plan, Some(marker))?;
        let rows = self.await_rows(&mut *store, marker, plan.timeout())?;
        measurement.counts.lost = self.rows() - rows;
        measurement.stored = Some(Stored { rows, per_second: rows as f64 / started.elapsed().as_secs_f64() });
        Ok(measurement)
    }
}

impl ReporterIngestLoad {
    /// Rows of the table that this writes.
    fn rows(&self) -> u64 {
        self.connections as u64 * u64::from(self.modules) * u64::from(self.hosts)
    }

    /// With a marker, each row once.
    fn send(&self, plan: &Plan, marker: Option<u32>) -> Result<Measurement, LoadError> {
        let agent = |number| (self.reporter, Agent::new(self, number, marker));
        conversation::run((0..self.connections).map(agent).collect(), plan)
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
    /// The next one, but for its time.
    report: ReportStatusRequest,
    modules: u32,
    /// There is one pass over the modules only; else every host has one success more in each.
    once: bool,
    output: Vec<u8>,
    /// What the kernel has not taken, when that began, and how many bytes it has.
    rows: u64,
    since: u64,
    len: usize,
    /// Whether there is nothing more to begin.
    is_done: bool,
}

impl Agent {
    fn new(load: &ReporterIngestLoad, number: usize, marker: Option<u32>) -> Self {
        let succ = marker.unwrap_or(1);
        let result = |port| HostCallResult { ip: 1, port, succ, err: 1, overload: false };
        let caller = FIRST_CALLER.to_bits() + number as u32;
        let results = (1..=i32::from(load.hosts)).map(result).collect();
        Self {
            report: ReportStatusRequest { modid: 1, cmdid: 1, caller: caller as i32, results, ts: 0 },
            modules: load.modules,
            once: marker.is_some(),
            output: Vec::new(),
            rows: 0,
            since: 0,
            len: 0,
            is_done: false,
        }
    }

    fn go_on(&mut self) {
        self.report.modid += 1;
        if self.report.modid as u32 > self.modules {
            self.report.modid = 1;
            self.is_done = self.once;
            self.report.results.iter_mut().for_each(|result| result.succ = result.succ.wrapping_add(1));
        }
    }
}

impl Conversation for Agent {
    const KIND: SocketKind = SocketKind::Stream;
    /// Nothing comes back.
    const PIECE_LEN: usize = 1;
    const IS_ANSWERED: bool = false;

    fn in_flight(&self) -> usize {
        self.rows as usize
    }

    fn has_room(&self) -> bool {
        self.len < PIECE_LEN && !self.is_done
    }

    fn next_holds(&self) -> u64 {
        self.report.results.len() as u64
    }

    fn begin(&mut self, now: u64) -> &[u8] {
        self.output.clear();
        self.report.ts = unix_seconds();
        frame::encode(MessageId::ReportStatusRequest, &self.report, &mut self.output)
            .expect("the number of hosts is limited");
        self.since = now;
        self.rows += self.next_holds();
        self.len += self.output.len();
        self.go_on();
        &self.output
    }

    fn receive(&mut self, _: &[u8], _: &mut Run) -> Result<Option<&[u8]>, &'static str> {
        Err("answers reports")
    }

    fn sent(&mut self, run: &mut Run) {
        self.len = 0;
        run.finish(self.since, mem::take(&mut self.rows));
    }
}

fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}
