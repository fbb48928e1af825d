//! The demo's hosts: real TCP servers that answer, fail, or are not there.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fastrand::Rng;
use lars_proto::HostAddr;
use socket2::{Domain, Socket, Type};

pub(crate) const REQUEST: &str = "ping\n";
pub(crate) const REPLY: &str = "pong\n";
const FAILURE: &str = "broken\n";

/// A caller that connects and then keeps silent must not stop the others.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A server on 127.0.0.1 that answers one request per connection. It ends when it is dropped.
pub(crate) struct Backend {
    addr: SocketAddrV4,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// How many of a hundred requests fail.
    failed_percent: AtomicU8,
    stopping: AtomicBool,
}

impl Backend {
    /// Answers at once. `failed_percent` of the requests fail, as `rng` draws it.
    pub(crate) fn start(failed_percent: u8, rng: Rng) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = ipv4(listener.local_addr()?)?;
        let shared = Arc::new(Shared {
            failed_percent: AtomicU8::new(failed_percent),
            stopping: AtomicBool::new(false),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("backend-{}", addr.port())).spawn(move || {
                serve(&listener, &shared, rng);
            })?
        };
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    pub(crate) fn host(&self) -> HostAddr {
        HostAddr::V4(self.addr)
    }

    /// From now on every request is answered.
    pub(crate) fn repair(&self) {
        self.shared.failed_percent.store(0, Ordering::Relaxed);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Wakes the thread, which waits for a connection.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared, mut rng: Rng) {
    for connection in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let fails = rng.u8(..100) < shared.failed_percent.load(Ordering::Relaxed);
        // What goes wrong with one connection is seen by its caller.
        let _ = connection.and_then(|connection| answer(&connection, fails));
    }
}

fn answer(mut connection: &TcpStream, fails: bool) -> io::Result<()> {
    connection.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = String::new();
    BufReader::with_capacity(REQUEST.len(), connection).read_line(&mut request)?;
    let is_healthy = request == REQUEST && !fails;
    connection.write_all(if is_healthy { REPLY } else { FAILURE }.as_bytes())
}

/// A host that is down: its port is taken, so that nobody else gets it, and every connection is refused.
pub(crate) struct DeadPort {
    addr: SocketAddrV4,
    /// Bound, but not listening.
    _socket: Socket,
}

impl DeadPort {
    pub(crate) fn take() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { addr: ipv4(bound)?, _socket: socket })
    }

    pub(crate) fn host(&self) -> HostAddr {
        HostAddr::V4(self.addr)
    }
}

fn ipv4(addr: SocketAddr) -> io::Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::caller::call, *};

    fn backend(failed_percent: u8) -> Backend {
        Backend::start(failed_percent, Rng::with_seed(1)).unwrap()
    }

    #[test]
    fn a_healthy_one_answers_and_a_dead_one_refuses() {
        let healthy = backend(0);
        for _ in 0..20 {
            call(healthy.host()).unwrap();
        }
        let dead = DeadPort::take().unwrap();
        assert_eq!(call(dead.host()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_flaky_one_fails_until_it_is_repaired() {
        let flaky = backend(80);
        let failed = (0..100).filter(|_| call(flaky.host()).is_err()).count();
        assert!((50..100).contains(&failed), "{failed} of 100 failed");
        flaky.repair();
        for _ in 0..20 {
            call(flaky.host()).unwrap();
        }
    }

    #[test]
    fn a_dropped_one_is_gone() {
        let backend = backend(0);
        let host = backend.host();
        drop(backend);
        assert!(call(host).is_err());
    }
}
