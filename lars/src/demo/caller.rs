//! The demo's callers: threads that do what any business code does. Ask for a host, call it, report.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lars_client::{Client, Outcome};
use lars_proto::HostAddr;

use super::{
    backend::{REPLY, REQUEST},
    cast::MODULE,
    facts::{Call, Event},
};

/// A healthy host takes microseconds; on a machine that has more to do it must not count as failing.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// What a caller does between two calls.
const THINKING_TIME: Duration = Duration::from_millis(5);

/// Callers at work. They stop when this is dropped.
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
            let caller = Caller {
                client: client.clone(),
                start,
                events: sender.clone(),
                stopping: Arc::clone(&callers.stopping),
            };
            let thread = thread::Builder::new().name(format!("caller-{n}")).spawn(move || caller.run())?;
            callers.threads.push(thread);
        }
        Ok(callers)
    }

    /// What they have told since the last time.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.events.try_iter()
    }

    /// Ends them, and returns what they had still to tell.
    pub(crate) fn stop(mut self) -> Vec<Event> {
        self.end();
        self.events.try_iter().collect()
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.end();
    }
}

struct Caller {
    client: Client,
    start: Instant,
    events: Sender<Event>,
    stopping: Arc<AtomicBool>,
}

impl Caller {
    fn run(self) {
        while !self.stopping.load(Ordering::Relaxed) {
            if self.events.send(self.call_once()).is_err() {
                return;
            }
            thread::sleep(THINKING_TIME);
        }
    }

    fn call_once(&self) -> Event {
        let asked = self.start.elapsed();
        match self.client.get_host(MODULE) {
            Ok(host) => {
                let picked = self.start.elapsed();
                let result = call(host.addr);
                self.client.report(&host, Outcome::from(&result));
                Event::Called(Call { asked, picked, host: host.addr, ok: result.is_ok() })
            }
            Err(error) => Event::LookupFailed(error.to_string()),
        }
    }
}

/// A real call: connects, sends a request, and expects the reply.
pub(crate) fn call(host: HostAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&host.socket_addr(), CALL_TIMEOUT)?;
    connection.set_read_timeout(Some(CALL_TIMEOUT))?;
    connection.write_all(REQUEST.as_bytes())?;
    connection.shutdown(Shutdown::Write)?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply)?;
    if reply == REPLY { Ok(()) } else { Err(io::Error::other(format!("the host answered {reply:?}"))) }
}
