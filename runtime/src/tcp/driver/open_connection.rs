//! What is the same about every connection, whichever way its bytes are moved: its beginning, its hooks, its end.

use std::{
    io,
    net::TcpStream,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};

use crate::{
    shard::context::ShardContext,
    shard::local::Shard,
    tcp::connection::CloseReason,
    tcp::connection::{ConnId, Connection, DriverWaker, Limits, Step},
    tcp::serve::serve,
    tcp::service::Service,
    tcp::stats::Counters,
};

/// A peer that has been silent for so long is asked whether it is there …
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// … at this interval, and taken for gone after so many questions without an answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// The kernel counts in milliseconds, and takes zero for its own 15 minutes.
const UNACKNOWLEDGED_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// An open connection of a shard.
pub(super) struct OpenConnection<S> {
    pub(super) service: Arc<Service<S>>,
    pub(super) id: ConnId,
}

impl<S> Clone for OpenConnection<S> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), id: self.id }
    }
}

impl<S: 'static> OpenConnection<S> {
    /// Prepares the socket and puts the connection into the shard's table. Its `opened` hook has to follow.
    ///
    /// # Errors
    /// If the peer is gone already.
    pub(super) fn begin(
        shard: &Shard<S>,
        service: &Arc<Service<S>>,
        socket: &TcpStream,
        waker: DriverWaker,
    ) -> io::Result<Self> {
        let (peer, local) = (socket.peer_addr()?, socket.local_addr()?);
        prepare(socket, &service.limits)?;
        let mut conn = Connection::new(peer, local, service.limits, Instant::now());
        conn.waker = waker;
        let id = shard.net.borrow_mut().table().insert(conn);
        Ok(Self { service: Arc::clone(service), id })
    }

    pub(super) fn run_opened(&self, shard: &Shard<S>) {
        self.counters(shard).opened.add(1);
        if let Some(opened) = self.service.handlers.opened {
            self.hook(shard, "opened", |state, net| opened(state, net, self.id));
        }
    }

    pub(super) fn counters(&self, shard: &Shard<S>) -> &Counters {
        &self.service.counters[shard.index()]
    }

    /// Runs a hook; a panic costs this connection.
    fn hook(&self, shard: &Shard<S>, what: &str, f: impl FnOnce(&mut S, &mut ShardContext<S>)) {
        if shard.turn(what, f).is_none() {
            self.counters(shard).panics.add(1);
            self.with(shard, |conn| conn.close_after_flush(CloseReason::Panicked));
        }
    }

    /// Runs `f` with the connection, unless that is gone.
    pub(super) fn with<R>(&self, shard: &Shard<S>, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        shard.net.borrow_mut().connection(self.id).map(f)
    }

    /// What is to be done now.
    pub(super) fn step(&self, shard: &Shard<S>) -> Step {
        let mut net = shard.net.borrow_mut();
        let draining = net.draining;
        net.connection(self.id).map_or(Step::Close(CloseReason::Cut), |conn| conn.step(draining))
    }

    /// Serves what is held, and `fresh` behind it.
    pub(super) fn serve(&self, shard: &Rc<Shard<S>>, fresh: &[u8]) {
        shard.with(|state, net| serve(state, net, &self.service, self.id, fresh));
        shard.retry_busy();
    }

    /// To be called after something was written.
    pub(super) fn tell_writable(&self, shard: &Shard<S>) {
        if self.with(shard, |conn| conn.output.take_writable()) == Some(true)
            && let Some(writable) = self.service.handlers.writable
        {
            self.hook(shard, "writable", |state, net| writable(state, net, self.id));
        }
    }

    /// Runs the `closed` hook, and takes the connection out of the table. The socket is still open.
    pub(super) fn end(&self, shard: &Shard<S>, reason: &CloseReason) -> Option<Connection> {
        let counters = self.counters(shard);
        counters.closed.add(1);
        self.with(shard, |conn| conn.cut(reason.clone()));
        self.log_misbehaviour(shard, reason);
        if reason.is_timeout() {
            counters.timed_out.add(1);
        }
        if let Some(closed) = self.service.handlers.closed {
            self.hook(shard, "closed", |state, net| closed(state, net, self.id, reason));
        }
        let mut net = shard.net.borrow_mut();
        let connection = net.table().remove(self.id);
        if net.draining && *reason != CloseReason::Cut {
            net.drained += 1;
        }
        drop(net);
        shard.connection_ended();
        connection
    }

    /// Logs what was wrong with the peer, if it was.
    fn log_misbehaviour(&self, shard: &Shard<S>, reason: &CloseReason) {
        if (reason.is_malformed() || *reason == CloseReason::Panicked)
            && let Some(suppressed) = shard.peer_log.borrow_mut().due(Instant::now())
        {
            let peer = shard.net.borrow().peer(self.id);
            tracing::warn!(service = self.service.name, ?peer, %reason, suppressed, "connection closed");
        }
    }
}

/// Sets what a connection needs of its socket.
fn prepare(socket: &TcpStream, limits: &Limits) -> io::Result<()> {
    // Replies are coalesced here; delaying them in the kernel only adds latency.
    socket.set_nodelay(true)?;
    // A peer that lost its power says no goodbye. Where nothing is sent to it, nothing else would ever notice.
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL);
    let options = SockRef::from(socket);
    options.set_tcp_keepalive(&keepalive.with_retries(PROBES))?;
    // While something is sent that nobody acknowledges, no probes are, and the kernel tries for about 15 minutes.
    options.set_tcp_user_timeout(Some(limits.unacknowledged_timeout.max(UNACKNOWLEDGED_TIMEOUT_MIN)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_peer_that_vanished_will_be_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let limits = Limits {
            frame_len_max: 1,
            output_bytes_max: 1,
            idle_timeout: None,
            stall_timeout: Duration::MAX,
            frame_timeout: Duration::MAX,
            unacknowledged_timeout: Duration::from_secs(30),
        };
        prepare(&socket, &limits).expect("prepared");
        let options = SockRef::from(&socket);
        assert!(options.keepalive().expect("an option"));
        assert_eq!(options.tcp_keepalive_time().expect("an option"), PROBE_AFTER);
        assert_eq!(options.tcp_keepalive_interval().expect("an option"), PROBE_INTERVAL);
        assert_eq!(options.tcp_keepalive_retries().expect("an option"), PROBES);
        assert_eq!(options.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(30)));
        assert!(socket.nodelay().expect("an option"));
    }
}
