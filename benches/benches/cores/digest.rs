//! What it costs to find out whether agents have what they should have.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::Criterion;
use fastrand::Rng;
use lars_agent::core::{digest::Digests, dns_link::DnsLink, time::Moment};
use lars_benches::scale::cores::snapshot;
use lars_dns::core::{digest::Tally, subscriptions::Subscriptions};
use lars_proto::{
    digest::{self, Digest},
    messages::SubscriptionDigestAnswer,
};

use super::{group, hosts, module};

const HOSTS_PER_MODULE: u32 = 10;

/// The hash of a route: made for each module with a snapshot, and for each route that an agent gets.
pub(super) fn hash(c: &mut Criterion) {
    for count in [1, HOSTS_PER_MODULE, 1_000] {
        let hosts = hosts(count);
        group(c, "digest/route hash", count).bench_function(format!("{count} host(s)"), |b| {
            b.iter(|| digest::route_hash(black_box(module(1)), hosts.iter().copied()));
        });
    }
}

/// The answer of lars-dns to one digest; each time another connection's, of many, so that little is in a cache.
pub(super) fn answer(c: &mut Criterion) {
    const SUBSCRIPTIONS: u32 = 50_000;
    for of in [100_000, 1_000_000] {
        let mut served = None;
        for count in [50, 5_000] {
            let name = format!("digest/answer, table of {of} modules");
            group(c, &name, count).bench_function(format!("{count} modules"), |b| {
                let snapshot =
                    served.get_or_insert_with(|| Arc::new(snapshot(of as usize, HOSTS_PER_MODULE as usize)));
                let (mut subscriptions, connections) = (Subscriptions::default(), SUBSCRIPTIONS / count);
                for connection in 0..connections {
                    let mut rng = Rng::with_seed(connection.into());
                    (0..count).for_each(|_| _ = subscriptions.subscribe(connection, module(rng.u32(..of))));
                }
                let mut next = 0;
                b.iter(|| {
                    next = (next + 1) % connections;
                    let mut tally = Tally::new(&subscriptions, next, snapshot);
                    while !tally.advance(snapshot) {}
                    tally.answer(black_box(Digest::default()))
                });
            });
        }
    }
}

/// One digest of an agent, and the answer that it is right.
pub(super) fn ask(c: &mut Criterion) {
    const INTERVAL: Duration = Duration::from_secs(15);
    for count in [50, 5_000] {
        let mut now = Moment::ORIGIN;
        let mut link = DnsLink::new(INTERVAL, Digests::new(INTERVAL, INTERVAL, 0));
        link.connected(now);
        for module in (0..count).map(module) {
            link.want(module, now);
            link.poll_message(now);
            link.answered(module, 1, now);
            link.holds(module, digest::route_hash(module, hosts(HOSTS_PER_MODULE)));
        }
        group(c, "digest/ask", count).bench_function(format!("{count} modules"), |b| {
            b.iter(|| {
                now = now + INTERVAL;
                let question = black_box(link.poll_message(now));
                link.digest_answered(SubscriptionDigestAnswer::default(), now);
                question
            });
        });
    }
}
