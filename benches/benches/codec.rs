//! What the wire costs: frames, messages, routes.

use std::{hint::black_box, net::Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lars_proto::{
    HostAddr, ModuleId,
    frame::{self, BODY_LEN_MAX, HEADER_LEN},
    messages::{
        GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse, HostCallResult, HostInfo,
        MessageId, ReportRequest, ReportStatusRequest,
    },
    route::{self, RouteReply},
};
use prost::Message;

/// A usual address, 10.0.0.7:8080, as the wire has it.
const HOST: HostInfo = HostInfo { ip: 0x0a00_0007, port: 8080 };
const MODULE: ModuleId = ModuleId::new(1, 2);

fn hosts(count: u32) -> Vec<HostAddr> {
    (0..count).map(|n| HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0001 + n), 8080)).collect()
}

fn get_host_request() -> GetHostRequest {
    GetHostRequest { seq: 1_000, modid: MODULE.modid, cmdid: MODULE.cmdid }
}

fn report_status(results: usize) -> ReportStatusRequest {
    let result = HostCallResult { ip: HOST.ip, port: HOST.port, succ: 300, err: 2, overload: false };
    ReportStatusRequest {
        modid: MODULE.modid,
        cmdid: MODULE.cmdid,
        caller: HOST.ip,
        results: vec![result; results],
        ts: 1_700_000_000,
    }
}

fn get_route_response(count: usize) -> GetRouteResponse {
    GetRouteResponse { modid: MODULE.modid, cmdid: MODULE.cmdid, host: vec![HOST; count], hosts_total: 0 }
}

fn framed<M: Message>(id: MessageId, message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(id, message, &mut out).expect("fits a frame");
    out
}

/// Finding frames in what a read has brought, and putting a message into one.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let request = get_host_request();
    let one = framed(MessageId::GetHostRequest, &request);
    let stream = one.repeat(1_000);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("next, 1,000 small frames", |b| {
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
    group.bench_function("decode_datagram", |b| b.iter(|| frame::decode_datagram(black_box(&one))));
    let mut out = Vec::with_capacity(HEADER_LEN + BODY_LEN_MAX);
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            frame::encode(MessageId::GetHostRequest, black_box(&request), &mut out)
        });
    });
    group.finish();
}

/// One message, into bytes and back.
fn message<M: Message + Default>(c: &mut Criterion, name: &str, message: &M) {
    let mut group = c.benchmark_group(name);
    let body = message.encode_to_vec();
    group.throughput(Throughput::Bytes(body.len() as u64));
    let mut out = Vec::with_capacity(body.len());
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            black_box(message).encode(&mut out)
        });
    });
    group.bench_function("decode", |b| b.iter(|| M::decode(black_box(&body[..]))));
    group.finish();
}

fn messages(c: &mut Criterion) {
    let ModuleId { modid, cmdid } = MODULE;
    message(c, "GetHostRequest", &get_host_request());
    message(
        c,
        "GetHostResponse",
        &GetHostResponse { seq: 1_000, modid, cmdid, retcode: 0, host: Some(HOST) },
    );
    message(c, "ReportRequest", &ReportRequest { modid, cmdid, host: Some(HOST), retcode: 1 });
    message(c, "GetRouteRequest", &GetRouteRequest { modid, cmdid });
    message(c, "GetRouteResponse, 10 hosts", &get_route_response(10));
    message(c, "GetRouteResponse, 1,000 hosts", &get_route_response(1_000));
    message(c, "ReportStatusRequest, 10 hosts", &report_status(10));
    message(c, "ReportStatusRequest, 1,000 hosts", &report_status(1_000));
}

/// A route written straight into a frame, as lars-dns and the agent do it.
fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route::encode");
    for count in [10, 1_000] {
        let hosts = hosts(count);
        let mut out = Vec::with_capacity(HEADER_LEN + BODY_LEN_MAX);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_with_input(BenchmarkId::from_parameter(count), &hosts, |b, hosts| {
            b.iter(|| {
                out.clear();
                route::encode(RouteReply::Dns, MODULE, black_box(hosts).iter().copied(), &mut out)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames, messages, routes);
criterion_main!(benches);
