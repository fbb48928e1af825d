//! What all connections of a server or client share.

use std::sync::Arc;

use crate::{tcp::connection::Limits, tcp::handlers::Handlers, tcp::stats::Counters};

/// The longest frame, unless the service says otherwise.
pub(crate) const DEFAULT_FRAME_LEN_MAX: usize = 65_535;

/// What the connections of one server, or of one client, have in common.
pub(crate) struct Service<S> {
    /// For log lines: "server 127.0.0.1:7778" or "client of dns.example:7778".
    pub(crate) name: String,
    pub(crate) handlers: Handlers<S>,
    pub(crate) limits: Limits,
    /// One per shard.
    pub(crate) counters: Arc<[Counters]>,
}

impl<S> Service<S> {
    pub(crate) fn new(name: String, handlers: Handlers<S>, limits: Limits, shards: usize) -> Arc<Self> {
        Arc::new(Self { name, handlers, limits, counters: Counters::per_shard(shards) })
    }
}
