//! Whom lars-dns pushes a change to.

use std::hint::black_box;

use criterion::Criterion;
use lars_dns::core::subscriptions::Subscriptions;

use super::{group, module};

const SUBSCRIPTIONS: u32 = 10_000;

/// As large as the connection ids of a server: a slot and a generation.
type Connection = (u32, u32);

/// `subscribers` connections that want every one of `modules`.
fn subscribed(modules: u32, subscribers: u32) -> Subscriptions<Connection> {
    let mut subscriptions = Subscriptions::default();
    for connection in (0..subscribers).map(|slot| (slot, 7)) {
        (0..modules).for_each(|n| _ = subscriptions.subscribe(connection, module(n)));
    }
    subscriptions
}

/// `subscribers` connections, each of which wants one module that nobody else wants.
fn one_each(subscribers: u32) -> Subscriptions<Connection> {
    let mut subscriptions = Subscriptions::default();
    (0..subscribers).for_each(|n| _ = subscriptions.subscribe((n, 7), module(n)));
    subscriptions
}

fn publish_all(subscriptions: &mut Subscriptions<Connection>, modules: u32, ready: &mut Vec<Connection>) {
    for n in 0..modules {
        ready.clear();
        subscriptions.publish(black_box(module(n)), ready);
    }
}

pub(super) fn publish(c: &mut Criterion) {
    let mut group = group(c, "subscriptions/publish", SUBSCRIPTIONS);
    let all = SUBSCRIPTIONS;
    let cases = [
        ("1 module to 10000 subscribers", 1, subscribed(1, all)),
        ("10000 modules to 1 subscriber each", all, one_each(all)),
        ("10000 modules to the same subscriber", all, subscribed(all, 1)),
    ];
    for (name, modules, mut subscriptions) in cases {
        let mut ready = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| publish_all(&mut subscriptions, modules, &mut ready));
        });
    }
}
