//! Whether agents have what they should have.

use std::num::NonZeroU64;

use lars_proto::{
    ModuleId,
    digest::{BUCKETS, BucketSums, Digest, bucket, route_hash},
    messages::{self, MessageId},
};
use lars_testkit::eventually;

use crate::{
    database::{Database, Sqlite, config, host, module, start, without_full_reload},
    peer::{Peer, encoded, request},
};

/// What an agent with these routes has.
fn sums(routes: impl IntoIterator<Item = (ModuleId, NonZeroU64)>) -> (Digest, BucketSums) {
    let mut sums = <(Digest, BucketSums)>::default();
    for (module, hash) in routes {
        sums.0.add(hash);
        sums.1.add(module, hash);
    }
    sums
}

#[test]
fn a_digest_is_compared_with_what_is_served_to_the_connection() {
    let database = Sqlite::new();
    database.add(module(1), host(1));
    database.add(module(2), host(1));
    let dns = start(without_full_reload(database.url()));
    let (mut agent, mut other) = (Peer::connect(&dns), Peer::connect(&dns));
    assert!(!agent.digest(Digest::default()).differs, "it has asked for nothing");
    assert_eq!(agent.query_as(module(1), 1).peer_version, 1);
    assert_eq!(agent.query(module(3)), []);
    assert_eq!(other.query(module(2)), [host(1)]);

    let one = (module(1), route_hash(module(1), [host(1)]));
    let three = (module(3), route_hash(module(3), []));
    let (whole, buckets) = sums([one, three]);
    assert!(!agent.digest(whole).differs);
    let held = agent.bucket_sums(&buckets, 0);
    assert_eq!((held.end, held.buckets, held.modules), (BUCKETS, vec![], vec![]));

    database.add(module(1), host(2));
    assert_eq!(agent.next_route(), (module(1), vec![host(1), host(2)]));
    let changed = (module(1), route_hash(module(1), [host(1), host(2)]));
    let (now, _) = sums([changed, three]);
    let answer = agent.digest(whole);
    assert_eq!((answer.differs, answer.count, answer.sum), (true, now.count, now.sum));
    let held = agent.bucket_sums(&buckets, 0);
    assert_eq!(held.buckets, [bucket(module(1)) as u8]);
    assert_eq!(held.modules, [(module(1), changed.1.get())], "and nothing of the other module");

    agent.forget(module(1));
    assert!(!agent.digest(sums([three]).0).differs);
    let stats = dns.stats();
    assert_eq!((stats.digests, stats.digests_differing, stats.digest_modules), (4, 1, 1));
    dns.stop();
}

/// More than one turn takes, and than one answer names.
#[test]
fn many_subscriptions_are_summed_up_over_several_turns() {
    const MODULES: i32 = 20_000;
    let database = Sqlite::new();
    database.add(module(1), host(1));
    let dns = start(config(database.url()));
    let mut agent = Peer::connect(&dns);
    for part in (0..MODULES).collect::<Vec<_>>().chunks(1_000) {
        agent.send(&part.iter().flat_map(|&n| request(module(n))).collect::<Vec<_>>());
        part.iter().for_each(|_| _ = agent.next_route());
    }
    let hash = |n| route_hash(module(n), (n == 1).then(|| host(1)));
    let (whole, _) = sums((0..MODULES).map(|n| (module(n), hash(n))));
    assert!(!agent.digest(whole).differs);

    assert!(agent.digest(Digest::default()).differs);
    let (mut first, mut named) = (0, vec![]);
    while first < BUCKETS {
        let held = agent.bucket_sums(&BucketSums::default(), first);
        assert!(held.end > first && held.modules.len() <= 2_000, "a part of it: {first}..{}", held.end);
        assert!(held.modules.iter().all(|(module, _)| held.buckets.contains(&(bucket(*module) as u8))));
        first = held.end;
        named.extend(held.modules);
    }
    named.sort_unstable();
    let mut all: Vec<_> = (0..MODULES).map(|n| (module(n), hash(n).get())).collect();
    all.sort_unstable();
    assert_eq!(named, all);
    dns.stop();
}

#[test]
fn nonsense_about_buckets_costs_its_sender_only() {
    let dns = start(config(Sqlite::new().url()));
    let mut peer = Peer::connect(&dns);
    for (first, count) in [(u32::MAX, 8_000), (0, 8_000), (256, 1)] {
        let sums = messages::BucketSums { first, sums: vec![1; count] };
        peer.send(&encoded(MessageId::BucketSums, &sums));
        assert_eq!(peer.held().end, BUCKETS, "{first}, {count}");
    }
    for nonsense in [&b"\x64\0\0\0\x01\0\0\0\xff"[..], b"\x66\0\0\0\x01\0\0\0\xff"] {
        let mut peer = Peer::connect(&dns);
        peer.send(nonsense);
        peer.expect_closed();
    }
    eventually("their connections have ended", || dns.stats().connections == 1);
    dns.stop();
}
