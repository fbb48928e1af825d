//! What the wire costs: frames, messages, routes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use fastrand::Rng;
use lars_proto::{
    frame::{self, BODY_LEN_MAX, HEADER_LEN},
    lookup,
    messages::{
        GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse, HostCallResult, HostInfo,
        MessageId, ReportRequest, ReportStatusRequest, RetCode,
    },
    route::{self, RouteReply},
};
use prost::{DecodeError, Message};

use super::{group, hosts, module};

/// Different messages of a kind, taken in turns: a branch that depends on them cannot be learned.
const VARIANTS: usize = 256;

/// A buffer as servers keep it.
fn with_room() -> Vec<u8> {
    Vec::with_capacity(HEADER_LEN + BODY_LEN_MAX)
}

/// Half of them in 10/8, half in 192.168/16, whose addresses are the longest there are on the wire.
fn any_host(rng: &mut Rng) -> HostInfo {
    let ip = if rng.bool() { 0x0a00_0000 + rng.u32(..1 << 24) } else { 0xc0a8_0000 + rng.u32(..1 << 16) };
    HostInfo { ip: ip.cast_signed(), port: rng.i32(1_024..65_536) }
}

fn get_host_request(rng: &mut Rng) -> GetHostRequest {
    let module = module(rng.u32(..10_000));
    GetHostRequest { seq: rng.u32(..), modid: module.modid, cmdid: module.cmdid, wait_ms: 180 }
}

fn get_host_response(rng: &mut Rng) -> GetHostResponse {
    let GetHostRequest { seq, modid, cmdid, .. } = get_host_request(rng);
    GetHostResponse { seq, modid, cmdid, retcode: RetCode::Succ as i32, host: Some(any_host(rng)) }
}

fn report_request(rng: &mut Rng) -> ReportRequest {
    let GetHostRequest { modid, cmdid, .. } = get_host_request(rng);
    ReportRequest { modid, cmdid, host: Some(any_host(rng)), retcode: i32::from(rng.u8(..10) == 0) }
}

fn get_route_request(rng: &mut Rng) -> GetRouteRequest {
    let GetHostRequest { modid, cmdid, .. } = get_host_request(rng);
    GetRouteRequest { modid, cmdid, ..Default::default() }
}

fn get_route_response(rng: &mut Rng, hosts: usize) -> GetRouteResponse {
    let GetHostRequest { modid, cmdid, .. } = get_host_request(rng);
    GetRouteResponse { modid, cmdid, host: (0..hosts).map(|_| any_host(rng)).collect(), ..Default::default() }
}

fn report_status_request(rng: &mut Rng, hosts: usize) -> ReportStatusRequest {
    let GetHostRequest { modid, cmdid, .. } = get_host_request(rng);
    let result = |rng: &mut Rng| {
        let HostInfo { ip, port } = any_host(rng);
        HostCallResult { ip, port, succ: rng.u32(..10_000), err: rng.u32(..10), overload: rng.u8(..10) == 0 }
    };
    let results = (0..hosts).map(|_| result(rng)).collect();
    ReportStatusRequest { modid, cmdid, caller: any_host(rng).ip, results, ts: 1_700_000_000 }
}

fn framed<M: Message>(id: MessageId, message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(id, message, &mut out).expect("fits a frame");
    out
}

/// Finding frames in what a read has brought, and putting a message into one.
pub(super) fn frames(c: &mut Criterion) {
    let mut rng = Rng::with_seed(1);
    let requests: Vec<_> = (0..VARIANTS).map(|_| get_host_request(&mut rng)).collect();
    let datagrams: Vec<_> = requests.iter().map(|r| framed(MessageId::GetHostRequest, r)).collect();
    let stream = datagrams.concat();

    let mut group = group(c, "frame", VARIANTS as u64);
    group.bench_function("next/256 frames of one read", |b| {
        b.iter(|| {
            let (mut rest, mut frames) = (black_box(&stream[..]), 0);
            while let Ok(Some((_, body))) = frame::next(rest) {
                rest = &rest[body.end..];
                frames += 1;
            }
            frames
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut next = datagrams.iter().cycle();
    group.bench_function("decode_datagram", |b| {
        b.iter(|| frame::decode_datagram(black_box(next.next().expect("endless"))).is_ok());
    });
    let (mut next, mut out) = (requests.iter().cycle(), with_room());
    group.bench_function("encode/GetHostRequest", |b| {
        b.iter(|| {
            out.clear();
            frame::encode(MessageId::GetHostRequest, black_box(next.next().expect("endless")), &mut out)
        });
    });
}

/// One kind of message, into bytes and back, as prost does it.
fn message<M: Message + Default>(c: &mut Criterion, name: &str, any: impl Fn(&mut Rng) -> M) {
    let encode = |message: &M, out: &mut Vec<u8>| message.encode(out).expect("a vector grows");
    into_and_back(c, &format!("message/{name}"), "encode", any, |body| M::decode(body), encode);
}

fn into_and_back<M: Message>(
    c: &mut Criterion,
    group: &str,
    encoding: &str,
    any: impl Fn(&mut Rng) -> M,
    decode: impl Fn(&[u8]) -> Result<M, DecodeError>,
    encode: impl Fn(&M, &mut Vec<u8>),
) {
    let mut rng = Rng::with_seed(2);
    let messages: Vec<M> = (0..VARIANTS).map(|_| any(&mut rng)).collect();
    let bodies: Vec<Vec<u8>> = messages.iter().map(Message::encode_to_vec).collect();
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes((bodies.concat().len() / VARIANTS) as u64));
    let (mut next, mut out) = (messages.iter().cycle(), with_room());
    group.bench_function(encoding, |b| {
        b.iter(|| {
            out.clear();
            encode(black_box(next.next().expect("endless")), &mut out);
        });
    });
    let mut next = bodies.iter().cycle();
    group.bench_function("decode", |b| b.iter(|| decode(black_box(next.next().expect("endless")))));
}

pub(super) fn messages(c: &mut Criterion) {
    message(c, "GetHostRequest", get_host_request);
    message(c, "GetHostResponse", get_host_response);
    message(c, "ReportRequest", report_request);
    message(c, "GetRouteRequest", get_route_request);
    message(c, "GetRouteResponse, 10 hosts", |rng| get_route_response(rng, 10));
    message(c, "GetRouteResponse, 1000 hosts", |rng| get_route_response(rng, 1_000));
    message(c, "ReportStatusRequest, 10 hosts", |rng| report_status_request(rng, 10));
    message(c, "ReportStatusRequest, 1000 hosts", |rng| report_status_request(rng, 1_000));
}

/// The messages of a lookup, as agent and client do it by hand.
pub(super) fn lookups(c: &mut Criterion) {
    use lookup::{
        decode_get_host_request, decode_get_host_response, decode_report_request, encode_get_host_request,
        encode_get_host_response, encode_report_request,
    };
    let framing = "encode with framing";
    let (decode, encode) = (decode_get_host_request, encode_get_host_request);
    into_and_back(c, "lookup/GetHostRequest", framing, get_host_request, decode, encode);
    let (decode, encode) = (decode_get_host_response, encode_get_host_response);
    into_and_back(c, "lookup/GetHostResponse", framing, get_host_response, decode, encode);
    let (decode, encode) = (decode_report_request, encode_report_request);
    into_and_back(c, "lookup/ReportRequest", framing, report_request, decode, encode);
}

/// A route written straight into a frame, as lars-dns and the agent do it.
pub(super) fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route::encode");
    for count in [10, 1_000] {
        let (hosts, mut out) = (hosts(count), with_room());
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::from_parameter(format!("{count} hosts")), |b| {
            b.iter(|| {
                out.clear();
                route::encode(RouteReply::Dns, module(1), black_box(&hosts).iter().copied(), &mut out)
            });
        });
    }
}
