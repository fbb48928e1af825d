//! Datagrams in batches: `recvmmsg` and `sendmmsg` over memory that is allocated once.
//!
//! nix's safe wrappers build arrays of all slots for each call; a batch is often one datagram, so these touch
//! only the slots that are used.

use std::{
    mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::RawFd,
    ptr,
};

use libc::{
    c_int, c_uint, cmsghdr, iovec, mmsghdr, sa_family_t, sockaddr_in, sockaddr_in6, sockaddr_storage,
    socklen_t,
};
use nix::errno::Errno;

/// Datagrams per system call, at most.
pub(super) const BATCH: usize = 64;

/// Longer replies go singly: segments must fit the network's packets.
const SEGMENT_LEN_MAX: usize = 512;

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

/// What sends messages.
pub(super) trait SendMessages {
    /// Sends from the front of these messages, without waiting; how many.
    ///
    /// # Safety
    /// What the messages point to can be read.
    unsafe fn send(&mut self, fd: RawFd, messages: &mut [mmsghdr]) -> Result<usize, Errno>;
}

/// `sendmmsg(2)`.
pub(super) struct Kernel;

impl SendMessages for Kernel {
    unsafe fn send(&mut self, fd: RawFd, messages: &mut [mmsghdr]) -> Result<usize, Errno> {
        let len = messages.len() as c_uint;
        // SAFETY: the caller vouches for what the messages point to. The kernel only reads that.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), len, libc::MSG_DONTWAIT) };
        Ok(usize::try_from(Errno::result(sent)?).unwrap_or(0))
    }
}

/// Collects up to [`BATCH`] replies and sends them at once.
///
/// Replies to one address that follow each other and are equally long, as a client with many requests under way
/// gets them, go through the kernel as one datagram that it cuts apart at the end (`UDP_SEGMENT`): with four of
/// them, half the work.
pub(super) struct Outbox<K = Kernel> {
    kernel: K,
    replies: Vec<Reply>,
    count: usize,
    /// What is being sent: the messages point into the other two, and to the addresses and bytes of the replies.
    messages: Vec<mmsghdr>,
    iovecs: Vec<iovec>,
    segments: Vec<Segments>,
    /// Whether the kernel can cut messages apart, as far as is known.
    joins: bool,
    /// Replies before this one go singly, because they were refused together.
    singly_before: usize,
}

struct Reply {
    to: SocketAddr,
    name: sockaddr_storage,
    name_len: socklen_t,
    bytes: Vec<u8>,
}

impl Reply {
    /// Whether the two may be segments of one message.
    fn joins(&self, next: &Self) -> bool {
        self.bytes.len() == next.bytes.len() && self.bytes.len() <= SEGMENT_LEN_MAX && self.to == next.to
    }
}

/// The control message that has the kernel cut a message apart.
#[repr(C)]
struct Segments {
    header: cmsghdr,
    len: u16,
}

impl Segments {
    fn of_len(len: usize) -> Self {
        // SAFETY: all-zero bytes are a valid `cmsghdr`, a plain C struct of integers.
        let mut header: cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = (mem::offset_of!(Self, len) + size_of::<u16>()) as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        Self { header, len: len as u16 }
    }
}

/// What became of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: usize,
    pub(super) unsent: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self::over(Kernel)
    }
}

impl<K: SendMessages> Outbox<K> {
    fn over(kernel: K) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`, a plain C struct of integers.
        let name: sockaddr_storage = unsafe { mem::zeroed() };
        let bytes = || Vec::with_capacity(REPLY_LEN_KEPT);
        Self {
            kernel,
            replies: (0..BATCH).map(|_| Reply { to: nowhere, name, name_len: 0, bytes: bytes() }).collect(),
            count: 0,
            messages: Vec::with_capacity(BATCH),
            iovecs: Vec::with_capacity(BATCH),
            segments: Vec::with_capacity(BATCH),
            joins: true,
            singly_before: 0,
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
            reply.to = to;
            reply.name_len = put_socket_addr(to, &mut reply.name);
            self.count += 1;
        }
    }

    /// Sends what was committed. What the kernel does not take at once is dropped: the sender asks again.
    pub(super) fn flush(&mut self, fd: RawFd) -> Sent {
        let count = mem::take(&mut self.count);
        let mut result = Sent::default();
        let mut done = 0;
        self.singly_before = 0;
        while done < count {
            match self.send(fd, done..count) {
                Ok(sent) => {
                    result.sent += sent;
                    done += sent;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    result.unsent += count - done;
                    break;
                }
                Err(errno) if self.run_len(done..count) > 1 => {
                    // Not every network device can cut messages apart, with every kernel. Other errors are of one
                    // of these replies, or of the socket.
                    self.joins &= !matches!(errno, Errno::EIO | Errno::EOPNOTSUPP);
                    self.singly_before = done + self.run_len(done..count);
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

    /// Sends from the front of these replies, without waiting; how many.
    fn send(&mut self, fd: RawFd, replies: Range<usize>) -> Result<usize, Errno> {
        self.fill_messages(replies);
        // SAFETY: each message points to an address, iovecs and perhaps a control message, and the iovecs to the
        // bytes of replies; all are in `self` and unchanged since they were filled in.
        let sent = unsafe { self.kernel.send(fd, &mut self.messages)? };
        Ok(self.messages[..sent].iter().map(|message| message.msg_hdr.msg_iovlen).sum())
    }

    /// Makes messages of these replies.
    fn fill_messages(&mut self, replies: Range<usize>) {
        self.messages.clear();
        self.segments.clear();
        self.iovecs.clear();
        self.iovecs.extend(
            self.replies[replies.clone()]
                .iter_mut()
                .map(|reply| iovec { iov_base: reply.bytes.as_mut_ptr().cast(), iov_len: reply.bytes.len() }),
        );
        // None of the three grows from here on, so that pointers into them stay good.
        let iovecs = self.iovecs.as_mut_ptr();
        let mut next = replies.start;
        while next < replies.end {
            let run_len = self.run_len(next..replies.end);
            let reply = &mut self.replies[next];
            let (name, len) = (ptr::from_mut(&mut reply.name), reply.bytes.len());
            // SAFETY: there is an iovec for each of the replies.
            let mut message = header(name, reply.name_len, unsafe { iovecs.add(next - replies.start) });
            if run_len > 1 {
                self.segments.push(Segments::of_len(len));
                message.msg_hdr.msg_iovlen = run_len;
                message.msg_hdr.msg_control =
                    self.segments.last_mut().map_or(ptr::null_mut(), ptr::from_mut).cast();
                message.msg_hdr.msg_controllen = size_of::<Segments>() as _;
            }
            self.messages.push(message);
            next += run_len;
        }
    }

    /// How many of these replies, from the front, go in one message.
    fn run_len(&self, replies: Range<usize>) -> usize {
        let may_join = self.joins && replies.start >= self.singly_before;
        match &self.replies[replies] {
            [first, others @ ..] if may_join => {
                1 + others.iter().take_while(|other| first.joins(other)).count()
            }
            _ => 1,
        }
    }
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
    use std::{collections::VecDeque, net::UdpSocket, os::fd::AsRawFd, time::Duration};

    use lars_testkit::eventually_some;
    use proptest::prelude::*;

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

    /// Sends replies, as who gets them and their bytes, and returns what each of the two then has.
    fn exchange(outbox: &mut Outbox, bind: &str, replies: &[(usize, Vec<u8>)]) -> [Vec<Vec<u8>>; 2] {
        let receivers = [(); 2].map(|()| UdpSocket::bind(bind).expect("a socket"));
        let out = UdpSocket::bind(bind).expect("a socket");
        for (receiver, bytes) in replies {
            outbox.draft().extend(bytes);
            outbox.commit(receivers[*receiver].local_addr().expect("bound"));
        }
        assert_eq!(outbox.flush(out.as_raw_fd()), Sent { sent: replies.len(), unsent: 0 });
        let mut received = [vec![], vec![]];
        for (to, _) in replies {
            let mut buffer = [0; 2_048];
            receivers[*to].set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
            let len = receivers[*to].recv(&mut buffer).expect("a reply");
            received[*to].push(buffer[..len].to_vec());
        }
        received
    }

    proptest! {
        #[test]
        fn joined_replies_arrive_as_single_ones_do(
            replies in prop::collection::vec((0..2_usize, prop::sample::select(vec![1_usize, 24, 512, 513])), 1..=BATCH),
            v6: bool,
        ) {
            let bind = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
            let replies: Vec<_> =
                replies.into_iter().zip(0_u8..).map(|((to, len), n)| (to, vec![n; len])).collect();
            let (mut joining, mut single) = (Outbox::new(), Outbox { joins: false, ..Outbox::new() });
            let received = exchange(&mut joining, bind, &replies);
            prop_assert_eq!(received, exchange(&mut single, bind, &replies));
            prop_assert!(joining.joins, "the kernel refused nothing");
        }
    }

    #[test]
    fn a_run_of_replies_is_one_message() {
        let mut outbox = Outbox::new();
        for (port, len) in [(1, 8), (1, 8), (1, 8), (2, 8), (1, 8), (1, 9), (1, 9), (1, 600), (1, 600)] {
            outbox.draft().resize(len, 0);
            outbox.commit(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        outbox.fill_messages(0..9);
        let runs: Vec<usize> = outbox.messages.iter().map(|message| message.msg_hdr.msg_iovlen).collect();
        assert_eq!(runs, [3, 1, 1, 2, 1, 1]);
    }

    /// Notes how many replies each message has, and refuses what it is told to.
    #[derive(Default)]
    struct Script {
        /// Of each call, first to last; `None` and all after them: takes everything.
        refusals: VecDeque<Option<Errno>>,
        calls: Vec<Vec<usize>>,
    }

    impl SendMessages for Script {
        unsafe fn send(&mut self, _: RawFd, messages: &mut [mmsghdr]) -> Result<usize, Errno> {
            self.calls.push(messages.iter().map(|message| message.msg_hdr.msg_iovlen).collect());
            self.refusals.pop_front().flatten().map_or(Ok(messages.len()), Err)
        }
    }

    /// Three replies to one address and two to another, of which one message each is made, where the kernel says this;
    /// what it is then given, and what came of it.
    fn check_refusals(refusals: &[Errno], calls: &[&[usize]], expect: Sent) -> Outbox<Script> {
        let refusals = refusals.iter().copied().map(Some).collect();
        let mut outbox = Outbox::over(Script { refusals, ..Script::default() });
        commit_two_runs(&mut outbox);
        assert_eq!(outbox.flush(-1), expect);
        assert_eq!(outbox.kernel.calls, calls);
        outbox.kernel.calls.clear();
        outbox
    }

    fn commit_two_runs(outbox: &mut Outbox<Script>) {
        for port in [1, 1, 1, 2, 2] {
            outbox.draft().extend(b"reply");
            outbox.commit(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }

    #[test]
    fn a_run_that_is_refused_goes_singly_and_others_joined() {
        for errno in [Errno::EINVAL, Errno::EMSGSIZE, Errno::ECONNREFUSED, Errno::EPERM] {
            let all = Sent { sent: 5, unsent: 0 };
            let mut outbox = check_refusals(&[errno], &[&[3, 2], &[1, 1, 1, 2]], all);
            commit_two_runs(&mut outbox);
            assert_eq!(outbox.flush(-1), all);
            assert_eq!(outbox.kernel.calls, [[3, 2]], "{errno} was about that run");

            let four = Sent { sent: 4, unsent: 1 };
            check_refusals(&[errno, errno], &[&[3, 2], &[1, 1, 1, 2], &[1, 1, 2]], four);
        }
    }

    #[test]
    fn nothing_is_joined_where_the_kernel_cannot_cut_it_apart() {
        for errno in [Errno::EIO, Errno::EOPNOTSUPP] {
            let all = Sent { sent: 5, unsent: 0 };
            let mut outbox = check_refusals(&[errno], &[&[3, 2], &[1; 5]], all);
            commit_two_runs(&mut outbox);
            assert_eq!(outbox.flush(-1), all);
            assert_eq!(outbox.kernel.calls, [[1; 5]], "{errno} is for good");
        }
    }

    #[test]
    fn a_full_socket_buffer_drops_what_is_left() {
        check_refusals(&[Errno::EINTR, Errno::EAGAIN], &[&[3, 2], &[3, 2]], Sent { sent: 0, unsent: 5 });
    }
}
