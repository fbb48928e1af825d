//! A shard's timer: has the state's own deadline handled when it comes.
//!
//! The state says when it wants to be called; it is asked after every turn that had a hold of it. A timerfd is set when
//! the answer is earlier than what it is set to, and only then: one that has moved to later, or is gone, is found
//! to be so when the timer fires. So a turn costs a call and a comparison. The executor reads the timerfd through its
//! io_uring, which ends any other wait of the thread; its own timers would not, where a shard waits in its UDP socket.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::future;
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use crate::{
    glommio_facts::event_read::EventRead, shard::context::Tick, shard::local::Shard, shard::panics::contain,
};

/// Zero would switch the timerfd off.
const SOONEST: Duration = Duration::from_nanos(1);

/// A timerfd that nobody uses yet. Two descriptors, because the executor closes the one that it reads.
pub(super) struct Timerfd {
    pub(super) set: TimerFd,
    pub(super) read: OwnedFd,
}

impl Timerfd {
    pub(super) fn new() -> io::Result<Self> {
        // Blocking: the executor's read is to wait.
        let set = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let read = set.as_fd().try_clone_to_owned()?;
        Ok(Self { set, read })
    }
}

/// What drives the deadlines of a state.
pub(super) struct Timer<S> {
    poll_timeout: fn(&S) -> Option<Instant>,
    handle_timeout: Tick<S>,
    timerfd: TimerFd,
    /// What the timerfd is set to.
    set_to: Cell<Option<Instant>>,
}

impl<S: 'static> Timer<S> {
    fn new(poll_timeout: fn(&S) -> Option<Instant>, handle_timeout: Tick<S>, timerfd: TimerFd) -> Self {
        Self { poll_timeout, handle_timeout, timerfd, set_to: Cell::new(None) }
    }

    /// To be called after each turn that may have changed the state.
    pub(super) fn look(&self, state: &S, shard: usize) {
        if let Some(deadline) = self.deadline(state, shard)
            && self.set_to.get().is_none_or(|set_to| deadline < set_to)
        {
            self.set(deadline);
        }
    }

    fn deadline(&self, state: &S, shard: usize) -> Option<Instant> {
        contain("asking for a deadline", shard, || (self.poll_timeout)(state)).flatten()
    }

    fn set(&self, deadline: Instant) {
        let wait = deadline.saturating_duration_since(Instant::now()).max(SOONEST);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        match self.timerfd.set(expiration, TimerSetTimeFlags::empty()) {
            Ok(()) => self.set_to.set(Some(deadline)),
            // No wait is too long for it, so this does not happen; the next turn would try again.
            Err(errno) => tracing::error!(%errno, "setting a shard's timer"),
        }
    }

    /// The timer has fired.
    fn fire(&self, shard: &Shard<S>) {
        self.set_to.set(None);
        let deadline = self.deadline(&shard.state.borrow(), shard.index());
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            shard.turn("a timeout", self.handle_timeout);
        } else {
            self.look(&shard.state.borrow(), shard.index());
        }
    }
}

/// Has the state's deadlines handled from now on.
pub(super) fn start<S: 'static>(
    shard: &Rc<Shard<S>>,
    poll_timeout: fn(&S) -> Option<Instant>,
    handle_timeout: Tick<S>,
) {
    let Some(Timerfd { set, read }) = shard.timerfd.take() else { return };
    if shard.timer.set(Timer::new(poll_timeout, handle_timeout, set)).is_ok() {
        shard.spawn_urgent(run(Rc::clone(shard), read));
    }
}

/// Runs until the shard stops.
async fn run<S: 'static>(shard: Rc<Shard<S>>, timerfd: OwnedFd) {
    let Some(timer) = shard.timer.get() else { return };
    let mut expiry = EventRead::new(timerfd);
    timer.look(&shard.state.borrow(), shard.index());
    while !shard.is_stopping() {
        future::or(shard.stopping(), poll_fn(|cx| expiry.poll(cx))).await;
        if !shard.is_stopping() {
            timer.fire(&shard);
        }
    }
    expiry.end(|_| timer.set(Instant::now())).await;
}
