//! Datagrams in batches: `recvmmsg` and `sendmmsg` over memory that is allocated once.
//!
//! nix's safe wrappers build arrays of all slots for each call; a batch is often one datagram, so these touch
//! only the slots that are used.

use std::{
    mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::RawFd,
    ptr,
};

use libc::{
    c_int, c_uint, iovec, mmsghdr, sa_family_t, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
};
use nix::errno::Errno;

/// Datagrams per system call, at most.
pub(super) const BATCH: usize = 64;

/// A reply buffer that has grown larger than this is given back after its reply.
const REPLY_LEN_KEPT: usize = 4 << 10;

const NAME_LEN: socklen_t = size_of::<sockaddr_storage>() as socklen_t;

/// Whether a receive waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    /// For a first datagram, as long as the socket's receive timeout says.
    UntilTimeout,
}

/// Receives up to [`BATCH`] datagrams at once.
pub(super) struct Inbox {
    headers: Vec<mmsghdr>,
    /// The headers point into these three. They are `Vec`s, never resized, and after `new` reached through those
    /// pointers alone.
    _names: Vec<sockaddr_storage>,
    _iovecs: Vec<iovec>,
    _buffers: Vec<u8>,
    received: usize,
}

impl Inbox {
    /// For datagrams of at most `len_max` bytes.
    pub(super) fn new(len_max: usize) -> Self {
        let mut buffers = vec![0; BATCH * len_max];
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`, a plain C struct of integers.
        let mut names: Vec<sockaddr_storage> = vec![unsafe { mem::zeroed() }; BATCH];
        let mut iovecs: Vec<iovec> = buffers
            .chunks_exact_mut(len_max)
            .map(|buffer| iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len_max })
            .collect();
        let headers = names
            .iter_mut()
            .zip(&mut iovecs)
            .map(|(name, iovec)| header(ptr::from_mut(name), NAME_LEN, ptr::from_mut(iovec)))
            .collect();
        Self { headers, _names: names, _iovecs: iovecs, _buffers: buffers, received: 0 }
    }

    /// Receives what there is and returns how many datagrams that is.
    pub(super) fn receive(&mut self, fd: RawFd, wait: Wait) -> Result<usize, Errno> {
        let flags = match wait {
            Wait::No => libc::MSG_DONTWAIT,
            Wait::UntilTimeout => libc::MSG_WAITFORONE,
        };
        for header in &mut self.headers[..mem::take(&mut self.received)] {
            header.msg_hdr.msg_namelen = NAME_LEN;
        }
        // SAFETY: each of the BATCH headers points to a name and an iovec, and that to a buffer of its length, all
        // owned by `self`, which is borrowed mutably.
        let received =
            unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), BATCH as c_uint, flags, ptr::null_mut()) };
        self.received = usize::try_from(Errno::result(received)?).unwrap_or(0);
        Ok(self.received)
    }

    /// A received datagram; `None` if it was longer than its buffer, or its sender has no internet address.
    pub(super) fn datagram(&self, index: usize) -> Option<(SocketAddr, &[u8])> {
        let header = self.headers[..self.received].get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        // SAFETY: the name lies in `self` and is a valid `sockaddr_storage` whatever the kernel wrote.
        let from = socket_addr(unsafe { &*header.msg_hdr.msg_name.cast::<sockaddr_storage>() })?;
        // SAFETY: the iovec lies in `self` and points to a buffer there, of which the kernel filled `msg_len` bytes
        // at most up to its length, the datagram not being truncated.
        let bytes = unsafe {
            let iovec = &*header.msg_hdr.msg_iov;
            std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), header.msg_len as usize)
        };
        Some((from, bytes))
    }
}

/// Collects up to [`BATCH`] replies and sends them at once.
pub(super) struct Outbox {
    replies: Vec<Reply>,
    count: usize,
    iovecs: Vec<iovec>,
    headers: Vec<mmsghdr>,
}

struct Reply {
    to: sockaddr_storage,
    to_len: socklen_t,
    bytes: Vec<u8>,
}

/// What became of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: usize,
    pub(super) unsent: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`, a plain C struct of integers.
        let nowhere: sockaddr_storage = unsafe { mem::zeroed() };
        let reply = |_| Reply { to: nowhere, to_len: 0, bytes: Vec::with_capacity(REPLY_LEN_KEPT) };
        Self {
            replies: (0..BATCH).map(reply).collect(),
            count: 0,
            iovecs: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
        }
    }

    /// An empty buffer for the next reply, which [`commit`](Self::commit) then counts in.
    ///
    /// # Panics
    /// If [`BATCH`] replies wait already.
    pub(super) fn draft(&mut self) -> &mut Vec<u8> {
        let reply = &mut self.replies[self.count].bytes;
        reply.clear();
        reply
    }

    /// The drafted reply goes to `to`; an empty one goes nowhere.
    pub(super) fn commit(&mut self, to: SocketAddr) {
        let reply = &mut self.replies[self.count];
        if !reply.bytes.is_empty() {
            reply.to_len = put_socket_addr(to, &mut reply.to);
            self.count += 1;
        }
    }

    /// Sends what was committed. What the kernel does not take at once is dropped: the sender asks again.
    pub(super) fn flush(&mut self, fd: RawFd) -> Sent {
        let count = mem::take(&mut self.count);
        if count == 0 {
            return Sent::default();
        }
        self.fill_headers(count);
        let mut result = Sent::default();
        let mut done = 0;
        while done < count {
            match send_batch(fd, &mut self.headers[done..]) {
                Ok(sent) => {
                    result.sent += sent;
                    done += sent;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    result.unsent += count - done;
                    break;
                }
                // This one cannot be sent (too long, unreachable); the next may.
                Err(_) => {
                    result.unsent += 1;
                    done += 1;
                }
            }
        }
        for reply in self.replies[..count].iter_mut().filter(|reply| reply.bytes.capacity() > REPLY_LEN_KEPT)
        {
            reply.bytes = Vec::with_capacity(REPLY_LEN_KEPT);
        }
        result
    }

    /// Points the headers at the first `count` replies.
    fn fill_headers(&mut self, count: usize) {
        self.iovecs.clear();
        self.headers.clear();
        let replies = &mut self.replies[..count];
        self.iovecs.extend(
            replies
                .iter_mut()
                .map(|reply| iovec { iov_base: reply.bytes.as_mut_ptr().cast(), iov_len: reply.bytes.len() }),
        );
        self.headers.extend(
            replies.iter_mut().zip(&mut self.iovecs).map(|(reply, iovec)| {
                header(ptr::from_mut(&mut reply.to), reply.to_len, ptr::from_mut(iovec))
            }),
        );
    }
}

/// Sends from the front of `headers`, which `fill_headers` has just filled, without waiting; how many.
fn send_batch(fd: RawFd, headers: &mut [mmsghdr]) -> Result<usize, Errno> {
    // SAFETY: each header points to an address and an iovec, and that to the bytes of a reply, all of which the
    // caller holds unchanged since they were filled in; the kernel only reads them.
    let sent =
        unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as c_uint, libc::MSG_DONTWAIT) };
    Ok(usize::try_from(Errno::result(sent)?).unwrap_or(0))
}

fn header(name: *mut sockaddr_storage, name_len: socklen_t, iovec: *mut iovec) -> mmsghdr {
    // SAFETY: all-zero bytes are a valid `mmsghdr`, a plain C struct of integers and nullable pointers.
    let mut header: mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = name.cast();
    header.msg_hdr.msg_namelen = name_len;
    header.msg_hdr.msg_iov = iovec;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Writes `addr` as the kernel has it into `name`; its length.
fn put_socket_addr(addr: SocketAddr, name: &mut sockaddr_storage) -> socklen_t {
    match addr {
        SocketAddr::V4(addr) => {
            // SAFETY: the storage is large enough for this and aligned for it, and any bytes are valid for it.
            let v4 = unsafe { &mut *ptr::from_mut(name).cast::<sockaddr_in>() };
            v4.sin_family = libc::AF_INET as sa_family_t;
            v4.sin_port = addr.port().to_be();
            v4.sin_addr.s_addr = addr.ip().to_bits().to_be();
            size_of::<sockaddr_in>() as socklen_t
        }
        SocketAddr::V6(addr) => {
            // SAFETY: as above.
            let v6 = unsafe { &mut *ptr::from_mut(name).cast::<sockaddr_in6>() };
            v6.sin6_family = libc::AF_INET6 as sa_family_t;
            v6.sin6_port = addr.port().to_be();
            v6.sin6_flowinfo = addr.flowinfo();
            v6.sin6_addr.s6_addr = addr.ip().octets();
            v6.sin6_scope_id = addr.scope_id();
            size_of::<sockaddr_in6>() as socklen_t
        }
    }
}

fn socket_addr(name: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what the storage holds, and it is large enough for it.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsRawFd};

    use lars_testkit::eventually_some;

    use super::*;

    fn pair(bind: &str) -> (UdpSocket, UdpSocket) {
        let socket = || UdpSocket::bind(bind).expect("a socket");
        let (a, b) = (socket(), socket());
        a.connect(b.local_addr().expect("bound")).expect("connect");
        (a, b)
    }

    /// The sockets of a [`pair`], when all that the first one sent has come to the second one at once: on a machine
    /// that has more to do, a part may come late.
    fn sent(bind: &str, datagrams: &[&[u8]], inbox: &mut Inbox) -> (UdpSocket, UdpSocket) {
        eventually_some("all datagrams come at once", || {
            let (sender, receiver) = pair(bind);
            for bytes in datagrams {
                sender.send(bytes).expect("send");
            }
            let all = inbox.receive(receiver.as_raw_fd(), Wait::No) == Ok(datagrams.len());
            all.then_some((sender, receiver))
        })
    }

    #[test]
    fn datagrams_come_with_their_senders_and_too_long_ones_do_not() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let mut inbox = Inbox::new(4);
            let (sender, receiver) = sent(bind, &[b"1234", b"12345", b"", b"12"], &mut inbox);
            let from = sender.local_addr().expect("bound");
            assert_eq!(inbox.datagram(0), Some((from, &b"1234"[..])));
            assert_eq!(inbox.datagram(1), None, "too long");
            assert_eq!(inbox.datagram(2), Some((from, &b""[..])));
            assert_eq!(inbox.datagram(3), Some((from, &b"12"[..])));
            assert_eq!(inbox.datagram(4), None, "not received");
            assert_eq!(inbox.receive(receiver.as_raw_fd(), Wait::No), Err(Errno::EAGAIN));
            assert_eq!(inbox.datagram(0), None, "the batch before is gone");
        }
    }

    #[test]
    fn replies_go_to_whom_they_are_for() {
        let (a, b) = pair("127.0.0.1:0");
        let out = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut outbox = Outbox::new();
        for round in 0..3 {
            for (index, to) in [&a, &b, &a].into_iter().enumerate() {
                outbox.draft().extend([round, index as u8]);
                outbox.commit(to.local_addr().expect("bound"));
            }
            outbox.draft();
            outbox.commit(a.local_addr().expect("bound"));
            assert_eq!(outbox.flush(out.as_raw_fd()), Sent { sent: 3, unsent: 0 });
        }
        let mut buffer = [0; 8];
        let len = b.recv(&mut buffer).expect("a reply");
        assert_eq!(buffer[..len], [0, 1]);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_does_not_hold_up_the_others() {
        let (a, _b) = pair("127.0.0.1:0");
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = receiver.local_addr().expect("bound");
        let out = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut outbox = Outbox::new();
        for len in [1, 70_000, 65_507] {
            outbox.draft().resize(len, 1);
            outbox.commit(to);
        }
        assert_eq!(outbox.flush(out.as_raw_fd()), Sent { sent: 2, unsent: 1 });
        let mut buffer = vec![0; 65_507];
        assert_eq!(receiver.recv(&mut buffer).expect("the first"), 1);
        assert_eq!(receiver.recv(&mut buffer).expect("the last"), 65_507);
        drop(a);
    }
}
