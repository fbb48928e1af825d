//! Jobs from other threads, and ticks.

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use lars_runtime::{Placement, Shards, ShardsConfig, Stopped, SubmitError, TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use support::*;

#[test]
fn jobs_run_on_their_shard_in_order() {
    let shards = shards(2);
    for (index, shard) in shards.handles().iter().enumerate() {
        assert_eq!(shard.index(), index);
        assert_eq!(shard.call(|_, net| net.shard_index()), Ok(index));
        for job in 0..1000 {
            shard
                .submit(move |log, _| {
                    assert_eq!(log.jobs, job);
                    log.jobs += 1;
                })
                .expect("the shard runs");
        }
        assert_eq!(shard.call(|log, _| log.jobs), Ok(1000));
    }
}

#[test]
fn a_full_mailbox_refuses_and_submitting_waits() {
    let shards = shards_with(ShardsConfig { mailbox_jobs_max: 4, ..shards_config(1) });
    let shard = shards.shard(0).clone();
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let gate = (Arc::clone(&entered), Arc::clone(&leave));
    shard
        .submit(move |_, _| {
            gate.0.wait();
            gate.1.wait();
        })
        .expect("the shard runs");
    entered.wait();
    let mut taken = 0;
    let refusal = loop {
        match shard.try_submit(|log, _| log.jobs += 1) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((taken, refusal), (4, SubmitError::Full));
    let waiting = thread::spawn({
        let shard = shard.clone();
        move || shard.call(|log, _| log.jobs)
    });
    leave.wait();
    assert_eq!(waiting.join().expect("no panic"), Ok(4));
}

#[test]
fn shards_reach_their_siblings() {
    let shards = shards(2);
    let submitted = shards.shard(0).call(|_, net| net.shard(1).try_submit(|log, _| log.jobs += 1));
    assert_eq!(submitted, Ok(Ok(())));
    eventually("the sibling has run it", || shards.shard(1).call(|log, _| log.jobs) == Ok(1));
}

#[test]
fn a_panicking_job_or_tick_costs_nothing_else() {
    let shards = shards(1);
    let shard = shards.shard(0);
    assert_eq!(shard.call(|_, _| panic!("on demand")), Err::<(), _>(Stopped));
    shards.every(Duration::from_millis(5), |_, _| panic!("at each tick"));
    shards.every(Duration::from_millis(5), |log, _| log.ticks += 1);
    eventually("other ticks go on", || shard.call(|log, _| log.ticks >= 3) == Ok(true));
}

#[test]
fn ticks_come_on_every_shard() {
    let shards = shards(3);
    shards.every(Duration::from_millis(1), |log, _| log.ticks += 1);
    for shard in shards.handles() {
        eventually("ticks come", || shard.call(|log, _| log.ticks >= 10) == Ok(true));
    }
}

#[test]
fn a_state_that_cannot_be_built_is_an_error() {
    let config = shards_config(2);
    let started = Shards::start(config, |index| assert_ne!(index, 1, "on demand"));
    assert_eq!(started.err().expect("shard 1 fails").to_string(), "shard 1: building its state panicked");
}

#[test]
fn unpinned_shards_and_more_shards_than_cpus_work() {
    let config = ShardsConfig { placement: Placement::Unpinned, ..shards_config(5) };
    assert_eq!(shards_with(config).len(), 5);
    let shards = shards(5);
    assert_eq!(total(&shards, |_| 1), 5);
}

/// glommio 0.9.0 is known to lose wakes under load; the pulse is there so that no job is stuck for ever.
#[test]
fn every_job_arrives_while_sockets_are_busy() {
    const JOBS: usize = 200_000;
    const THREADS: usize = 2;
    let shards = shards(2);
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    let addr = server.local_addr();
    let echoing: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                for _ in 0..2_000 {
                    client.ask(ECHO, b"busy");
                }
            })
        })
        .collect();
    let submitting: Vec<_> = (0..THREADS)
        .map(|_| {
            let handles = shards.handles().to_vec();
            thread::spawn(move || {
                for job in 0..JOBS / THREADS {
                    handles[job % handles.len()].submit(|log, _| log.jobs += 1).expect("the shard runs");
                }
            })
        })
        .collect();
    for thread in submitting.into_iter().chain(echoing) {
        thread.join().expect("no panic");
    }
    eventually("all jobs have run", || total(&shards, |log| log.jobs) == JOBS);
}
