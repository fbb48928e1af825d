//! A TCP forwarder that makes faults on command, because the kernel's own fault makers are not everywhere.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// What the proxy does with connections and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Forwards everything.
    Pass,
    /// Closes new connections at once; present ones go on.
    Refuse,
    /// Keeps connections open and forwards nothing.
    Blackhole,
    /// Cuts each connection when so many bytes of it, about, have gone one way.
    CutAfter(usize),
}

struct Shared {
    fault: Fault,
    target: SocketAddr,
    /// Both ends of each forwarded connection, so that they can be cut.
    streams: Vec<TcpStream>,
    stopped: bool,
}

/// A forwarder from [`Proxy::addr`] to a target. Dropping it cuts everything.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    ///
    /// # Panics
    /// If no port can be had.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let shared =
            Arc::new(Mutex::new(Shared { fault: Fault::Pass, target, streams: Vec::new(), stopped: false }));
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { addr, shared }
    }

    /// Where to connect instead of to the target.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on, behave so.
    pub fn set(&self, fault: Fault) {
        lock(&self.shared).fault = fault;
    }

    /// From now on, forward new connections there.
    pub fn retarget(&self, target: SocketAddr) {
        lock(&self.shared).target = target;
    }

    /// Cuts every connection there is, in both directions.
    pub fn cut_all(&self) {
        for stream in lock(&self.shared).streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared).stopped = true;
        self.cut_all();
        // Wakes the acceptor, which then ends.
        let _ = TcpStream::connect(self.addr);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    for client in listener.incoming() {
        if lock(shared).stopped {
            return;
        }
        if let Ok(client) = client {
            // A target that refuses shows to the client as a closed connection.
            let _ = forward(client, shared);
        }
    }
}

fn forward(client: TcpStream, shared: &Arc<Mutex<Shared>>) -> io::Result<()> {
    let (fault, target) = {
        let shared = lock(shared);
        (shared.fault, shared.target)
    };
    if fault == Fault::Refuse {
        return Ok(());
    }
    let server = TcpStream::connect_timeout(&target, Duration::from_secs(60))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    {
        // Whoever has refused and then cut meanwhile expects that none is left.
        let mut shared = lock(shared);
        if shared.fault == Fault::Refuse || shared.stopped {
            return Ok(());
        }
        shared.streams.extend([client.try_clone()?, server.try_clone()?]);
    }
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let shared = Arc::clone(shared);
        thread::spawn(move || pump(from, to, &shared));
    }
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Mutex<Shared>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut forwarded = 0;
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        match lock(shared).fault {
            Fault::Blackhole => continue,
            Fault::CutAfter(bytes) if forwarded >= bytes => break,
            Fault::Pass | Fault::Refuse | Fault::CutAfter(_) => {}
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        forwarded += read;
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eventually;

    /// A server that sends back what it gets.
    fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
            }
        });
        addr
    }

    #[test]
    fn forwards_swallows_and_cuts() {
        let proxy = Proxy::start(echo_server());
        let mut stream = TcpStream::connect(proxy.addr()).unwrap();
        let mut reply = [0; 4];
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"ping");

        proxy.set(Fault::Blackhole);
        stream.write_all(b"lost").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read_exact(&mut reply).is_err());

        proxy.cut_all();
        eventually("the cut connection ends", || matches!(stream.read(&mut reply), Ok(0)));

        proxy.set(Fault::CutAfter(1_000));
        let mut cut = TcpStream::connect(proxy.addr()).unwrap();
        cut.write_all(&[1; 100_000]).unwrap();
        cut.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let (mut read, mut buffer) = (0, [0; 4_096]);
        let end = loop {
            match cut.read(&mut buffer) {
                Ok(0) => break None,
                Ok(more) => read += more,
                Err(error) => break Some(error.kind()),
            }
        };
        assert_ne!(end, Some(io::ErrorKind::WouldBlock), "nothing was cut");
        assert!((1..100_000).contains(&read), "{read}");

        proxy.set(Fault::Refuse);
        let mut refused = TcpStream::connect(proxy.addr()).unwrap();
        assert!(matches!(refused.read(&mut reply), Ok(0) | Err(_)));
    }
}
