//! Requests and replies over TCP: one thread, some connections, each with some requests in flight that are answered in
//! order. One write carries all that are due on a connection. What is asked is a [`Dialogue`].

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::atomic::AtomicU64,
};

use super::{
    LoadError,
    answered::Answered,
    in_flight::Batches,
    measurement::Measurement,
    run::{Plan, Run},
    transport::{EpollStreams, Input, IoKind, RingStreams, Sockets, Stream, Streams},
};
use crate::frames::Frames;

/// What one connection asks, and what it expects.
pub(super) trait Dialogue {
    /// Appends the next request.
    fn request(&mut self, out: &mut Vec<u8>);

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

/// Measures. `progress` is kept at the number of replies.
pub(super) fn run<D: Dialogue>(
    server: SocketAddr,
    dialogues: Vec<D>,
    in_flight: usize,
    plan: &Plan,
    progress: &AtomicU64,
) -> Result<Measurement, LoadError> {
    let streams: Vec<Stream> = dialogues.iter().map(|_| connect(server)).collect::<Result<_, _>>()?;
    let connections = dialogues.into_iter().map(Connection::new).collect();
    let talk = Talk { server, connections, in_flight_max: in_flight as u64 };
    match plan.io {
        IoKind::Ring => talk.over(RingStreams::over(streams)?, plan, progress),
        IoKind::Epoll => talk.over(EpollStreams::over(streams)?, plan, progress),
    }
}

fn connect(server: SocketAddr) -> Result<Stream, LoadError> {
    let stream = TcpStream::connect(server).map_err(|error| LoadError::at(server, error))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Talk<D> {
    server: SocketAddr,
    connections: Vec<Connection<D>>,
    in_flight_max: u64,
}

impl<D: Dialogue> Talk<D> {
    fn over<S: Streams>(
        self,
        streams: S,
        plan: &Plan,
        progress: &AtomicU64,
    ) -> Result<Measurement, LoadError> {
        let answered = Answered::none_of(self.connections.len());
        let run = Run::start(plan, progress);
        Driver { run, streams, talk: self, answered, first: 0 }.run()
    }
}

/// One connection.
struct Connection<D> {
    dialogue: D,
    in_flight: Batches,
    input: Frames,
}

impl<D: Dialogue> Connection<D> {
    fn new(dialogue: D) -> Self {
        Self { dialogue, in_flight: Batches::default(), input: Frames::default() }
    }

    /// How many answers came in `bytes`, how many of them say no, and how many frames were none.
    fn take(&mut self, bytes: &[u8]) -> Result<Taken, &'static str> {
        let (mut taken, mut problem) = (Taken::default(), None);
        let split = self.input.take(bytes, |frame| match self.dialogue.reply(frame) {
            Ok(Reply::Answer) => taken.answers += 1,
            Ok(Reply::Refusal) => (taken.answers, taken.refusals) = (taken.answers + 1, taken.refusals + 1),
            Ok(Reply::Unasked) => taken.unasked += 1,
            Err(error) => problem = problem.or(Some(error)),
        });
        split.map_err(|_| "sent something that is no frame")?;
        problem.map_or(Ok(taken), Err)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    answers: u64,
    refusals: u64,
    unasked: u64,
}

struct Driver<'a, D, S> {
    run: Run<'a>,
    streams: S,
    talk: Talk<D>,
    /// Connections whose replies were taken in this turn.
    answered: Answered,
    /// Who is first to begin operations that have become due.
    first: usize,
}

impl<D: Dialogue, S: Streams> Driver<'_, D, S> {
    fn run(mut self) -> Result<Measurement, LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || self.in_flight()) {
            self.begin_everywhere(now)?;
            // The replies of a connection come in one piece.
            let pieces = self.in_flight().min(self.talk.connections.len() as u64);
            self.streams.wait(self.run.patience(now, pieces))?;
            now = self.run.now();
            self.take_replies(now)?;
            self.begin_after_replies(now)?;
        }
        let in_flight = self.in_flight();
        Ok(self.run.end(in_flight))
    }

    fn in_flight(&self) -> u64 {
        self.talk.connections.iter().map(|connection| connection.in_flight.len()).sum()
    }

    fn begin_everywhere(&mut self, now: u64) -> Result<(), LoadError> {
        if !self.run.begins_by_itself(now) {
            return Ok(());
        }
        let count = self.talk.connections.len();
        self.first = (self.first + 1) % count;
        (0..count).try_for_each(|index| self.begin((self.first + index) % count, now))
    }

    /// Sends the requests that a connection has room for and the schedule lets begin.
    fn begin(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.talk.connections[index];
        let output = self.streams.output(index);
        while connection.in_flight.len() < self.talk.in_flight_max
            && let Some(since) = self.run.begin(now)
        {
            connection.in_flight.begin(since, 1);
            connection.dialogue.request(output);
            self.run.counts.requests += 1;
        }
        self.streams.flush(index).map_err(|error| broken(self.talk.server, error))
    }

    fn take_replies(&mut self, now: u64) -> Result<(), LoadError> {
        let Self { run, streams, talk, answered, .. } = self;
        let server = talk.server;
        while let Some((index, input)) = streams.next() {
            let connection = &mut talk.connections[index];
            let Input::Bytes(bytes) = input.map_err(|error| broken(server, error))? else {
                return Err(LoadError::Server { server, problem: "hung up" });
            };
            let taken = connection.take(bytes).map_err(|problem| LoadError::Server { server, problem })?;
            run.counts.refusals += taken.refusals;
            run.counts.stale += taken.unasked;
            let finished = |since, count| run.finish(since, now, count);
            if !connection.in_flight.finish(taken.answers, finished) {
                return Err(LoadError::Server { server, problem: "sent more replies than it was asked for" });
            }
            answered.add(index);
        }
        Ok(())
    }

    fn begin_after_replies(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some(index) = self.answered.take() {
            self.begin(index, now)?;
        }
        Ok(())
    }
}

fn broken(server: SocketAddr, error: io::Error) -> LoadError {
    let hung_up = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
    if hung_up { LoadError::Server { server, problem: "hung up" } } else { LoadError::at(server, error) }
}
