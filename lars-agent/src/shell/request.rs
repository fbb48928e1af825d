//! What a datagram of a client asks for, or why it asks for nothing.

use lars_proto::{
    HostAddr, ModuleId, frame, lookup,
    messages::{GetRouteRequest, MessageId},
};
use prost::Message;

use crate::core::balancer::Outcome;

/// What a client may ask of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    GetHost { seq: u32, module: ModuleId },
    Report { module: ModuleId, host: HostAddr, outcome: Outcome },
    GetRoute { module: ModuleId },
}

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

impl Request {
    pub(super) fn decode(datagram: &[u8]) -> Result<Self, Refusal> {
        let frame = frame::decode_datagram(datagram).map_err(|_| Refusal::Frame)?;
        match MessageId::try_from(frame.id).unwrap_or_default() {
            MessageId::GetHostRequest => {
                let request = lookup::decode_get_host_request(frame.body).map_err(|_| Refusal::Body)?;
                Ok(Self::GetHost { seq: request.seq, module: request.module() })
            }
            MessageId::ReportRequest => {
                let request = lookup::decode_report_request(frame.body).map_err(|_| Refusal::Body)?;
                let host =
                    HostAddr::from_wire(&request.host.unwrap_or_default()).map_err(|_| Refusal::Host)?;
                let outcome = Outcome::from_retcode(request.retcode);
                Ok(Self::Report { module: request.module(), host, outcome })
            }
            MessageId::ApiGetRouteRequest => {
                let request = GetRouteRequest::decode(frame.body).map_err(|_| Refusal::Body)?;
                Ok(Self::GetRoute { module: request.module() })
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

    pub(super) const fn module(&self) -> ModuleId {
        match self {
            Self::GetHost { module, .. } | Self::Report { module, .. } | Self::GetRoute { module } => *module,
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
        assert_eq!(Request::decode(&datagram(id, message)), expect);
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
        assert_eq!(Request::decode(b""), Err(Refusal::Frame));
        assert_eq!(Request::decode(&good[..good.len() - 1]), Err(Refusal::Frame));
        assert_eq!(Request::decode(&[&good[..], b"x"].concat()), Err(Refusal::Frame));
        let mut unknown = good.clone();
        unknown[..4].copy_from_slice(&i32::MIN.to_le_bytes());
        assert_eq!(Request::decode(&unknown), Err(Refusal::MessageId));
        let mut broken = good;
        broken[8..].fill(0xff);
        assert_eq!(Request::decode(&broken), Err(Refusal::Body));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(id in -1i32..10, body: Vec<u8>) {
            let len = body.len() as i32;
            let _ = Request::decode(&[&id.to_le_bytes()[..], &len.to_le_bytes(), &body].concat());
        }
    }
}
