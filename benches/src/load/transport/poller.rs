//! [`Poller`]: waits for sockets.

use std::{io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

/// Sockets that are reported at once, at most; the others come next time.
const EVENTS_MAX: usize = 1_024;

/// epoll waits in whole milliseconds; shorter waits than this are timed to the nanosecond, for one more call.
const COARSE_MIN: Duration = Duration::from_millis(20);

/// An epoll instance.
pub(in crate::load) struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    ready: usize,
}

impl Poller {
    pub(in crate::load) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS_MAX], ready: 0 })
    }

    /// Reports `socket` as `token` while `flags` hold.
    pub(in crate::load) fn add(&self, socket: impl AsFd, token: usize, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.add(socket, EpollEvent::new(flags, token as u64))?)
    }

    /// Waits until a socket is ready, `wait_max` at most; how many are.
    pub(in crate::load) fn wait(&mut self, wait_max: Duration) -> io::Result<usize> {
        let timeout = if wait_max.is_zero() {
            EpollTimeout::ZERO
        } else if wait_max < COARSE_MIN {
            let mut poll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
            interruptible(ppoll(&mut poll, Some(wait_max.into()), None).map(|_| 0))?;
            EpollTimeout::ZERO
        } else {
            EpollTimeout::from(u16::try_from(wait_max.as_millis()).unwrap_or(u16::MAX))
        };
        self.ready = interruptible(self.epoll.wait(&mut self.events, timeout))?;
        Ok(self.ready)
    }

    /// The token of a socket that is ready.
    pub(in crate::load) fn token(&self, index: usize) -> usize {
        self.events[..self.ready][index].data() as usize
    }
}

/// A signal ends a wait early, and that is all.
fn interruptible(result: nix::Result<usize>) -> io::Result<usize> {
    match result {
        Err(Errno::EINTR) => Ok(0),
        other => Ok(other?),
    }
}
