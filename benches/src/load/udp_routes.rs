//! Route queries over UDP, as programs make them at their agent: `API_GetRouteRequest`s.
//!
//! They carry no sequence number, so replies are taken to come in the order of the requests: one that is overtaken by its
//! timeout makes the latencies of those behind it look shorter. An echo server does as well.

use clap::Args;
use lars_proto::{
    ModuleId,
    frame::{self, HEADER_LEN},
    messages::MessageId,
};

use super::{
    Load, LoadError,
    conversation::{self, Conversation},
    in_flight::Batches,
    measurement::Measurement,
    run::{Plan, Run},
    values::AgentTarget,
};
use crate::{frames::route_query, ring::SocketKind};

/// The longest payload of a datagram: a route of some four thousand hosts fills it.
const REPLY_LEN_MAX: usize = 65_507;

/// How routes are queried.
#[derive(Clone, Debug, Args)]
pub struct GetRouteLoad {
    #[command(flatten)]
    pub target: AgentTarget,
}

impl Load for GetRouteLoad {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        conversation::run(self.target.sockets(|module| Queries::new(module, self.target.in_flight)), plan)
    }
}

/// Queries for one module.
struct Queries {
    request: Vec<u8>,
    in_flight: Batches,
}

impl Queries {
    fn new(module: ModuleId, in_flight_max: usize) -> Self {
        let request = route_query(MessageId::ApiGetRouteRequest, module);
        Self { request, in_flight: Batches::new(in_flight_max) }
    }
}

impl Conversation for Queries {
    const KIND: SocketKind = SocketKind::Datagram;
    const PIECE_LEN: usize = REPLY_LEN_MAX;

    fn datagram_len(&self) -> Option<usize> {
        Some(self.request.len())
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight.has_room()
    }

    fn begin(&mut self, now: u64) -> &[u8] {
        self.in_flight.begin(now);
        &self.request
    }

    fn receive(&mut self, datagram: &[u8], run: &mut Run) -> Result<Option<&[u8]>, &'static str> {
        let reply = frame::decode_datagram(datagram).ok();
        // What names the module stands first, in request and reply.
        let hosts = reply.and_then(|reply| reply.body.strip_prefix(&self.request[HEADER_LEN..]));
        match hosts {
            Some(hosts) if self.in_flight.finish(1, |since, count| run.finish(since, count)) => {
                run.counts.refusals += u64::from(hosts.is_empty() && datagram != self.request);
            }
            _ => run.counts.stale += 1,
        }
        Ok(None)
    }

    fn expire(&mut self, sent_before: u64) -> u64 {
        self.in_flight.expire(sent_before)
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::messages::HostInfo;

    use super::*;
    use crate::frames::route_reply;

    fn reply(modid: i32, hosts: usize) -> Vec<u8> {
        let host = vec![HostInfo { ip: -1, port: 80 }; hosts];
        route_reply(MessageId::ApiGetRouteResponse, ModuleId::new(modid, 2), host)
    }

    #[test]
    fn replies_answer_queries_and_echoes_do() {
        let mut queries = Queries::new(ModuleId::new(1, 2), 3);
        let echo = queries.begin(1).to_vec();
        queries.begin(2);
        queries.begin(3);
        assert!(!queries.has_room());
        let mut run = Run::at(9);
        let mut check = |datagram: &[u8], replies, refusals, stale| {
            assert_eq!(queries.receive(datagram, &mut run), Ok(None));
            let counts = &run.counts;
            assert_eq!((counts.replies, counts.refusals, counts.stale), (replies, refusals, stale));
        };
        check(&reply(7, 1), 0, 0, 1); // Another module.
        check(&reply(1, 0), 1, 1, 1);
        check(&reply(1, 1_000), 2, 1, 1);
        check(&echo, 3, 1, 1);
        check(&echo, 3, 1, 2); // Nothing was asked.
    }
}
