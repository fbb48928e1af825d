//! Route queries over UDP, as programs make them at their agent: `API_GetRouteRequest`s.
//!
//! They carry no sequence number, so replies are taken to come in the order of the requests: one that is overtaken by its
//! timeout makes the latencies of those behind it look shorter. An echo server does as well.

use std::{collections::VecDeque, net::SocketAddr, sync::atomic::AtomicU64};

use lars_proto::{
    ModuleId,
    frame::{self, HEADER_LEN},
    messages::{GetRouteRequest, MessageId},
};

use super::{
    LoadError,
    agent::AgentPorts,
    measurement::Measurement,
    run::Plan,
    udp::{self, Answer, Exchange},
};

/// How routes are queried.
#[derive(Clone, Debug)]
pub struct GetRouteLoad {
    /// The agent.
    pub agent: AgentPorts,
    /// Which modules are asked for; the sockets take turns.
    pub modules: Vec<ModuleId>,
    /// How many sockets ask, each for one module.
    pub sockets: usize,
    /// Queries of each socket that are under way at the same time, at most.
    pub in_flight: usize,
}

impl GetRouteLoad {
    /// Measures. `progress` is kept at the number of replies.
    ///
    /// # Errors
    /// If there is nobody to ask, or the sockets fail.
    pub fn run(&self, plan: &Plan, progress: &AtomicU64) -> Result<Measurement, LoadError> {
        let modules = self.modules.iter().cycle().take(self.sockets);
        udp::run(modules.map(|module| Queries::new(self, *module)).collect(), plan, progress)
    }
}

/// The longest payload of a datagram: a route of some four thousand hosts fills it.
const REPLY_LEN_MAX: usize = 65_507;

/// Queries for one module.
struct Queries {
    server: SocketAddr,
    request: Vec<u8>,
    /// From when the latency of each counts, and when it was sent.
    in_flight: VecDeque<(u64, u64)>,
    in_flight_max: usize,
}

impl Queries {
    fn new(load: &GetRouteLoad, module: ModuleId) -> Self {
        let ModuleId { modid, cmdid } = module;
        let mut request = Vec::new();
        frame::encode(
            MessageId::ApiGetRouteRequest,
            &GetRouteRequest { modid, cmdid, ..Default::default() },
            &mut request,
        )
        .expect("a short message");
        let (server, in_flight_max) = (load.agent.of(module), load.in_flight);
        Self { server, request, in_flight: VecDeque::with_capacity(in_flight_max), in_flight_max }
    }
}

impl Exchange for Queries {
    fn server(&self) -> SocketAddr {
        self.server
    }

    fn datagram_len(&self) -> Option<usize> {
        Some(self.request.len())
    }

    fn reply_len_max(&self) -> usize {
        REPLY_LEN_MAX
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    fn begin(&mut self, since: u64, now: u64) -> &[u8] {
        self.in_flight.push_back((since, now));
        &self.request
    }

    fn finish(&mut self, datagram: &[u8]) -> Option<Answer<'_>> {
        let reply = frame::decode_datagram(datagram).ok()?;
        // What names the module stands first, in both.
        let hosts = reply.body.strip_prefix(&self.request[HEADER_LEN..])?;
        let (since, _) = self.in_flight.pop_front()?;
        let is_refusal = hosts.is_empty() && datagram != self.request;
        Some(Answer { since, is_refusal, follow_up: None })
    }

    fn expire(&mut self, sent_before: u64) -> u64 {
        let lost = self.in_flight.iter().take_while(|(_, sent)| *sent < sent_before).count();
        self.in_flight.drain(..lost);
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    use lars_proto::messages::{GetRouteResponse, HostInfo};

    use super::*;

    fn queries() -> Queries {
        let agent = AgentPorts { ip: [127, 0, 0, 1].into(), base_port: 8888, shards: 3 };
        let load = GetRouteLoad { agent, modules: Vec::new(), sockets: 1, in_flight: 3 };
        Queries::new(&load, ModuleId::new(1, 2))
    }

    fn reply(modid: i32, hosts: usize) -> Vec<u8> {
        let host = vec![HostInfo { ip: -1, port: 80 }; hosts];
        let route = GetRouteResponse { modid, cmdid: 2, host, ..GetRouteResponse::default() };
        let mut datagram = Vec::new();
        frame::encode(MessageId::ApiGetRouteResponse, &route, &mut datagram).expect("short");
        datagram
    }

    #[test]
    fn replies_answer_the_oldest_query() {
        let mut queries = queries();
        let echo = queries.begin(1, 1).to_vec();
        queries.begin(2, 2);
        queries.begin(3, 3);
        assert!(!queries.has_room());
        let mut finish = |datagram: &[u8]| queries.finish(datagram).map(|a| (a.since, a.is_refusal));
        assert_eq!(finish(&reply(7, 1)), None, "another module");
        assert_eq!(finish(&reply(1, 0)), Some((1, true)));
        assert_eq!(finish(&reply(1, 1_000)), Some((2, false)));
        assert_eq!(finish(&echo), Some((3, false)));
        assert_eq!(finish(&echo), None, "nothing was asked");
    }

    #[test]
    fn what_is_not_answered_in_time_is_given_up() {
        let mut queries = queries();
        (1..=3).for_each(|now| drop(queries.begin(now, now).to_vec()));
        assert_eq!(queries.expire(3), 2);
        assert_eq!(queries.finish(&reply(1, 1)).map(|answer| answer.since), Some(3));
    }
}
