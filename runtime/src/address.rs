//! Binding sockets to addresses, and why that fails.

use std::{
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::port_holder::{PortHolder, Transport};

/// How long an address that is in use is waited for. The sockets of a process that was killed stay open until the
/// kernel has taken its io_uring apart, which it does in the background; whoever restarts it at once meets them.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// An address cannot be listened on, or bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another socket has it.
    #[error("{addr} is in use{holder}")]
    InUse {
        /// The address asked for.
        addr: SocketAddr,
        /// Whose it is.
        holder: PortHolder,
    },
    /// Anything else.
    #[error("{addr}: {source}")]
    Failed {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    /// `addr` is one of those that are `wanted`.
    pub(crate) fn new(
        addr: SocketAddr,
        source: io::Error,
        transport: Transport,
        wanted: RangeInclusive<u16>,
    ) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::InUse { addr, holder: PortHolder::find(addr, transport, wanted) }
        } else {
            Self::Failed { addr, source }
        }
    }
}

/// Binds `socket`, if need be after a wait for the address to be released. Never with SO_REUSEPORT: a second copy of
/// the program must be told.
pub(crate) fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    loop {
        match socket.bind(&addr.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(RELEASE_POLL);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn an_address_that_is_about_to_be_released_is_waited_for() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let addr = holder.local_addr().expect("an address");
        let dying = thread::spawn(move || {
            thread::sleep(RELEASE_POLL);
            drop(holder);
        });
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        bind(&socket, addr).expect("released in time");
        dying.join().expect("no panic");
    }
}
