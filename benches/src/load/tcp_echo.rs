//! Frames over TCP to a server that sends each one back: one thread, epoll, one write for all frames that are due
//! on a connection.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::AtomicU64,
};

use lars_proto::frame::HEADER_LEN;
use nix::sys::epoll::EpollFlags;

use super::{
    LoadError,
    in_flight::Batches,
    measurement::Measurement,
    poller::Poller,
    run::{Plan, Run},
};
use crate::frames::{ECHO_ID, Frames};

/// The shortest body: each frame is numbered.
pub const BODY_LEN_MIN: usize = 4;

/// Bytes taken from a connection at once.
const READ_LEN: usize = 256 << 10;

/// How frames are sent.
#[derive(Clone, Debug)]
pub struct TcpEchoLoad {
    /// The server.
    pub server: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// Frames of each connection that are under way at the same time, at most.
    pub in_flight: usize,
    /// Bytes of each frame behind its header, [`BODY_LEN_MIN`] at least.
    pub body_len: usize,
}

impl TcpEchoLoad {
    /// Measures. `progress` is kept at the number of frames that came back.
    ///
    /// # Errors
    /// If there is nobody to connect to, or frames do not come back as they were sent.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let connect = |_| Connection::open(self);
        let connections = (0..self.connections).map(connect).collect::<Result<Vec<_>, _>>()?;
        let poller = Poller::new()?;
        // Edges: to be told once that there is room to write again costs nothing while there is.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        for (token, connection) in connections.iter().enumerate() {
            poller.add(&connection.stream, token, flags)?;
        }
        let driver = Driver {
            run: Run::start(plan, progress),
            poller,
            connections,
            in_flight_max: self.in_flight as u64,
            buffer: vec![0; READ_LEN],
            first: 0,
        };
        driver.run()
    }
}

/// One connection.
struct Connection {
    stream: TcpStream,
    server: SocketAddr,
    in_flight: Batches,
    /// A frame, whose number is written over.
    template: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    written: usize,
    input: Frames,
    next_sent: u32,
    next_received: u32,
}

impl Connection {
    fn open(load: &TcpEchoLoad) -> Result<Self, LoadError> {
        let server = load.server;
        let stream = TcpStream::connect(server).map_err(|error| LoadError::at(server, error))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut template = [ECHO_ID.to_le_bytes(), (load.body_len as i32).to_le_bytes()].concat();
        template.resize(HEADER_LEN + load.body_len, 0);
        Ok(Self {
            stream,
            server,
            in_flight: Batches::default(),
            template,
            output: Vec::new(),
            written: 0,
            input: Frames::default(),
            next_sent: 0,
            next_received: 0,
        })
    }

    fn push_frame(&mut self) {
        let number = self.output.len() + HEADER_LEN;
        self.output.extend_from_slice(&self.template);
        self.output[number..number + BODY_LEN_MIN].copy_from_slice(&self.next_sent.to_le_bytes());
        self.next_sent = self.next_sent.wrapping_add(1);
    }

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

    /// Reads what there is, and returns how many frames came back.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<u64, LoadError> {
        let mut frames = 0;
        loop {
            let len = match self.stream.read(buffer) {
                Ok(0) => return Err(self.failed("hung up")),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(frames),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let (expected, body_len) = (&mut self.next_received, self.template.len() - HEADER_LEN);
            let mut as_sent = true;
            let taken = self.input.take(&buffer[..len], |frame| {
                let body = &frame[HEADER_LEN..];
                as_sent &= body.len() == body_len && body.starts_with(&expected.to_le_bytes());
                *expected = expected.wrapping_add(1);
                frames += 1;
            });
            if taken.is_err() || !as_sent {
                return Err(self.failed("a frame did not come back as it was sent"));
            }
            // A short read has emptied the socket; what comes later is another edge.
            if len < buffer.len() {
                return Ok(frames);
            }
        }
    }

    fn failed(&self, problem: &'static str) -> LoadError {
        LoadError::Server { server: self.server, problem }
    }
}

struct Driver<'a> {
    run: Run<'a>,
    poller: Poller,
    connections: Vec<Connection>,
    in_flight_max: u64,
    buffer: Vec<u8>,
    /// Who is first to begin operations that have become due.
    first: usize,
}

impl Driver<'_> {
    fn run(mut self) -> Result<Measurement, LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || in_flight(&self.connections)) {
            self.begin_everywhere(now)?;
            let ready = self.poller.wait(self.run.wait_max(now))?;
            for index in 0..ready {
                let connection = self.poller.token(index);
                now = self.run.now();
                self.take_replies(connection, now)?;
                self.begin(connection, now)?;
            }
            now = self.run.now();
        }
        Ok(self.run.end(in_flight(&self.connections)))
    }

    fn begin_everywhere(&mut self, now: u64) -> Result<(), LoadError> {
        if !self.run.begins_by_itself(now) {
            return Ok(());
        }
        let count = self.connections.len();
        self.first = (self.first + 1) % count;
        for index in 0..count {
            self.begin((self.first + index) % count, now)?;
        }
        Ok(())
    }

    /// Sends the frames that a connection has room for and the schedule lets begin.
    fn begin(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.connections[index];
        while connection.in_flight.len() < self.in_flight_max
            && let Some(since) = self.run.begin(now)
        {
            connection.in_flight.begin(since, 1);
            connection.push_frame();
            self.run.counts.requests += 1;
        }
        Ok(connection.flush()?)
    }

    fn take_replies(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.connections[index];
        let frames = connection.receive(&mut self.buffer)?;
        let asked = connection.in_flight.finish(frames, |since, count| self.run.finish(since, now, count));
        if asked { Ok(()) } else { Err(connection.failed("sent more frames than it was sent")) }
    }
}

fn in_flight(connections: &[Connection]) -> u64 {
    connections.iter().map(|connection| connection.in_flight.len()).sum()
}
