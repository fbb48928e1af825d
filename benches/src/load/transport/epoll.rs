//! On epoll.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
};

use nix::{
    errno::Errno,
    sys::{epoll::EpollFlags, socket::MsgFlags},
};

use super::{Caller, Datagrams, Input, Patience, Sockets, Stream, Streams, poller::Poller, reply_len_max};
use crate::datagrams::{BATCH, Inbox, Outbox};

/// Bytes taken from a connection at once.
const READ_LEN: usize = 256 << 10;

/// Datagrams, several to a call.
pub(in crate::load) struct EpollDatagrams {
    poller: Poller,
    callers: Vec<Caller>,
    inbox: Inbox<()>,
    outbox: Outbox<()>,
    /// Sockets that have something.
    ready: VecDeque<usize>,
    /// The socket that the inbox is from, and how many of its datagrams were handed out.
    current: Option<(usize, usize)>,
}

impl Sockets<Caller> for EpollDatagrams {
    fn over(callers: Vec<Caller>) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (token, caller) in callers.iter().enumerate() {
            caller.socket.set_nonblocking(true)?;
            // Edges cost less than levels, and no reply stays unread that somebody waits for.
            poller.add(&caller.socket, token, EpollFlags::EPOLLIN | EpollFlags::EPOLLET)?;
        }
        let inbox = Inbox::for_datagrams_of(reply_len_max(&callers));
        Ok(Self { poller, callers, inbox, outbox: Outbox::default(), ready: VecDeque::new(), current: None })
    }
}

impl EpollDatagrams {
    /// Receives what the first ready socket has; `None` if that is nothing.
    fn receive(&mut self, expected: usize) -> Option<Result<(), Errno>> {
        let socket = *self.ready.front()?;
        let max = expected.min(BATCH);
        let received = match max {
            0 => Err(Errno::EAGAIN),
            _ => self.inbox.receive_connected(&self.callers[socket].socket, max),
        };
        if received != Ok(max) {
            self.ready.pop_front();
        }
        match received {
            Ok(_) => {
                self.current = Some((socket, 0));
                Some(Ok(()))
            }
            Err(Errno::EAGAIN) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Datagrams for EpollDatagrams {
    fn push(&mut self, socket: usize, datagram: &[u8]) -> Result<(), Errno> {
        if self.outbox.is_full() {
            self.flush(socket)?;
        }
        self.outbox.push(None, |bytes| bytes.extend_from_slice(datagram));
        Ok(())
    }

    fn flush(&mut self, socket: usize) -> Result<(), Errno> {
        match self.outbox.flush(&self.callers[socket].socket, MsgFlags::MSG_DONTWAIT) {
            Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        let ready = self.poller.wait(patience.max)?;
        self.ready.extend((0..ready).map(|index| self.poller.token(index)));
        Ok(())
    }

    fn next(&mut self, expected: impl Fn(usize) -> usize) -> Option<(usize, Result<&[u8], Errno>)> {
        while self.current.is_none_or(|(_, taken)| taken == self.inbox.len()) {
            self.current = None;
            let socket = *self.ready.front()?;
            if let Some(Err(error)) = self.receive(expected(socket)) {
                return Some((socket, Err(error)));
            }
        }
        let (socket, taken) = self.current.as_mut()?;
        *taken += 1;
        Some((*socket, Ok(self.inbox.datagram(*taken - 1))))
    }
}

/// Connections, a read and a write each.
pub(in crate::load) struct EpollStreams {
    poller: Poller,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    ready: VecDeque<usize>,
}

struct Connection {
    stream: TcpStream,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    written: usize,
}

impl Connection {
    /// Sends as much as goes.
    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }
}

impl Sockets<Stream> for EpollStreams {
    fn over(streams: Vec<Stream>) -> io::Result<Self> {
        let poller = Poller::new()?;
        // Edges: to be told once that there is room to write again costs nothing while there is.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        for (token, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            poller.add(stream, token, flags)?;
        }
        let connection = |stream| Connection { stream, output: Vec::new(), written: 0 };
        let connections = streams.into_iter().map(connection).collect();
        Ok(Self { poller, connections, buffer: vec![0; READ_LEN], ready: VecDeque::new() })
    }
}

impl Streams for EpollStreams {
    fn output(&mut self, connection: usize) -> &mut Vec<u8> {
        &mut self.connections[connection].output
    }

    fn flush(&mut self, connection: usize) -> io::Result<()> {
        self.connections[connection].flush()
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        let ready = self.poller.wait(patience.max)?;
        self.ready.extend((0..ready).map(|index| self.poller.token(index)));
        Ok(())
    }

    fn next(&mut self) -> Option<(usize, io::Result<Input<'_>>)> {
        loop {
            let token = *self.ready.front()?;
            let connection = &mut self.connections[token];
            if let Err(error) = connection.flush() {
                self.ready.pop_front();
                return Some((token, Err(error)));
            }
            let read = connection.stream.read(&mut self.buffer);
            // A short read has emptied the socket; what comes later is another edge.
            if read.as_ref().map_or(true, |len| *len < self.buffer.len()) {
                self.ready.pop_front();
            }
            match read {
                Ok(0) => return Some((token, Ok(Input::HungUp))),
                Ok(len) => return Some((token, Ok(Input::Bytes(&self.buffer[..len])))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => self.ready.push_back(token),
                Err(error) => return Some((token, Err(error))),
            }
        }
    }
}
