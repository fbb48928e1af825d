//! On a private io_uring: multishot accept and receive into provided buffers, and one system call a turn.

use std::{io, mem, net::TcpListener, os::fd::OwnedFd, time::Duration};

use nix::sys::{
    resource::{Resource, getrlimit},
    socket::{setsockopt, sockopt::TcpNoDelay},
};

use crate::{
    frames::Frames,
    ring::{Event, Ring, SocketKey, SocketKind, Wait},
};

/// Connections at the same time, at most, if the limit on open files allows as many.
const SOCKETS_MAX: u32 = 1 << 15;

const BUFFERS: u16 = 2_048;
const BUFFER_LEN: usize = 8 << 10;

/// A connection that leaves more replies than this unread is closed. (One that is paused and goes on would be more polite;
/// no load gets there.)
const OUTPUT_MAX: usize = 16 << 20;

const WAIT: Wait = Wait::for_one(Duration::from_secs(1));

pub(super) fn echo(listener: TcpListener) -> io::Result<()> {
    // What is accepted inherits it.
    setsockopt(&listener, TcpNoDelay, &true)?;
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let sockets = SOCKETS_MAX.min(u32::try_from(files).unwrap_or(SOCKETS_MAX));
    let mut ring = Ring::new(sockets, BUFFERS, BUFFER_LEN)?;
    ring.add(listener.into(), SocketKind::Listener)?;
    let mut server = Server { ring, connections: Vec::new(), served: Vec::new() };
    loop {
        server.turn()?;
    }
}

struct Server {
    ring: Ring,
    /// By the number of their socket.
    connections: Vec<Option<Connection>>,
    /// Connections to which something happened in this turn.
    served: Vec<SocketKey>,
}

#[derive(Default)]
struct Connection {
    input: Frames,
    hung_up: bool,
}

impl Server {
    /// Takes everything that has happened, then sends the replies: one send for all of a connection.
    fn turn(&mut self) -> io::Result<()> {
        self.ring.turn(WAIT)?;
        while let Some(event) = self.ring.next() {
            match event {
                Event::Accepted(stream) => self.accept(stream),
                Event::Received(socket) => self.receive(socket),
                Event::HungUp(socket) => {
                    self.connections[socket].iter_mut().for_each(|connection| connection.hung_up = true);
                    self.served.push(socket);
                }
                Event::Sent(socket) => self.served.push(socket),
                Event::Failed(socket, _) => self.close(socket),
            }
        }
        for socket in mem::take(&mut self.served) {
            self.flush(socket)?;
        }
        Ok(())
    }

    fn accept(&mut self, stream: OwnedFd) {
        // One too many is closed at once.
        let Ok(socket) = self.ring.add(stream, SocketKind::Stream) else { return };
        if self.connections.len() <= socket {
            self.connections.resize_with(socket + 1, || None);
        }
        self.connections[socket] = Some(Connection::default());
    }

    fn receive(&mut self, socket: SocketKey) {
        let Some(Connection { input, .. }) = self.connections[socket].as_mut() else { return };
        let fits = self.ring.reply(socket, |bytes, output| {
            input.take(bytes, |frame| output.extend_from_slice(frame)).is_ok() && output.len() <= OUTPUT_MAX
        });
        if fits {
            self.served.push(socket);
        } else {
            self.close(socket);
        }
    }

    fn flush(&mut self, socket: SocketKey) -> io::Result<()> {
        let Some(Connection { hung_up, .. }) = self.connections[socket] else { return Ok(()) };
        self.ring.flush(socket)?;
        if hung_up && !self.ring.is_sending(socket) {
            self.close(socket);
        }
        Ok(())
    }

    fn close(&mut self, socket: SocketKey) {
        if self.connections[socket].take().is_some() {
            self.ring.close(socket);
        }
    }
}
