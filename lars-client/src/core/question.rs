//! The questions to the agent: how each is put, and which datagrams answer it.

use lars_proto::{
    HostAddr, ModuleId,
    frame::{self, DATAGRAM_BODY_LEN_MAX, HEADER_LEN},
    lookup,
    messages::{
        ApiGetRouteRequest, GetHostRequest, GetHostResponse, GetRouteResponse, MessageId, ReportRequest,
        RetCode,
    },
};
use prost::Message;

use crate::{GetHostError, Host, Outcome, ProtocolError};

/// Something to ask the agent.
pub trait Question {
    /// What there is to learn.
    type Answer;

    /// Answers are shorter, in bytes; whatever is longer may be cut off and then is no answer.
    const ANSWER_LEN_MAX: usize;

    /// The datagram that asks it. The agent may take `wait_ms` milliseconds to learn the module, if it has not yet.
    fn to_datagram(&self, wait_ms: u32) -> Vec<u8>;

    /// The answer, if `datagram` is one to this question: late, foreign and malformed ones are `None`.
    fn answer_in(&self, datagram: &[u8]) -> Option<Self::Answer>;
}

/// Which host to call for a module.
#[derive(Clone, Copy, Debug)]
pub struct HostQuestion {
    /// Comes back in the answer. Unique among the lookups of a client, so that a late answer is known for one.
    pub seq: u32,
    /// Whose host.
    pub module: ModuleId,
}

impl Question for HostQuestion {
    type Answer = Result<Host, GetHostError>;

    /// Answers have some 60 bytes; the rest is room for the fields of later versions.
    const ANSWER_LEN_MAX: usize = 1_024;

    fn to_datagram(&self, wait_ms: u32) -> Vec<u8> {
        let Self { seq, module: ModuleId { modid, cmdid } } = *self;
        let mut datagram = Vec::new();
        lookup::encode_get_host_request(&GetHostRequest { seq, modid, cmdid, wait_ms }, &mut datagram);
        datagram
    }

    fn answer_in(&self, datagram: &[u8]) -> Option<Self::Answer> {
        let body = body(MessageId::GetHostResponse, datagram)?;
        let response = lookup::decode_get_host_response(body).ok()?;
        (response.seq == self.seq && response.module() == self.module).then(|| picked(&response))
    }
}

fn picked(response: &GetHostResponse) -> Result<Host, GetHostError> {
    let module = response.module();
    let problem = match RetCode::try_from(response.retcode) {
        Ok(RetCode::Succ) => match response.host.as_ref().map(HostAddr::from_wire) {
            Some(Ok(addr)) => return Ok(Host::new(module, addr)),
            Some(Err(error)) => ProtocolError::Host(error),
            None => ProtocolError::HostMissing,
        },
        Ok(RetCode::Overload) => return Err(GetHostError::Overloaded(module)),
        Ok(RetCode::Noexist) => return Err(GetHostError::NotFound(module)),
        Ok(RetCode::SystemError) | Err(_) => ProtocolError::RetCode(response.retcode),
    };
    Err(GetHostError::Protocol { module, source: problem })
}

/// All hosts of a module.
///
/// Nothing in the answer but the module says which question it belongs to. So ask on a socket that was never
/// used before: then answers to earlier questions cannot arrive on it.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuestion {
    /// Whose hosts.
    pub module: ModuleId,
}

/// What the agent knows of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Those that cannot be called, with a port out of range, are left out.
    pub hosts: Vec<HostAddr>,
    /// There are no others: the agent has asked, or would have waited for them. Those of the original never say so.
    pub confirmed: bool,
}

impl Question for RouteQuestion {
    type Answer = Route;

    const ANSWER_LEN_MAX: usize = HEADER_LEN + DATAGRAM_BODY_LEN_MAX;

    fn to_datagram(&self, wait_ms: u32) -> Vec<u8> {
        let ModuleId { modid, cmdid } = self.module;
        let mut datagram = Vec::new();
        let encoded = frame::encode(
            MessageId::ApiGetRouteRequest,
            &ApiGetRouteRequest { modid, cmdid, wait_ms },
            &mut datagram,
        );
        debug_assert_eq!(encoded, Ok(()), "two numbers fit a frame");
        datagram
    }

    fn answer_in(&self, datagram: &[u8]) -> Option<Self::Answer> {
        let response = GetRouteResponse::decode(body(MessageId::ApiGetRouteResponse, datagram)?).ok()?;
        let hosts = || response.host.iter().filter_map(|host| HostAddr::from_wire(host).ok()).collect();
        (response.module() == self.module).then(|| Route { hosts: hosts(), confirmed: response.confirmed })
    }
}

/// The datagram that tells the agent how a call went; it is not answered.
#[must_use]
pub fn report_datagram(host: &Host, outcome: Outcome) -> Vec<u8> {
    let ModuleId { modid, cmdid } = host.module;
    let report = ReportRequest { modid, cmdid, host: Some(host.addr.to_wire()), retcode: outcome.to_wire() };
    let mut datagram = Vec::new();
    lookup::encode_report_request(&report, &mut datagram);
    datagram
}

/// The message in a datagram, if it is one of kind `id`.
fn body(id: MessageId, datagram: &[u8]) -> Option<&[u8]> {
    let frame = frame::decode_datagram(datagram).ok()?;
    (frame.id == id as i32).then_some(frame.body)
}

#[cfg(test)]
mod tests {
    use lars_proto::{HostAddrError, messages::HostInfo};
    use proptest::prelude::*;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(1, 1);
    const HOST: HostInfo = HostInfo { ip: 0x7f00_0001, port: 7777 };
    const QUESTION: HostQuestion = HostQuestion { seq: 7, module: MODULE };

    fn encode(id: MessageId, message: &impl Message) -> Vec<u8> {
        let mut datagram = Vec::new();
        frame::encode(id, message, &mut datagram).expect("fits");
        datagram
    }

    fn response(retcode: i32, host: Option<HostInfo>) -> GetHostResponse {
        GetHostResponse { seq: 7, modid: 1, cmdid: 1, retcode, host }
    }

    fn answer(response: &GetHostResponse) -> Option<Result<Host, GetHostError>> {
        QUESTION.answer_in(&encode(MessageId::GetHostResponse, response))
    }

    fn protocol_error(response: &GetHostResponse) -> ProtocolError {
        match answer(response) {
            Some(Err(GetHostError::Protocol { module: MODULE, source })) => source,
            other => panic!("{other:?} is no protocol error"),
        }
    }

    /// The bytes that deployed C++ clients send, who do not wait.
    #[test]
    fn questions_are_put_as_they_always_were() {
        let host = HostQuestion { seq: 0, module: MODULE };
        assert_eq!(host.to_datagram(0), [4, 0, 0, 0, 4, 0, 0, 0, 0x10, 1, 0x18, 1]);
        let route = RouteQuestion { module: MODULE };
        assert_eq!(route.to_datagram(0), [7, 0, 0, 0, 4, 0, 0, 0, 0x08, 1, 0x10, 1]);
        // And what they skip.
        assert_eq!(host.to_datagram(175), [4, 0, 0, 0, 8, 0, 0, 0, 0x10, 1, 0x18, 1, 0x80, 1, 0xaf, 1]);
        assert_eq!(route.to_datagram(175), [7, 0, 0, 0, 8, 0, 0, 0, 0x08, 1, 0x10, 1, 0x80, 1, 0xaf, 1]);
    }

    #[test]
    fn reports_name_module_host_and_outcome() {
        let host = Host::new(MODULE, HostAddr::from_wire(&HOST).expect("a host"));
        let datagram = report_datagram(&host, Outcome::Failure(-3));
        let report = body(MessageId::ReportRequest, &datagram).map(ReportRequest::decode).expect("a report");
        assert_eq!(
            report.expect("a report"),
            ReportRequest { modid: 1, cmdid: 1, host: Some(HOST), retcode: -3 }
        );
    }

    #[test]
    fn return_codes_become_results() {
        let found = answer(&response(0, Some(HOST))).expect("an answer").expect("a host");
        assert_eq!((found.module, found.addr.to_string().as_str()), (MODULE, "127.0.0.1:7777"));
        assert!(matches!(answer(&response(1, None)), Some(Err(GetHostError::Overloaded(MODULE)))));
        assert!(matches!(answer(&response(3, None)), Some(Err(GetHostError::NotFound(MODULE)))));
        assert_eq!(protocol_error(&response(2, Some(HOST))), ProtocolError::RetCode(2));
        assert_eq!(protocol_error(&response(-9, Some(HOST))), ProtocolError::RetCode(-9));
    }

    #[test]
    fn a_host_that_cannot_be_called_is_an_error() {
        assert_eq!(protocol_error(&response(0, None)), ProtocolError::HostMissing);
        let nowhere = HostInfo { ip: 1, port: 65_536 };
        let expected = ProtocolError::Host(HostAddrError::Port(65_536));
        assert_eq!(protocol_error(&response(0, Some(nowhere))), expected);
    }

    #[test]
    fn late_and_foreign_answers_are_not_ours() {
        let ours = response(0, Some(HOST));
        for other in [
            GetHostResponse { seq: 6, ..ours },
            GetHostResponse { modid: 2, ..ours },
            GetHostResponse { cmdid: -1, ..ours },
        ] {
            assert!(answer(&other).is_none(), "{other:?}");
        }
        let wrong_id = encode(MessageId::GetHostRequest, &ours);
        assert!(QUESTION.answer_in(&wrong_id).is_none());
        let mut trailing = encode(MessageId::GetHostResponse, &ours);
        trailing.push(0);
        assert!(QUESTION.answer_in(&trailing).is_none());
    }

    #[test]
    fn a_route_leaves_out_what_cannot_be_called() {
        let host = vec![HOST, HostInfo { ip: 5, port: 0 }, HostInfo { ip: -1, port: 80 }];
        let response = GetRouteResponse { modid: 1, cmdid: 1, host, ..Default::default() };
        let datagram = encode(MessageId::ApiGetRouteResponse, &response);
        let route = RouteQuestion { module: MODULE }.answer_in(&datagram).expect("an answer");
        let hosts: Vec<String> = route.hosts.iter().map(HostAddr::to_string).collect();
        assert_eq!(hosts, ["127.0.0.1:7777", "255.255.255.255:80"]);
        assert!(!route.confirmed);
        assert!(RouteQuestion { module: ModuleId::new(1, 2) }.answer_in(&datagram).is_none());
        let from_dns = encode(MessageId::GetRouteResponse, &response);
        assert!(RouteQuestion { module: MODULE }.answer_in(&from_dns).is_none());
    }

    prop_compose! {
        /// Small numbers, so that seq and module match now and then.
        fn any_response()(
            seq in 6u32..9, modid in 0..3, cmdid in 0..3, retcode in -1..5,
            host in prop::option::of((any::<i32>(), -1..70_000)),
        ) -> GetHostResponse {
            let host = host.map(|(ip, port)| HostInfo { ip, port });
            GetHostResponse { seq, modid, cmdid, retcode, host }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            prop_assert!(QUESTION.answer_in(&bytes).is_none());
            let route = RouteQuestion { module: MODULE };
            prop_assert!(route.answer_in(&bytes).is_none());
        }

        #[test]
        fn only_our_own_answer_is_taken_and_for_what_it_says(id in 0i32..9, response in any_response()) {
            let mut datagram = encode(MessageId::GetHostResponse, &response);
            datagram[..4].copy_from_slice(&id.to_le_bytes());
            let ours = id == 5 && (response.seq, response.modid, response.cmdid) == (7, 1, 1);
            let answer = QUESTION.answer_in(&datagram);
            prop_assert_eq!(answer.is_some(), ours);
            if let Some(Ok(host)) = answer {
                prop_assert_eq!((response.retcode, host.module), (0, MODULE));
                prop_assert_eq!(Some(host.addr.to_wire()), response.host);
            }
        }

        #[test]
        fn damaged_answers_never_name_another_module(at: prop::sample::Index, bits in 1u8..) {
            let mut datagram = encode(MessageId::GetHostResponse, &response(0, Some(HOST)));
            *at.get_mut(&mut datagram) ^= bits;
            if let Some(Ok(host)) = QUESTION.answer_in(&datagram) {
                prop_assert_eq!(host.module, MODULE);
            }
        }
    }
}
