//! [`Client`]: blocking, on std sockets.

use std::{
    future::{Future, ready},
    io,
    net::UdpSocket,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use super::calls::{Calls, Transport};
use crate::{ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, RegisterError};

/// A client of the agent, blocking. Clones are cheap and share everything; use one per process, from as many
/// threads as there are: calls do not wait for each other.
///
/// It owns one socket per agent shard, and one per call under way, some of which stay open for the next call.
/// After a fork the child may go on with the client that it inherited: at its first call it notices, and opens sockets of
/// its own.
#[derive(Clone, Debug)]
pub struct Client {
    calls: Arc<Calls<Blocking>>,
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
        Ok(Self { calls: Arc::new(Calls::new(config)?) })
    }

    /// A host to call for `module`; ask before each call, the agent balances. Returns within
    /// [`timeout`](ClientConfig::timeout) × ([`retries`](ClientConfig::retries) + 1): at once where the agent knows the
    /// module, and else when the agent has learned it, for which that time is left to it.
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
        at_once(self.calls.get_host(module))
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
        self.calls.report(host, outcome);
    }

    /// A whole call: asks for a host of `module`, has `call` call it, and reports how that went
    /// ([`Outcome::from`] its result).
    ///
    /// ```no_run
    /// use std::net::TcpStream;
    ///
    /// use lars_client::{Client, ModuleId};
    ///
    /// let client = Client::new()?;
    /// let (host, called) = client.call(ModuleId::new(1, 1), |host| TcpStream::connect(host.addr.socket_addr()))?;
    /// match called {
    ///     Ok(stream) => println!("{} is {:?}", host.addr, stream.peer_addr()),
    ///     Err(error) => println!("{} failed: {error}", host.addr),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`GetHostError`]: there was no host to call. What `call` returns is no error of this function.
    pub fn call<T, E>(
        &self,
        module: ModuleId,
        call: impl FnOnce(&Host) -> Result<T, E>,
    ) -> Result<(Host, Result<T, E>), GetHostError> {
        let host = self.get_host(module)?;
        let result = call(&host);
        self.report(&host, Outcome::from(&result));
        Ok((host, result))
    }

    /// All hosts of `module` that the agent knows and that fit a datagram (at least 3,800), healthy or not; none if
    /// nobody serves the module. For people and for checks: callers of
    /// a service use [`Client::get_host`], because only that is balanced.
    ///
    /// Takes as long as [`Client::get_host`] at most.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] or [`ClientError::AgentUnreachable`].
    pub fn get_route(&self, module: ModuleId) -> Result<Vec<HostAddr>, ClientError> {
        at_once(self.calls.get_route(module))
    }

    /// Makes the agent fetch the route of `module` and returns it, so that the first [`Client::get_host`] need not wait
    /// for that. Worth a call per module when the program starts.
    ///
    /// Takes as long as [`Client::get_host`] at most. It is one question, for the agent answers when it has the route;
    /// one of the original, which does not wait, is asked up to three times, 50 ms apart.
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
    /// [`RegisterError::NotFound`] if nobody serves the module, or the agent has not learned yet who does.
    pub fn register(&self, module: ModuleId) -> Result<Vec<HostAddr>, RegisterError> {
        at_once(self.calls.register(module))
    }

    /// Reports that could not be sent since the client was made, in all its clones.
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        self.calls.reports_dropped()
    }
}

/// The value of a future that never waits for anything, because its transport blocks instead.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a blocking transport is ready when it returns"),
    }
}

/// The sockets of std, and waiting on the calling thread.
#[derive(Debug)]
enum Blocking {}

/// A socket for one call at a time.
#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    /// What the socket is set to.
    read_timeout: Duration,
    received: Box<[u8]>,
}

impl Transport for Blocking {
    type Socket = Socket;

    fn now() -> Instant {
        Instant::now()
    }

    fn open(socket: UdpSocket, answer_len_max: usize, send_timeout: Duration) -> io::Result<Socket> {
        let timeout = whole_ms(send_timeout);
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(Socket { socket, read_timeout: timeout, received: vec![0; answer_len_max].into() })
    }

    fn send(socket: &mut Socket, datagram: &[u8]) -> impl Future<Output = io::Result<()>> {
        ready(match socket.socket.send(datagram) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        })
    }

    fn receive(
        socket: &mut Socket,
        now: Instant,
        until: Instant,
    ) -> impl Future<Output = io::Result<Option<&[u8]>>> {
        ready(socket.receive(until.saturating_duration_since(now)))
    }

    fn pause(now: Instant, until: Instant) -> impl Future<Output = ()> {
        thread::sleep(until.saturating_duration_since(now));
        ready(())
    }
}

impl Socket {
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
