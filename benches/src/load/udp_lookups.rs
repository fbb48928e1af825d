//! Lookups over UDP, as programs ask their agent: `GetHostRequest`s, and reports if they are wanted.
//!
//! An echo server does as well: its reply reads as a `GetHostResponse` without a host, and counts as one.

use std::{net::SocketAddr, ops::Range, sync::atomic::AtomicU64};

use lars_proto::{
    ModuleId,
    frame::{self, HEADER_LEN},
    messages::{GetHostRequest, GetHostResponse, HostInfo, MessageId, ReportRequest, RetCode},
};
use prost::Message;

use super::{
    LoadError,
    agent::AgentPorts,
    in_flight::Slots,
    measurement::Measurement,
    run::Plan,
    udp::{self, Answer, Exchange},
};

/// How lookups are made.
#[derive(Clone, Debug)]
pub struct GetHostLoad {
    /// The agent.
    pub agent: AgentPorts,
    /// Which modules are asked for; the sockets take turns.
    pub modules: Vec<ModuleId>,
    /// How many sockets ask, each for one module.
    pub sockets: usize,
    /// Lookups of each socket that are under way at the same time, at most.
    pub in_flight: usize,
    /// Whether each host that was returned is reported as having worked.
    pub report: bool,
}

impl GetHostLoad {
    /// Measures. `progress` is kept at the number of replies.
    ///
    /// # Errors
    /// If there is nobody to ask, or the sockets fail.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let modules = self.modules.iter().cycle().take(self.sockets);
        udp::run(modules.map(|module| Lookups::new(self, *module)).collect(), plan, progress)
    }
}

/// Where the sequence number of a request stands: behind the header and its tag.
const SEQ: Range<usize> = HEADER_LEN + 1..HEADER_LEN + 6;

/// How far from the end of a report with a host, and no return code but 0, its address and its port stand.
const REPORT_IP: Range<usize> = 11..21;
const REPORT_PORT: Range<usize> = 0..10;

/// Lookups of one module.
struct Lookups {
    server: SocketAddr,
    in_flight: Slots,
    /// A request, whose sequence number is written over.
    request: Vec<u8>,
    reports: bool,
    /// A report, whose host is written over. So all have the same length, and the kernel can cut a report and the
    /// request behind it apart.
    report: Vec<u8>,
}

impl Lookups {
    fn new(load: &GetHostLoad, module: ModuleId) -> Self {
        let ModuleId { modid, cmdid } = module;
        let mut request = Vec::new();
        put(MessageId::GetHostRequest, &GetHostRequest { seq: u32::MAX, modid, cmdid }, &mut request);
        let mut report = Vec::new();
        // Negative numbers take all of the ten bytes that there may be.
        let host = Some(HostInfo { ip: -1, port: -1 });
        let succeeded = RetCode::Succ as i32;
        put(MessageId::ReportRequest, &ReportRequest { modid, cmdid, host, retcode: succeeded }, &mut report);
        Self {
            server: load.agent.of(module),
            in_flight: Slots::new(load.in_flight),
            request,
            reports: load.report,
            report,
        }
    }

    fn put_report(&mut self, host: HostInfo) {
        let len = self.report.len();
        // A negative int32 is sent as the int64 of the same value.
        for (place, value) in [(REPORT_IP, host.ip), (REPORT_PORT, host.port)] {
            write_varint(&mut self.report[len - place.end..len - place.start], i64::from(value) as u64);
        }
    }
}

impl Exchange for Lookups {
    fn server(&self) -> SocketAddr {
        self.server
    }

    fn datagram_len(&self) -> Option<usize> {
        Some(if self.reports { self.report.len() } else { self.request.len() })
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight.has_room()
    }

    fn begin(&mut self, since: u64, now: u64) -> &[u8] {
        let seq = self.in_flight.begin(since, now).expect("there is room");
        write_varint(&mut self.request[SEQ], u64::from(seq));
        &self.request
    }

    fn finish(&mut self, datagram: &[u8]) -> Option<Answer<'_>> {
        let reply = decode(datagram)?;
        let since = self.in_flight.finish(reply.seq)?;
        let host = reply.host.filter(|_| self.reports);
        let is_refusal = reply.retcode != RetCode::Succ as i32;
        let follow_up = host.map(|host| {
            self.put_report(host);
            &self.report[..]
        });
        Some(Answer { since, is_refusal, follow_up })
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

fn put(id: MessageId, message: &impl Message, out: &mut Vec<u8>) {
    frame::encode(id, message, out).expect("these messages are short");
}

/// The reply in a datagram, if it is one.
fn decode(datagram: &[u8]) -> Option<GetHostResponse> {
    let frame = frame::decode_datagram(datagram).ok()?;
    GetHostResponse::decode(frame.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookups(in_flight: usize, report: bool) -> Lookups {
        let agent = AgentPorts { ip: [127, 0, 0, 1].into(), base_port: 8888, shards: 3 };
        let load = GetHostLoad { agent, modules: Vec::new(), sockets: 1, in_flight, report };
        Lookups::new(&load, ModuleId::new(1, 2))
    }

    #[test]
    fn an_echo_reads_as_a_reply_with_the_same_number() {
        let mut lookups = lookups(2, false);
        let requests = [lookups.begin(5, 6).to_vec(), lookups.begin(7, 8).to_vec()];
        assert_ne!(requests[0], requests[1]);
        assert!(requests.iter().all(|request| Some(request.len()) == lookups.datagram_len()));
        for (request, since) in requests.iter().zip([5, 7]) {
            let decoded = GetHostRequest::decode(&request[HEADER_LEN..]).expect("a request");
            assert_eq!((decoded.modid, decoded.cmdid), (1, 2));
            let answer = lookups.finish(request).expect("an answer");
            assert_eq!((answer.since, answer.is_refusal, answer.follow_up), (since, false, None));
            assert!(lookups.finish(request).is_none(), "twice");
        }
        assert!(lookups.finish(b"nonsense").is_none());
    }

    #[test]
    fn a_host_is_reported() {
        for (ip, port) in [(7, 8), (i32::MAX, 65_535), (i32::MIN, 1), (-1, 0)] {
            check_report(ip, port);
        }
    }

    fn check_report(ip: i32, port: i32) {
        let mut lookups = lookups(1, true);
        let request = lookups.begin(0, 0).to_vec();
        let GetHostRequest { seq, modid, cmdid } =
            GetHostRequest::decode(&request[HEADER_LEN..]).expect("a request");
        let longest = lookups.datagram_len();
        assert!(Some(request.len()) < longest, "it can go behind a report");
        let host = Some(HostInfo { ip, port });
        let mut reply = Vec::new();
        put(MessageId::GetHostResponse, &GetHostResponse { seq, modid, cmdid, retcode: 0, host }, &mut reply);
        let answer = lookups.finish(&reply).expect("an answer");
        let report = answer.follow_up.expect("a report");
        assert_eq!(Some(report.len()), longest);
        let report = ReportRequest::decode(&report[HEADER_LEN..]);
        assert_eq!(report, Ok(ReportRequest { modid, cmdid, host, retcode: 0 }));
    }
}
