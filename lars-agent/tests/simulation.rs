//! One shard's table and the link to lars-dns, against a simulated world: clients that look up and report,
//! a lars-dns whose answers are late or lost with the connection, a reporter that comes and goes, a clock
//! that jumps in both directions. Every step checks what must always hold; every run ends with a calm in
//! which all sides must come to agree.
//!
//! A failure prints its seed and step; `LARS_SIM_SEED=<seed>` runs that seed alone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use lars_agent::core::{
    balancer::{BalancerParams, Health, HostStatus, Limits, Outcome},
    dns_link::DnsLink,
    table::{Answer, Output, Table, TableConfig},
    time::Moment,
};
use lars_proto::{HostAddr, ModuleId};

const STEPS: usize = 3_000;
/// Seeds are tried until so much time has passed; at least one is.
const BUDGET: Duration = Duration::from_secs(5);
const MODULES_MAX: usize = 12;

fn module(n: i32) -> ModuleId {
    ModuleId::new(n - 3, i32::MAX - n)
}

fn any_module(rng: &mut Rng) -> ModuleId {
    module(rng.i32(0..15))
}

fn any_host(rng: &mut Rng) -> HostAddr {
    HostAddr::v4(Ipv4Addr::new(192, 168, 0, rng.u8(0..6)), 80)
}

fn any_hosts(rng: &mut Rng) -> Vec<HostAddr> {
    (0..rng.usize(0..6)).map(|_| any_host(rng)).collect()
}

struct World {
    rng: Rng,
    now: Moment,
    table: Table,
    link: DnsLink,
    /// What lars-dns would answer.
    routes: BTreeMap<ModuleId, Vec<HostAddr>>,
    /// Modules that this connection subscribed to.
    subscribed: BTreeSet<ModuleId>,
    /// Responses on their way, in order; all are lost with the connection.
    in_flight: VecDeque<(ModuleId, Vec<HostAddr>)>,
    /// The routes that arrived last.
    arrived: BTreeMap<ModuleId, BTreeSet<HostAddr>>,
    /// Hosts that fail at present.
    sick: BTreeSet<HostAddr>,
    reporter_is_up: bool,
    /// What the reporter knows.
    reported: BTreeMap<(ModuleId, HostAddr), HostStatus>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let health = Health {
            contin_err_limit: rng.u32(1..16),
            idle_timeout: Duration::from_millis(rng.u64(1..20_000)),
            overload_timeout: Duration::from_millis(rng.u64(1..20_000)),
            ..Health::default()
        };
        let params = BalancerParams { probe_num: rng.u32(1..12), health, limits: Limits::default() };
        let config =
            TableConfig { balancer: Arc::new(params), modules_max: MODULES_MAX, ..TableConfig::default() };
        Self {
            rng,
            now: Moment::since_origin(Duration::from_secs(1_000)),
            table: Table::new(config),
            link: DnsLink::new(Duration::from_secs(15)),
            routes: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            in_flight: VecDeque::new(),
            arrived: BTreeMap::new(),
            sick: BTreeSet::new(),
            reporter_is_up: false,
            reported: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..40 => self.call(),
            40..50 => {
                let (module, host) = (any_module(&mut self.rng), any_host(&mut self.rng));
                self.table.report(module, host, Outcome::from_retcode(self.rng.i32(0..2)), self.now);
            }
            50..60 => self.deliver(),
            60..80 => self.pass_up_to(Duration::from_millis(200)),
            80..84 => self.pass_up_to(Duration::from_secs(20)),
            84 => self.pass_up_to(Duration::from_secs(1_000)),
            85..87 => self.now = self.now.saturating_sub(Duration::from_millis(self.rng.u64(0..50_000))),
            87..92 => {
                let (module, hosts) = (any_module(&mut self.rng), any_hosts(&mut self.rng));
                self.edit(module, hosts);
            }
            92..94 => self.sick = any_hosts(&mut self.rng).into_iter().collect(),
            94..96 => self.disconnect(),
            96..98 => self.connect(),
            98 => self.reporter_is_up = false,
            _ => self.connect_reporter(),
        }
        self.exchange();
    }

    /// A lookup and the report that follows it.
    fn call(&mut self) {
        let module = any_module(&mut self.rng);
        let answer = self.table.get_host(module, self.now);
        let arrived = self.arrived.get(&module).filter(|hosts| !hosts.is_empty());
        match (answer, arrived) {
            (Answer::Host(host), Some(hosts)) => {
                assert!(hosts.contains(&host), "{host} is not a host of {module}");
                let outcome = if self.sick.contains(&host) { Outcome::Failure } else { Outcome::Success };
                self.table.report(module, host, outcome, self.now);
            }
            (Answer::Overloaded, Some(_)) | (Answer::NotFound, None) => {}
            (answer, arrived) => panic!("{answer:?} for {module} with the route {arrived:?}"),
        }
    }

    /// Lets time pass with the ticks that belong to it.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.table.handle_timeout(self.now);
    }

    fn pass_up_to(&mut self, most: Duration) {
        let time = most.mul_f64(self.rng.f64());
        self.pass(time);
    }

    fn edit(&mut self, module: ModuleId, hosts: Vec<HostAddr>) {
        if self.subscribed.contains(&module) {
            self.in_flight.push_back((module, hosts.clone()));
        }
        self.routes.insert(module, hosts);
    }

    fn connect(&mut self) {
        if !self.link.is_up() {
            self.link.connected(self.now);
        }
    }

    fn disconnect(&mut self) {
        self.link.disconnected();
        self.subscribed.clear();
        self.in_flight.clear();
    }

    fn connect_reporter(&mut self) {
        if !self.reporter_is_up {
            self.reporter_is_up = true;
            self.table.retell(self.now);
        }
    }

    /// One response arrives.
    fn deliver(&mut self) {
        let Some((module, hosts)) = self.in_flight.pop_front() else {
            return;
        };
        if self.link.answered(module) {
            self.table.route_update(module, &hosts, self.now);
            let hosts: BTreeSet<HostAddr> = hosts.into_iter().collect();
            // A host that comes back later is a new one; nothing is told of it before it has been called.
            self.reported.retain(|(of, host), _| *of != module || hosts.contains(host));
            self.arrived.insert(module, hosts);
        }
    }

    /// Moves what the cores put out: questions to lars-dns, status reports to the reporter.
    fn exchange(&mut self) {
        while let Some(output) = self.table.poll_output() {
            match output {
                Output::QueryDns(module) => self.link.want(module, self.now),
                Output::Forget(module) => {
                    self.link.forget(module);
                    let forgotten = self.arrived.remove(&module).unwrap_or_default();
                    assert!(forgotten.is_empty(), "{module} was forgotten with its hosts");
                }
            }
        }
        while let Some(module) = self.link.poll_query(self.now) {
            self.subscribed.insert(module);
            self.in_flight.push_back((module, self.routes.get(&module).cloned().unwrap_or_default()));
        }
        self.report();
        assert!(self.table.modules_len() <= MODULES_MAX);
        assert!(self.link.modules_len() <= MODULES_MAX, "the link remembers what the table forgot");
    }

    fn report(&mut self) {
        while self.reporter_is_up {
            let Some(report) = self.table.poll_statistics(self.now) else {
                return;
            };
            assert!(!report.hosts.is_empty());
            for status in report.hosts {
                self.reported.insert((report.module, status.host), status);
            }
        }
    }

    /// Nothing fails any more, and everything gets the time it needs: all sides must agree.
    fn calm_down(&mut self) {
        self.sick.clear();
        self.disconnect();
        self.connect();
        self.connect_reporter();
        // A window of 20 s at most may end with an ejection, and that with a recovery 20 s later.
        for _ in 0..900 {
            self.pass(Duration::from_millis(50));
            self.exchange();
            while !self.in_flight.is_empty() {
                self.deliver();
            }
        }
        let known = self.arrived.clone();
        for (module, hosts) in known {
            let expected = self.routes.get(&module).cloned().unwrap_or_default();
            assert_eq!(hosts, expected.into_iter().collect(), "lars-dns and the link disagree on {module}");
            self.check_agreement(module, &hosts);
        }
    }

    fn check_agreement(&mut self, module: ModuleId, hosts: &BTreeSet<HostAddr>) {
        let mut route = vec![];
        self.table.get_route(module, self.now, &mut route);
        assert_eq!(&route.iter().copied().collect::<BTreeSet<_>>(), hosts, "the table's route of {module}");
        assert_eq!(route.len(), hosts.len(), "a host of {module} counts once");
        self.table.each_host(module, &mut |status| {
            assert!(!status.overloaded, "without calls every host comes back in time: {status:?}");
            let fresh = HostStatus { succ: 0, err: 0, overloaded: false, ..status };
            let told = self.reported.get(&(module, status.host)).copied().unwrap_or(fresh);
            assert_eq!(told, status, "what the reporter knows of {module}");
        });
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    let mut step = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while step < STEPS {
            world.step();
            step += 1;
        }
        world.calm_down();
    }));
    // What went wrong was said when it did.
    assert!(outcome.is_ok(), "seed {seed} failed at step {step}; to replay: LARS_SIM_SEED={seed}");
}

#[test]
fn all_sides_agree_in_the_end() {
    if let Ok(seed) = env::var("LARS_SIM_SEED") {
        return run(seed.parse().expect("LARS_SIM_SEED is a number"));
    }
    let start = Instant::now();
    let mut seeds = Rng::new();
    loop {
        run(seeds.u64(..));
        if start.elapsed() > BUDGET {
            break;
        }
    }
}
