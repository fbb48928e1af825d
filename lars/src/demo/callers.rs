//! The demo's callers, which do what any business code does, and everything that was seen of them.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lars_client::Client;
use lars_proto::HostAddr;
use lars_store::CallStatus;

use super::{
    acts::Act,
    hosts::{Cast, MODULE, REPLY, REQUEST},
};
use crate::simulation::HostTally;

/// A healthy host takes microseconds; on a machine that has more to do it must not count as failing.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// What a caller does between two calls.
const THINKING_TIME: Duration = Duration::from_millis(5);

/// A lookup that found a host, and the call that followed. Times count from the beginning of the demo.
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

/// A call, or why there was no host to call.
type Event = Result<Call, String>;

/// Threads that ask for a host, call it and report, until nobody hears them any more.
pub(crate) struct Callers {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
}

impl Callers {
    /// Starts `count` callers; the times of what they tell count from `start`.
    pub(crate) fn start(count: usize, client: &Client, start: Instant) -> io::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut callers = Self { stopping: Arc::default(), threads: Vec::new(), events };
        for n in 0..count {
            let (client, sender, stopping) = (client.clone(), sender.clone(), Arc::clone(&callers.stopping));
            let work = move || {
                while !stopping.load(Ordering::Relaxed) && sender.send(call_once(&client, start)).is_ok() {
                    thread::sleep(THINKING_TIME);
                }
            };
            callers.threads.push(thread::Builder::new().name(format!("caller-{n}")).spawn(work)?);
        }
        Ok(callers)
    }

    /// Tells `facts` what they have seen since the last time.
    pub(crate) fn tell(&self, facts: &mut Facts) {
        for event in self.events.try_iter() {
            match event {
                Ok(call) => facts.calls.push(call),
                Err(problem) => facts.lookup_failures.push(problem),
            }
        }
    }

    /// Ends them; what they had still to tell can be heard.
    pub(crate) fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

fn call_once(client: &Client, start: Instant) -> Event {
    let (asked, mut picked) = (start.elapsed(), Duration::ZERO);
    let called = client.call(MODULE, |host| {
        picked = start.elapsed();
        call(host.addr)
    });
    let (host, result) = called.map_err(|error| error.to_string())?;
    Ok(Call { asked, picked, host: host.addr, ok: result.is_ok() })
}

/// A real call: connects, sends a request, and expects the reply.
pub(super) fn call(host: HostAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&host.socket_addr(), CALL_TIMEOUT)?;
    connection.set_read_timeout(Some(CALL_TIMEOUT))?;
    connection.write_all(REQUEST.as_bytes())?;
    connection.shutdown(Shutdown::Write)?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply)?;
    if reply == REPLY { Ok(()) } else { Err(io::Error::other(format!("the host answered {reply:?}"))) }
}

/// A stretch of time, since the demo began.
pub(crate) type Span = Range<Duration>;

pub(crate) fn length(span: &Span) -> Duration {
    span.end.saturating_sub(span.start)
}

/// Everything that was seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) cast: Cast,
    /// In the order in which they ended, as good as in that of their times.
    pub(crate) calls: Vec<Call>,
    pub(crate) lookup_failures: Vec<String>,
    /// What was stored when it was last looked at.
    pub(crate) rows: Vec<CallStatus>,
    /// The acts that came to their end.
    pub(crate) acts: Vec<Span>,
}

impl Facts {
    pub(crate) fn new(cast: Cast) -> Self {
        Self { cast, ..Self::default() }
    }

    /// When `act` was; `None` if what it was to show did not happen in time.
    pub(crate) fn act(&self, act: Act) -> Option<Span> {
        self.acts.get(act as usize).cloned()
    }

    /// The calls whose host was picked within `span`.
    pub(crate) fn calls_in(&self, span: &Span) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| span.contains(&call.picked))
    }

    /// How many of them `host` got.
    pub(crate) fn count_in(&self, span: &Span, host: HostAddr) -> usize {
        self.calls_in(span).filter(|call| call.host == host).count()
    }

    /// All calls of `host`.
    pub(crate) fn tally(&self, host: HostAddr) -> HostTally {
        let mut tally = HostTally::default();
        self.calls.iter().filter(|call| call.host == host).for_each(|call| tally.count(!call.ok));
        tally
    }

    pub(crate) fn row(&self, host: HostAddr) -> Option<&CallStatus> {
        self.rows.iter().find(|row| row.key.host == host)
    }

    /// Whether `host` is overloaded in the stored rows; `None` if there is no row.
    pub(crate) fn stored_overload(&self, host: HostAddr) -> Option<bool> {
        self.row(host).map(|row| row.overload)
    }
}
