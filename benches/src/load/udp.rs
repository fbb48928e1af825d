//! Requests and replies over UDP: one thread, some sockets, each with some requests in flight. What is asked is an
//! [`Exchange`].

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::AtomicU64,
};

use nix::errno::Errno;

use super::{
    LoadError,
    answered::Answered,
    measurement::Measurement,
    run::{Plan, Run},
    transport::{Caller, Datagrams, EpollDatagrams, IoKind, RingDatagrams, Sockets},
};
use crate::datagrams::DATAGRAM_LEN_MAX;

/// What one socket asks, and what it has asked.
pub(super) trait Exchange {
    /// Where the answers are.
    fn server(&self) -> SocketAddr;

    /// The length of its longest datagrams, if it sends many of that length: the kernel can cut a batch of them, with
    /// a shorter one at the end, by itself.
    fn datagram_len(&self) -> Option<usize>;

    /// The longest answer, in bytes.
    fn reply_len_max(&self) -> usize {
        DATAGRAM_LEN_MAX
    }

    /// Requests that are not answered.
    fn in_flight(&self) -> usize;

    /// Whether one more may begin.
    fn has_room(&self) -> bool;

    /// The next request. Its latency counts from `since`, and it is sent at `now`. There must be room.
    fn begin(&mut self, since: u64, now: u64) -> &[u8];

    /// Takes a datagram; `None` if it answers nothing that is in flight.
    fn finish(&mut self, datagram: &[u8]) -> Option<Answer<'_>>;

    /// Gives up what was sent before `sent_before`; how many those were.
    fn expire(&mut self, sent_before: u64) -> u64;
}

/// What an answer means.
pub(super) struct Answer<'a> {
    /// From when its latency counts.
    pub(super) since: u64,
    /// Whether it says no.
    pub(super) is_refusal: bool,
    /// What is to be sent on account of it; nobody answers that.
    pub(super) follow_up: Option<&'a [u8]>,
}

/// Measures. `progress` is kept at the number of replies.
pub(super) fn run<E: Exchange>(
    exchanges: Vec<E>,
    plan: &Plan,
    progress: &AtomicU64,
) -> Result<Measurement, LoadError> {
    match plan.io {
        IoKind::Ring => Driver::<E, RingDatagrams>::over(exchanges, plan, progress)?.run(),
        IoKind::Epoll => Driver::<E, EpollDatagrams>::over(exchanges, plan, progress)?.run(),
    }
}

struct Driver<'a, E, D> {
    run: Run<'a>,
    sockets: D,
    exchanges: Vec<E>,
    /// Sockets whose replies were taken in this turn, and that have sent nothing since.
    answered: Answered,
    /// Who is first to begin operations that have become due.
    first: usize,
}

impl<'a, E: Exchange, D: Datagrams + Sockets<Caller>> Driver<'a, E, D> {
    fn over(exchanges: Vec<E>, plan: &Plan, progress: &'a AtomicU64) -> Result<Self, LoadError> {
        let callers = exchanges.iter().map(|exchange| {
            let (datagram_len, reply_len_max) = (exchange.datagram_len(), exchange.reply_len_max());
            Ok(Caller { socket: connect(exchange.server())?, datagram_len, reply_len_max })
        });
        let sockets = D::over(callers.collect::<io::Result<_>>()?)?;
        Ok(Self {
            run: Run::start(plan, progress),
            sockets,
            answered: Answered::none_of(exchanges.len()),
            exchanges,
            first: 0,
        })
    }

    fn run(mut self) -> Result<Measurement, LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || self.in_flight()) {
            if self.run.expires(now) {
                self.expire(now);
            }
            self.begin_everywhere(now)?;
            self.sockets.wait(self.run.patience(now, self.in_flight()))?;
            now = self.run.now();
            self.take_replies(now)?;
            self.begin_after_replies(now)?;
        }
        let in_flight = self.in_flight();
        Ok(self.run.end(in_flight))
    }

    fn in_flight(&self) -> u64 {
        self.exchanges.iter().map(|exchange| exchange.in_flight() as u64).sum()
    }

    /// In a closed loop a socket goes on by itself once it has begun, as long as nothing is lost; in an open
    /// one the clock says when.
    fn begin_everywhere(&mut self, now: u64) -> Result<(), LoadError> {
        if !self.run.begins_by_itself(now) {
            return Ok(());
        }
        let count = self.exchanges.len();
        self.first = (self.first + 1) % count;
        (0..count).try_for_each(|index| self.begin((self.first + index) % count, now))
    }

    /// Sends the requests that a socket has room for and the schedule lets begin, behind what waits.
    fn begin(&mut self, socket: usize, now: u64) -> Result<(), LoadError> {
        let exchange = &mut self.exchanges[socket];
        while exchange.has_room()
            && let Some(since) = self.run.begin(now)
        {
            let pushed = self.sockets.push(socket, exchange.begin(since, now));
            pushed.map_err(|error| failed(exchange, error))?;
            self.run.counts.requests += 1;
        }
        self.sockets.flush(socket).map_err(|error| failed(exchange, error))
    }

    /// Takes the replies that have come. What follows from them is sent socket by socket.
    fn take_replies(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some((socket, datagram)) = self.sockets.next(|socket| self.exchanges[socket].in_flight()) {
            let exchange = &mut self.exchanges[socket];
            let datagram = datagram.map_err(|error| failed(exchange, error))?;
            let Some(answer) = exchange.finish(datagram) else {
                self.run.counts.stale += 1;
                continue;
            };
            self.run.finish(answer.since, now, 1);
            self.run.counts.refusals += u64::from(answer.is_refusal);
            if let Some(report) = answer.follow_up {
                self.run.counts.reports += 1;
                let pushed = self.sockets.push(socket, report);
                pushed.map_err(|error| failed(&self.exchanges[socket], error))?;
                // Together with what the socket asks next.
                self.begin(socket, now)?;
            } else {
                self.answered.add(socket);
            }
        }
        Ok(())
    }

    fn begin_after_replies(&mut self, now: u64) -> Result<(), LoadError> {
        while let Some(socket) = self.answered.take() {
            self.begin(socket, now)?;
        }
        Ok(())
    }

    fn expire(&mut self, now: u64) {
        let sent_before = self.run.lost_before(now);
        let lost = self.exchanges.iter_mut().map(|exchange| exchange.expire(sent_before));
        self.run.counts.lost += lost.sum::<u64>();
    }
}

fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let local = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

fn failed(exchange: &impl Exchange, error: Errno) -> LoadError {
    LoadError::at(exchange.server(), error.into())
}
