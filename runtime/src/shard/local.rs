//! One shard from the inside: its state, its network, its tasks.
//!
//! State and network lie in `RefCell`s. They are borrowed together for the length of one turn ([`Shard::turn`])
//! and never across an await.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    io, mem,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;
use glommio::{Latency, Shares, Task, TaskQueueHandle, timer::Timer};

use crate::{
    glommio_facts::reactor::ReactorYield,
    log_throttle::LogThrottle,
    shard::clock::Clock,
    shard::context::{ShardContext, Tick},
    shard::panics::contain,
    shard::timer::{Timer as ShardTimer, Timerfd},
    tcp::connection::{CloseReason, Limits},
};

/// Bytes read from a socket at once, at most; one such buffer serves all connections of a shard.
const SCRATCH_LEN: usize = 64 << 10;

/// How long a busy function is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// How long a stopped shard waits for its tasks to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two log lines about misbehaving peers, so that these cannot flood the log.
const PEER_LOG_INTERVAL: Duration = Duration::from_millis(100);

/// See the module's text.
pub(crate) struct Shard<S> {
    pub(super) state: RefCell<S>,
    pub(crate) net: RefCell<ShardContext<S>>,
    /// What sockets are read into.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) clock: RefCell<Clock<Tick<S>>>,
    pub(super) timer: OnceCell<ShardTimer<S>>,
    pub(super) timerfd: Cell<Option<Timerfd>>,
    /// Whether messages wait, one for each kind of message.
    messages: RefCell<Vec<Box<dyn Fn() -> bool>>>,
    /// A wake from another thread reaches a busy executor only through a queue whose latency matters.
    pub(super) urgent: TaskQueueHandle,
    pub(crate) reactor_yield: Rc<ReactorYield>,
    /// What moves the bytes of its connections, if that is one for all; `tcp::driver` knows.
    pub(crate) driver: OnceCell<Box<dyn Any>>,
    /// No new work: the shard drains or stops.
    ending: Cell<bool>,
    stopping: Cell<bool>,
    /// Whether busy functions are about to be offered their frames again.
    retrying: Cell<bool>,
    /// Dropped when the last connection has ended.
    drained: RefCell<Option<flume::Sender<()>>>,
    /// Wake tasks that wait for something else than their waker.
    at_end: RefCell<Vec<Box<dyn Fn()>>>,
    /// Log lines about peers that misbehave.
    pub(crate) peer_log: RefCell<LogThrottle>,
    /// Tasks that wait for the end, and the main task while it waits for theirs.
    waiting: RefCell<Vec<Waker>>,
    tasks: Cell<usize>,
}

impl<S: 'static> Shard<S> {
    /// To be called on the shard's thread.
    pub(super) fn new(net: ShardContext<S>, make: impl FnOnce() -> S) -> io::Result<Self> {
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
            reactor_yield: Rc::new(ReactorYield::new()?),
            driver: OnceCell::new(),
            ending: Cell::new(false),
            stopping: Cell::new(false),
            retrying: Cell::new(false),
            drained: RefCell::default(),
            at_end: RefCell::default(),
            peer_log: RefCell::new(LogThrottle::each(PEER_LOG_INTERVAL)),
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

    /// Runs `wake` when the shard drains and when it stops.
    pub(crate) fn at_end(&self, wake: impl Fn() + 'static) {
        self.at_end.borrow_mut().push(Box::new(wake));
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
    pub(super) async fn outlast_tasks(&self) {
        let ended = async {
            self.wait_until(|| self.tasks.get() == 0).await;
            true
        };
        let late = async {
            Timer::new(STOP_TIMEOUT).await;
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

    pub(super) fn stop(&self) {
        self.stopping.set(true);
        for conn in self.net.borrow_mut().table().iter_mut() {
            conn.cut(CloseReason::Cut);
            conn.wake();
        }
        self.end();
    }

    fn end(&self) {
        self.ending.set(true);
        for wake in &*self.at_end.borrow() {
            wake();
        }
        self.wake_waiting();
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

    /// Has [`has_messages`](Self::has_messages) ask this as well.
    pub(super) fn watch_messages(&self, waiting: impl Fn() -> bool + 'static) {
        self.messages.borrow_mut().push(Box::new(waiting));
    }

    /// Whether messages wait to be received.
    pub(crate) fn has_messages(&self) -> bool {
        self.messages.borrow().iter().any(|waiting| waiting())
    }

    pub(crate) fn add_tick(&self, period: Duration, run: Tick<S>) {
        self.clock.borrow_mut().add_tick(period, run, Instant::now());
    }
}

pub(super) fn spawn_into(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) -> Task<()> {
    match glommio::spawn_local_into(task, queue) {
        Ok(task) => task,
        Err(error) => unreachable!("task queues are never removed: {error}"),
    }
}
