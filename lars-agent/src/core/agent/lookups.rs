//! How lookups are answered: at once, or when their module is learned, if their clients wait.

use lars_proto::{Endpoint, ModuleId};

use super::{AgentCore, Client, Output, Reply, Request};
use crate::core::{pending::Held, time::Moment};

impl AgentCore {
    /// A request for a module of this shard, which came to the agent at `asked_at`. On the path of every lookup, a call of
    /// a function shows.
    #[inline(always)]
    pub(super) fn serve(&mut self, request: &Request, client: Client, asked_at: Moment) -> Option<Reply> {
        match *request {
            Request::GetHost { seq, module, .. } => {
                let answer = self.table.get_host_if_learned(module, self.now);
                self.has_output |= self.table.has_output();
                match answer {
                    Some(answer) => Some(Reply::Host { seq, module, answer }),
                    None => self.wait_or_miss(request, client, asked_at),
                }
            }
            Request::Report { module, host, outcome } => {
                self.table.report(module, host, outcome, self.now);
                self.has_output |= self.table.has_output();
                None
            }
            Request::GetRoute { .. } => self.serve_route(request, client, asked_at),
        }
    }

    fn serve_route(&mut self, request: &Request, client: Client, asked_at: Moment) -> Option<Reply> {
        if !self.routes_to_anyone && !client.addr.ip().to_canonical().is_loopback() {
            self.stats.routes_refused += 1;
            return None;
        }
        let (module, mut hosts) = (request.module(), Vec::new());
        let is_learned = self.table.get_route_if_learned(module, self.now, &mut hosts);
        self.has_output |= self.table.has_output();
        if !is_learned {
            return self.wait_or_miss(request, client, asked_at);
        }
        Some(Reply::Route { module, hosts, confirmed: !request.wait().is_zero() })
    }

    /// A request for a module that is not learned yet: it waits until that is, or is answered as far as that goes.
    #[cold]
    fn wait_or_miss(&mut self, request: &Request, client: Client, asked_at: Moment) -> Option<Reply> {
        if self.table.is_awaited(request.module()) && self.hold(request, client, asked_at) {
            return None;
        }
        // The client may have asked the same before, when it could still wait.
        self.pending.withdraw(request, client);
        Some(self.missed(request))
    }

    /// Whether `request` waits.
    fn hold(&mut self, request: &Request, client: Client, asked_at: Moment) -> bool {
        let wait = request.wait();
        if wait.is_zero() {
            return false;
        }
        let held = self.pending.hold(*request, client, (asked_at, wait), self.now);
        self.stats.waits += u64::from(held == Held::New);
        self.stats.waits_refused += u64::from(held == Held::Refused);
        matches!(held, Held::New | Held::Already)
    }

    /// The reply to a request whose module was not learned in time.
    fn missed(&mut self, request: &Request) -> Reply {
        let module = request.module();
        match *request {
            Request::GetHost { seq, .. } => Reply::Host { seq, module, answer: self.table.missed_host() },
            Request::GetRoute { .. } | Request::Report { .. } => {
                self.table.missed_route();
                Reply::Route { module, hosts: Vec::new(), confirmed: false }
            }
        }
    }

    /// Takes the route of a module of this shard, and answers those who have waited for it.
    pub(super) fn learn(&mut self, module: ModuleId, route: &[Endpoint], confirmed: bool, now: Moment) {
        self.table.hear_route(module, route, confirmed, now);
        // One that was forgotten meanwhile is not learned.
        while self.table.is_learned(module)
            && let Some((request, client)) = self.pending.take(module)
        {
            if let Some(reply) = self.serve(&request, client, now) {
                self.ready.push_back(Output::Reply { client, reply });
            }
        }
    }

    /// Answers those whose wait is over.
    pub(super) fn end_waits(&mut self, now: Moment) {
        while let Some((request, client)) = self.pending.take_due(now) {
            self.stats.waits_expired += 1;
            let reply = self.missed(&request);
            self.ready.push_back(Output::Reply { client, reply });
        }
    }

    /// Statistics are due now, and nobody waits any more.
    pub(super) fn prepare_stop(&mut self) {
        self.table.flush_now();
        while let Some((request, client)) = self.pending.close() {
            let reply = self.missed(&request);
            self.ready.push_back(Output::Reply { client, reply });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        time::Duration,
    };

    use lars_proto::HostAddr;

    use super::*;
    use crate::core::{
        agent::{CoreConfig, Input, Message},
        pending::WAITING_PER_MODULE_MAX,
        table::{Answer, TableConfig},
    };

    const T0: Moment = Moment::ORIGIN;
    /// On shard 1 of 2.
    const MODULE: ModuleId = ModuleId::new(0, 1);

    fn core(shard: usize) -> AgentCore {
        let (table, answer_timeout) = (TableConfig::default(), Duration::from_secs(15));
        AgentCore::new(
            shard,
            2,
            CoreConfig { table, answer_timeout, routes_to_anyone: false, digest_spread: 0 },
        )
    }

    fn client(port: u16) -> Client {
        Client { socket: 1, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    fn get_host(seq: u32, wait_ms: u32) -> Request {
        Request::GetHost { seq, module: MODULE, wait_ms }
    }

    fn get_route(wait_ms: u32) -> Request {
        Request::GetRoute { module: MODULE, wait_ms }
    }

    fn host(port: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, port)
    }

    fn found(seq: u32, answer: Answer) -> Reply {
        Reply::Host { seq, module: MODULE, answer }
    }

    fn route(ports: &[u16], confirmed: bool) -> Reply {
        Reply::Route { module: MODULE, hosts: ports.iter().map(|&port| host(port)).collect(), confirmed }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The replies among what is to be done.
    fn replies(core: &mut AgentCore) -> Vec<(u16, Reply)> {
        let outputs = std::iter::from_fn(|| core.poll_output());
        outputs
            .filter_map(|output| match output {
                Output::Reply { client, reply } => Some((client.addr.port(), reply)),
                Output::ToShard(..)
                | Output::SendToDns(_)
                | Output::SendToReporter(_)
                | Output::CloseDns(_)
                | Output::Log(_) => None,
            })
            .collect()
    }

    /// lars-dns says that these are the hosts.
    fn tell(core: &mut AgentCore, ports: &[u16], now: Moment) -> Vec<(u16, Reply)> {
        let route = ports.iter().map(|&port| Endpoint::from(host(port))).collect();
        let message = Message::Route { module: MODULE, route, confirmed: false };
        assert_eq!(core.handle(Input::FromShard(message), now), Ok(()));
        replies(core)
    }

    #[test]
    fn the_first_lookup_waits_for_the_route() {
        let mut core = core(1);
        for (port, request) in [(1, get_host(7, 200)), (2, get_host(7, 200)), (3, get_route(200))] {
            assert_eq!(core.handle_request(&request, client(port), T0), None);
        }
        assert_eq!(replies(&mut core), [], "nobody is answered yet");
        assert_eq!(core.stats().api.waiting, 3);
        let told = tell(&mut core, &[1, 2], T0 + ms(5));
        let expected = [
            (1, found(7, Answer::Host(host(1)))),
            (2, found(7, Answer::Host(host(2)))),
            (3, route(&[1, 2], true)),
        ];
        assert_eq!(told, expected, "each as if it had come now");
        let (api, table) = (core.stats().api, core.stats().table);
        assert_eq!((api.waits, api.waits_expired, api.waits_refused, api.waiting), (3, 0, 0, 0));
        assert_eq!((table.lookups_ok, table.lookups_noexist, table.route_lookups), (2, 0, 1), "counted once");
        core.handle_timeout(T0 + ms(1_000));
        assert_eq!(replies(&mut core), [], "and answered once");
    }

    #[test]
    fn who_does_not_wait_is_answered_at_once() {
        let mut core = core(1);
        let nothing = Some(found(7, Answer::NotFound));
        assert_eq!(core.handle_request(&get_host(7, 0), client(1), T0), nothing);
        assert_eq!(core.handle_request(&get_route(0), client(1), T0), Some(route(&[], false)));
        assert_eq!(tell(&mut core, &[], T0), []);
        assert_eq!(core.handle_request(&get_route(0), client(1), T0), Some(route(&[], false)));
    }

    #[test]
    fn a_module_that_nobody_serves_is_not_waited_for() {
        let mut core = core(1);
        assert_eq!(core.handle_request(&get_host(7, 200), client(1), T0), None);
        assert_eq!(tell(&mut core, &[], T0 + ms(5)), [(1, found(7, Answer::NotFound))]);
        let nothing = Some(found(8, Answer::NotFound));
        assert_eq!(core.handle_request(&get_host(8, 200), client(1), T0 + ms(6)), nothing);
        assert_eq!(core.handle_request(&get_route(200), client(1), T0 + ms(6)), Some(route(&[], true)));
    }

    #[test]
    fn the_wait_ends_at_its_deadline() {
        let mut core = core(1);
        assert_eq!(core.handle_request(&get_host(7, 200), client(1), T0), None);
        assert_eq!(core.handle_request(&get_route(100), client(2), T0), None);
        core.handle_timeout(T0 + ms(99));
        assert_eq!((replies(&mut core), core.poll_timeout()), (vec![], Some(T0 + ms(100))));
        core.handle_timeout(T0 + ms(100));
        assert_eq!(replies(&mut core), [(2, route(&[], false))]);
        // The route comes when the wait is over, before anybody has said so.
        assert_eq!(tell(&mut core, &[1], T0 + ms(200)), [(1, found(7, Answer::NotFound))]);
        assert_eq!((core.stats().api.waits_expired, core.stats().table.lookups_noexist), (2, 1));
    }

    #[test]
    fn a_question_that_is_repeated_is_answered_once() {
        let mut core = core(1);
        for at in [0, 100] {
            assert_eq!(core.handle_request(&get_host(7, 150), client(1), T0 + ms(at)), None);
        }
        core.handle_timeout(T0 + ms(150));
        assert_eq!(replies(&mut core), []);
        // What is left of the client's time is less than a millisecond.
        let nothing = Some(found(7, Answer::NotFound));
        assert_eq!(core.handle_request(&get_host(7, 0), client(1), T0 + ms(200)), nothing);
        assert_eq!(tell(&mut core, &[1], T0 + ms(201)), []);
    }

    #[test]
    fn a_request_that_came_to_another_shard_keeps_its_wait() {
        let (mut near, mut far) = (core(0), core(1));
        assert_eq!(near.handle_request(&get_host(7, 200), client(1), T0), None);
        let mut forwarded = std::iter::from_fn(|| near.poll_output());
        let Some(Output::ToShard(1, message)) = forwarded.next() else { panic!("it goes to its shard") };
        assert_eq!(far.handle(Input::FromShard(message), T0 + ms(30)), Ok(()));
        assert_eq!(replies(&mut far), []);
        far.handle_timeout(T0 + ms(200));
        assert_eq!(replies(&mut far), [(1, found(7, Answer::NotFound))], "the way there is part of it");
    }

    #[test]
    fn too_many_are_answered_at_once_and_counted() {
        let mut core = core(1);
        for seq in 0..WAITING_PER_MODULE_MAX as u32 {
            assert_eq!(core.handle_request(&get_host(seq, 200), client(1), T0), None);
        }
        let reply = core.handle_request(&get_host(u32::MAX, 200), client(1), T0);
        assert_eq!(reply, Some(found(u32::MAX, Answer::NotFound)));
        assert_eq!(core.stats().api.waits_refused, 1);
        assert_eq!(tell(&mut core, &[1], T0).len(), WAITING_PER_MODULE_MAX);
    }

    #[test]
    fn a_stranger_does_not_wait_for_a_route() {
        let mut core = core(1);
        let stranger = Client { socket: 1, addr: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 7), 4_000)) };
        assert_eq!(core.handle_request(&get_route(200), stranger, T0), None);
        assert_eq!((core.stats().api.routes_refused, core.stats().api.waiting), (1, 0));
        assert_eq!(tell(&mut core, &[1], T0), []);
    }

    #[test]
    fn a_stop_ends_all_waits() {
        let mut core = core(1);
        assert_eq!(core.handle_request(&get_host(7, 200), client(1), T0), None);
        assert_eq!(core.handle(Input::FlushNow, T0), Ok(()));
        assert_eq!(replies(&mut core), [(1, found(7, Answer::NotFound))]);
        let nothing = Some(found(8, Answer::NotFound));
        assert_eq!(core.handle_request(&get_host(8, 200), client(1), T0), nothing);
    }
}
