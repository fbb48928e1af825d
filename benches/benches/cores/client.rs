//! What a lookup costs the program that asks, beside the round trip.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lars_client::{
    Host, Outcome,
    core::{HostQuestion, Question, RouteQuestion, report_datagram},
};
use lars_proto::{
    lookup,
    messages::{GetHostResponse, RetCode},
    route::{self, RouteReply},
};

use super::{group, host, hosts, module};

pub(super) fn questions(c: &mut Criterion) {
    let mut group = group(c, "client/encode", 1_u64);
    let question = HostQuestion { seq: 123_456, module: module(1) };
    group.bench_function("get_host", |b| b.iter(|| black_box(&question).to_datagram(175)));
    let question = RouteQuestion { module: module(1) };
    group.bench_function("get_route", |b| b.iter(|| black_box(&question).to_datagram(175)));
    let called = Host::new(module(1), host(7));
    group.bench_function("report", |b| b.iter(|| report_datagram(black_box(&called), Outcome::Failure(1))));
}

pub(super) fn answers(c: &mut Criterion) {
    let mut group = group(c, "client/decode", 1_u64);
    let question = HostQuestion { seq: 123_456, module: module(1) };
    let response = GetHostResponse {
        seq: question.seq,
        modid: question.module.modid,
        cmdid: question.module.cmdid,
        retcode: RetCode::Succ as i32,
        host: Some(host(7).to_wire()),
    };
    let mut datagram = Vec::new();
    lookup::encode_get_host_response(&response, &mut datagram);
    assert!(question.answer_in(&datagram).is_some(), "an answer to the question is measured");
    group.bench_function("get_host", |b| b.iter(|| question.answer_in(black_box(&datagram))));

    let question = RouteQuestion { module: module(1) };
    for count in [10, 1_000] {
        let mut datagram = Vec::new();
        route::encode(RouteReply::Api, question.module, hosts(count), &mut datagram);
        assert!(question.answer_in(&datagram).is_some(), "an answer to the question is measured");
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("get_route, {count} hosts"), |b| {
            b.iter(|| question.answer_in(black_box(&datagram)));
        });
    }
}
