//! Requests and replies: one thread, some sockets, each with some requests in flight. What is asked is a
//! [`Conversation`]; over TCP, where replies come in order, it is made of a [`Dialogue`].

use std::{
    io, mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    LoadError,
    in_flight::Batches,
    measurement::{Counts, Measurement},
    run::{Plan, Run, WAIT_MAX},
    sockets::{PIECE_LEN, connect, ring_over},
};
use crate::{
    frames::Frames,
    ring::{Event, Ring, SocketKind, Wait},
};

/// What one socket asks, and what it has asked. Times are nanoseconds since the start of the run.
pub(super) trait Conversation {
    const KIND: SocketKind;

    /// The longest that comes at once, in bytes.
    const PIECE_LEN: usize;

    /// Whether requests end with their replies; else they end when the kernel has taken them, and the run ends when the
    /// server has read all of them, so that whoever comes next is behind this.
    const IS_ANSWERED: bool = true;

    /// The length of its longest datagrams, if it sends many of that length.
    fn datagram_len(&self) -> Option<usize> {
        None
    }

    /// Requests that are not answered.
    fn in_flight(&self) -> usize;

    /// Whether one more may begin.
    fn has_room(&self) -> bool;

    /// How many requests the next message holds.
    fn next_holds(&self) -> u64 {
        1
    }

    /// The next message, which is sent at `now`. There must be room.
    fn begin(&mut self, now: u64) -> &[u8];

    /// Takes what came, and tells `run` what that ended; returns what is to be sent on account of it, which nobody answers.
    ///
    /// # Errors
    /// What is wrong with it.
    fn receive(&mut self, bytes: &[u8], run: &mut Run) -> Result<Option<&[u8]>, &'static str>;

    /// The kernel has taken everything, if that is what ends it.
    fn sent(&mut self, _run: &mut Run) {}

    /// Gives up what was sent before `sent_before`; how many those were.
    fn expire(&mut self, _sent_before: u64) -> u64 {
        0
    }
}

/// Measures.
pub(super) fn run<C: Conversation>(
    conversations: Vec<(SocketAddr, C)>,
    plan: &Plan,
) -> Result<Measurement, LoadError> {
    let fds = conversations.iter().map(|(server, _)| connect(*server, C::KIND)).collect::<Result<_, _>>()?;
    let mut ring = ring_over(fds, C::KIND, C::PIECE_LEN)?;
    for (socket, (_, conversation)) in conversations.iter().enumerate() {
        conversation.datagram_len().into_iter().for_each(|len| ring.cut_at(socket, len));
    }
    let mut driver = Driver { run: Run::start(plan), ring, conversations, going_on: Vec::new() };
    driver.run()?;
    if !C::IS_ANSWERED {
        driver.hang_up(plan.timeout())?;
    }
    let in_flight = driver.in_flight();
    Ok(driver.run.end(in_flight))
}

struct Driver<C> {
    run: Run,
    ring: Ring,
    conversations: Vec<(SocketAddr, C)>,
    /// Sockets on which requests ended in this turn, in that order; one may be there again.
    going_on: Vec<usize>,
}

impl<C: Conversation> Driver<C> {
    fn run(&mut self) -> Result<(), LoadError> {
        while !self.run.is_over(|| self.in_flight()) {
            // A socket goes on by itself once it has begun, as long as nothing is lost.
            if self.run.expires() {
                let sent_before = self.run.lost_before();
                let lost = self.conversations.iter_mut().map(|(_, socket)| socket.expire(sent_before));
                self.run.counts.lost += lost.sum::<u64>();
                (0..self.conversations.len()).try_for_each(|socket| self.begin(socket))?;
            }
            // The replies of a stream come in one piece.
            let streams =
                if C::KIND == SocketKind::Stream { self.conversations.len() as u64 } else { u64::MAX };
            self.ring.turn(self.run.wait(self.in_flight().min(streams)))?;
            self.run.tick();
            self.take_events()?;
            let mut going_on = mem::take(&mut self.going_on);
            going_on.dedup();
            going_on.drain(..).try_for_each(|socket| self.begin(socket))?;
            self.going_on = going_on;
            let is_done = |conversation: &C| conversation.in_flight() == 0 && !conversation.has_room();
            if self.conversations.iter().all(|(_, conversation)| is_done(conversation)) {
                self.run.end_now();
                break;
            }
        }
        Ok(())
    }

    fn in_flight(&self) -> u64 {
        self.conversations.iter().map(|(_, conversation)| conversation.in_flight() as u64).sum()
    }

    /// Sends the requests that a socket has room for, behind what waits.
    fn begin(&mut self, socket: usize) -> Result<(), LoadError> {
        let (server, conversation) = &mut self.conversations[socket];
        let Self { run, ring, .. } = self;
        while conversation.has_room() && run.begin(conversation.next_holds()) {
            ring.push(socket, conversation.begin(run.now)).map_err(|error| broken(*server, error))?;
        }
        ring.flush(socket).map_err(|error| broken(*server, error))
    }

    /// Takes what has happened. What follows from it is sent socket by socket.
    fn take_events(&mut self) -> Result<(), LoadError> {
        while let Some(event) = self.ring.next() {
            match event {
                Event::Received(socket) => self.receive(socket)?,
                Event::Sent(socket) if !C::IS_ANSWERED => {
                    self.conversations[socket].1.sent(&mut self.run);
                    self.going_on.push(socket);
                }
                Event::Sent(_) => {}
                Event::HungUp(socket) => return Err(self.failed(socket, "hung up")),
                Event::Failed(socket, error) => return Err(broken(self.conversations[socket].0, error)),
                Event::Accepted(_) => unreachable!("there is no listener"),
            }
        }
        Ok(())
    }

    fn receive(&mut self, socket: usize) -> Result<(), LoadError> {
        let (server, conversation) = &mut self.conversations[socket];
        let server = *server;
        let follow_up = conversation.receive(self.ring.received(), &mut self.run);
        match follow_up.map_err(|problem| LoadError::Server { server, problem })? {
            None => self.going_on.push(socket),
            Some(report) => {
                self.run.counts.reports += 1;
                self.ring.push(socket, report).map_err(|error| broken(server, error))?;
                // Together with what the socket asks next.
                self.begin(socket)?;
            }
        }
        Ok(())
    }

    /// Sends no more, and waits until the servers have read everything and hang up as well.
    fn hang_up(&mut self, timeout: Duration) -> Result<(), LoadError> {
        let (mut open, started) = (self.conversations.len(), Instant::now());
        (0..open).try_for_each(|socket| self.ring.end_output(socket))?;
        while open > 0 {
            self.ring.turn(Wait::for_one(WAIT_MAX))?;
            while let Some(event) = self.ring.next() {
                match event {
                    Event::HungUp(_) => open -= 1,
                    Event::Failed(socket, error) => {
                        return Err(broken(self.conversations[socket].0, error));
                    }
                    Event::Received(_) | Event::Sent(_) | Event::Accepted(_) => {}
                }
            }
            if started.elapsed() > timeout || self.in_flight() > 0 {
                return Err(self.failed(0, "does not read everything"));
            }
        }
        Ok(())
    }

    fn failed(&self, socket: usize, problem: &'static str) -> LoadError {
        LoadError::Server { server: self.conversations[socket].0, problem }
    }
}

fn broken(server: SocketAddr, error: io::Error) -> LoadError {
    let hung_up = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
    if hung_up { LoadError::Server { server, problem: "hung up" } } else { LoadError::at(server, error) }
}

/// What one connection asks, and what it expects.
pub(super) trait Dialogue {
    /// The next request.
    fn request(&mut self) -> &[u8];

    /// Takes the next frame, header and body; whether it answers the oldest request.
    ///
    /// # Errors
    /// What is wrong with it.
    fn reply(&mut self, frame: &[u8], counts: &mut Counts) -> Result<bool, &'static str>;
}

/// A dialogue over TCP.
pub(super) struct Connection<D> {
    dialogue: D,
    in_flight: Batches,
    input: Frames,
}

impl<D> Connection<D> {
    pub(super) fn new(dialogue: D, in_flight_max: usize) -> Self {
        Self { dialogue, in_flight: Batches::new(in_flight_max), input: Frames::default() }
    }
}

impl<D: Dialogue> Conversation for Connection<D> {
    const KIND: SocketKind = SocketKind::Stream;
    const PIECE_LEN: usize = PIECE_LEN;

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight.has_room()
    }

    fn begin(&mut self, now: u64) -> &[u8] {
        self.in_flight.begin(now);
        self.dialogue.request()
    }

    fn receive(&mut self, bytes: &[u8], run: &mut Run) -> Result<Option<&[u8]>, &'static str> {
        let (mut answers, mut problem) = (0, None);
        let split = self.input.take(bytes, |frame| match self.dialogue.reply(frame, &mut run.counts) {
            Ok(is_answer) => answers += u64::from(is_answer),
            Err(error) => problem = problem.or(Some(error)),
        });
        split.map_err(|_| "sent something that is no frame")?;
        problem.map_or(Ok(()), Err)?;
        let enough = self.in_flight.finish(answers, |since, count| run.finish(since, count));
        if enough { Ok(None) } else { Err("sent more replies than it was asked for") }
    }
}
