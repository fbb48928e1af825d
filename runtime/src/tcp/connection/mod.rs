//! A connection without its socket: bytes in, frames to the functions, bounded output.
//!
//! Sans-IO: a driver (see `driver`) reads and writes, asks [`Connection::step`] what to do next, and hands what
//! it read to `serve`. Nothing here knows a socket, a clock or an executor.

mod close_reason;
mod output;
mod table;
mod waker;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use self::{close_reason::CloseReason, output::SendError, table::ConnId};
pub(crate) use self::{
    output::{Output, SLICES_MAX},
    table::Table,
    waker::{DriverWaker, WakeQueue},
};
use crate::pool::PoolBuf;

/// Bounds of a connection; units are in the names of the server's configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) frame_len_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) stall_timeout: Duration,
    pub(crate) frame_timeout: Duration,
    pub(crate) unacknowledged_timeout: Duration,
}

/// Why frames that are there are not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// A function was busy; [`Connection::retry`] lifts this.
    Busy,
    /// Too much output waits; falling below the low-water mark lifts this.
    Output,
}

/// How a round over the input ended.
pub(crate) enum Round {
    /// No whole frame is left.
    Starved,
    /// The next frame has to wait.
    Paused(Pause),
    Close(CloseReason),
}

/// What a driver is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call `serve` without new input: held frames can go on.
    Serve,
    /// Read, and hand what came to `serve`.
    Read,
    /// The shards drain: read what the kernel has, without waiting, then call [`Connection::end_of_input`].
    ReadLast,
    /// Nothing, until output was written or somebody wakes the driver.
    Wait,
    /// Nothing ever: it is over.
    Close(CloseReason),
}

/// Where a connection is between its first and its last byte.
#[derive(Debug)]
enum State {
    /// Frames are served as they come.
    Open,
    /// The next frame has to wait.
    Paused(Pause),
    /// So it has to, and no more input will come.
    PausedAtEnd(Pause, CloseReason),
    /// What is held is served, and no more input will come.
    ServingLast(CloseReason),
    /// No more is served. To be closed once the output is written.
    Flushing(CloseReason),
    /// To be closed as it is.
    Cut(CloseReason),
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) output: Output,
    limits: Limits,
    state: State,
    /// Input that is not served yet: a partial frame, or whole ones while paused. `None` when idle.
    held: Option<PoolBuf>,
    received_at: Instant,
    /// Since when the frame at the front of the input has been incomplete.
    incomplete_since: Option<Instant>,
    pub(crate) waker: DriverWaker,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, limits: Limits, now: Instant) -> Self {
        Self {
            peer,
            local,
            output: Output::new(limits.output_bytes_max, now),
            limits,
            state: State::Open,
            held: None,
            received_at: now,
            incomplete_since: None,
            waker: DriverWaker::default(),
        }
    }

    /// What the driver is to do now. To be asked after flushing as much output as the socket takes.
    pub(crate) fn step(&mut self, draining: bool) -> Step {
        match &self.state {
            State::Open if draining => Step::ReadLast,
            State::Open => Step::Read,
            State::Paused(Pause::Output) if self.output.is_low() => {
                self.state = State::Open;
                Step::Serve
            }
            State::PausedAtEnd(Pause::Output, reason) if self.output.is_low() => {
                self.state = State::ServingLast(reason.clone());
                Step::Serve
            }
            State::Paused(_) | State::PausedAtEnd(..) => Step::Wait,
            State::ServingLast(_) => Step::Serve,
            State::Flushing(reason) if self.output.is_empty() => Step::Close(reason.clone()),
            State::Flushing(_) => Step::Wait,
            State::Cut(reason) => Step::Close(reason.clone()),
        }
    }

    /// Hands out what is held, to be served together with what is fresh.
    pub(crate) fn begin_round(&mut self, fresh: bool, now: Instant) -> Option<PoolBuf> {
        if fresh {
            self.received_at = now;
        }
        self.held.take()
    }

    /// `progress` says whether a frame was served.
    pub(crate) fn end_round(&mut self, rest: Option<PoolBuf>, round: Round, progress: bool, now: Instant) {
        let since = self.incomplete_since.filter(|_| !progress);
        // While it is not served, it is not the peer that is slow.
        let incomplete = rest.is_some() && matches!(round, Round::Starved);
        self.incomplete_since = incomplete.then(|| since.unwrap_or(now));
        match round {
            Round::Starved => {
                if let State::ServingLast(reason) = &self.state {
                    self.close_after_flush(reason.clone());
                }
            }
            Round::Paused(pause) => self.pause(pause),
            Round::Close(reason) => self.close_after_flush(reason),
        }
        if !self.is_closing() {
            self.held = rest;
        }
    }

    fn pause(&mut self, pause: Pause) {
        match &self.state {
            State::Open | State::Paused(_) => self.state = State::Paused(pause),
            State::PausedAtEnd(_, reason) | State::ServingLast(reason) => {
                self.state = State::PausedAtEnd(pause, reason.clone());
            }
            State::Flushing(_) | State::Cut(_) => {}
        }
    }

    /// Why the next frame cannot be served now, if it cannot.
    pub(crate) fn must_pause(&self) -> Option<Round> {
        if self.is_closing() {
            return Some(Round::Starved);
        }
        self.output.is_high().then_some(Round::Paused(Pause::Output))
    }

    /// The peer has sent all it will send, or the shards drain: what is there is served and flushed, then it ends.
    pub(crate) fn end_of_input(&mut self, reason: CloseReason) {
        match &self.state {
            // All whole frames have been served.
            State::Open => self.close_after_flush(reason),
            State::Paused(pause) => self.state = State::PausedAtEnd(*pause, reason),
            State::PausedAtEnd(..) | State::ServingLast(_) | State::Flushing(_) | State::Cut(_) => {}
        }
    }

    /// Closes it once its output is flushed. The first reason stands.
    pub(crate) fn close_after_flush(&mut self, reason: CloseReason) {
        if !self.is_closing() {
            self.state = State::Flushing(reason);
        }
        self.held = None;
    }

    /// Closes it as it is. The first reason stands.
    pub(crate) fn cut(&mut self, reason: CloseReason) {
        if !matches!(self.state, State::Cut(_)) {
            self.state = State::Cut(reason);
        }
        self.held = None;
        self.output.clear();
    }

    /// Whether it takes no more output because it is about to end.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Flushing(_) | State::Cut(_))
    }

    /// After some time, a busy function is offered its frame again.
    pub(crate) fn retry(&mut self) {
        if matches!(self.state, State::Paused(Pause::Busy) | State::PausedAtEnd(Pause::Busy, _)) {
            // The output is looked at before the next frame is, so this resumes in any case.
            self.pause(Pause::Output);
            self.wake();
        }
    }

    /// Cuts it if it has been idle, or its output or a frame stuck, for too long.
    pub(crate) fn check_timeouts(&mut self, now: Instant) {
        if let Some(reason) = self.overdue(now) {
            self.cut(reason);
            self.wake();
        }
    }

    fn overdue(&self, now: Instant) -> Option<CloseReason> {
        let moved_at = self.output.moved_at();
        let passed = |since: Instant, timeout: Duration| now.saturating_duration_since(since) >= timeout;
        if !self.output.is_empty() && passed(moved_at, self.limits.stall_timeout) {
            return Some(CloseReason::Stalled);
        }
        if self.incomplete_since.is_some_and(|since| passed(since, self.limits.frame_timeout)) {
            return Some(CloseReason::FrameTimeout);
        }
        // One that waits for a busy function is not idle.
        let may_be_idle = self.output.is_empty() && matches!(self.state, State::Open);
        let timeout = self.limits.idle_timeout.filter(|_| may_be_idle)?;
        passed(moved_at.max(self.received_at), timeout).then_some(CloseReason::Idle)
    }

    /// Has the driver look at it soon.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}
