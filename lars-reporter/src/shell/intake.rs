//! What a shard does with an agent's message: decode it and hand its rows to the writer of its module.

use std::time::{SystemTime, UNIX_EPOCH};

use lars_proto::{
    frame,
    messages::{MessageId, ReportStatusRequest},
};
use lars_runtime::{ConnId, Flow, Handlers, ShardContext};
use prost::Message;

use super::queue::{Refused, RowSender};
use crate::core::{
    ingest::{self, Ingest},
    partition::writer_of,
};

/// One shard's part of the reporter.
pub(crate) struct Intake {
    /// The queue of each writer.
    writers: Vec<RowSender>,
    counters: IntakeCounters,
}

/// What one shard has taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IntakeCounters {
    /// Messages taken.
    pub(crate) requests: u64,
    /// Rows they held.
    pub(crate) results: u64,
    /// Results left out because no host has such a port.
    pub(crate) invalid_results: u64,
    /// Messages whose time stamp was missing or too far ahead.
    pub(crate) ts_corrected: u64,
    /// Times a message had to wait because its writer's queue was full.
    pub(crate) busy: u64,
}

impl Intake {
    pub(crate) fn new(writers: Vec<RowSender>) -> Self {
        Self { writers, counters: IntakeCounters::default() }
    }

    pub(crate) fn counters(&self) -> IntakeCounters {
        self.counters
    }

    /// What the server does with agents.
    pub(crate) fn handlers() -> Handlers<Self> {
        Handlers::new(frame::next).on(MessageId::ReportStatusRequest as i32, on_report_status)
    }

    fn offer(&mut self, message: &ReportStatusRequest, now: u64) -> Result<(), Refused> {
        let Ingest { rows, invalid, ts_corrected } = ingest::rows(message, now);
        let results = rows.len();
        let offered = self.writers[writer_of(message.module(), self.writers.len())].offer(rows);
        match offered {
            Ok(()) => self.counters.taken(results, invalid, ts_corrected),
            Err(Refused::Full) => self.counters.busy += 1,
            Err(Refused::Closed) => {}
        }
        offered
    }
}

impl IntakeCounters {
    fn taken(&mut self, results: usize, invalid: usize, ts_corrected: bool) {
        self.requests += 1;
        self.results += results as u64;
        self.invalid_results += invalid as u64;
        self.ts_corrected += u64::from(ts_corrected);
    }
}

/// Agents are never answered; one whose writer is behind is not read from until there is room.
fn on_report_status(intake: &mut Intake, _: &mut ShardContext<Intake>, _: ConnId, body: &[u8]) -> Flow {
    let Ok(message) = ReportStatusRequest::decode(body) else {
        return Flow::Close("malformed ReportStatusRequest");
    };
    match intake.offer(&message, unix_now()) {
        Ok(()) => Flow::Continue,
        Err(Refused::Full) => Flow::Busy,
        Err(Refused::Closed) => Flow::Close("the writer of its module has ended"),
    }
}

/// Seconds; a clock before 1970 counts as 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
