//! Datagrams are sent back as they came, by one thread that waits in the kernel.

use std::{
    io,
    net::{SocketAddrV4, UdpSocket},
};

use nix::sys::socket::{MsgFlags, SockaddrIn};

use super::announce;
use crate::datagrams::{BATCH, DATAGRAM_LEN_MAX, Inbox, Outbox};

/// How datagrams come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UdpKind {
    /// One at a time: recvfrom, sendto
    Recvfrom,
    /// Those that are there, up to 64: recvmmsg, sendmmsg
    Mmsg,
}

/// Echoes until the process is ended.
///
/// # Errors
/// If the socket fails.
pub fn echo(kind: UdpKind, listen: SocketAddrV4) -> io::Result<()> {
    let socket = UdpSocket::bind(listen)?;
    announce(socket.local_addr()?)?;
    match kind {
        UdpKind::Recvfrom => echo_singly(&socket),
        UdpKind::Mmsg => echo_batches(&socket),
    }
}

fn echo_singly(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..len], from)?;
    }
}

fn echo_batches(socket: &UdpSocket) -> io::Result<()> {
    let (mut inbox, mut outbox) = (Inbox::<SockaddrIn>::default(), Outbox::default());
    loop {
        inbox.receive(socket, BATCH, MsgFlags::MSG_WAITFORONE)?;
        for (datagram, from) in inbox.datagrams() {
            outbox.push(from, |bytes| bytes.extend_from_slice(datagram));
        }
        outbox.flush(socket, MsgFlags::empty())?;
    }
}
