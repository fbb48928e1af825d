//! The accepting thread of a TCP server: admits connections within bounds and deals them out to the shards.
//!
//! Connections are accepted here and not with glommio, whose accepted streams leak their descriptor when
//! dropped and lack CLOEXEC.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{SockFlag, accept4},
    },
};
use socket2::{SockRef, Socket};

use crate::{
    log_throttle::LogThrottle,
    shard::local::Shard,
    shard::mailbox::ShardHandle,
    tcp::driver,
    tcp::places::{Permit, Places, Refusal},
    tcp::service::Service,
    tcp::stats::{TcpCounters, TcpStats},
};

/// Waits after accepting has failed.
const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// So many errors of connections that ended before they were accepted are taken for that.
const ERRORS_IN_A_ROW_MAX: u32 = 16;

/// Between two log lines about the same.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// One server's accepting, seen from outside its thread.
pub(crate) struct Acceptor {
    places: Arc<Places>,
    /// Written by the thread.
    counters: TcpCounters,
    stopped: AtomicBool,
    wake: EventFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Acceptor {
    pub(super) fn new(places: Places) -> io::Result<Self> {
        Ok(Self {
            places: Arc::new(places),
            counters: TcpCounters::default(),
            stopped: AtomicBool::new(false),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            thread: Mutex::default(),
        })
    }

    pub(super) fn start<S: 'static>(
        self: &Arc<Self>,
        socket: Socket,
        shards: Vec<ShardHandle<S>>,
        service: Arc<Service<S>>,
    ) -> io::Result<()> {
        let accepting = Accepting::new(Arc::clone(self), socket, shards, service)?;
        let thread = thread::Builder::new().name("accept".into()).spawn(move || accepting.run())?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Closes the listener and joins the thread.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
        // The counter of an eventfd does not overflow from one write.
        let _ = self.wake.write(1);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("an accepting thread panicked");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// What was accepted and refused, and how many connections there are.
    pub(super) fn stats(&self) -> TcpStats {
        TcpStats { open: self.places.taken() as u64, ..self.counters.load() }
    }
}

/// What the thread owns.
struct Accepting<S: 'static> {
    acceptor: Arc<Acceptor>,
    socket: Socket,
    shards: Vec<ShardHandle<S>>,
    service: Arc<Service<S>>,
    next: usize,
    /// A descriptor to accept with when there is no other, so that those who wait are told by closing.
    spare: Option<OwnedFd>,
    refusals: LogThrottle,
    failures: LogThrottle,
}

impl<S: 'static> Accepting<S> {
    fn new(
        acceptor: Arc<Acceptor>,
        socket: Socket,
        shards: Vec<ShardHandle<S>>,
        service: Arc<Service<S>>,
    ) -> io::Result<Self> {
        let spare = Some(socket.as_fd().try_clone_to_owned()?);
        let (refusals, failures) = (LogThrottle::each(LOG_INTERVAL), LogThrottle::each(LOG_INTERVAL));
        Ok(Self { acceptor, socket, shards, service, next: 0, spare, refusals, failures })
    }

    fn run(mut self) {
        let mut wait = WAIT_MIN;
        while self.wait_for_connections() {
            match self.accept_all(accept) {
                Ok(()) => wait = WAIT_MIN,
                Err(errno) => {
                    if let Some(suppressed) = self.failures.due(Instant::now()) {
                        let service = &self.service.name;
                        tracing::warn!(service, %errno, suppressed, "cannot accept connections");
                    }
                    self.wait_out(wait);
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    /// Whether there may be some; false when stopped.
    fn wait_for_connections(&self) -> bool {
        let wake = PollFd::new(self.acceptor.wake.as_fd(), PollFlags::POLLIN);
        let listener = PollFd::new(self.socket.as_fd(), PollFlags::POLLIN);
        // An interrupted wait is a short one.
        let _ = poll(&mut [wake, listener], PollTimeout::NONE);
        !self.acceptor.is_stopped()
    }

    /// Waits out a failure, unless stopped.
    fn wait_out(&self, wait: Duration) {
        let wake = PollFd::new(self.acceptor.wake.as_fd(), PollFlags::POLLIN);
        let _ = poll(&mut [wake], PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO));
    }

    /// Accepts what waits.
    ///
    /// # Errors
    /// When it had better be tried again after a while.
    fn accept_all(&mut self, accept: impl Fn(&Socket) -> Result<OwnedFd, Errno>) -> Result<(), Errno> {
        let mut errors_in_a_row = 0;
        while !self.acceptor.is_stopped() {
            match accept(&self.socket) {
                Ok(connection) => {
                    errors_in_a_row = 0;
                    self.admit(connection);
                }
                Err(Errno::EAGAIN) => break,
                Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => {
                    self.acceptor.counters.shortages.add(1);
                    // The kernel says so also where nothing waits.
                    if !self.refuse_one(errno, &accept)? {
                        break;
                    }
                }
                Err(errno) if is_of_connection(errno) && errors_in_a_row < ERRORS_IN_A_ROW_MAX => {
                    self.acceptor.counters.accept_errors.add(1);
                    errors_in_a_row += 1;
                }
                Err(errno) => {
                    self.acceptor.counters.accept_errors.add(1);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, connection: OwnedFd) {
        let peer = || SockRef::from(&connection).peer_addr().ok()?.as_socket().map(|addr| addr.ip());
        match Places::take(&self.acceptor.places, peer) {
            Ok(permit) => self.hand_over(connection, permit),
            Err(refusal) => self.refuse(connection, refusal),
        }
    }

    fn hand_over(&mut self, connection: OwnedFd, permit: Permit) {
        self.acceptor.counters.accepted.add(1);
        let shard = &self.shards[self.next % self.shards.len()];
        self.next = self.next.wrapping_add(1);
        let service = Arc::clone(&self.service);
        // A stopped shard drops the connection, which closes it.
        let _ = shard.install(move |shard| open(shard, &service, connection, permit));
    }

    fn refuse(&mut self, connection: OwnedFd, refusal: Refusal) {
        self.acceptor.counters.refused.add(1);
        drop(connection);
        if let Some(suppressed) = self.refusals.due(Instant::now()) {
            let service = &self.service.name;
            tracing::warn!(service, suppressed, "connection refused: {refusal}");
        }
    }

    /// Out of descriptors: accepts one with the spare and closes it. In the backlog it would wait for an answer.
    /// Whether there was one.
    fn refuse_one(
        &mut self,
        errno: Errno,
        accept: impl Fn(&Socket) -> Result<OwnedFd, Errno>,
    ) -> Result<bool, Errno> {
        drop(self.spare.take());
        let accepted = accept(&self.socket);
        // Another thread may have been quicker; then there is a next time.
        let was_quick = !matches!(accepted, Err(Errno::EMFILE | Errno::ENFILE));
        let found_one = !matches!(accepted, Err(Errno::EAGAIN));
        if let Ok(connection) = accepted {
            self.refuse(connection, Refusal::OutOfDescriptors);
        }
        self.spare = self.socket.as_fd().try_clone_to_owned().ok();
        if was_quick && self.spare.is_some() { Ok(found_one) } else { Err(errno) }
    }
}

fn accept(socket: &Socket) -> Result<OwnedFd, Errno> {
    let fd = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The connection ended before it was accepted, or its packets brought an error along; accept(2) says to treat these
/// as a wish to retry.
fn is_of_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
    )
}

/// On the shard: has the connection driven until it ends.
fn open<S: 'static>(shard: &Rc<Shard<S>>, service: &Arc<Service<S>>, connection: OwnedFd, permit: Permit) {
    if shard.is_ending() {
        return;
    }
    match driver::open(shard, service, connection) {
        Ok(driven) => shard.spawn(async move {
            driven.await;
            drop(permit);
        }),
        Err(error) => tracing::debug!(service = service.name, %error, "connection ended before it began"),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, net::Ipv4Addr};

    use super::*;
    use crate::{Handlers, TcpServerConfig};

    fn accepting() -> Accepting<()> {
        let config = TcpServerConfig::new((Ipv4Addr::LOCALHOST, 0).into());
        let socket = crate::tcp::listener::listen(config.listen).expect("a port");
        let handlers = Handlers::new(|_| Ok::<_, std::fmt::Error>(None));
        let service = Service::new("server".into(), handlers, config.limits(), 0);
        let acceptor = Acceptor::new(Places::new(1, None)).expect("an eventfd");
        Accepting::new(Arc::new(acceptor), socket, Vec::new(), service).expect("a descriptor")
    }

    /// Accepting when the kernel answers first this, then that nothing waits.
    fn check(errors: &[Errno], expect: Result<(), Errno>, tries: usize, counted: u64) {
        let (mut accepting, tried) = (accepting(), Cell::new(0));
        let result = accepting.accept_all(|_| {
            tried.set(tried.get() + 1);
            Err(errors.get(tried.get() - 1).copied().unwrap_or(Errno::EAGAIN))
        });
        assert_eq!((result, tried.get()), (expect, tries));
        assert_eq!(accepting.acceptor.stats().accept_errors, counted);
    }

    #[test]
    fn errors_that_repeat_have_it_wait_and_are_counted() {
        check(&[], Ok(()), 1, 0);
        check(&[Errno::ECONNABORTED; 3], Ok(()), 4, 3);
        check(&[Errno::EPERM; 1000], Err(Errno::EPERM), 17, 17);
        check(&[Errno::ENOMEM; 1000], Err(Errno::ENOMEM), 1, 1);
    }

    #[test]
    fn out_of_descriptors_it_tries_once_more_with_its_spare_one() {
        check(&[Errno::EMFILE], Ok(()), 2, 0);
        check(&[Errno::EMFILE, Errno::ECONNABORTED, Errno::ENFILE], Ok(()), 4, 0);
        check(&[Errno::EMFILE; 1000], Err(Errno::EMFILE), 2, 0);
    }
}
