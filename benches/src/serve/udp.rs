//! Datagrams are sent back as they came, by one thread that waits in the kernel.

use std::{
    array,
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::announce;

/// Datagrams per system call, at most.
const BATCH: usize = 64;

/// Longer datagrams are cut off. The longest, routes aside, have some 50 bytes.
const DATAGRAM_LEN_MAX: usize = 2_048;

/// How datagrams come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UdpKind {
    /// One at a time: recvfrom, sendto
    Recvfrom,
    /// Those that are there, up to 64: recvmmsg, sendmmsg
    Mmsg,
}

/// Echoes until the process is ended.
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

/// A single one goes by the cheaper `sendto`.
fn echo_batches(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = vec![0; BATCH * DATAGRAM_LEN_MAX];
    let mut received: Vec<(usize, Option<SockaddrIn>)> = Vec::with_capacity(BATCH);
    let (mut from, mut to) = (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
    loop {
        let mut buffers = bytes.chunks_exact_mut(DATAGRAM_LEN_MAX);
        let mut slices: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let results = recvmmsg(socket.as_raw_fd(), &mut from, slices.iter_mut(), flags, None)?;
        received.clear();
        received.extend(results.map(|datagram| (datagram.bytes, datagram.address)));
        if let [(len, Some(caller))] = received[..] {
            socket.send_to(&bytes[..len], SocketAddrV4::new(caller.ip(), caller.port()))?;
            continue;
        }
        let mut datagrams = received.iter().zip(bytes.chunks_exact(DATAGRAM_LEN_MAX));
        let slices: [_; BATCH] = array::from_fn(|_| {
            let datagram = datagrams.next().map(|((len, _), buffer)| &buffer[..*len]);
            [IoSlice::new(datagram.unwrap_or_default())]
        });
        let slices = slices.iter().take(received.len());
        let callers: [_; BATCH] = array::from_fn(|n| received.get(n).and_then(|(_, caller)| *caller));
        sendmmsg(socket.as_raw_fd(), &mut to, slices, &callers[..received.len()], [], MsgFlags::empty())?;
    }
}
