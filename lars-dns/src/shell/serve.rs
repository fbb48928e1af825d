//! One shard: answers queries from its pointer to the routes, and pushes changes to its subscribers.

use std::sync::Arc;

use lars_proto::{
    ModuleId, frame,
    messages::{GetRouteRequest, MessageId},
    route::{self, RouteReply},
};
use lars_runtime::{CloseReason, ConnId, Flow, Handlers, SendError, ShardContext};
use prost::Message;

use super::stats::ShardStats;
use crate::core::{
    push::Push,
    snapshot::Snapshot,
    subscriptions::{Subscribed, Subscriptions},
};

/// The state of a shard.
pub(super) struct Shard {
    snapshot: Arc<Snapshot>,
    subscriptions: Subscriptions<ConnId>,
    stats: ShardStats,
    /// The response being encoded; kept, so that a query allocates nothing.
    response: Vec<u8>,
    /// The subscribers being pushed to; kept for the same reason.
    ready: Vec<ConnId>,
}

/// What a shard does with its connections.
pub(super) fn handlers() -> Handlers<Shard> {
    Handlers::new(frame::next)
        .on(MessageId::GetRouteRequest as i32, query)
        .opened(|shard, _, _| shard.stats.connections += 1)
        .writable(writable)
        .closed(closed)
}

impl Shard {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            subscriptions: Subscriptions::default(),
            stats: ShardStats::default(),
            response: Vec::new(),
            ready: Vec::new(),
        }
    }

    pub(super) fn stats(&self) -> ShardStats {
        ShardStats { subscriptions: self.subscriptions.len(), ..self.stats }
    }

    /// From now on answers from `snapshot`. What changed in it is pushed next.
    pub(super) fn replace(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// Sends each change to the subscribers of its module. `pushes` are of the present snapshot.
    pub(super) fn push(&mut self, net: &mut ShardContext<Self>, pushes: &[Push]) {
        let mut ready = std::mem::take(&mut self.ready);
        for push in pushes {
            ready.clear();
            self.stats.pushes_deferred += self.subscriptions.publish(push.module, &mut ready) as u64;
            for &conn in &ready {
                let sent = net.send_shared(conn, &push.frame);
                self.after_push(net, conn, push.module, sent);
            }
        }
        self.ready = ready;
    }

    /// Counts a push, or remembers it for when the connection takes bytes again. Whether it was sent.
    fn after_push(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: ConnId,
        module: ModuleId,
        sent: Result<(), SendError>,
    ) -> bool {
        match sent {
            Ok(()) => self.stats.pushes += 1,
            Err(SendError::Full) => {
                self.subscriptions.defer(conn, module);
                self.stats.pushes_deferred += 1;
            }
            // Its `closed` hook follows.
            Err(SendError::Gone) => {}
            // A subscriber that missed a change must ask again, and does when it has connected again.
            Err(SendError::Pool(_)) => net.close(conn, "no memory for a push"),
        }
        sent.is_ok()
    }

    /// Sends the hosts of `module` as they are now.
    fn send_route(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: ConnId,
        module: ModuleId,
    ) -> Result<(), SendError> {
        self.response.clear();
        let hosts = self.snapshot.hosts(module).iter().copied();
        route::encode(RouteReply::Dns, module, hosts, &mut self.response);
        net.send(conn, &self.response)
    }
}

/// Answers with the hosts of a module, and subscribes the connection to it.
fn query(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(request) = GetRouteRequest::decode(body) else {
        return Flow::Close("malformed GetRouteRequest");
    };
    match shard.send_route(net, conn, request.module()) {
        Ok(()) => {}
        // Whoever does not read the answers is not asked for more questions.
        Err(SendError::Full | SendError::Pool(_)) => return Flow::Busy,
        Err(SendError::Gone) => return Flow::Continue,
    }
    shard.stats.queries += 1;
    if shard.subscriptions.subscribe(conn, request.module()) == Subscribed::Refused {
        shard.stats.subscriptions_refused += 1;
    }
    Flow::Continue
}

/// Sends what had to wait, as it is now.
fn writable(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId) {
    while let Some(module) = shard.subscriptions.take_pending(conn) {
        let sent = shard.send_route(net, conn, module);
        if !shard.after_push(net, conn, module, sent) {
            return;
        }
    }
}

fn closed(shard: &mut Shard, _: &mut ShardContext<Shard>, conn: ConnId, _: &CloseReason) {
    shard.subscriptions.close(conn);
    shard.stats.connections -= 1;
}
