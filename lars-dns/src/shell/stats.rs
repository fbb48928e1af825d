//! What is counted. Shards count in plain integers of their own, the polling thread in these atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What has been counted since the start, and what there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Connections now.
    pub connections: usize,
    /// Subscriptions of these connections now.
    pub subscriptions: usize,
    /// Queries that were answered.
    pub queries: u64,
    /// Queries that were answered without a subscription, because their connection has too many.
    pub subscriptions_refused: u64,
    /// Changed modules handed to a subscriber's connection.
    pub pushes: u64,
    /// Times a changed module had to wait for its subscriber to take bytes.
    pub pushes_deferred: u64,
    /// Times a module got more hosts than fit a frame.
    pub truncated_routes: u64,
    /// Steps that the store failed.
    pub store_errors: u64,
    /// Times everything was loaded, the first time included.
    pub full_reloads: u64,
    /// Rows of the last load that name no host.
    pub rows_skipped: u64,
    /// Modules with hosts now.
    pub modules: usize,
    /// Hosts of all modules now.
    pub hosts: usize,
    /// `RouteVersion.version` as it was last read.
    pub version: u64,
}

/// One shard's share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShardStats {
    pub(super) connections: usize,
    pub(super) subscriptions: usize,
    pub(super) queries: u64,
    pub(super) subscriptions_refused: u64,
    pub(super) pushes: u64,
    pub(super) pushes_deferred: u64,
}

/// The polling thread's share: written there, read anywhere.
#[derive(Debug, Default)]
pub(super) struct PollStats {
    pub(super) truncated_routes: AtomicU64,
    pub(super) store_errors: AtomicU64,
    pub(super) full_reloads: AtomicU64,
    pub(super) loads_discarded: AtomicU64,
    pub(super) rows_skipped: AtomicU64,
    pub(super) modules: AtomicU64,
    pub(super) hosts: AtomicU64,
    pub(super) version: AtomicU64,
}

impl DnsStats {
    pub(super) fn of_polling(poll: &PollStats) -> Self {
        Self {
            truncated_routes: poll.truncated_routes.load(Relaxed),
            store_errors: poll.store_errors.load(Relaxed),
            full_reloads: poll.full_reloads.load(Relaxed),
            rows_skipped: poll.rows_skipped.load(Relaxed),
            modules: poll.modules.load(Relaxed) as usize,
            hosts: poll.hosts.load(Relaxed) as usize,
            version: poll.version.load(Relaxed),
            ..Self::default()
        }
    }

    #[must_use]
    pub(super) fn plus(mut self, shard: ShardStats) -> Self {
        self.connections += shard.connections;
        self.subscriptions += shard.subscriptions;
        self.queries += shard.queries;
        self.subscriptions_refused += shard.subscriptions_refused;
        self.pushes += shard.pushes;
        self.pushes_deferred += shard.pushes_deferred;
        self
    }
}
