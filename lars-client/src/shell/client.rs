//! [`Client`]: blocking, on std sockets.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::agent::{Agent, Port, connected_socket};
use crate::{
    ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, RegisterError,
    core::{HostQuestion, Next, Question, Registration, RouteQuestion, Step},
    error::NoAnswer,
};

/// A client of the agent, blocking. Clones are cheap and share everything; use one per process, from as many
/// threads as there are: calls do not wait for each other.
///
/// It owns one socket per agent shard, and one per call under way, some of which stay open for the next call.
/// A process that forks makes its client afterwards: parent and child must not share sockets.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Arc<Agent<Lane>>,
}

impl Client {
    /// A client of the agent on this machine, with the defaults of [`ClientConfig`]. The agent need not run yet.
    ///
    /// # Errors
    /// [`ClientError::Socket`] if the system is out of sockets.
    pub fn new() -> Result<Self, ClientError> {
        Self::with_config(ClientConfig::default())
    }

    /// A client as configured. The agent need not run yet.
    ///
    /// # Errors
    /// [`ClientError::Config`] naming the field, or [`ClientError::Socket`].
    pub fn with_config(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { agent: Arc::new(Agent::new(&config)?) })
    }

    /// A host to call for `module`; ask before each call, the agent balances. Returns within
    /// [`timeout`](ClientConfig::timeout) × ([`retries`](ClientConfig::retries) + 1).
    ///
    /// While the agent does not run, the first lookup uses this time to wait for its return, and those after
    /// it fail at once until it is back.
    ///
    /// ```no_run
    /// use lars_client::{Client, GetHostError, ModuleId};
    ///
    /// let client = Client::new()?;
    /// match client.get_host(ModuleId::new(1, 1)) {
    ///     Ok(host) => println!("call {}", host.addr),
    ///     Err(GetHostError::Overloaded(_)) => println!("better not call at all for now"),
    ///     Err(error) => println!("{error}: call the host that worked last"),
    /// }
    /// # Ok::<(), lars_client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// See [`GetHostError`].
    pub fn get_host(&self, module: ModuleId) -> Result<Host, GetHostError> {
        let port = self.agent.port(module);
        let mut lane = match port.idle.take() {
            Some(lane) => lane,
            None => self.open_lane::<HostQuestion>(port)?,
        };
        let answer = self.ask(port, &mut lane, self.agent.host_question(module))?;
        port.idle.put(lane);
        answer
    }

    /// Tells the agent how the call of `host` went: once per call, also for the calls that succeed.
    ///
    /// Fire and forget: it never waits, and a report that cannot be sent at once is dropped and counted
    /// ([`Client::reports_dropped`]). One that is sent may still get lost if the agent is not there.
    ///
    /// ```no_run
    /// # use lars_client::{Client, ModuleId, Outcome};
    /// # fn call(_: lars_client::HostAddr) -> std::io::Result<()> { Ok(()) }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::new()?;
    /// let host = client.get_host(ModuleId::new(1, 1))?;
    /// match call(host.addr) {
    ///     Ok(()) => client.report(&host, Outcome::Success),
    ///     Err(error) => client.report(&host, Outcome::Failure(error.raw_os_error().unwrap_or(-1))),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn report(&self, host: &Host, outcome: Outcome) {
        self.agent.report(host, outcome);
    }

    /// All hosts of `module` that the agent knows and that fit a datagram (at least 3,800), healthy or not; none if
    /// it does not know the module, which makes it fetch the route. For people and for checks: callers of
    /// a service use [`Client::get_host`], because only that is balanced.
    ///
    /// Takes as long as [`Client::get_host`] at most.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] or [`ClientError::AgentUnreachable`].
    pub fn get_route(&self, module: ModuleId) -> Result<Vec<HostAddr>, ClientError> {
        let port = self.agent.port(module);
        let mut lane = self.open_lane::<RouteQuestion>(port)?;
        Ok(self.ask(port, &mut lane, RouteQuestion { module })?)
    }

    /// Makes the agent fetch the route of `module` and returns it, so that the first [`Client::get_host`]
    /// does not meet [`GetHostError::NotFound`] only because the agent has just started. Worth a call per
    /// module when the program starts.
    ///
    /// Asks for the route up to three times, 50 ms apart, until there are hosts.
    ///
    /// ```no_run
    /// use lars_client::{Client, ModuleId};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new()?;
    /// let hosts = client.register(ModuleId::new(1, 1))?;
    /// println!("{} hosts", hosts.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the last try came to: [`RegisterError::NotFound`] if it found no hosts.
    pub fn register(&self, module: ModuleId) -> Result<Vec<HostAddr>, RegisterError> {
        let mut registration = Registration::new(module);
        loop {
            match registration.handle_route(self.get_route(module)) {
                Next::Done(result) => return result,
                Next::AskAgainAfter(pause) => thread::sleep(pause),
            }
        }
    }

    /// Reports that could not be sent since the client was made, in all its clones.
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        self.agent.reports_dropped()
    }

    fn open_lane<Q: Question>(&self, port: &Port<Lane>) -> Result<Lane, NoAnswer> {
        let patience = self.agent.patience();
        Lane::open(port.addr(), Q::ANSWER_LEN_MAX, patience.per_try).map_err(|error| port.unreachable(error))
    }

    fn ask<Q: Question>(
        &self,
        port: &Port<Lane>,
        lane: &mut Lane,
        question: Q,
    ) -> Result<Q::Answer, NoAnswer> {
        let mut now = Instant::now();
        let mut lookup = self.agent.lookup(port, question, now);
        let mut problem = None;
        loop {
            let done = match lookup.poll(now) {
                Step::Send(datagram) => lane.send(datagram).map(|()| None),
                Step::ReceiveUntil(until) => lane.receive(until.saturating_duration_since(now)),
                Step::PauseUntil(until) => {
                    thread::sleep(until.saturating_duration_since(now));
                    Ok(None)
                }
                Step::GiveUp(why) => return Err(self.agent.gave_up(port, why, problem)),
            };
            now = Instant::now();
            match done {
                Ok(received) => {
                    if let Some(answer) = received.and_then(|datagram| lookup.handle_datagram(datagram)) {
                        port.answered();
                        return Ok(answer);
                    }
                }
                Err(error) => {
                    lookup.handle_unreachable(now);
                    problem = Some(error);
                }
            }
        }
    }
}

/// A socket to one port of the agent, for one call at a time.
#[derive(Debug)]
struct Lane {
    socket: UdpSocket,
    /// What the socket is set to.
    read_timeout: Duration,
    received: Box<[u8]>,
}

impl Lane {
    fn open(agent: SocketAddr, answer_len_max: usize, timeout: Duration) -> io::Result<Self> {
        let socket = connected_socket(agent)?;
        let timeout = whole_ms(timeout);
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(Self { socket, read_timeout: timeout, received: vec![0; answer_len_max].into() })
    }

    /// A datagram that finds no room in time is lost, as it can be anywhere on its way.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.send(datagram) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The next datagram; `None` when time is up, or earlier.
    fn receive(&mut self, wait: Duration) -> io::Result<Option<&[u8]>> {
        // Mostly what is set already, because it is rounded: a system call saved.
        let timeout = whole_ms(wait);
        if timeout != self.read_timeout {
            self.socket.set_read_timeout(Some(timeout))?;
            self.read_timeout = timeout;
        }
        match self.socket.recv(&mut self.received) {
            Ok(len) => Ok(Some(&self.received[..len])),
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Time was up, or a signal came.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Rounded up to milliseconds, and never 0, which sockets take for "no timeout".
fn whole_ms(duration: Duration) -> Duration {
    let ms = duration.as_nanos().div_ceil(1_000_000).max(1);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_and_never_zero() {
        assert_eq!(whole_ms(Duration::ZERO), Duration::from_millis(1));
        assert_eq!(whole_ms(Duration::from_micros(99_001)), Duration::from_millis(100));
        assert_eq!(whole_ms(Duration::from_millis(100)), Duration::from_millis(100));
    }
}
