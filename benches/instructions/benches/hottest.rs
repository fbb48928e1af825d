//! What servers spend their own time in, under callgrind: instructions do not depend on what else the machine
//! does, so that a regression shows where no clock would show it.
//!
//! Each function does its work [`TIMES`] times, on different input, in one go. `ci/instruction-counts` runs
//! this and compares with `benches/instruction-counts.toml`; by itself it needs valgrind and gungraun-runner.

// The attributes of gungraun write paths in full.
#![allow(unused_qualifications)]

use std::{hint::black_box, net::Ipv4Addr, time::Duration};

use gungraun::{library_benchmark, library_benchmark_group, main};
use lars_agent::core::{
    balancer::Outcome,
    table::{Answer, Table, TableConfig},
    time::Moment,
};
use lars_proto::{
    Endpoint, HostAddr, ModuleId,
    frame::{self, BODY_LEN_MAX, HEADER_LEN},
    lookup,
    messages::{GetHostRequest, GetHostResponse, MessageId, ReportRequest},
    route::{self, RouteReply},
};
use prost::Message;

const TIMES: u32 = 1_000;

const MODULE: ModuleId = ModuleId::new(1, 2);

fn host(n: u32) -> HostAddr {
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0001 + n), 8080)
}

fn datagrams<M: Message>(id: MessageId, message: impl Fn(u32) -> M) -> Vec<Vec<u8>> {
    let datagram = |n| {
        let mut bytes = Vec::new();
        frame::encode(id, &message(n), &mut bytes).expect("fits a frame");
        bytes
    };
    (0..TIMES).map(datagram).collect()
}

fn get_host_requests() -> Vec<Vec<u8>> {
    datagrams(MessageId::GetHostRequest, |n| GetHostRequest {
        seq: 1_000 + n,
        modid: 1,
        cmdid: n as i32,
        wait_ms: 0,
    })
}

fn report_requests() -> Vec<Vec<u8>> {
    datagrams(MessageId::ReportRequest, |n| ReportRequest {
        modid: 1,
        cmdid: n as i32,
        host: Some(host(n).to_wire()),
        retcode: i32::from(n % 10 == 0),
    })
}

fn get_host_responses() -> (Vec<GetHostResponse>, Vec<u8>) {
    let response = |n: u32| GetHostResponse {
        seq: 1_000 + n,
        modid: 1,
        cmdid: n as i32,
        retcode: 0,
        host: Some(host(n).to_wire()),
    };
    ((0..TIMES).map(response).collect(), with_room())
}

/// A buffer that has seen the longest frame, as those that servers keep.
fn with_room() -> Vec<u8> {
    Vec::with_capacity(HEADER_LEN + BODY_LEN_MAX)
}

/// An agent's shard that knows a module with 100 hosts.
fn table() -> Table {
    let mut table = Table::new(TableConfig::default());
    table.get_host(MODULE, Moment::ORIGIN);
    let route: Vec<Endpoint> = hosts(100).into_iter().map(Endpoint::from).collect();
    table.route_update(MODULE, &route, Moment::ORIGIN);
    table
}

fn hosts(count: u32) -> Vec<HostAddr> {
    (0..count).map(host).collect()
}

#[library_benchmark]
#[bench::of_a_client(get_host_requests())]
fn decode_get_host_request(datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for datagram in &datagrams {
        let frame = frame::decode_datagram(black_box(datagram)).expect("one frame");
        let _ = black_box(lookup::decode_get_host_request(frame.body));
    }
    datagrams
}

#[library_benchmark]
#[bench::with_framing(get_host_responses())]
fn encode_get_host_response(
    (responses, mut out): (Vec<GetHostResponse>, Vec<u8>),
) -> (Vec<GetHostResponse>, Vec<u8>) {
    for response in &responses {
        out.clear();
        lookup::encode_get_host_response(black_box(response), &mut out);
        black_box(&out);
    }
    (responses, out)
}

#[library_benchmark]
#[bench::of_a_client(report_requests())]
fn decode_report_request(datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for datagram in &datagrams {
        let frame = frame::decode_datagram(black_box(datagram)).expect("one frame");
        let _ = black_box(lookup::decode_report_request(frame.body));
    }
    datagrams
}

#[library_benchmark]
#[bench::of_100_hosts(table())]
fn pick_and_report(mut table: Table) -> Table {
    let mut now = Moment::ORIGIN;
    for n in 0..TIMES {
        now = now + Duration::from_micros(10);
        if let Answer::Host(host) = table.get_host(black_box(MODULE), now) {
            let outcome = if n % 100 == 7 { Outcome::Failure } else { Outcome::Success };
            table.report(MODULE, black_box(host), outcome, now);
        }
    }
    table
}

#[library_benchmark]
#[bench::of_10_hosts((hosts(10), with_room()))]
fn encode_route((hosts, mut out): (Vec<HostAddr>, Vec<u8>)) -> (Vec<HostAddr>, Vec<u8>) {
    for _ in 0..TIMES {
        out.clear();
        route::encode(RouteReply::Dns, MODULE, black_box(&hosts).iter().copied(), &mut out);
        black_box(&out);
    }
    (hosts, out)
}

library_benchmark_group!(
    name = hottest,
    benchmarks = [
        decode_get_host_request,
        encode_get_host_response,
        decode_report_request,
        pick_and_report,
        encode_route
    ]
);

main!(library_benchmark_groups = hottest);
