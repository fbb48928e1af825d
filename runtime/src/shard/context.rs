//! What the functions of a service can do on their shard: send, close, look at the clock, reach the siblings.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    pool::Pool,
    shard::mailbox::ShardHandle,
    tcp::connection::{CloseReason, ConnId, Connection, SendError, Table},
};

/// What runs on a shard at a time of its own.
pub(crate) type Tick<S> = fn(&mut S, &mut ShardContext<S>);

/// The network of one shard, handed to every function that runs there.
pub struct ShardContext<S> {
    shards: Arc<[ShardHandle<S>]>,
    index: usize,
    now: Instant,
    /// When something was last queued for a connection.
    sent_at: Option<Instant>,
    pool: Pool,
    table: Table,
    /// The connection whose frames are being served: its driver flushes anyway and needs no waking.
    pub(crate) serving: Option<ConnId>,
    /// Connections with a frame that a function was too busy for, to be offered it again.
    pub(crate) busy: Vec<ConnId>,
    /// Whether the shards drain.
    pub(crate) draining: bool,
    /// Connections that ended while draining.
    pub(crate) drained: usize,
}

impl<S> ShardContext<S> {
    pub(crate) fn new(shards: Arc<[ShardHandle<S>]>, index: usize, pool: Pool, now: Instant) -> Self {
        Self {
            shards,
            index,
            now,
            sent_at: None,
            pool,
            table: Table::default(),
            serving: None,
            busy: Vec::new(),
            draining: false,
            drained: 0,
        }
    }

    /// The time, taken once per turn of the shard.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Which shard this is.
    #[must_use]
    pub fn shard_index(&self) -> usize {
        self.index
    }

    /// A shard, this one or a sibling, to submit jobs to ([`ShardHandle::try_submit`]).
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn shard(&self, index: usize) -> &ShardHandle<S> {
        &self.shards[index]
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Queues a copy of `bytes` for `conn`, whole or not at all. What is queued in a turn is flushed together
    /// at its end.
    ///
    /// # Errors
    /// If the connection is gone, its output is at its bound, or the pool is exhausted.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), SendError> {
        self.send_vectored(conn, &[bytes])
    }

    /// Queues a copy of `parts`, one behind the other, like [`send`](Self::send): for a header and a body that do not
    /// lie together.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_vectored(&mut self, conn: ConnId, parts: &[&[u8]]) -> Result<(), SendError> {
        let connection = self.table.open_mut(conn).ok_or(SendError::Gone)?;
        connection.output.push(parts, &self.pool, self.now)?;
        self.sent_at = Some(self.now);
        if self.serving != Some(conn) {
            connection.wake();
        }
        Ok(())
    }

    /// Queues `bytes` for `conn`, whole or not at all, without a copy: for one message to many connections.
    ///
    /// # Errors
    /// If the connection is gone or its output is at its bound.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        let connection = self.table.open_mut(conn).ok_or(SendError::Gone)?;
        connection.output.push_shared(bytes, self.now)?;
        self.sent_at = Some(self.now);
        if self.serving != Some(conn) {
            connection.wake();
        }
        Ok(())
    }

    /// Closes `conn` after flushing what is queued; none of its frames is served any more. `why` goes to the
    /// `closed` hook.
    pub fn close(&mut self, conn: ConnId, why: &'static str) {
        if let Some(connection) = self.table.open_mut(conn) {
            connection.close_after_flush(CloseReason::Closed(why));
            connection.wake();
        }
    }

    /// The other end of `conn`, until its `closed` hook has run.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        self.table.get(conn).map(|connection| connection.peer)
    }

    /// This end of `conn`, until its `closed` hook has run.
    #[must_use]
    pub fn local(&self, conn: ConnId) -> Option<SocketAddr> {
        self.table.get(conn).map(|connection| connection.local)
    }

    /// Bytes that wait to be written to `conn`.
    #[must_use]
    pub fn queued(&self, conn: ConnId) -> Option<usize> {
        self.table.get(conn).map(|connection| connection.output.queued())
    }

    /// Connections of this shard, of all its servers and clients.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.table.len()
    }

    /// Their ids, in no particular order.
    pub fn connection_ids(&self) -> impl Iterator<Item = ConnId> {
        self.table.ids()
    }

    /// The shard's buffers.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether something was queued for a connection less than `wait` ago.
    pub(crate) fn has_sent_within(&self, wait: Duration) -> bool {
        self.sent_at.is_some_and(|at| self.now.saturating_duration_since(at) < wait)
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    pub(crate) fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.table.get_mut(conn)
    }
}

impl<S> fmt::Debug for ShardContext<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardContext")
            .field("shard", &self.index)
            .field("connections", &self.table.len())
            .finish_non_exhaustive()
    }
}
