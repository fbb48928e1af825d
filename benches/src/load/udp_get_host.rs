//! Lookups over UDP, as programs ask their agent: `GetHostRequest`s on connected sockets, from one thread.
//!
//! An echo server does as well: its reply reads as a `GetHostResponse` without a host, and counts as one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::AtomicU64,
};

use lars_proto::{
    ModuleId, frame,
    messages::{GetHostRequest, GetHostResponse, HostInfo, MessageId, ReportRequest, RetCode},
};
use nix::{
    errno::Errno,
    sys::{epoll::EpollFlags, socket::MsgFlags},
};
use prost::Message;

use super::{
    LoadError,
    in_flight::Slots,
    measurement::Measurement,
    poller::Poller,
    run::{Plan, Run},
};
use crate::datagrams::{BATCH, Inbox, Outbox};

/// How lookups are made.
#[derive(Clone, Debug)]
pub struct GetHostLoad {
    /// The agent.
    pub ip: IpAddr,
    /// Its first port.
    pub base_port: u16,
    /// How many ports it has.
    pub shards: u16,
    /// Which modules are asked for; the sockets take turns.
    pub modules: Vec<ModuleId>,
    /// How many sockets ask, each for one module.
    pub sockets: usize,
    /// Lookups of each socket that are under way at the same time, at most.
    pub in_flight: usize,
    /// Whether each host that was returned is reported as having worked.
    pub report: bool,
}

impl GetHostLoad {
    /// The port of the agent's shard that owns `module`.
    fn addr(&self, module: ModuleId) -> SocketAddr {
        let shard = module.shard(usize::from(self.shards));
        SocketAddr::new(self.ip, self.base_port.saturating_add(shard as u16))
    }

    /// Measures. `progress` is kept at the number of replies.
    ///
    /// # Errors
    /// If there is nobody to ask, or the sockets fail.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let modules = self.modules.iter().cycle().take(self.sockets);
        let callers = modules.map(|module| Caller::new(self, *module)).collect::<io::Result<Vec<_>>>()?;
        let poller = Poller::new()?;
        for (token, caller) in callers.iter().enumerate() {
            // Edges cost less than levels, and no reply stays unread that somebody waits for.
            poller.add(&caller.socket, token, EpollFlags::EPOLLIN | EpollFlags::EPOLLET)?;
        }
        let driver = Driver {
            run: Run::start(plan, progress),
            poller,
            callers,
            report: self.report,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            first: 0,
        };
        driver.run()
    }
}

/// One socket.
struct Caller {
    socket: UdpSocket,
    addr: SocketAddr,
    module: ModuleId,
    in_flight: Slots,
}

impl Caller {
    fn new(load: &GetHostLoad, module: ModuleId) -> io::Result<Self> {
        let addr = load.addr(module);
        let local = match addr.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(addr)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, addr, module, in_flight: Slots::new(load.in_flight) })
    }

    fn flush(&self, outbox: &mut Outbox<()>) -> Result<(), LoadError> {
        match outbox.flush(&self.socket, MsgFlags::MSG_DONTWAIT) {
            // The network may drop datagrams, and so may this machine.
            Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: Errno) -> LoadError {
        LoadError::at(self.addr, error.into())
    }

    fn request(&self, seq: u32, out: &mut Vec<u8>) {
        let ModuleId { modid, cmdid } = self.module;
        put(MessageId::GetHostRequest, &GetHostRequest { seq, modid, cmdid }, out);
    }

    fn report(&self, host: HostInfo, out: &mut Vec<u8>) {
        let ModuleId { modid, cmdid } = self.module;
        let report = ReportRequest { modid, cmdid, host: Some(host), retcode: RetCode::Succ as i32 };
        put(MessageId::ReportRequest, &report, out);
    }
}

fn put(id: MessageId, message: &impl Message, out: &mut Vec<u8>) {
    frame::encode(id, message, out).expect("these messages are short");
}

/// The reply in a datagram, if it is one.
fn decode(datagram: &[u8]) -> Option<GetHostResponse> {
    let frame = frame::decode_datagram(datagram).ok()?;
    GetHostResponse::decode(frame.body).ok()
}

struct Driver<'a> {
    run: Run<'a>,
    poller: Poller,
    callers: Vec<Caller>,
    report: bool,
    inbox: Inbox<()>,
    outbox: Outbox<()>,
    /// Who is first to begin operations that have become due.
    first: usize,
}

impl Driver<'_> {
    fn run(mut self) -> Result<Measurement, LoadError> {
        let mut now = self.run.now();
        while !self.run.is_over(now, || in_flight(&self.callers)) {
            if self.run.expires(now) {
                self.expire(now);
            }
            self.begin_everywhere(now)?;
            let ready = self.poller.wait(self.run.wait_max(now))?;
            for index in 0..ready {
                let caller = self.poller.token(index);
                now = self.run.now();
                self.take_replies(caller, now)?;
                self.begin(caller, now)?;
            }
            now = self.run.now();
        }
        Ok(self.run.end(in_flight(&self.callers)))
    }

    /// In a closed loop a socket goes on by itself once it has begun, as long as nothing is lost; in an open
    /// one the clock says when.
    fn begin_everywhere(&mut self, now: u64) -> Result<(), LoadError> {
        if !self.run.begins_by_itself(now) {
            return Ok(());
        }
        let count = self.callers.len();
        self.first = (self.first + 1) % count;
        for index in 0..count {
            self.begin((self.first + index) % count, now)?;
        }
        Ok(())
    }

    /// Sends the requests that a socket has room for and the schedule lets begin, behind what waits.
    fn begin(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        let caller = &mut self.callers[index];
        while caller.in_flight.has_room()
            && let Some(since) = self.run.begin(now)
            && let Some(seq) = caller.in_flight.begin(since, now)
        {
            if self.outbox.is_full() {
                caller.flush(&mut self.outbox)?;
            }
            self.outbox.push(None, |out| caller.request(seq, out));
            self.run.counts.requests += 1;
        }
        caller.flush(&mut self.outbox)
    }

    /// Takes the replies that a socket has; the reports that follow from them wait for the next flush.
    fn take_replies(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        while !self.callers[index].in_flight.is_empty() {
            let caller = &self.callers[index];
            let max = caller.in_flight.len().min(BATCH);
            match self.inbox.receive_connected(&caller.socket, max) {
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(caller.failed(error)),
                Ok(received) => {
                    self.count_replies(index, now)?;
                    if received < max {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts the datagrams that were received last.
    fn count_replies(&mut self, index: usize, now: u64) -> Result<(), LoadError> {
        let Self { run, callers, inbox, outbox, report, .. } = self;
        let caller = &mut callers[index];
        for (datagram, _) in inbox.datagrams() {
            let reply = decode(datagram);
            let since = reply.as_ref().and_then(|reply| caller.in_flight.finish(reply.seq));
            let (Some(reply), Some(since)) = (reply, since) else {
                run.counts.stale += 1;
                continue;
            };
            run.finish(since, now, 1);
            run.counts.refusals += u64::from(reply.retcode != RetCode::Succ as i32);
            if let Some(host) = reply.host.filter(|_| *report) {
                if outbox.is_full() {
                    caller.flush(outbox)?;
                }
                outbox.push(None, |out| caller.report(host, out));
                run.counts.reports += 1;
            }
        }
        Ok(())
    }

    fn expire(&mut self, now: u64) {
        let sent_before = self.run.lost_before(now);
        let lost = self.callers.iter_mut().map(|caller| caller.in_flight.expire(sent_before));
        self.run.counts.lost += lost.sum::<u64>();
    }
}

fn in_flight(callers: &[Caller]) -> u64 {
    callers.iter().map(|caller| caller.in_flight.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_asked_for_at_their_shard() {
        let load = GetHostLoad {
            ip: Ipv4Addr::LOCALHOST.into(),
            base_port: 8888,
            shards: 3,
            modules: Vec::new(),
            sockets: 1,
            in_flight: 1,
            report: false,
        };
        assert_eq!(load.addr(ModuleId::new(1, 1)).to_string(), "127.0.0.1:8890");
        assert_eq!(load.addr(ModuleId::new(-1, 0)).to_string(), "127.0.0.1:8890");
    }

    #[test]
    fn an_echo_reads_as_a_reply_with_the_same_number() {
        let mut request = Vec::new();
        put(MessageId::GetHostRequest, &GetHostRequest { seq: 7, modid: 1, cmdid: 2 }, &mut request);
        let reply = decode(&request).expect("a reply");
        assert_eq!((reply.seq, reply.retcode, reply.host), (7, 0, None));
        assert_eq!(decode(b"nonsense"), None);
    }
}
