//! The tasks of a shard: the main one, which runs jobs until it is told to stop, and the clock's.

use std::{io, rc::Rc, sync::Arc, time::Instant};

use crate::{
    glommio_facts::ticker::TickReceiver,
    pool::Pool,
    shard::context::ShardContext,
    shard::local::{Shard, spawn_into},
    shard::mailbox::{Message, ShardHandle, mark_shard_thread},
    tcp::driver::{self, Chosen},
};

/// Jobs run before the shard looks at its IO.
const JOBS_PER_PASS: usize = 256;

/// What a shard is made of.
pub(crate) struct Plan<S> {
    pub(crate) index: usize,
    pub(crate) handles: Arc<[ShardHandle<S>]>,
    pub(crate) mailbox: flume::Receiver<Message<S>>,
    pub(crate) ticks: Arc<TickReceiver>,
    pub(crate) pool_bytes_max: usize,
    pub(crate) driver: Chosen,
}

/// The main task of a shard: builds it, tells `ready`, serves until told to stop, and cleans up.
pub(crate) async fn run<S: 'static>(
    plan: Plan<S>,
    make: impl FnOnce(usize) -> S,
    ready: impl FnOnce(io::Result<()>),
) {
    mark_shard_thread();
    let Plan { index, handles, mailbox, ticks, pool_bytes_max, driver } = plan;
    let net = ShardContext::new(handles, index, Pool::new(pool_bytes_max), Instant::now());
    let shard = match Shard::new(net, || make(index))
        .and_then(|shard| driver::install(&shard, driver).map(|()| shard))
    {
        Ok(shard) => Rc::new(shard),
        Err(error) => return ready(Err(error)),
    };
    ready(Ok(()));
    driver::start(&shard);
    let clock = spawn_into(shard.urgent, run_clock(Rc::clone(&shard), Arc::clone(&ticks)));
    let mail = spawn_into(shard.urgent, {
        let shard = Rc::clone(&shard);
        async move { serve_mailbox(&shard, mailbox).await }
    });
    mail.await;
    shard.stop();
    shard.outlast_tasks().await;
    clock.await;
    ticks.detach();

    let reactor_yield = Rc::clone(&shard.reactor_yield);
    drop(shard);
    // Collects wakes that other threads sent while this ended, and with them the tasks they refer to.
    reactor_yield.wait().await;
    if let Ok(reactor_yield) = Rc::try_unwrap(reactor_yield) {
        reactor_yield.close().await;
    }
}

/// Receives and runs jobs until told to stop.
async fn serve_mailbox<S: 'static>(shard: &Rc<Shard<S>>, mailbox: flume::Receiver<Message<S>>) {
    let mut run = 0;
    // `Shards` sends `Stop` before the last sender is gone, and this shard's network holds one.
    while let Ok(message) = mailbox.recv_async().await {
        if !take(shard, message) {
            break;
        }
        run += 1;
        if run % JOBS_PER_PASS == 0 {
            shard.reactor_yield.wait().await;
        }
    }
    // Else what waits would be kept until the last handle is gone.
    drop(mailbox.drain());
}

/// Whether it goes on.
fn take<S: 'static>(shard: &Rc<Shard<S>>, message: Message<S>) -> bool {
    match message {
        Message::Job(job) => {
            shard.turn("a job", job);
        }
        Message::Install(install) => install(shard),
        Message::Stop => return false,
    }
    true
}

/// Runs what the clock says is due, until the shard stops.
async fn run_clock<S: 'static>(shard: Rc<Shard<S>>, ticks: Arc<TickReceiver>) {
    while !shard.is_stopping() {
        ticks.next().await;
        let now = Instant::now();
        let due = shard.clock.borrow_mut().due_ticks(now);
        for tick in due {
            shard.turn("a tick", tick);
        }
        let sweep = shard.clock.borrow_mut().is_sweep_due(now);
        if sweep {
            for conn in shard.net.borrow_mut().table().iter_mut() {
                conn.check_timeouts(now);
            }
        }
        driver::check(&shard);
    }
}
