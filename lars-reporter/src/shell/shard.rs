//! What a shard does with an agent's message: decode it and hand its rows to the writer of its module.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lars_proto::{
    frame,
    messages::{MessageId, ReportStatusRequest},
};
use lars_runtime::{ConnId, Flow, Handlers, LogThrottle, ShardContext};
use prost::Message;

use super::{
    callers::{AllCallers, Callers},
    queue::{Refused, RowSender},
    stats::ReporterStats,
};
use crate::core::ingest::{self, Ingest, writer_of};

/// How often results that name no host are spoken of.
const INVALID_SAID_EACH: Duration = Duration::from_secs(60);

/// One shard's part of the reporter.
pub(crate) struct Shard {
    /// The queue of each writer.
    writers: Vec<RowSender>,
    callers: Callers,
    stats: ReporterStats,
    invalid: LogThrottle,
}

impl Shard {
    pub(crate) fn new(writers: Vec<RowSender>, callers: AllCallers) -> Self {
        Self {
            writers,
            callers: Callers::new(callers),
            stats: ReporterStats::default(),
            invalid: LogThrottle::each(INVALID_SAID_EACH),
        }
    }

    pub(crate) fn stats(&self) -> ReporterStats {
        self.stats
    }

    /// What the server does with agents.
    pub(crate) fn handlers() -> Handlers<Self> {
        Handlers::new(frame::next)
            .on(MessageId::ReportStatusRequest as i32, on_report_status)
            .closed(|shard, _, conn, _| shard.callers.closed(conn))
    }

    fn offer(&mut self, message: &ReportStatusRequest, now: u64) -> Result<(), Refused> {
        let Ingest { rows, invalid, ts_corrected } = ingest::rows(message, now);
        let results = rows.len();
        match self.writers[writer_of(message.module(), self.writers.len())].offer(rows) {
            Ok(()) => {}
            Err(refused) => {
                self.stats.busy += u64::from(refused == Refused::Full);
                return Err(refused);
            }
        }
        self.stats.requests += 1;
        self.stats.results += results as u64;
        self.stats.invalid_results += invalid as u64;
        self.stats.ts_corrected += u64::from(ts_corrected);
        if invalid > 0 {
            self.say_invalid(message);
        }
        Ok(())
    }

    /// Throttled: an agent that sends one such result sends it each second.
    fn say_invalid(&mut self, message: &ReportStatusRequest) {
        let Some(suppressed) = self.invalid.due(Instant::now()) else { return };
        let hostless = message.results.iter().find(|result| !(1..=65_535).contains(&result.port));
        let (ip, port) = hostless.map_or((0, 0), |result| (result.ip, result.port));
        tracing::warn!(
            module = %message.module(),
            caller = %caller(message),
            ip = %Ipv4Addr::from_bits(ip.cast_unsigned()),
            port,
            suppressed,
            "a result names no host and is left out",
        );
    }
}

/// Agents are never answered; one whose writer is behind is not read from until there is room.
fn on_report_status(shard: &mut Shard, _: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(message) = ReportStatusRequest::decode(body) else {
        return Flow::Close("malformed ReportStatusRequest");
    };
    match shard.offer(&message, unix_now()) {
        Ok(()) => {}
        Err(Refused::Full) => return Flow::Busy,
        Err(Refused::Closed) => return Flow::Close("the writer of its module has ended"),
    }
    shard.stats.callers_shared += u64::from(shard.callers.spoke(conn, caller(&message)));
    Flow::Continue
}

fn caller(message: &ReportStatusRequest) -> Ipv4Addr {
    Ipv4Addr::from_bits(message.caller.cast_unsigned())
}

/// Seconds; a clock before 1970 counts as 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
