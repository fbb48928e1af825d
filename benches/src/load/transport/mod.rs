//! How the load generator's bytes come and go. [`Datagrams`] and [`Streams`] each stand on a private io_uring
//! ([`ring`]), which costs one system call a turn whatever the number of sockets, and on epoll ([`epoll`]), for
//! kernels without and to check one against the other.

mod epoll;
mod poller;
mod ring;

use std::{
    io,
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use nix::errno::Errno;

pub(super) use self::{
    epoll::{EpollDatagrams, EpollStreams},
    poller::Poller,
    ring::{RingDatagrams, RingStreams},
};
use crate::ring::Ring;

/// What a load generator does its IO with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IoKind {
    /// A private io_uring; Linux 6.1 or later
    Ring,
    /// epoll, and a system call for each read and write
    Epoll,
}

impl IoKind {
    /// The cheaper one that this kernel has.
    pub fn best() -> Self {
        if Ring::is_supported() { Self::Ring } else { Self::Epoll }
    }
}

/// How a wait for replies goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How many replies are worth waking for. epoll does not know more than 1.
    pub(super) replies: usize,
    /// How long to wait for so many; then one is enough.
    pub(super) gather: Duration,
    /// How long to wait at all.
    pub(super) max: Duration,
}

/// Connected UDP sockets, numbered from 0.
pub(super) trait Datagrams {
    /// Adds a datagram to those that `socket` sends with the next flush, which must be of the same socket. A batch that
    /// is full goes out by itself.
    ///
    /// # Errors
    /// If the socket fails. What the kernel has no room for is lost, as the network may lose it.
    fn push(&mut self, socket: usize, datagram: &[u8]) -> Result<(), Errno>;

    /// Sends what was pushed, at the latest with the next wait.
    ///
    /// # Errors
    /// As of [`push`](Self::push).
    fn flush(&mut self, socket: usize) -> Result<(), Errno>;

    /// Waits for datagrams.
    ///
    /// # Errors
    /// If the kernel does.
    fn wait(&mut self, patience: Patience) -> io::Result<()>;

    /// The next datagram that has come, or the error of a socket. `expected` says how many a socket may have: what is
    /// not expected need not be looked for.
    fn next(&mut self, expected: impl Fn(usize) -> usize) -> Option<(usize, Result<&[u8], Errno>)>;
}

/// What a connection has to say.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// There are no more.
    HungUp,
}

/// Connections, numbered from 0.
pub(super) trait Streams {
    /// What is to be sent next on a connection; add to it.
    fn output(&mut self, connection: usize) -> &mut Vec<u8>;

    /// Sends the output as far as it goes, at the latest with the next wait; the rest follows by itself.
    ///
    /// # Errors
    /// If the connection fails.
    fn flush(&mut self, connection: usize) -> io::Result<()>;

    /// Waits for input.
    ///
    /// # Errors
    /// If the kernel does.
    fn wait(&mut self, patience: Patience) -> io::Result<()>;

    /// The next input that has come.
    fn next(&mut self) -> Option<(usize, io::Result<Input<'_>>)>;
}

/// What sockets are made of.
pub(super) trait Sockets<S>: Sized {
    /// Takes them.
    ///
    /// # Errors
    /// If the kernel does not.
    fn over(sockets: Vec<S>) -> io::Result<Self>;
}

/// A connected UDP socket, and what is known of what it will send.
pub(super) struct Caller {
    pub(super) socket: UdpSocket,
    /// The length of its longest datagrams, if it sends many of that length: the kernel can cut a batch of them, with
    /// a shorter one at the end, by itself.
    pub(super) datagram_len: Option<usize>,
    /// The longest datagram that it will receive, in bytes.
    pub(super) reply_len_max: usize,
}

/// The longest datagram that any of them will receive.
fn reply_len_max(callers: &[Caller]) -> usize {
    callers.iter().map(|caller| caller.reply_len_max).max().unwrap_or(1)
}

/// A connection that does not block.
pub(super) type Stream = TcpStream;
