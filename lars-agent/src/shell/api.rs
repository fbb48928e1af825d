//! Datagrams to requests, and replies to datagrams.

use lars_proto::{
    HostAddr, ModuleId, frame, lookup,
    messages::{GetHostResponse, GetRouteRequest, MessageId, RetCode},
    route::{self, RouteReply},
};
use prost::Message;

use crate::{
    core::{
        agent::{Reply, Request},
        balancer::Outcome,
        table::Answer,
    },
    stats::ApiStats,
};

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not exactly one frame.
    Frame,
    /// The message id is none that an agent answers: unknown, or of another direction.
    MessageId,
    /// The body is not the message that the id announces.
    Body,
    /// A report that names no host.
    Host,
}

impl Refusal {
    pub(super) fn count(self, stats: &mut ApiStats) {
        let counter = match self {
            Self::Frame => &mut stats.malformed_frames,
            Self::MessageId => &mut stats.unexpected_messages,
            Self::Body => &mut stats.malformed_bodies,
            Self::Host => &mut stats.invalid_hosts,
        };
        *counter += 1;
    }
}

/// What a client asks for, or why it asks for nothing.
pub(super) fn decode(datagram: &[u8]) -> Result<Request, Refusal> {
    let frame = frame::decode_datagram(datagram).map_err(|_| Refusal::Frame)?;
    match MessageId::try_from(frame.id).unwrap_or_default() {
        MessageId::GetHostRequest => {
            let request = lookup::decode_get_host_request(frame.body).map_err(|_| Refusal::Body)?;
            Ok(Request::GetHost { seq: request.seq, module: request.module() })
        }
        MessageId::ReportRequest => {
            let request = lookup::decode_report_request(frame.body).map_err(|_| Refusal::Body)?;
            let host = HostAddr::from_wire(&request.host.unwrap_or_default()).map_err(|_| Refusal::Host)?;
            let outcome = Outcome::from_retcode(request.retcode);
            Ok(Request::Report { module: request.module(), host, outcome })
        }
        MessageId::ApiGetRouteRequest => {
            let request = GetRouteRequest::decode(frame.body).map_err(|_| Refusal::Body)?;
            Ok(Request::GetRoute { module: request.module() })
        }
        MessageId::Unknown
        | MessageId::GetRouteRequest
        | MessageId::GetRouteResponse
        | MessageId::ReportStatusRequest
        | MessageId::Forget
        | MessageId::GetHostResponse
        | MessageId::ApiGetRouteResponse => Err(Refusal::MessageId),
    }
}

/// Appends `reply` to `out`. False if it is a route that does not fit a datagram and had to be cut.
pub(super) fn encode(reply: &Reply, out: &mut Vec<u8>) -> bool {
    match reply {
        Reply::Host { seq, module, answer } => {
            let (retcode, host) = match answer {
                Answer::Host(host) => (RetCode::Succ, Some(host.to_wire())),
                Answer::Overloaded => (RetCode::Overload, None),
                Answer::NotFound => (RetCode::Noexist, None),
            };
            let ModuleId { modid, cmdid } = *module;
            let response = GetHostResponse { seq: *seq, modid, cmdid, retcode: retcode as i32, host };
            lookup::encode_get_host_response(&response, out);
            true
        }
        Reply::Route { module, hosts } => {
            route::encode(RouteReply::Api, *module, hosts.iter().copied(), out) == hosts.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::messages::{GetHostRequest, HostInfo, ReportRequest};
    use proptest::prelude::*;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(-1, i32::MAX);

    fn datagram(id: MessageId, message: &impl Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(id, message, &mut bytes).expect("fits");
        bytes
    }

    #[track_caller]
    fn check(id: MessageId, message: &impl Message, expect: Result<Request, Refusal>) {
        assert_eq!(decode(&datagram(id, message)), expect);
    }

    #[test]
    fn the_three_requests() {
        let (modid, cmdid) = (MODULE.modid, MODULE.cmdid);
        let get_host = GetHostRequest { seq: 7, modid, cmdid };
        check(MessageId::GetHostRequest, &get_host, Ok(Request::GetHost { seq: 7, module: MODULE }));
        let get_route = GetRouteRequest { modid, cmdid, ..Default::default() };
        check(MessageId::ApiGetRouteRequest, &get_route, Ok(Request::GetRoute { module: MODULE }));
        let host = HostAddr::v4(Ipv4Addr::BROADCAST, 65_535);
        let report = ReportRequest { modid, cmdid, host: Some(host.to_wire()), retcode: -1 };
        let expect = Request::Report { module: MODULE, host, outcome: Outcome::Failure };
        check(MessageId::ReportRequest, &report, Ok(expect));
    }

    #[test]
    fn messages_of_another_direction_are_refused() {
        let message = GetRouteRequest::default();
        for id in [
            MessageId::Unknown,
            MessageId::GetRouteRequest,
            MessageId::GetRouteResponse,
            MessageId::ReportStatusRequest,
            MessageId::GetHostResponse,
            MessageId::ApiGetRouteResponse,
        ] {
            check(id, &message, Err(Refusal::MessageId));
        }
    }

    #[test]
    fn reports_must_name_a_host() {
        let nothing = ReportRequest::default();
        check(MessageId::ReportRequest, &nothing, Err(Refusal::Host));
        let no_port = ReportRequest { host: Some(HostInfo { ip: 1, port: 70_000 }), ..nothing };
        check(MessageId::ReportRequest, &no_port, Err(Refusal::Host));
    }

    #[test]
    fn each_kind_of_garbage_is_told_apart() {
        let good = datagram(MessageId::GetHostRequest, &GetHostRequest { seq: 1, modid: 1, cmdid: 1 });
        assert_eq!(decode(b""), Err(Refusal::Frame));
        assert_eq!(decode(&good[..good.len() - 1]), Err(Refusal::Frame));
        assert_eq!(decode(&[&good[..], b"x"].concat()), Err(Refusal::Frame));
        let mut unknown = good.clone();
        unknown[..4].copy_from_slice(&i32::MIN.to_le_bytes());
        assert_eq!(decode(&unknown), Err(Refusal::MessageId));
        let mut broken = good;
        broken[8..].fill(0xff);
        assert_eq!(decode(&broken), Err(Refusal::Body));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(id in -1i32..10, body: Vec<u8>) {
            let len = body.len() as i32;
            let _ = decode(&[&id.to_le_bytes()[..], &len.to_le_bytes(), &body].concat());
        }
    }
}
