//! Requests and replies: one thread, some sockets, each with some requests in flight. What is asked is a
//! [`Conversation`]; over TCP, where replies come in order, it is made of a [`Dialogue`].

use std::{collections::VecDeque, io, mem, net::SocketAddr};

use super::{
    LoadError,
    in_flight::Batches,
    measurement::Measurement,
    run::{Plan, Run},
    sockets::{Input, PIECE_LEN, Sockets, connect},
};
use crate::{frames::Frames, ring::SocketKind};

/// What one socket asks, and what it has asked. Times are nanoseconds since the start of the run.
pub(super) trait Conversation {
    const KIND: SocketKind;

    /// The longest that comes at once, in bytes.
    const PIECE_LEN: usize;

    /// The length of its longest datagrams, if it sends many of that length.
    fn datagram_len(&self) -> Option<usize> {
        None
    }

    /// Requests that are not answered.
    fn in_flight(&self) -> usize;

    /// Whether one more may begin.
    fn has_room(&self) -> bool;

    /// The next request, which is sent at `now`. There must be room.
    fn begin(&mut self, now: u64) -> &[u8];

    /// Takes what came, and says what that ended; returns what is to be sent on account of it, which nobody answers.
    ///
    /// # Errors
    /// What is wrong with it.
    fn receive(&mut self, bytes: &[u8], ended: &mut Ended<'_>) -> Result<Option<&[u8]>, &'static str>;

    /// Gives up what was sent before `sent_before`; how many those were.
    fn expire(&mut self, _sent_before: u64) -> u64 {
        0
    }
}

/// Hears what has ended now.
pub(super) struct Ended<'a> {
    run: &'a mut Run,
    now: u64,
}

impl<'a> Ended<'a> {
    pub(super) fn now(run: &'a mut Run, now: u64) -> Self {
        Self { run, now }
    }

    /// `count` requests that were sent at `since`.
    pub(super) fn answered(&mut self, since: u64, count: u64) {
        self.run.finish(since, self.now, count);
    }

    /// So many of the answers said no.
    pub(super) fn refused(&mut self, count: u64) {
        self.run.counts.refusals += count;
    }

    /// So much came that answers nothing.
    pub(super) fn unasked(&mut self, count: u64) {
        self.run.counts.stale += count;
    }
}

/// Measures.
pub(super) fn run<C: Conversation>(
    conversations: Vec<(SocketAddr, C)>,
    plan: &Plan,
) -> Result<Measurement, LoadError> {
    let fds = conversations.iter().map(|(server, _)| connect(*server, C::KIND)).collect::<Result<_, _>>()?;
    let mut sockets = Sockets::over(fds, C::KIND, C::PIECE_LEN)?;
    for (socket, (_, conversation)) in conversations.iter().enumerate() {
        conversation.datagram_len().into_iter().for_each(|len| sockets.cut_at(socket, len));
    }
    let answered = Answered::none_of(conversations.len());
    Driver { run: Run::start(plan), sockets, conversations, answered }.run()
}

struct Driver<C> {
    run: Run,
    sockets: Sockets,
    conversations: Vec<(SocketAddr, C)>,
    /// Sockets whose replies were taken in this turn, and that have sent nothing since.
    answered: Answered,
}

impl<C: Conversation> Driver<C> {
    fn run(mut self) -> Result<Measurement, LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || self.in_flight()) {
            // A socket goes on by itself once it has begun, as long as nothing is lost.
            if self.run.expires(now) {
                self.expire(now);
                (0..self.conversations.len()).try_for_each(|socket| self.begin(socket, now))?;
            }
            // The replies of a stream come in one piece.
            let streams =
                if C::KIND == SocketKind::Stream { self.conversations.len() as u64 } else { u64::MAX };
            self.sockets.wait(self.run.wait(self.in_flight().min(streams)))?;
            now = self.run.now();
            self.take_replies(now)?;
            while let Some(socket) = self.answered.take() {
                self.begin(socket, now)?;
            }
        }
        let in_flight = self.in_flight();
        Ok(self.run.end(in_flight))
    }

    fn in_flight(&self) -> u64 {
        self.conversations.iter().map(|(_, conversation)| conversation.in_flight() as u64).sum()
    }

    /// Sends the requests that a socket has room for, behind what waits.
    fn begin(&mut self, socket: usize, now: u64) -> Result<(), LoadError> {
        let (server, conversation) = &mut self.conversations[socket];
        while conversation.has_room() && self.run.begin(now) {
            self.sockets.push(socket, conversation.begin(now)).map_err(|error| broken(*server, error))?;
        }
        self.sockets.flush(socket).map_err(|error| broken(*server, error))
    }

    /// Takes what has come. What follows from it is sent socket by socket.
    fn take_replies(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some((socket, input)) = self.sockets.next() {
            let (server, conversation) = &mut self.conversations[socket];
            let server = *server;
            let bytes = match input.map_err(|error| broken(server, error))? {
                Input::Bytes(bytes) => bytes,
                Input::Sent => continue,
                Input::HungUp => return Err(LoadError::Server { server, problem: "hung up" }),
            };
            let follow_up = conversation.receive(bytes, &mut Ended::now(&mut self.run, now));
            let follow_up = follow_up.map_err(|problem| LoadError::Server { server, problem })?;
            if let Some(report) = follow_up {
                self.run.counts.reports += 1;
                self.sockets.push(socket, report).map_err(|error| broken(server, error))?;
                // Together with what the socket asks next.
                self.begin(socket, now)?;
            } else {
                self.answered.add(socket);
            }
        }
        Ok(())
    }

    fn expire(&mut self, now: u64) {
        let sent_before = self.run.lost_before(now);
        let lost = self.conversations.iter_mut().map(|(_, conversation)| conversation.expire(sent_before));
        self.run.counts.lost += lost.sum::<u64>();
    }
}

pub(super) fn broken(server: SocketAddr, error: io::Error) -> LoadError {
    let hung_up = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
    if hung_up { LoadError::Server { server, problem: "hung up" } } else { LoadError::at(server, error) }
}

/// Who may go on: indices in the order in which they came, each once.
struct Answered {
    order: VecDeque<usize>,
    is_in: Vec<bool>,
}

impl Answered {
    fn none_of(count: usize) -> Self {
        Self { order: VecDeque::with_capacity(count), is_in: vec![false; count] }
    }

    fn add(&mut self, index: usize) {
        if !mem::replace(&mut self.is_in[index], true) {
            self.order.push_back(index);
        }
    }

    fn take(&mut self) -> Option<usize> {
        let index = self.order.pop_front()?;
        self.is_in[index] = false;
        Some(index)
    }
}

/// What one connection asks, and what it expects.
pub(super) trait Dialogue {
    /// The next request.
    fn request(&mut self) -> &[u8];

    /// Takes the next frame, header and body.
    ///
    /// # Errors
    /// What is wrong with it.
    fn reply(&mut self, frame: &[u8]) -> Result<Reply, &'static str>;
}

/// What a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The answer to the oldest request.
    Answer,
    /// The answer to the oldest request, and it says no.
    Refusal,
    /// Nothing that was asked for.
    Unasked,
}

/// A dialogue over TCP.
pub(super) struct Connection<D> {
    dialogue: D,
    in_flight: Batches,
    in_flight_max: usize,
    input: Frames,
}

impl<D> Connection<D> {
    pub(super) fn new(dialogue: D, in_flight_max: usize) -> Self {
        Self { dialogue, in_flight: Batches::default(), in_flight_max, input: Frames::default() }
    }
}

impl<D: Dialogue> Conversation for Connection<D> {
    const KIND: SocketKind = SocketKind::Stream;
    const PIECE_LEN: usize = PIECE_LEN;

    fn in_flight(&self) -> usize {
        self.in_flight.len() as usize
    }

    fn has_room(&self) -> bool {
        self.in_flight() < self.in_flight_max
    }

    fn begin(&mut self, now: u64) -> &[u8] {
        self.in_flight.begin(now, 1);
        self.dialogue.request()
    }

    fn receive(&mut self, bytes: &[u8], ended: &mut Ended<'_>) -> Result<Option<&[u8]>, &'static str> {
        let (mut answers, mut refusals, mut unasked, mut problem) = (0, 0, 0, None);
        let split = self.input.take(bytes, |frame| match self.dialogue.reply(frame) {
            Ok(Reply::Answer) => answers += 1,
            Ok(Reply::Refusal) => (answers, refusals) = (answers + 1, refusals + 1),
            Ok(Reply::Unasked) => unasked += 1,
            Err(error) => problem = problem.or(Some(error)),
        });
        split.map_err(|_| "sent something that is no frame")?;
        problem.map_or(Ok(()), Err)?;
        ended.refused(refusals);
        ended.unasked(unasked);
        let enough = self.in_flight.finish(answers, |since, count| ended.answered(since, count));
        if enough { Ok(None) } else { Err("sent more replies than it was asked for") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_once_and_may_come_again() {
        let mut answered = Answered::none_of(3);
        [2, 0, 2, 0].into_iter().for_each(|index| answered.add(index));
        assert_eq!((answered.take(), answered.take(), answered.take()), (Some(2), Some(0), None));
        answered.add(2);
        assert_eq!((answered.take(), answered.take()), (Some(2), None));
    }
}
