//! On epoll.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use slab::Slab;

use super::{Echo, READ_LEN};

/// The listener's, above every slot of a connection.
const LISTENER: u64 = u64::MAX;

/// Sockets that are reported at once, at most.
const EVENTS_MAX: usize = 1_024;

pub(super) fn echo(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut server = Server { epoll, listener, connections: Slab::new(), buffer: vec![0; READ_LEN] };
    let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
    loop {
        let ready = match server.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        for event in &events[..ready] {
            match event.data() {
                LISTENER => server.accept()?,
                slot => server.serve(slot as usize),
            }
        }
    }
}

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    connections: Slab<Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    echo: Echo,
    /// What the socket has not taken yet. While there is any, nothing is read.
    unsent: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let slot = self.connections.vacant_entry();
            // To be told of room to write only when there was none costs nothing while there is; what is not read
            // in one turn is looked for in the next, because reading goes on until there is no more.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            self.epoll.add(&stream, EpollEvent::new(flags, slot.key() as u64))?;
            slot.insert(Connection { stream, echo: Echo::default(), unsent: Vec::new() });
        }
    }

    /// Until nothing more can be read or written; a connection that has ended is forgotten.
    fn serve(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.serve(&mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(()) | Err(_) => drop(self.connections.remove(slot)),
        }
    }
}

impl Connection {
    /// `Ok` when the peer has hung up, `WouldBlock` when it is to be waited for.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            self.write_unsent()?;
            let len = match self.stream.read(buffer)? {
                0 => return Ok(()),
                len => len,
            };
            let reply = self.echo.reply(&buffer[..len]).map_err(io::Error::other)?;
            let written = match self.stream.write(reply) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                written => written?,
            };
            self.unsent.extend_from_slice(&reply[written..]);
            // A short read has emptied the socket; what comes later is another edge.
            if len < buffer.len() && self.unsent.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    fn write_unsent(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let written = self.stream.write(&self.unsent)?;
            self.unsent.drain(..written);
        }
        Ok(())
    }
}
