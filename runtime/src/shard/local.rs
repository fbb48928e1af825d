//! One shard from the inside: its state, its network, its tasks.
//!
//! State and network lie in `RefCell`s. They are borrowed together for the length of one turn ([`Shard::turn`])
//! and never across an await.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    io, mem,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;
use glommio::{Latency, Shares, Task, TaskQueueHandle, timer::Timer};

use crate::{
    glommio_facts::reactor::ReactorPass,
    glommio_facts::ticker::Beat,
    log_throttle::LogThrottle,
    pool::Pool,
    shard::clock::{Clock, Tick},
    shard::context::ShardContext,
    shard::mailbox::{Message, ShardHandle, mark_shard_thread},
    shard::mailboxes::{self, Receive},
    shard::panics::contain,
    shard::timer::{self, Timer as ShardTimer, Timerfd},
    tcp::connection::Limits,
    tcp::driver::{self, Chosen, RingDriver},
    tcp::handlers::CloseReason,
};

/// Bytes read from a socket at once, at most; one such buffer serves all connections of a shard.
const SCRATCH_LEN: usize = 64 << 10;

/// Jobs run before the shard looks at its IO.
const JOBS_PER_PASS: usize = 256;

/// How long a busy function is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// How long a stopped shard waits for its tasks to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Between two log lines about misbehaving peers, so that these cannot flood the log.
const COMPLAINT_INTERVAL: Duration = Duration::from_millis(100);

/// What a shard is made of.
pub(crate) struct Plan<S> {
    pub(crate) index: usize,
    pub(crate) handles: Arc<[ShardHandle<S>]>,
    pub(crate) mailbox: flume::Receiver<Message<S>>,
    pub(crate) beat: Arc<Beat>,
    pub(crate) pool_bytes_max: usize,
    pub(crate) driver: Chosen,
}

pub(crate) struct Shard<S> {
    pub(super) state: RefCell<S>,
    pub(crate) net: RefCell<ShardContext<S>>,
    /// What sockets are read into.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) clock: RefCell<Clock<S>>,
    pub(super) timer: OnceCell<ShardTimer<S>>,
    timerfd: Cell<Option<Timerfd>>,
    /// Whether messages wait, one for each kind of message.
    messages: RefCell<Vec<Box<dyn Fn() -> bool>>>,
    /// A wake from another thread reaches a busy executor only through a queue whose latency matters.
    urgent: TaskQueueHandle,
    pub(crate) reactor_pass: Rc<ReactorPass>,
    /// What moves the bytes of all connections, unless each has a task of its own.
    pub(crate) ring: Option<RingDriver<S>>,
    /// No new work: the shard drains or stops.
    ending: Cell<bool>,
    stopping: Cell<bool>,
    /// Whether busy functions are about to be offered their frames again.
    retrying: Cell<bool>,
    /// Dropped when the last connection has ended.
    drained: RefCell<Option<flume::Sender<()>>>,
    /// Rouse tasks that wait for something else than their waker.
    at_end: RefCell<Vec<Box<dyn Fn()>>>,
    /// Log lines about peers that misbehave.
    pub(crate) complaints: RefCell<LogThrottle>,
    /// Tasks that wait for the end, and the main task while it waits for theirs.
    waiting: RefCell<Vec<Waker>>,
    tasks: Cell<usize>,
}

impl<S: 'static> Shard<S> {
    /// To be called on the shard's thread.
    fn new(net: ShardContext<S>, driver: Chosen, make: impl FnOnce() -> S) -> io::Result<Self> {
        let ring = match driver {
            Chosen::Stream => None,
            Chosen::Ring => Some(RingDriver::new(net.pool())?),
        };
        let state = contain("building a shard's state", net.shard_index(), make)
            .ok_or_else(|| io::Error::other("building its state panicked"))?;
        Ok(Self {
            state: RefCell::new(state),
            net: RefCell::new(net),
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice()),
            clock: RefCell::new(Clock::new(Instant::now())),
            timer: OnceCell::new(),
            timerfd: Cell::new(Some(Timerfd::new()?)),
            messages: RefCell::default(),
            urgent: glommio::executor().create_task_queue(
                Shares::default(),
                Latency::Matters(Duration::from_millis(1)),
                "urgent",
            ),
            reactor_pass: Rc::new(ReactorPass::new()?),
            ring,
            ending: Cell::new(false),
            stopping: Cell::new(false),
            retrying: Cell::new(false),
            drained: RefCell::default(),
            at_end: RefCell::default(),
            complaints: RefCell::new(LogThrottle::each(COMPLAINT_INTERVAL)),
            waiting: RefCell::default(),
            tasks: Cell::new(0),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.net.borrow().shard_index()
    }

    /// Runs `f` with the state and the network.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut S, &mut ShardContext<S>) -> R) -> R {
        let (mut state, mut net) = (self.state.borrow_mut(), self.net.borrow_mut());
        let result = f(&mut state, &mut net);
        if let Some(timer) = self.timer.get() {
            timer.look(&state, net.shard_index());
        }
        result
    }

    /// Runs `f` with the state and the network, at the time it is. `None` if it panicked, which is logged.
    pub(crate) fn turn<R>(&self, what: &str, f: impl FnOnce(&mut S, &mut ShardContext<S>) -> R) -> Option<R> {
        self.with(|state, net| {
            net.set_now(Instant::now());
            contain(what, net.shard_index(), || f(state, net))
        })
    }

    /// Runs `task` on this shard, in the queue of connections.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.spawn_into(TaskQueueHandle::default(), task);
    }

    /// Runs `task` on this shard, in the queue that other threads can wake.
    pub(crate) fn spawn_urgent(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.spawn_into(self.urgent, task);
    }

    fn spawn_into(self: &Rc<Self>, queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
        self.tasks.set(self.tasks.get() + 1);
        let shard = Rc::clone(self);
        let counted = async move {
            task.await;
            shard.tasks.set(shard.tasks.get() - 1);
            if shard.tasks.get() == 0 {
                shard.wake_waiting();
            }
        };
        drop(spawn_into(queue, counted).detach());
    }

    /// Has the frames of busy functions offered to them again in a while.
    pub(crate) fn retry_busy(self: &Rc<Self>) {
        if self.net.borrow().busy.is_empty() || self.retrying.replace(true) {
            return;
        }
        let shard = Rc::clone(self);
        self.spawn(async move {
            Timer::new(RETRY_AFTER).await;
            shard.retrying.set(false);
            let mut net = shard.net.borrow_mut();
            for id in mem::take(&mut net.busy) {
                if let Some(conn) = net.connection(id) {
                    conn.retry();
                }
            }
        });
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether the shard drains or stops.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// Waits until the shard drains or stops.
    pub(crate) async fn ending(&self) {
        self.wait_until(|| self.ending.get()).await;
    }

    /// Waits until the shard stops.
    pub(crate) async fn stopping(&self) {
        self.wait_until(|| self.stopping.get()).await;
    }

    /// Runs `rouse` when the shard drains and when it stops.
    pub(crate) fn at_end(&self, rouse: impl Fn() + 'static) {
        self.at_end.borrow_mut().push(Box::new(rouse));
    }

    async fn wait_until(&self, condition: impl Fn() -> bool) {
        poll_fn(|cx| {
            if condition() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until all tasks have ended, but not for ever.
    async fn outlast_tasks(&self) {
        let ended = async {
            self.wait_until(|| self.tasks.get() == 0).await;
            true
        };
        let late = async {
            Timer::new(STOP_PATIENCE).await;
            false
        };
        if !future::or(ended, late).await {
            let shard = self.index();
            tracing::warn!(shard, tasks = self.tasks.get(), "tasks outlive their shard");
        }
    }

    fn wake_waiting(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Ends every connection gracefully; `done` is dropped when there is none left.
    pub(crate) fn drain(&self, done: flume::Sender<()>) {
        *self.drained.borrow_mut() = Some(done);
        self.end();
        let mut net = self.net.borrow_mut();
        net.draining = true;
        for conn in net.table().iter_mut() {
            conn.wake();
        }
        drop(net);
        self.connection_ended();
    }

    /// To be called after a connection was removed.
    pub(crate) fn connection_ended(&self) {
        if self.net.borrow().connection_count() == 0 {
            self.drained.take();
        }
    }

    fn stop(&self) {
        self.stopping.set(true);
        for conn in self.net.borrow_mut().table().iter_mut() {
            conn.cut(CloseReason::Cut);
            conn.wake();
        }
        self.end();
    }

    fn end(&self) {
        self.ending.set(true);
        for rouse in &*self.at_end.borrow() {
            rouse();
        }
        self.wake_waiting();
    }

    /// Receives and runs jobs until told to stop.
    async fn serve_mailbox(self: &Rc<Self>, mailbox: flume::Receiver<Message<S>>) {
        let mut run = 0;
        // `Shards` sends `Stop` before the last sender is gone, and this shard's network holds one.
        while let Ok(message) = mailbox.recv_async().await {
            if !self.take(message) {
                break;
            }
            run += 1;
            if run % JOBS_PER_PASS == 0 {
                self.reactor_pass.wait().await;
            }
        }
        // Else what waits would be kept until the last handle is gone.
        drop(mailbox.drain());
    }

    /// Whether it goes on.
    fn take(self: &Rc<Self>, message: Message<S>) -> bool {
        match message {
            Message::Job(job) => {
                self.turn("a job", job);
            }
            Message::Install(install) => install(self),
            Message::Stop => return false,
        }
        true
    }

    /// Connections with these limits may come.
    pub(crate) fn watch(&self, limits: &Limits) {
        let mut clock = self.clock.borrow_mut();
        clock.watch_timeout(limits.stall_timeout);
        clock.watch_timeout(limits.frame_timeout);
        if let Some(timeout) = limits.idle_timeout {
            clock.watch_timeout(timeout);
        }
    }

    /// Receives these messages until the shard stops.
    pub(crate) fn receive_messages<M: Send + 'static>(
        self: &Rc<Self>,
        messages: flume::Receiver<M>,
        receive: Receive<S, M>,
    ) {
        self.spawn_urgent(mailboxes::run(Rc::clone(self), messages.clone(), receive));
        self.messages.borrow_mut().push(Box::new(move || !messages.is_empty()));
    }

    /// Whether messages wait to be received.
    pub(crate) fn has_messages(&self) -> bool {
        self.messages.borrow().iter().any(|waiting| waiting())
    }

    /// Has the state's deadlines handled until the shard stops.
    pub(crate) fn start_timer(
        self: &Rc<Self>,
        poll_timeout: fn(&S) -> Option<Instant>,
        handle_timeout: Tick<S>,
    ) {
        let Some(Timerfd { set, read }) = self.timerfd.take() else { return };
        if self.timer.set(ShardTimer::new(poll_timeout, handle_timeout, set)).is_ok() {
            self.spawn_urgent(timer::run(Rc::clone(self), read));
        }
    }

    pub(crate) fn add_tick(&self, period: Duration, run: Tick<S>) {
        self.clock.borrow_mut().add_tick(period, run, Instant::now());
    }
}

fn spawn_into(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) -> Task<()> {
    match glommio::spawn_local_into(task, queue) {
        Ok(task) => task,
        Err(error) => unreachable!("task queues are never removed: {error}"),
    }
}

/// The main task of a shard: builds it, tells `ready`, serves until told to stop, and cleans up.
pub(crate) async fn run<S: 'static>(
    plan: Plan<S>,
    make: impl FnOnce(usize) -> S,
    ready: impl FnOnce(io::Result<()>),
) {
    mark_shard_thread();
    let Plan { index, handles, mailbox, beat, pool_bytes_max, driver } = plan;
    let net = ShardContext::new(handles, index, Pool::new(pool_bytes_max), Instant::now());
    let shard = match Shard::new(net, driver, || make(index)) {
        Ok(shard) => Rc::new(shard),
        Err(error) => return ready(Err(error)),
    };
    ready(Ok(()));
    if shard.ring.is_some() {
        shard.spawn(driver::run_ring(Rc::clone(&shard)));
    }
    let clock = spawn_into(shard.urgent, crate::shard::clock::run(Rc::clone(&shard), Arc::clone(&beat)));
    let mail = spawn_into(shard.urgent, {
        let shard = Rc::clone(&shard);
        async move { shard.serve_mailbox(mailbox).await }
    });
    mail.await;
    shard.stop();
    shard.outlast_tasks().await;
    clock.await;
    beat.detach();

    let reactor_pass = Rc::clone(&shard.reactor_pass);
    drop(shard);
    // Collects wakes that other threads sent while this ended, and with them the tasks they refer to.
    reactor_pass.wait().await;
    if let Ok(pass) = Rc::try_unwrap(reactor_pass) {
        pass.close().await;
    }
}
