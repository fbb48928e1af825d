//! The cores of an agent and of lars-dns, and a network between them that loses, repeats and reorders: whatever went
//! wrong, the next digest finds it and makes it good, and the one after that finds nothing.

mod services;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lars_agent::core::{
    agent::{AgentCore, Client, CoreConfig, Input, Output, Request},
    digest::Question,
    dns_link::DnsMessage,
    table::TableConfig,
    time::Moment,
};
use lars_dns::core::{digest::Tally, push::Push, snapshot::Snapshot, subscriptions::Subscriptions};
use lars_proto::{
    HostAddr, ModuleId,
    digest::Held,
    frame,
    messages::{BucketSumsAnswer, GetRouteResponse, MessageId, SubscriptionDigestAnswer},
};
use proptest::prelude::*;
use prost::Message;

const INTERVAL: Duration = Duration::from_secs(15);
const CONNECTION: u8 = 1;
/// Modules that are looked up, and those that the agent has room for.
const MODULES: i32 = 16;
const MODULES_MAX: usize = 10;

fn module(n: i32) -> ModuleId {
    ModuleId::new(n % 3 - 1, n)
}

fn client() -> Client {
    Client { socket: 0, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 5_000)) }
}

/// An agent of one shard, lars-dns with one connection, and what is under way between them.
struct World {
    now: Moment,
    agent: AgentCore,
    to_dns: VecDeque<DnsMessage>,
    to_agent: VecDeque<Vec<u8>>,
    snapshot: Arc<Snapshot>,
    subscriptions: Subscriptions<u8>,
    has_announced: bool,
}

impl World {
    fn new(digest_spread: u32) -> Self {
        let table =
            TableConfig { modules_max: MODULES_MAX, update_timeout: INTERVAL, ..TableConfig::default() };
        let config = CoreConfig { table, answer_timeout: INTERVAL, routes_to_anyone: false, digest_spread };
        let mut world = Self {
            now: Moment::ORIGIN,
            agent: AgentCore::new(0, 1, config),
            to_dns: VecDeque::new(),
            to_agent: VecDeque::new(),
            snapshot: Arc::default(),
            subscriptions: Subscriptions::default(),
            has_announced: false,
        };
        world.tell(Input::DnsUp);
        world
    }

    fn tell(&mut self, input: Input) {
        assert_eq!(self.agent.handle(input, self.now), Ok(()));
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::SendToDns(message) => self.to_dns.push_back(message),
                Output::Log(_) => {}
                Output::CloseDns(_) => self.reconnect(),
                other @ (Output::Reply { .. } | Output::ToShard(..) | Output::SendToReporter(_)) => {
                    panic!("there is nobody for {other:?}")
                }
            }
        }
    }

    fn look_up(&mut self, module: ModuleId) {
        let request = Request::GetHost { seq: 1, module, wait_ms: 0 };
        assert!(self.agent.handle_request(&request, client(), self.now).is_some());
        self.drain();
    }

    fn reconnect(&mut self) {
        self.to_dns.clear();
        self.to_agent.clear();
        self.subscriptions.close(CONNECTION);
        self.has_announced = false;
        assert_eq!(self.agent.handle(Input::DnsDown, self.now), Ok(()));
        self.tell(Input::DnsUp);
    }

    fn edit(&mut self, module: ModuleId, hosts: Vec<HostAddr>) {
        let (next, changed) = self.snapshot.apply([(module, hosts)].into());
        self.snapshot = Arc::new(next);
        for module in changed {
            let mut ready = vec![];
            self.subscriptions.publish(module, &mut ready);
            ready.iter().for_each(|_| self.send_route(module));
        }
    }

    fn send_route(&mut self, module: ModuleId) {
        let push = Push::encode(module, self.snapshot.hosts(module), &mut Vec::new());
        self.to_agent.push_back(push.frame.to_vec());
    }

    fn send(&mut self, id: MessageId, message: &impl Message) {
        let mut bytes = vec![];
        frame::encode(id, message, &mut bytes).expect("fits");
        self.to_agent.push_back(bytes);
    }

    /// lars-dns takes one message.
    fn serve(&mut self) -> bool {
        match self.to_dns.pop_front() {
            None => return false,
            Some(DnsMessage::Query { module, peer_version: 0 }) => {
                self.subscriptions.subscribe(CONNECTION, module);
                self.send_route(module);
            }
            Some(DnsMessage::Query { module, peer_version }) => {
                self.subscriptions.subscribe(CONNECTION, module);
                let host = self.snapshot.hosts(module).iter().map(|host| host.to_wire()).collect();
                let ModuleId { modid, cmdid } = module;
                let route = GetRouteResponse { modid, cmdid, host, peer_version, ..Default::default() };
                self.send(MessageId::GetRouteResponse, &route);
                self.has_announced = true;
            }
            Some(DnsMessage::Forget(module)) => {
                self.subscriptions.forget(CONNECTION, module);
            }
            Some(DnsMessage::Digest(question)) => self.answer(&question),
        }
        true
    }

    fn answer(&mut self, question: &Question) {
        let mut tally = Tally::new(&self.subscriptions, CONNECTION, &self.snapshot);
        assert!(tally.advance(&self.snapshot), "there are few");
        match question {
            Question::Digest(theirs) => {
                self.send(MessageId::SubscriptionDigestAnswer, &tally.answer(*theirs));
            }
            Question::Buckets(theirs) => {
                let held = tally.answer_buckets(theirs).expect("there are few");
                self.send(MessageId::BucketSumsAnswer, &held.into_wire());
            }
        }
    }

    /// One message arrives at the agent.
    fn deliver(&mut self) -> bool {
        let Some(bytes) = self.to_agent.pop_front() else { return false };
        let frame = frame::decode_datagram(&bytes).expect("one frame");
        let input = match MessageId::try_from(frame.id) {
            Ok(MessageId::GetRouteResponse) => {
                Input::Route(GetRouteResponse::decode(frame.body).expect("a route"))
            }
            Ok(MessageId::SubscriptionDigestAnswer) => {
                Input::DigestAnswer(SubscriptionDigestAnswer::decode(frame.body).expect("an answer"))
            }
            Ok(MessageId::BucketSumsAnswer) => {
                let answer = BucketSumsAnswer::decode(frame.body).expect("an answer");
                Input::Held(Held::from_wire(answer).expect("as many hashes as modules"))
            }
            other => panic!("{other:?}"),
        };
        self.tell(input);
        true
    }

    fn settle(&mut self) {
        while self.serve() || self.deliver() {}
    }

    /// Time passes, and everything that is sent arrives at once.
    fn pass_calmly(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.agent.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.agent.handle_timeout(self.now);
            self.drain();
            self.settle();
        }
        self.now = end;
    }

    /// The routes under way that a fault may concern: not the one by which lars-dns announces itself.
    fn routes_under_way(&self) -> Vec<usize> {
        let is_route = |bytes: &Vec<u8>| {
            let frame = frame::decode_datagram(bytes).expect("one frame");
            frame.id == MessageId::GetRouteResponse as i32
                && GetRouteResponse::decode(frame.body).is_ok_and(|route| route.peer_version == 0)
        };
        (0..self.to_agent.len()).filter(|&at| is_route(&self.to_agent[at])).collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::LookUp(n) => self.look_up(module(n)),
            Step::Edit(n, hosts) => self.edit(module(n), hosts),
            Step::Serve => _ = self.serve(),
            Step::Deliver => _ = self.deliver(),
            Step::Pass(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.agent.handle_timeout(self.now);
                self.drain();
            }
            Step::Reconnect => self.reconnect(),
            Step::Fault(fault) if self.has_announced => self.fail(&fault),
            // What a server of the deployed kind loses is asked for by lookups.
            Step::Fault(_) => {}
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let routes = self.routes_under_way();
        let pick = |at: &prop::sample::Index| (!routes.is_empty()).then(|| routes[at.index(routes.len())]);
        match fault {
            Fault::LoseRoute(at) => _ = pick(at).map(|at| self.to_agent.remove(at)),
            Fault::RepeatRoute(at) => {
                let repeated = pick(at).map(|at| self.to_agent[at].clone());
                self.to_agent.extend(repeated);
            }
            Fault::SwapRoutes(a, b) => {
                if let (Some(a), Some(b)) = (pick(a), pick(b)) {
                    self.to_agent.swap(a, b);
                }
            }
            Fault::LoseForgets => {
                self.to_dns.retain(|message| !matches!(message, DnsMessage::Forget(_)));
            }
            Fault::LoseSubscription(n) => _ = self.subscriptions.forget(CONNECTION, module(*n)),
            Fault::InventSubscription(n) => _ = self.subscriptions.subscribe(CONNECTION, module(*n)),
        }
    }

    /// What the agent knows, and what it should know.
    fn check_agreement(&self) {
        let subscribed: BTreeSet<ModuleId> = self.subscriptions.of(CONNECTION).collect();
        let modules = self.agent.stats().table.modules;
        assert_eq!(subscribed.len() as u64, modules, "lars-dns and the agent agree on what is subscribed");
        let (mut known, mut expected) = (BTreeMap::new(), BTreeMap::new());
        for module in (0..MODULES).map(module) {
            let mut hosts = BTreeSet::new();
            self.agent.table().each_host(module, &mut |status| _ = hosts.insert(status.host));
            known.insert(module, hosts);
            let served = self.snapshot.hosts(module).iter().filter(|_| subscribed.contains(&module));
            expected.insert(module, served.copied().collect::<BTreeSet<_>>());
        }
        assert_eq!(known, expected);
    }
}

#[derive(Clone, Debug)]
enum Fault {
    LoseRoute(prop::sample::Index),
    RepeatRoute(prop::sample::Index),
    SwapRoutes(prop::sample::Index, prop::sample::Index),
    LoseForgets,
    LoseSubscription(i32),
    InventSubscription(i32),
}

#[derive(Clone, Debug)]
enum Step {
    LookUp(i32),
    Edit(i32, Vec<HostAddr>),
    Serve,
    Deliver,
    Pass(u64),
    Reconnect,
    Fault(Fault),
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Fault::LoseRoute),
        index().prop_map(Fault::RepeatRoute),
        (index(), index()).prop_map(|(a, b)| Fault::SwapRoutes(a, b)),
        Just(Fault::LoseForgets),
        (0..MODULES).prop_map(Fault::LoseSubscription),
        (0..MODULES).prop_map(Fault::InventSubscription),
    ]
}

fn any_hosts() -> impl Strategy<Value = Vec<HostAddr>> {
    let host = (0u8..6).prop_map(|n| HostAddr::v4(Ipv4Addr::new(192, 168, 0, n), 80));
    // An empty route would be in doubt; that has tests of its own.
    prop::collection::vec(host, 1..5)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..MODULES).prop_map(Step::LookUp),
        6 => ((0..MODULES), any_hosts()).prop_map(|(n, hosts)| Step::Edit(n, hosts)),
        8 => Just(Step::Serve),
        8 => Just(Step::Deliver),
        2 => (0u64..20_000).prop_map(Step::Pass),
        1 => Just(Step::Reconnect),
        8 => any_fault().prop_map(Step::Fault),
    ]
}

proptest! {
    #[test]
    fn whatever_went_wrong_the_next_digest_makes_good(
        spread: u32,
        steps in prop::collection::vec(any_step(), 0..200),
    ) {
        let mut world = World::new(spread);
        // So that lars-dns announces itself.
        world.look_up(module(0));
        world.settle();
        steps.into_iter().for_each(|step| world.take(step));

        // The one that is due, if an earlier one was not under way when things went wrong.
        world.pass_calmly(INTERVAL);
        world.pass_calmly(INTERVAL);
        world.check_agreement();
        let before = world.agent.stats().dns;
        world.pass_calmly(2 * INTERVAL);
        let after = world.agent.stats().dns;
        prop_assert!(after.digests > before.digests);
        prop_assert_eq!(after.digests_differing, before.digests_differing, "all is well now");
        prop_assert_eq!(after.queries, before.queries);
        world.check_agreement();
    }
}
