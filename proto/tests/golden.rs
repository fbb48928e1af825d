//! Bytes captured from a real C++ client, agent and server (module 1/1 is served by 127.0.0.1:7777, module
//! 9/9 is unknown). Whoever captures more: `tcpdump -x -i lo` beside the deployed programs, payload only.

use std::{fmt::Debug, net::Ipv4Addr};

use lars_proto::{
    HostAddr, ModuleId, frame, lookup,
    messages::{
        ApiGetRouteRequest, BucketSums, BucketSumsAnswer, GetHostRequest, GetHostResponse, GetRouteRequest,
        GetRouteResponse, MessageId, RetCode, SubscriptionDigest, SubscriptionDigestAnswer,
    },
    route::{self, Extensions, RouteReply},
};
use prost::Message;

const ONE: ModuleId = ModuleId::new(1, 1);
const UNKNOWN: ModuleId = ModuleId::new(9, 9);
const BACKEND: HostAddr = HostAddr::v4(Ipv4Addr::LOCALHOST, 7777);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex")).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// `captured` decodes to `message`, and `message` encodes to exactly `captured`.
fn check<M: Message + Default + PartialEq + Debug>(captured: &str, id: MessageId, message: &M) {
    let captured = bytes(captured);
    let frame = frame::decode_datagram(&captured).expect("a frame");
    assert_eq!(frame.id, id as i32);
    assert_eq!(&M::decode(frame.body).expect("a message"), message);
    let mut encoded = Vec::new();
    frame::encode(id, message, &mut encoded).expect("fits");
    assert_eq!(encoded, captured);
}

#[test]
fn client_asks_the_agent_for_a_route() {
    let request = ApiGetRouteRequest { modid: 1, cmdid: 1, ..Default::default() };
    check("07000000 04000000 08011001", MessageId::ApiGetRouteRequest, &request);
}

#[test]
fn agent_answers_with_a_route() {
    let captured = "08000000 0f000000 08011001 1a0908818080f80710e13c";
    let response =
        GetRouteResponse { modid: 1, cmdid: 1, host: vec![BACKEND.to_wire()], ..Default::default() };
    check(captured, MessageId::ApiGetRouteResponse, &response);

    let mut encoded = Vec::new();
    assert_eq!(route::encode(RouteReply::Api, ONE, [BACKEND], &mut encoded), 1);
    assert_eq!(encoded, bytes(captured));
}

#[test]
fn a_field_that_is_zero_is_absent() {
    let request = GetHostRequest { seq: 0, modid: 1, cmdid: 1, wait_ms: 0 };
    check("04000000 04000000 10011801", MessageId::GetHostRequest, &request);

    let mut encoded = Vec::new();
    lookup::encode_get_host_request(&request, &mut encoded);
    assert_eq!(encoded, bytes("04000000 04000000 10011801"));
}

/// Not captured: the deployed programs send no such fields, and skip them.
#[test]
fn what_the_deployed_programs_do_not_say() {
    let request = GetHostRequest { seq: 0, modid: 1, cmdid: 1, wait_ms: 180 };
    check("04000000 08000000 10011801 8001b401", MessageId::GetHostRequest, &request);
    let request = ApiGetRouteRequest { modid: 1, cmdid: 1, wait_ms: 180 };
    check("07000000 08000000 08011001 8001b401", MessageId::ApiGetRouteRequest, &request);
    let meant = GetRouteResponse { modid: 9, cmdid: 9, confirmed: true, ..Default::default() };
    check("02000000 07000000 08091009 900101", MessageId::GetRouteResponse, &meant);

    let (mut encoded, confirms) = (Vec::new(), Extensions { confirms: true, ..Extensions::default() });
    route::encode_extended(RouteReply::Dns, UNKNOWN, [], confirms, &mut encoded);
    assert_eq!(encoded, bytes("02000000 07000000 08091009 900101"));
    encoded.clear();
    route::encode_extended(RouteReply::Api, ONE, [BACKEND], confirms, &mut encoded);
    assert_eq!(
        encoded,
        bytes("08000000 0f000000 08011001 1a0908818080f80710e13c"),
        "a route with hosts is as ever"
    );
}

#[test]
fn agent_answers_with_a_host() {
    let response = GetHostResponse {
        seq: 0,
        modid: 1,
        cmdid: 1,
        retcode: RetCode::Succ as i32,
        host: Some(BACKEND.to_wire()),
    };
    check("05000000 0f000000 10011801 2a0908818080f80710e13c", MessageId::GetHostResponse, &response);
}

#[test]
fn agent_does_not_know_the_module() {
    let response =
        GetHostResponse { seq: 0, modid: 9, cmdid: 9, retcode: RetCode::Noexist as i32, host: None };
    check("05000000 06000000 10091809 2003", MessageId::GetHostResponse, &response);
}

#[test]
fn dns_does_not_know_the_module() {
    check(
        "01000000 04000000 08091009",
        MessageId::GetRouteRequest,
        &GetRouteRequest { modid: 9, cmdid: 9, ..Default::default() },
    );
    let captured = "02000000 04000000 08091009";
    check(
        captured,
        MessageId::GetRouteResponse,
        &GetRouteResponse { modid: 9, cmdid: 9, ..Default::default() },
    );

    let mut encoded = Vec::new();
    assert_eq!(route::encode(RouteReply::Dns, UNKNOWN, [], &mut encoded), 0);
    assert_eq!(encoded, bytes(captured));
}

#[test]
fn module_zero_zero_is_an_empty_body() {
    check(
        "01000000 00000000",
        MessageId::GetRouteRequest,
        &GetRouteRequest { modid: 0, cmdid: 0, ..Default::default() },
    );
}

/// No C++ program knows these; agents and servers of different builds must agree on them.
#[test]
fn the_messages_of_a_digest() {
    let digest = SubscriptionDigest { count: 2, sum: 3 };
    check("64000000 0b000000 0802 110300000000000000", MessageId::SubscriptionDigest, &digest);
    let same = SubscriptionDigestAnswer::default();
    check("65000000 00000000", MessageId::SubscriptionDigestAnswer, &same);
    let differs = SubscriptionDigestAnswer { differs: true, count: 1, sum: 4 };
    check("65000000 0d000000 0801 1001 190400000000000000", MessageId::SubscriptionDigestAnswer, &differs);
    let sums = BucketSums { first: 254, sums: vec![5, 6] };
    check("66000000 15000000 08fe01 1210 0500000000000000 0600000000000000", MessageId::BucketSums, &sums);
    let module = 0x0000_0001_ffff_fffe;
    let held = BucketSumsAnswer { end: 256, buckets: vec![254], modules: vec![module], hashes: vec![7] };
    check(
        "67000000 1a000000 088002 1201fe 1a08feffffff01000000 22080700000000000000",
        MessageId::BucketSumsAnswer,
        &held,
    );
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    // Field 17, a string, behind a request that this version knows.
    let frame = bytes("04000000 09000000 10011801 8a01026869");
    let frame = frame::decode_datagram(&frame).expect("a frame");
    let request = GetHostRequest::decode(frame.body).expect("a request");
    assert_eq!(request, GetHostRequest { seq: 0, modid: 1, cmdid: 1, wait_ms: 0 });
}
