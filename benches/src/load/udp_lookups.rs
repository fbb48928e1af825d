//! Lookups over UDP, as programs ask their agent: `GetHostRequest`s, and reports if they are wanted.
//!
//! An echo server does as well: its reply reads as a `GetHostResponse` without a host, and counts as one.

use std::ops::Range;

use clap::Args;
use lars_proto::{
    ModuleId,
    frame::{self, HEADER_LEN},
    lookup,
    messages::{GetHostRequest, GetHostResponse, HostInfo, MessageId, ReportRequest, RetCode},
};

use super::{
    Load, LoadError,
    conversation::{self, Conversation},
    in_flight::Slots,
    measurement::Measurement,
    run::{Plan, Run},
    values::AgentTarget,
};
use crate::{frames::framed, ring::SocketKind};

/// Longer replies are cut off; they have some 50 bytes.
const REPLY_LEN_MAX: usize = 2_048;

/// How lookups are made.
#[derive(Clone, Debug, Args)]
pub struct GetHostLoad {
    #[command(flatten)]
    pub target: AgentTarget,
    /// Report each host that was returned as having worked
    #[arg(long)]
    pub report: bool,
}

impl Load for GetHostLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let lookups = |module| Lookups::new(module, self.target.in_flight, self.report);
        conversation::run(self.target.sockets(lookups), plan)
    }
}

/// Where the sequence number of a request stands: behind the header and its tag.
const SEQ: Range<usize> = HEADER_LEN + 1..HEADER_LEN + 6;

/// How far from the end of a report with a host, and no return code but 0, its address and its port stand.
const REPORT_IP: Range<usize> = 11..21;
const REPORT_PORT: Range<usize> = 0..10;

/// Lookups of one module.
struct Lookups {
    in_flight: Slots,
    /// A request, whose sequence number is written over.
    request: Vec<u8>,
    reports: bool,
    /// A report, whose host is written over. So all have the same length, and the kernel can cut a report and the
    /// request behind it apart.
    report: Vec<u8>,
}

impl Lookups {
    fn new(ModuleId { modid, cmdid }: ModuleId, in_flight: usize, reports: bool) -> Self {
        // As the deployed clients put it.
        let asked = GetHostRequest { seq: u32::MAX, modid, cmdid, wait_ms: 0 };
        let request = framed(MessageId::GetHostRequest, &asked);
        // Negative numbers take all of the ten bytes that there may be.
        let (host, retcode) = (Some(HostInfo { ip: -1, port: -1 }), RetCode::Succ as i32);
        let report = framed(MessageId::ReportRequest, &ReportRequest { modid, cmdid, host, retcode });
        Self { in_flight: Slots::new(in_flight), request, reports, report }
    }

    fn put_report(&mut self, host: HostInfo) {
        let len = self.report.len();
        // A negative int32 is sent as the int64 of the same value.
        for (place, value) in [(REPORT_IP, host.ip), (REPORT_PORT, host.port)] {
            write_varint(&mut self.report[len - place.end..len - place.start], i64::from(value) as u64);
        }
    }
}

impl Conversation for Lookups {
    const KIND: SocketKind = SocketKind::Datagram;
    const PIECE_LEN: usize = REPLY_LEN_MAX;

    fn datagram_len(&self) -> Option<usize> {
        Some(if self.reports { self.report.len() } else { self.request.len() })
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight.has_room()
    }

    fn begin(&mut self, now: u64) -> &[u8] {
        let seq = self.in_flight.begin(now).expect("there is room");
        write_varint(&mut self.request[SEQ], u64::from(seq));
        &self.request
    }

    fn receive(&mut self, datagram: &[u8], run: &mut Run) -> Result<Option<&[u8]>, &'static str> {
        let reply = decode(datagram);
        let Some((reply, since)) = reply.and_then(|reply| Some((reply, self.in_flight.finish(reply.seq)?)))
        else {
            run.counts.stale += 1;
            return Ok(None);
        };
        run.finish(since, 1);
        run.counts.refusals += u64::from(reply.retcode != RetCode::Succ as i32);
        Ok(reply.host.filter(|_| self.reports).map(|host| {
            self.put_report(host);
            &self.report[..]
        }))
    }

    fn expire(&mut self, sent_before: u64) -> u64 {
        self.in_flight.expire(sent_before)
    }
}

/// Writes `value` as a varint of that many bytes, of which it may need fewer.
fn write_varint(bytes: &mut [u8], value: u64) {
    let last = bytes.len() - 1;
    for (place, byte) in bytes.iter_mut().enumerate() {
        let more = if place < last { 0x80 } else { 0 };
        *byte = (value >> (7 * place)) as u8 & 0x7f | more;
    }
}

/// The reply in a datagram, if it is one.
fn decode(datagram: &[u8]) -> Option<GetHostResponse> {
    let frame = frame::decode_datagram(datagram).ok()?;
    lookup::decode_get_host_response(frame.body).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(1, 2);

    #[test]
    fn an_echo_reads_as_a_reply_with_the_same_number() {
        let mut lookups = Lookups::new(MODULE, 2, false);
        let requests = [lookups.begin(5).to_vec(), lookups.begin(7).to_vec()];
        assert_ne!(requests[0], requests[1]);
        let mut run = Run::at(9);
        for (n, request) in (1..).zip(&requests) {
            assert_eq!(Some(request.len()), lookups.datagram_len());
            let decoded = GetHostRequest::decode(&request[HEADER_LEN..]).expect("a request");
            assert_eq!((decoded.modid, decoded.cmdid), (1, 2));
            // Twice, and something else.
            for datagram in [&request[..], &request[..], b"nonsense"] {
                assert_eq!(lookups.receive(datagram, &mut run), Ok(None));
            }
            assert_eq!((run.counts.replies, run.counts.stale, run.counts.refusals), (n, 2 * n, 0));
        }
    }

    #[test]
    fn a_host_is_reported() {
        for (ip, port) in [(7, 8), (i32::MAX, 65_535), (i32::MIN, 1), (-1, 0)] {
            check_report(HostInfo { ip, port });
        }
    }

    fn check_report(host: HostInfo) {
        let mut lookups = Lookups::new(MODULE, 1, true);
        let request = lookups.begin(0).to_vec();
        let GetHostRequest { seq, modid, cmdid, .. } =
            GetHostRequest::decode(&request[HEADER_LEN..]).expect("a request");
        let longest = lookups.datagram_len();
        assert!(Some(request.len()) < longest, "it can go behind a report");
        let (host, mut run) = (Some(host), Run::at(9));
        let reply = GetHostResponse { seq, modid, cmdid, retcode: 0, host };
        let reply = framed(MessageId::GetHostResponse, &reply);
        let report = lookups.receive(&reply, &mut run).expect("an answer").expect("a report");
        assert_eq!(Some(report.len()), longest);
        let report = ReportRequest::decode(&report[HEADER_LEN..]);
        assert_eq!(report, Ok(ReportRequest { modid, cmdid, host, retcode: 0 }));
    }
}
