//! What a shard's other work waits for when peers send without a pause.

mod support;

use std::{
    io::Write,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{Flow, Handlers, ShardContext, Shards, TcpServer, TcpServerConfig};
use lars_testkit::eventually;
use support::{Client, frame, framing, shards_config};

const FLOODERS: usize = 16;
/// A frame whose function takes a while.
const SLOW: i32 = 1;
const SLOW_FOR: Duration = Duration::from_millis(1);
/// About as long as what the kernel hands over at once, so that a turn is many of them.
const FRAME_LEN: usize = 4_000;

#[derive(Debug, Default)]
struct Turns {
    frames: usize,
    /// What `frames` was at the last job.
    frames_at_job: usize,
    /// Most frames between two jobs.
    frames_between: usize,
    jobs: usize,
}

fn slow(turns: &mut Turns, _: &mut ShardContext<Turns>, _: lars_runtime::ConnId, _: &[u8]) -> Flow {
    turns.frames += 1;
    let begin = Instant::now();
    while begin.elapsed() < SLOW_FOR {
        std::hint::spin_loop();
    }
    Flow::Continue
}

/// A job that submits itself again.
fn next_job(turns: &mut Turns, net: &mut ShardContext<Turns>) {
    if turns.jobs > 0 {
        turns.frames_between = turns.frames_between.max(turns.frames - turns.frames_at_job);
    }
    turns.frames_at_job = turns.frames;
    turns.jobs += 1;
    net.shard(net.shard_index()).try_submit(next_job).expect("room in the mailbox");
}

#[test]
fn jobs_have_their_turn_between_the_frames_of_peers_that_never_pause() {
    let shards = Shards::start(shards_config(1), |_| Turns::default()).expect("shards start");
    let handlers = Handlers::<Turns>::new(framing).on(SLOW, slow);
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TcpServer::start(&shards, config, handlers).expect("a server");
    let flooding = AtomicBool::new(true);
    thread::scope(|scope| {
        for _ in 0..FLOODERS {
            let (addr, flooding) = (server.local_addr(), &flooding);
            scope.spawn(move || {
                let mut client = Client::connect(addr);
                let frames = frame(SLOW, &[0; FRAME_LEN]).repeat(16);
                while flooding.load(Relaxed) && client.0.write_all(&frames).is_ok() {}
            });
        }
        eventually("all flood", || server.stats().open == FLOODERS as u64 && server.stats().frames > 100);
        shards.shard(0).submit(next_job).expect("the shard runs");
        eventually("many frames and jobs have had their turn", || server.stats().frames > 2_000);
        flooding.store(false, Relaxed);
        let (jobs, between) =
            shards.shard(0).call(|t, _| (t.jobs, t.frames_between)).expect("the shard runs");
        drop(shards);
        assert!(jobs > 10, "{jobs} jobs");
        assert!(between <= 50, "{between} frames between two jobs");
    });
}
