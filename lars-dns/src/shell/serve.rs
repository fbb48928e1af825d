//! One shard: answers queries from its pointer to the routes, and pushes changes to its subscribers.

use std::{sync::Arc, time::Duration};

use ahash::{AHashMap, AHashSet};
use lars_proto::{
    ModuleId, frame,
    messages::{BucketSums, Forget, GetRouteRequest, MessageId, SubscriptionDigest},
    route::{self, Extensions, RouteReply},
};
use lars_runtime::{CloseReason, ConnId, Flow, Handlers, LogThrottle, SendError, ShardContext};
use prost::Message;

use super::stats::DnsStats;
use crate::core::{
    digest::Tally,
    push::{CONFIRMS, Push},
    snapshot::Snapshot,
    subscriptions::{Subscribed, Subscriptions},
};

/// How often a shard says that agents connect, or have more subscriptions than they may.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What an agent that announces itself is told with the first answer.
const FIRST_ANSWER: Extensions = Extensions { announces: true, ..CONFIRMS };

/// The state of a shard.
pub(super) struct Shard {
    snapshot: Arc<Snapshot>,
    /// The routes were loaded since the start, so that a module that is not in them has no hosts.
    is_loaded: bool,
    subscriptions: Subscriptions<ConnId>,
    /// The connections that were told which extensions we know.
    announced: AHashSet<ConnId>,
    /// The connections whose digest takes more than one turn.
    tallies: AHashMap<ConnId, Tally>,
    connected_log: LogThrottle,
    subscriptions_log: LogThrottle,
    stats: DnsStats,
    /// The response being encoded; kept, so that a query allocates nothing.
    response: Vec<u8>,
    /// The subscribers being pushed to; kept for the same reason.
    ready: Vec<ConnId>,
}

/// What a shard does with its connections.
pub(super) fn handlers() -> Handlers<Shard> {
    Handlers::new(frame::next)
        .on(MessageId::GetRouteRequest as i32, query)
        .on(MessageId::Forget as i32, forget)
        .on(MessageId::SubscriptionDigest as i32, digest)
        .on(MessageId::BucketSums as i32, buckets)
        .opened(opened)
        .writable(writable)
        .closed(closed)
}

impl Shard {
    /// Has at most `subscriptions_max` subscriptions.
    pub(super) fn new(snapshot: Arc<Snapshot>, is_loaded: bool, subscriptions_max: usize) -> Self {
        Self {
            snapshot,
            is_loaded,
            subscriptions: Subscriptions::at_most(subscriptions_max),
            announced: AHashSet::new(),
            tallies: AHashMap::new(),
            connected_log: LogThrottle::each(LOG_INTERVAL),
            subscriptions_log: LogThrottle::each(LOG_INTERVAL),
            stats: DnsStats::default(),
            response: Vec::new(),
            ready: Vec::new(),
        }
    }

    pub(super) fn stats(&self) -> DnsStats {
        DnsStats {
            subscriptions: self.subscriptions.len() as u64,
            pushes_pending: self.subscriptions.pending_len() as u64,
            ..self.stats
        }
    }

    /// From now on answers from `snapshot`. What changed in it is pushed next.
    pub(super) fn replace(&mut self, snapshot: Arc<Snapshot>, is_loaded: bool) {
        (self.snapshot, self.is_loaded) = (snapshot, is_loaded);
    }

    /// Sends each change to the subscribers of its module. `pushes` are of the present snapshot.
    pub(super) fn push(&mut self, net: &mut ShardContext<Self>, pushes: &[Push]) {
        let mut ready = std::mem::take(&mut self.ready);
        for push in pushes {
            ready.clear();
            self.subscriptions.note_hosts(push.module, !self.snapshot.hosts(push.module).is_empty());
            self.stats.pushes_deferred += self.subscriptions.publish(push.module, &mut ready) as u64;
            for &conn in &ready {
                let is_announced = push.extended.is_some() && self.announced.contains(&conn);
                let sent = net.send_shared(conn, push.frame_for(is_announced));
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
        let is_announced = self.announced.contains(&conn);
        self.send_extended(net, conn, module, if is_announced { CONFIRMS } else { Extensions::default() })
    }

    /// The same for the first request of an agent that said which extensions it knows: it is told ours.
    fn send_announcement(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: ConnId,
        module: ModuleId,
    ) -> Result<(), SendError> {
        self.send_extended(net, conn, module, FIRST_ANSWER)?;
        self.announced.insert(conn);
        Ok(())
    }

    fn send_extended(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: ConnId,
        module: ModuleId,
        extensions: Extensions,
    ) -> Result<(), SendError> {
        self.response.clear();
        let extensions = Extensions { confirms: extensions.confirms && self.is_loaded, ..extensions };
        let hosts = self.snapshot.hosts(module).iter().copied();
        route::encode_extended(RouteReply::Dns, module, hosts, extensions, &mut self.response);
        net.send(conn, &self.response)
    }

    /// What `conn` is subscribed to, summed up. None if that takes another turn.
    fn tally(&mut self, conn: ConnId) -> Option<Tally> {
        let begun = self.tallies.remove(&conn);
        let mut tally = begun.unwrap_or_else(|| Tally::new(&self.subscriptions, conn, &self.snapshot));
        if tally.advance(&self.snapshot) {
            return Some(tally);
        }
        self.tallies.insert(conn, tally);
        None
    }

    /// Sends the answer to a digest. False if it has to wait for room: the sum is made again then.
    fn send_answer(
        &mut self,
        net: &mut ShardContext<Self>,
        conn: ConnId,
        id: MessageId,
        answer: &impl Message,
    ) -> bool {
        self.response.clear();
        let fits = frame::encode(id, answer, &mut self.response);
        debug_assert_eq!(fits, Ok(()), "answers are cut so that they fit");
        !matches!(net.send(conn, &self.response), Err(SendError::Full | SendError::Pool(_)))
    }

    fn subscribe(&mut self, net: &ShardContext<Self>, conn: ConnId, module: ModuleId) {
        let means = match self.subscriptions.subscribe(conn, module) {
            Subscribed::New => None,
            // Nothing has changed since it was noted.
            Subscribed::Already => return,
            Subscribed::InPlaceOfAnother => {
                self.stats.subscriptions_evicted += 1;
                Some("too many subscriptions: the oldest ones to modules without hosts make room")
            }
            Subscribed::Refused => {
                self.stats.subscriptions_refused += 1;
                Some("too many subscriptions: further modules are answered, but changes are not pushed")
            }
        };
        self.subscriptions.note_hosts(module, !self.snapshot.hosts(module).is_empty());
        if let Some(means) = means
            && let Some(not_logged) = self.subscriptions_log.due(net.now())
        {
            let peer = net.peer(conn).map(tracing::field::display);
            tracing::warn!(peer, %module, not_logged, "{means}");
        }
    }
}

fn opened(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId) {
    shard.stats.connections += 1;
    if let Some(not_logged) = shard.connected_log.due(net.now()) {
        let peer = net.peer(conn).map(tracing::field::display);
        tracing::info!(
            peer,
            connections_of_shard = shard.stats.connections,
            not_logged,
            "an agent connected"
        );
    }
}

/// Answers with the hosts of a module, and subscribes the connection to it.
fn query(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(request) = GetRouteRequest::decode(body) else {
        return Flow::Close("malformed GetRouteRequest");
    };
    let announces = request.peer_version > 0 && !shard.announced.contains(&conn);
    let sent = if announces {
        shard.send_announcement(net, conn, request.module())
    } else {
        shard.send_route(net, conn, request.module())
    };
    match sent {
        Ok(()) => {}
        // Whoever does not read the answers is not asked for more questions.
        Err(SendError::Full | SendError::Pool(_)) => return Flow::Busy,
        Err(SendError::Gone) => return Flow::Continue,
    }
    shard.stats.queries += 1;
    shard.subscribe(net, conn, request.module());
    Flow::Continue
}

/// Ends the subscription to a module that the agent does not know any more.
fn forget(shard: &mut Shard, _: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(forgotten) = Forget::decode(body) else {
        return Flow::Close("malformed Forget");
    };
    if shard.subscriptions.forget(conn, ModuleId::new(forgotten.modid, forgotten.cmdid)) {
        shard.stats.subscriptions_forgotten += 1;
    }
    Flow::Continue
}

/// Says whether the agent has what it should have.
fn digest(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(theirs) = SubscriptionDigest::decode(body) else {
        return Flow::Close("malformed SubscriptionDigest");
    };
    let Some(tally) = shard.tally(conn) else { return Flow::Busy };
    let answer = tally.answer(theirs.into());
    if !shard.send_answer(net, conn, MessageId::SubscriptionDigestAnswer, &answer) {
        return Flow::Busy;
    }
    shard.stats.digests += 1;
    shard.stats.digests_differing += u64::from(answer.differs);
    Flow::Continue
}

/// Says what the agent should have where it does not have that.
fn buckets(shard: &mut Shard, net: &mut ShardContext<Shard>, conn: ConnId, body: &[u8]) -> Flow {
    let Ok(theirs) = BucketSums::decode(body) else {
        return Flow::Close("malformed BucketSums");
    };
    let Some(tally) = shard.tally(conn) else { return Flow::Busy };
    let Ok(held) = tally.answer_buckets(&theirs) else {
        return Flow::Close("too many modules in one bucket");
    };
    let named = held.modules.len() as u64;
    if !shard.send_answer(net, conn, MessageId::BucketSumsAnswer, &held.into_wire()) {
        return Flow::Busy;
    }
    shard.stats.digest_modules += named;
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
    shard.announced.remove(&conn);
    shard.tallies.remove(&conn);
    shard.stats.connections -= 1;
}
