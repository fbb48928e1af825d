//! What was seen: every call, and the rows that are stored. Times count from the beginning of the demo.

use std::time::Duration;

use lars_proto::HostAddr;
use lars_store::CallStatus;

use super::cast::Cast;

/// A lookup that found a host, and the call that followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// When the lookup began.
    pub(crate) asked: Duration,
    /// When it returned.
    pub(crate) picked: Duration,
    pub(crate) host: HostAddr,
    /// Whether the host answered as it should.
    pub(crate) ok: bool,
}

/// What a caller has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Called(Call),
    /// There was no host to call; why.
    LookupFailed(String),
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Span {
    pub(crate) fn len(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    pub(crate) fn has(self, time: Duration) -> bool {
        self.from <= time && time < self.to
    }
}

/// Everything that was seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) cast: Cast,
    /// In the order in which they ended, as good as in that of their times.
    pub(crate) calls: Vec<Call>,
    pub(crate) lookup_failures: Vec<String>,
    /// What was stored when it was last looked at.
    pub(crate) rows: Vec<CallStatus>,
}

impl Facts {
    pub(crate) fn new(cast: Cast) -> Self {
        Self { cast, calls: Vec::new(), lookup_failures: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, event: Event) {
        match event {
            Event::Called(call) => self.calls.push(call),
            Event::LookupFailed(problem) => self.lookup_failures.push(problem),
        }
    }

    /// The calls whose host was picked within `span`.
    pub(crate) fn calls_in(&self, span: Span) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| span.has(call.picked))
    }

    /// How many of them `host` got.
    pub(crate) fn count_in(&self, span: Span, host: HostAddr) -> usize {
        self.calls_in(span).filter(|call| call.host == host).count()
    }

    /// How many calls of `host` went well or not, of all.
    pub(crate) fn count(&self, host: HostAddr, ok: bool) -> usize {
        self.calls.iter().filter(|call| call.host == host && call.ok == ok).count()
    }

    /// Whether `host` is overloaded in the stored rows; `None` if there is no row.
    pub(crate) fn stored_overload(&self, host: HostAddr) -> Option<bool> {
        self.rows.iter().find(|row| row.key.host == host).map(|row| row.overload)
    }
}
