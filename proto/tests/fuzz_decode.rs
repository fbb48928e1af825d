//! One fuzz target per decoder. Under `cargo test` each runs on random input for a bounded number of
//! rounds; `cargo bolero test -p lars-proto NAME` drives the same targets with a coverage-guided engine.

use std::fmt::Debug;

use bolero::check;
use lars_proto::{
    HostAddr, frame, lookup,
    messages::{
        ApiGetRouteRequest, BucketSums, BucketSumsAnswer, GetHostRequest, GetHostResponse, GetRouteRequest,
        GetRouteResponse, HostInfo, ReportRequest, ReportStatusRequest, SubscriptionDigest,
        SubscriptionDigestAnswer,
    },
};
use prost::Message;

/// Any bytes either fail to decode, or decode to a message that survives another round trip.
fn decodes_or_refuses<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(&message.encode_to_vec()[..]).expect("what we encode decodes");
        assert_eq!(message, again);
    }
}

macro_rules! fuzz_messages {
    ($($name:ident: $message:ty),+ $(,)?) => {$(
        #[test]
        fn $name() {
            check!().for_each(decodes_or_refuses::<$message>);
        }
    )+};
}

fuzz_messages! {
    get_route_request: GetRouteRequest,
    get_route_response: GetRouteResponse,
    report_status_request: ReportStatusRequest,
    get_host_request: GetHostRequest,
    get_host_response: GetHostResponse,
    report_request: ReportRequest,
    subscription_digest: SubscriptionDigest,
    subscription_digest_answer: SubscriptionDigestAnswer,
    bucket_sums: BucketSums,
    bucket_sums_answer: BucketSumsAnswer,
    api_get_route_request: ApiGetRouteRequest,
}

#[test]
fn lookups_as_prost_reads_them() {
    check!().for_each(|body: &[u8]| {
        assert_eq!(lookup::decode_get_host_request(body), GetHostRequest::decode(body));
        assert_eq!(lookup::decode_get_host_response(body), GetHostResponse::decode(body));
        assert_eq!(lookup::decode_report_request(body), ReportRequest::decode(body));
    });
}

#[test]
fn stream_of_frames() {
    check!().for_each(|bytes: &[u8]| {
        let mut rest = bytes;
        while let Ok(Some((_, body))) = frame::next(rest) {
            rest = &rest[body.end..];
        }
    });
}

#[test]
fn datagram() {
    check!().for_each(|bytes: &[u8]| {
        let _ = frame::decode_datagram(bytes);
    });
}

#[test]
fn host_address() {
    check!().with_type::<(i32, i32)>().cloned().for_each(|(ip, port)| {
        if let Ok(host) = HostAddr::from_wire(&HostInfo { ip, port }) {
            assert_eq!(host.to_wire(), HostInfo { ip, port });
        }
    });
}
