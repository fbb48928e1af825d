//! The connections to lars-dns and lars-reporter: what happens on them goes to the core of the shard they live on.

use lars_proto::{
    digest::Held,
    frame,
    messages::{BucketSumsAnswer, GetRouteResponse, MessageId, SubscriptionDigestAnswer},
};
use lars_runtime::{ConnId, Flow, Handlers, ShardContext};
use prost::Message;

use super::{caller, shard::AgentShard};
use crate::core::agent::{Busy, Input};

type Context = ShardContext<AgentShard>;

/// Of the connection to lars-dns.
pub(super) fn dns() -> Handlers<AgentShard> {
    Handlers::new(frame::next)
        .on(MessageId::GetRouteResponse as i32, on_route)
        .on(MessageId::SubscriptionDigestAnswer as i32, on_digest_answer)
        .on(MessageId::BucketSumsAnswer as i32, on_held)
        .opened(dns_opened)
        .writable(|shard, net, _| tell(shard, net, Input::DnsWritable))
        .closed(|shard, net, _, _| {
            shard.dns = None;
            tell(shard, net, Input::DnsDown);
        })
}

/// Of the connection to lars-reporter, which never answers.
pub(super) fn reporter() -> Handlers<AgentShard> {
    Handlers::new(frame::next)
        .opened(reporter_opened)
        .writable(|shard, net, _| tell(shard, net, Input::ReporterWritable))
        .closed(|shard, net, _, _| {
            shard.reporter = None;
            tell(shard, net, Input::ReporterDown);
        })
}

fn dns_opened(shard: &mut AgentShard, net: &mut Context, conn: ConnId) {
    shard.dns = Some(conn);
    tell(shard, net, Input::DnsUp);
}

fn reporter_opened(shard: &mut AgentShard, net: &mut Context, conn: ConnId) {
    let caller = caller::address(shard.configured_caller, net.local(conn));
    tracing::info!(%caller, "statistics go to lars-reporter as this caller's");
    if caller.is_loopback() || caller.is_unspecified() {
        tracing::warn!(%caller, "set caller_ip: other machines have this address, too");
    }
    shard.reporter = Some(conn);
    tell(shard, net, Input::ReporterUp { caller: caller.to_bits().cast_signed() });
}

/// An answer or a push.
fn on_route(shard: &mut AgentShard, net: &mut Context, _: ConnId, body: &[u8]) -> Flow {
    let Ok(response) = GetRouteResponse::decode(body) else {
        return Flow::Close("malformed route");
    };
    match shard.handle(net, Input::Route(response)) {
        Ok(()) => Flow::Continue,
        // Offered again soon.
        Err(Busy) => Flow::Busy,
    }
}

fn on_digest_answer(shard: &mut AgentShard, net: &mut Context, _: ConnId, body: &[u8]) -> Flow {
    let Ok(answer) = SubscriptionDigestAnswer::decode(body) else {
        return Flow::Close("malformed answer to a digest");
    };
    tell(shard, net, Input::DigestAnswer(answer));
    Flow::Continue
}

fn on_held(shard: &mut AgentShard, net: &mut Context, _: ConnId, body: &[u8]) -> Flow {
    let Some(held) = BucketSumsAnswer::decode(body).ok().and_then(Held::from_wire) else {
        return Flow::Close("malformed answer to bucket sums");
    };
    tell(shard, net, Input::Held(held));
    Flow::Continue
}

fn tell(shard: &mut AgentShard, net: &mut Context, input: Input) {
    // Only a route meets a core that is busy.
    let _ = shard.handle(net, input);
}
