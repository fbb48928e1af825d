//! The tracker against a database that misbehaves in every way that databases and their editors do.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::core::snapshot::SnapshotBuilder;

const POLL: Duration = Duration::from_secs(1);
const FULL: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3_600);

fn timing() -> Timing {
    Timing {
        poll_interval: POLL,
        full_reload_interval: FULL,
        prune_age: HOUR,
        prune_interval: Duration::from_secs(600),
    }
}

/// Never reloads everything for the reason that it is time.
fn without_periodic_reload() -> Timing {
    Timing { full_reload_interval: HOUR * 24, ..timing() }
}

const fn module(cmdid: i32) -> ModuleId {
    ModuleId::new(1, cmdid)
}

fn hosts(numbers: &[u8]) -> Vec<HostAddr> {
    numbers.iter().map(|&n| HostAddr::v4(Ipv4Addr::new(10, 0, 0, n), 80)).collect()
}

/// What is committed.
#[derive(Default)]
struct Database {
    routes: BTreeMap<ModuleId, Vec<HostAddr>>,
    version: u64,
    version_is_unreadable: bool,
    changes: BTreeMap<u64, RouteChange>,
    next_id: u64,
    accepted: Option<RouteAcceptance>,
    away: bool,
}

impl Database {
    fn reserve_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn commit(&mut self, id: u64, module: ModuleId, hosts: Vec<HostAddr>, version: u64) {
        self.routes.insert(module, hosts);
        self.changes.insert(id, RouteChange { id, module, version });
        self.version = version;
    }

    /// As the editors of this version do it.
    fn edit(&mut self, module: ModuleId, hosts: Vec<HostAddr>) {
        let (id, version) = (self.reserve_id(), self.version + 1);
        self.commit(id, module, hosts, version);
    }

    fn snapshot(&self) -> Snapshot {
        let mut builder = SnapshotBuilder::default();
        for (&module, hosts) in &self.routes {
            hosts.iter().for_each(|&host| builder.push(module, host));
        }
        builder.finish()
    }

    fn position(&self) -> RoutePosition {
        let newest_change_id = self.changes.last_key_value().map_or(0, |(&id, _)| id);
        RoutePosition { version: (!self.version_is_unreadable).then_some(self.version), newest_change_id }
    }

    fn perform(&self, request: &Request) -> Result<Reply, ()> {
        if self.away {
            return Err(());
        }
        Ok(match request {
            Request::ReadPosition => Reply::Position(self.position()),
            Request::ReadChanges { after_id } => {
                let behind = self.changes.range(after_id + 1..).map(|(_, &change)| change);
                Reply::Changes(behind.take(CHANGES_READ_MAX).collect())
            }
            Request::ReadHosts(modules) => {
                let hosts = |module| self.routes.get(module).cloned().unwrap_or_default();
                Reply::Hosts(modules.iter().map(|module| (*module, hosts(module))).collect())
            }
            Request::BeginLoad { .. } => Reply::LoadBegun,
            Request::Prune(_) => Reply::Pruned,
        })
    }
}

/// A load that goes on.
struct Loading {
    reads_at: Instant,
    names_after_id: u64,
    read: Option<LoadedRoutes>,
    done_at: Instant,
}

/// A tracker, its database, a clock, and a subscriber of everything.
struct World {
    database: Database,
    load: Option<Loading>,
    /// Loads that end from now on fail, though everything else succeeds.
    loads_fail: bool,
    load_time: Duration,
    /// What was committed after each deed, and how many of these the server is behind that loads reach.
    past: Vec<(Snapshot, RoutePosition)>,
    load_lag: usize,
    /// From a load's begin to its look at the table, at most [`World::load_time`].
    load_delay: Duration,
    tracker: Tracker,
    now: Instant,
    /// What somebody knows who got the first snapshot and then only pushes.
    subscriber: BTreeMap<ModuleId, Vec<HostAddr>>,
    events: Vec<Event>,
    requests: Vec<Request>,
}

impl Loading {
    fn next_at(&self) -> Instant {
        if self.read.is_none() { self.reads_at } else { self.done_at }
    }
}

impl World {
    fn new(timing: Timing) -> Self {
        Self::with(timing, None)
    }

    fn with(timing: Timing, shrink: Option<ShrinkRules>) -> Self {
        let now = Instant::now();
        Self {
            database: Database::default(),
            load: None,
            loads_fail: false,
            load_time: Duration::ZERO,
            past: Vec::new(),
            load_lag: 0,
            load_delay: Duration::ZERO,
            tracker: Tracker::new(timing, shrink, 7, now),
            now,
            subscriber: BTreeMap::new(),
            events: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// With the first load behind it.
    fn started(timing: Timing) -> Self {
        let mut world = Self::new(timing);
        world.run(Duration::ZERO);
        world.requests.clear();
        world.events.clear();
        world
    }

    /// Does the next thing. If there is none yet: when there will be.
    fn one_step(&mut self) -> Option<Instant> {
        self.go_on_loading();
        let Some(request) = self.tracker.poll_request(self.now) else {
            let until = self.tracker.poll_timeout();
            // A load is not waited for by the tracker.
            let load_next_at = self.load.as_ref().map(Loading::next_at);
            return Some(load_next_at.map_or(until, |at| until.min(at)));
        };
        self.requests.push(request.clone());
        let events = match self.database.perform(&request) {
            Ok(reply) => self.tracker.handle_reply(reply, self.now),
            Err(()) => self.tracker.handle_failure(self.now).into_iter().collect(),
        };
        if let (Request::BeginLoad { names_after_id }, true) = (request, self.tracker.is_loading()) {
            let reads_at = self.now + self.load_delay.min(self.load_time);
            self.load =
                Some(Loading { reads_at, names_after_id, read: None, done_at: self.now + self.load_time });
        }
        events.into_iter().for_each(|event| self.take(event));
        self.go_on_loading();
        None
    }

    fn go_on_loading(&mut self) {
        if let Some(load) = self.load.as_mut().filter(|load| load.reads_at <= self.now) {
            let behind = self.load_lag.checked_sub(1).and_then(|lag| self.past.iter().rev().nth(lag));
            let (snapshot, position) = match behind {
                Some(behind) => behind.clone(),
                None => (self.database.snapshot(), self.database.position()),
            };
            let rows = self.database.changes.range(load.names_after_id + 1..);
            let named = rows.map(|(_, change)| change.module).collect();
            let accepted = self.database.accepted;
            load.read.get_or_insert(LoadedRoutes { snapshot, position, named, accepted });
        }
        if let Some(Loading { read, .. }) = self.load.take_if(|load| load.done_at <= self.now) {
            let events = match read {
                Some(loaded) if !self.database.away && !self.loads_fail => {
                    self.tracker.handle_load(loaded, self.now)
                }
                _ => self.tracker.handle_load_failure(self.now).into_iter().collect(),
            };
            events.into_iter().for_each(|event| self.take(event));
        }
    }

    fn take(&mut self, event: Event) {
        if let Event::Publish { snapshot, changed } = &event {
            for module in changed {
                let before = self.subscriber.insert(*module, snapshot.hosts(*module).to_vec());
                let first = self.events.is_empty();
                assert!(first || before.as_deref() != Some(snapshot.hosts(*module)), "pushed unchanged");
            }
        }
        self.events.push(event);
    }

    /// Lets `span` of time pass, doing everything that is due.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            if let Some(until) = self.one_step() {
                assert!(until > self.now, "a wait that is over");
                if until > end {
                    self.now = end;
                    return;
                }
                self.now = until;
            }
        }
    }

    fn loads(&self) -> usize {
        self.requests.iter().filter(|request| matches!(request, Request::BeginLoad { .. })).count()
    }

    fn published(&self) -> Vec<ModuleId> {
        let changed = self.events.iter().map(|event| match event {
            Event::Publish { changed, .. } => changed.clone(),
            Event::StoreAway
            | Event::StoreBack { .. }
            | Event::LoadDiscarded { .. }
            | Event::ShrinkHeld(_)
            | Event::ShrinkOver { .. } => Vec::new(),
        });
        changed.flatten().collect()
    }

    #[track_caller]
    fn assert_up_to_date(&self) {
        assert_eq!(**self.tracker.snapshot(), self.database.snapshot());
    }
}

#[test]
fn begins_with_loading_everything_after_finding_its_place() {
    let mut world = World::new(timing());
    world.database.edit(module(1), hosts(&[1]));
    world.run(Duration::ZERO);
    assert_eq!(
        world.requests,
        [
            Request::ReadPosition,
            Request::ReadChanges { after_id: 0 },
            Request::BeginLoad { names_after_id: 0 }
        ]
    );
    assert_eq!(world.events.len(), 1);
    assert_eq!(world.published(), []);
    world.assert_up_to_date();
}

#[test]
fn a_change_is_read_alone_within_a_poll() {
    let mut world = World::started(timing());
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    assert!(world.requests.contains(&Request::ReadHosts(vec![module(1)])));
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 0));
    world.assert_up_to_date();

    world.run(POLL * 3);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 0));
}

#[test]
fn a_long_load_delays_no_change_and_undoes_none() {
    let mut world = World::started(timing());
    world.load_time = POLL * 5;
    world.database.edit(module(1), hosts(&[1]));
    world.database.routes.insert(module(2), hosts(&[2]));
    world.run(FULL + POLL);
    assert!(world.tracker.is_loading());
    world.database.edit(module(1), hosts(&[3]));
    world.run(POLL);
    assert_eq!(world.published(), [module(1); 2], "while the load goes on");
    world.run(world.load_time);
    assert_eq!(world.published(), [module(1), module(1), module(2)], "what the load saw of 1 is old");
    assert_eq!(world.loads(), 1);
    world.assert_up_to_date();
}

#[test]
fn changes_at_every_poll_do_not_keep_from_loading() {
    let mut world = World::started(timing());
    world.database.routes.insert(module(9), hosts(&[9]));
    for n in 0..12 {
        world.database.edit(module(1), hosts(&[n]));
        world.run(POLL);
    }
    assert_eq!(world.loads(), 1);
    world.assert_up_to_date();
}

#[test]
fn very_many_changes_at_every_poll_do_not_keep_loads_from_being_used() {
    let mut world = World::started(timing());
    world.load_time = POLL * 3 / 2;
    for n in 0..20 {
        for cmdid in 0..=MODULES_READ_MAX as i32 {
            world.database.edit(module(cmdid), hosts(&[n]));
        }
        world.run(POLL);
    }
    assert!(world.events.len() >= 5, "{} publications", world.events.len());
}

#[test]
fn loads_that_fail_delay_no_change() {
    let mut world = World::started(timing());
    world.loads_fail = true;
    world.load_time = POLL / 2;
    world.run(FULL + POLL * 2);
    for n in 0..20 {
        world.database.edit(module(1), hosts(&[n]));
        world.run(POLL);
        world.assert_up_to_date();
    }
    assert!(world.loads() >= 3, "{} tries", world.loads());
    world.database.routes.insert(module(2), hosts(&[2]));
    world.loads_fail = false;
    world.run(FULL + RETRY_PAUSE_MAX);
    world.assert_up_to_date();
}

#[test]
fn a_poll_that_fails_delays_no_change_though_loads_fail_too() {
    let mut world = World::started(timing());
    world.loads_fail = true;
    world.database.away = true;
    world.run(POLL);
    world.database.away = false;
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL * 3);
    world.assert_up_to_date();
}

#[test]
fn a_load_that_is_behind_is_not_used_and_tried_again() {
    let mut world = World::started(timing());
    let old = (world.database.snapshot(), world.database.position());
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    (world.past, world.load_lag) = (vec![old], 1);
    world.run(FULL + POLL * 3);
    assert_eq!(world.published(), [module(1)]);
    let discarded = Event::LoadDiscarded { version: Some(0), seen: Some(1) };
    assert!(world.events.iter().filter(|event| **event == discarded).count() >= 2, "{:?}", world.events);
    world.database.routes.insert(module(2), hosts(&[2]));
    world.load_lag = 0;
    world.run(RETRY_PAUSE_MAX + POLL);
    assert_eq!(world.published(), [module(1), module(2)]);
    world.assert_up_to_date();
}

#[test]
fn a_module_that_was_read_lately_stays_though_the_version_is_the_same() {
    let mut world = World::started(timing());
    world.database.edit(module(1), hosts(&[1]));
    let behind = (world.database.snapshot(), world.database.position());
    let (id, version) = (world.database.reserve_id(), world.database.version);
    world.run(FULL - POLL);
    world.database.commit(id, module(1), hosts(&[2]), version);
    world.run(POLL / 2);
    (world.past, world.load_lag) = (vec![behind], 1);
    world.run(POLL * 3);
    assert_eq!(world.published(), [module(1); 2]);
    world.assert_up_to_date();
}

#[test]
fn a_version_that_cannot_be_read_stops_no_loads() {
    let mut world = World::started(timing());
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    world.database.version_is_unreadable = true;
    world.database.routes.insert(module(2), hosts(&[2]));
    world.run(FULL + POLL);
    assert_eq!(world.published(), [module(1), module(2)]);
    world.assert_up_to_date();
}

#[test]
fn a_load_that_fails_is_a_failure() {
    let mut world = World::started(timing());
    world.load_time = POLL;
    world.run(FULL);
    assert!(world.tracker.is_loading());
    world.database.away = true;
    world.run(POLL * 5);
    assert_eq!(world.events, [Event::StoreAway]);
    world.database.away = false;
    world.database.routes.insert(module(1), hosts(&[1]));
    world.run(RETRY_PAUSE_MAX + POLL * 3);
    assert_eq!((world.events.len(), world.published()), (3, vec![module(1)]));
}

#[test]
fn hosts_that_come_between_their_change_and_their_version_are_not_missed() {
    let mut world = World::started(without_periodic_reload());
    let (id, version) = (world.database.reserve_id(), 5);
    world.database.changes.insert(id, RouteChange { id, module: module(1), version });
    world.run(POLL);
    world.database.routes.insert(module(1), hosts(&[1]));
    world.database.version = version;
    world.run(POLL * 2);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 0));
}

#[test]
fn a_log_that_was_truncated_and_has_caught_up_is_not_the_log_it_was() {
    let mut world = World::started(without_periodic_reload());
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    let version = world.database.version + 1;
    world.database.changes.clear();
    world.database.next_id = 0;
    let id = world.database.reserve_id();
    world.database.commit(id, module(2), hosts(&[2]), version);
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(1), module(2)], 0));
}

#[test]
fn a_row_for_a_module_that_did_not_change_is_not_published() {
    let mut world = World::started(timing());
    world.database.edit(module(1), hosts(&[2, 1]));
    world.run(POLL);
    world.events.clear();
    world.database.edit(module(1), hosts(&[1, 2]));
    world.run(FULL * 2);
    assert_eq!(world.published(), []);
}

#[test]
fn a_second_edit_with_the_same_version_is_not_missed() {
    let mut world = World::started(without_periodic_reload());
    for numbers in [&[1][..], &[1, 2]] {
        let id = world.database.reserve_id();
        world.database.commit(id, module(1), hosts(numbers), 1_700_000_000);
        world.run(POLL);
        world.assert_up_to_date();
    }
    assert_eq!((world.published(), world.loads()), (vec![module(1); 2], 0));
}

#[test]
fn a_smaller_id_that_commits_later_is_not_missed() {
    let mut world = World::started(without_periodic_reload());
    let slow = world.database.reserve_id();
    world.database.edit(module(2), hosts(&[2]));
    world.run(POLL * 8);
    world.database.commit(slow, module(1), hosts(&[1]), 1);
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(2), module(1)], 0));
    world.assert_up_to_date();
}

#[test]
fn a_transaction_that_was_open_at_the_start_is_not_missed() {
    let mut world = World::new(without_periodic_reload());
    let open = world.database.reserve_id();
    world.database.edit(module(2), hosts(&[2]));
    world.run(POLL * 2);
    world.requests.clear();
    world.database.commit(open, module(1), hosts(&[1]), 9);
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 0));
}

#[test]
fn a_version_without_a_row_loads_everything_at_once() {
    let mut world = World::started(without_periodic_reload());
    world.run(POLL * 2);
    world.database.routes.insert(module(1), hosts(&[1]));
    world.database.version += 1;
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 1));
    world.run(POLL * 3);
    assert_eq!(world.loads(), 1);
}

#[test]
fn a_version_that_was_written_after_its_row_is_no_reason_to_load_everything() {
    let mut world = World::started(without_periodic_reload());
    let (id, version) = (world.database.reserve_id(), 5);
    world.database.routes.insert(module(1), hosts(&[1]));
    world.database.changes.insert(id, RouteChange { id, module: module(1), version });
    world.run(POLL);
    world.database.version = version;
    world.run(POLL * 2);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 0));
}

#[test]
fn a_version_that_goes_back_loads_everything_even_after_a_change() {
    let mut world = World::started(without_periodic_reload());
    world.database.version = 10;
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    world.database.routes.remove(&module(1));
    world.database.version = 5;
    world.run(POLL * 2);
    assert_eq!((world.published(), world.loads()), (vec![module(1); 2], 1));
}

#[test]
fn rows_without_version_or_change_are_found_by_the_full_reload() {
    let mut world = World::started(timing());
    world.database.routes.insert(module(1), hosts(&[1]));
    world.run(FULL + POLL);
    assert_eq!(world.published(), [module(1)]);
}

#[test]
fn a_change_that_another_server_deleted_is_found_by_its_version() {
    let mut world = World::started(without_periodic_reload());
    world.database.edit(module(1), hosts(&[1]));
    world.database.changes.clear();
    world.run(POLL * 2);
    assert_eq!((world.published(), world.loads()), (vec![module(1)], 1));
}

#[test]
fn an_emptied_log_costs_nothing_and_ids_may_start_anew() {
    let mut world = World::started(without_periodic_reload());
    world.database.next_id = 500;
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    world.database.changes.clear();
    world.database.next_id = 0;
    world.run(POLL * 2);
    world.database.edit(module(1), hosts(&[2]));
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(1); 2], 0));
}

#[test]
fn ids_that_go_back_load_everything() {
    let mut world = World::started(without_periodic_reload());
    world.database.next_id = 5_000;
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL * 3);
    // Restored from a copy, whose version happens to be the same.
    let version = world.database.version;
    world.database.changes.clear();
    world.database.next_id = 1_000;
    let id = world.database.reserve_id();
    world.database.commit(id, module(2), hosts(&[2]), version);
    world.database.routes.remove(&module(1));
    world.run(POLL);
    assert_eq!((world.published(), world.loads()), (vec![module(1), module(2), module(1)], 1));
    world.database.edit(module(3), hosts(&[3]));
    world.run(POLL);
    assert_eq!(world.loads(), 1);
    world.assert_up_to_date();
}

#[test]
fn very_many_changes_are_loaded_and_not_read_one_by_one() {
    for count in [MODULES_READ_MAX as i32 + 1, CHANGES_READ_MAX as i32 * 3] {
        let mut world = World::started(without_periodic_reload());
        for cmdid in 0..count {
            world.database.edit(module(cmdid), hosts(&[1]));
        }
        world.run(POLL * 2);
        assert_eq!((world.published().len(), world.loads()), (count as usize, 1));
        assert!(!world.requests.iter().any(|request| matches!(request, Request::ReadHosts(_))));

        world.database.edit(module(0), hosts(&[]));
        world.run(POLL);
        assert_eq!(world.loads(), 1);
        world.assert_up_to_date();
    }
}

#[test]
fn full_reloads_keep_a_pause() {
    let mut world = World::started(Timing { poll_interval: POLL / 100, ..timing() });
    for n in 0..300u64 {
        world.database.version += 1;
        world.database.routes.insert(module(1), hosts(&[n as u8]));
        world.run(POLL / 100);
    }
    assert_eq!(world.loads(), 3);
    world.run(RELOAD_PAUSE_MIN);
    world.assert_up_to_date();
}

#[test]
fn an_overlay_ends_with_the_full_reload() {
    let mut world = World::started(timing());
    world.database.edit(module(1), hosts(&[1]));
    world.run(POLL);
    assert!(world.tracker.snapshot().has_overlay());
    world.run(FULL + POLL);
    assert!(!world.tracker.snapshot().has_overlay());
    assert_eq!(world.published(), [module(1)]);
    let publications = world.events.len();
    world.run(FULL * 3);
    assert_eq!(world.events.len(), publications, "nothing changes, nothing is handed out");
}

#[test]
fn a_store_that_is_away_is_mentioned_once_and_tried_again_ever_more_rarely() {
    let mut world = World::started(timing());
    world.database.away = true;
    world.run(Duration::from_secs(60));
    assert_eq!(world.events, [Event::StoreAway]);
    assert!((12..=30).contains(&world.requests.len()), "{} tries in a minute", world.requests.len());

    world.database.away = false;
    world.database.routes.insert(module(1), hosts(&[1]));
    world.run(RETRY_PAUSE_MAX);
    assert!(matches!(world.events[1], Event::StoreBack { away_for } if away_for >= Duration::from_secs(59)));
    assert_eq!((world.published(), world.events.len()), (vec![module(1)], 3));
}

#[test]
fn a_failure_in_the_middle_of_a_change_does_not_lose_it() {
    let mut world = World::started(without_periodic_reload());
    world.run(POLL);
    world.database.edit(module(1), hosts(&[1]));
    world.now += POLL;
    while !matches!(world.tracker.poll_request(world.now), Some(Request::ReadHosts(_))) {
        world.one_step();
    }
    world.database.away = true;
    world.run(POLL);
    world.database.away = false;
    world.run(RETRY_PAUSE_MAX + RELOAD_PAUSE_MIN);
    assert_eq!(world.published(), [module(1)]);
    world.assert_up_to_date();
}

#[test]
fn a_store_that_is_away_at_the_start_is_waited_for() {
    let mut world = World::new(timing());
    world.database.away = true;
    world.database.edit(module(1), hosts(&[1]));
    world.run(Duration::from_secs(20));
    assert_eq!(world.events, [Event::StoreAway]);
    world.database.away = false;
    world.run(RETRY_PAUSE_MAX);
    assert_eq!(world.published(), []);
    world.assert_up_to_date();
}

#[test]
fn pruning_is_rare_and_never_at_the_start() {
    let mut world = World::new(timing());
    world.run(Duration::from_secs(449));
    assert!(!world.requests.contains(&Request::Prune(HOUR)));
    world.run(Duration::from_secs(6_000));
    let count = world.requests.iter().filter(|request| **request == Request::Prune(HOUR)).count();
    assert!((7..=14).contains(&count), "{count} times in 6,449 s");
}

#[test]
fn polls_that_take_longer_than_their_interval_do_not_keep_from_pruning() {
    let mut world = World::started(timing());
    let end = world.now + Duration::from_secs(1_000);
    while world.now < end {
        world.one_step();
        world.now += POLL;
    }
    assert!(world.requests.contains(&Request::Prune(HOUR)));
}

const HOLD: Duration = Duration::from_secs(600);

/// With ten modules of two hosts each, whose rows are long dealt with, and a guard.
fn guarded() -> World {
    let rules = ShrinkRules { percent: 30, hold: Some(HOLD) };
    let mut world = World::with(timing(), Some(rules));
    (0..10).for_each(|cmdid| world.database.edit(module(cmdid), hosts(&[1, 2])));
    world.run(FULL + POLL);
    (world.requests, world.events) = (Vec::new(), Vec::new());
    world
}

impl World {
    fn truncate(&mut self) {
        self.database.routes.clear();
    }

    fn accept(&mut self) {
        let hosts = self.database.snapshot().host_count() as u64;
        let id = self.database.accepted.map_or(1, |accepted| accepted.id + 1);
        self.database.version += 1;
        self.database.accepted = Some(RouteAcceptance { id, version: self.database.version, hosts });
    }

    fn hosts_served(&self) -> usize {
        self.tracker.snapshot().host_count()
    }

    fn ends(&self) -> Vec<HoldEnd> {
        let ends = self.events.iter().filter_map(|event| match event {
            Event::ShrinkOver { end, .. } => Some(*end),
            Event::Publish { .. }
            | Event::StoreAway
            | Event::StoreBack { .. }
            | Event::LoadDiscarded { .. }
            | Event::ShrinkHeld(_) => None,
        });
        ends.collect()
    }
}

#[test]
fn a_truncated_table_changes_nothing_until_the_time_is_over() {
    let mut world = guarded();
    world.truncate();
    world.run(HOLD - POLL);
    assert_eq!((world.hosts_served(), world.published()), (20, vec![]));
    let hold = world.tracker.shrink_hold().expect("it is held");
    assert_eq!((hold.hosts_lost, hold.hosts_served), (20, 20));
    world.run(FULL * 2);
    assert_eq!(world.ends(), [HoldEnd::TimeOver]);
    world.assert_up_to_date();
}

#[test]
fn rows_that_come_back_were_never_gone() {
    let mut world = guarded();
    let before = world.database.routes.clone();
    world.truncate();
    world.run(FULL + POLL);
    assert!(world.tracker.shrink_hold().is_some());
    world.database.routes = before;
    world.run(FULL + POLL);
    assert_eq!((world.ends(), world.published()), (vec![HoldEnd::RowsBack], vec![]));
    assert_eq!(world.tracker.shrink_hold(), None);
}

#[test]
fn what_is_accepted_takes_effect_within_a_poll_and_the_next_disaster_does_not() {
    let mut world = guarded();
    let before = world.database.routes.clone();
    world.truncate();
    world.run(FULL + POLL);
    world.accept();
    world.run(POLL * 2);
    assert!(matches!(world.ends()[..], [HoldEnd::Accepted(_)]), "{:?}", world.ends());
    world.assert_up_to_date();

    world.database.routes = before;
    world.run(FULL + POLL);
    assert_eq!(world.hosts_served(), 20);
    world.truncate();
    world.run(FULL * 3);
    assert_eq!(world.hosts_served(), 20, "what was accepted once is not accepted for ever");
}

#[test]
fn edits_of_every_size_are_never_held() {
    let mut world = guarded();
    (0..9).for_each(|cmdid| world.database.edit(module(cmdid), Vec::new()));
    world.run(POLL);
    world.assert_up_to_date();

    // So many that they are not read one by one, nor in one read of the log.
    let count = CHANGES_READ_MAX as i32 * 2;
    (0..count).for_each(|cmdid| world.database.edit(module(cmdid), hosts(&[1, 2, 3])));
    world.run(FULL + POLL);
    world.assert_up_to_date();
    (0..count).for_each(|cmdid| world.database.edit(module(cmdid), Vec::new()));
    world.run(FULL + POLL);
    world.assert_up_to_date();
    assert_eq!(world.ends(), []);
}

#[test]
fn edits_while_a_table_is_held_take_effect() {
    let mut world = guarded();
    world.truncate();
    world.run(FULL + POLL);
    world.database.edit(module(3), hosts(&[7]));
    world.database.edit(module(4), hosts(&[]));
    world.database.routes.insert(module(77), hosts(&[1]));
    world.run(FULL + POLL);
    assert_eq!(world.published(), [module(3), module(4), module(77)]);
    assert_eq!(world.hosts_served(), 16 + 1 + 1);
    assert!(world.tracker.shrink_hold().is_some());
}

/// As a program that ends and starts again with what it saved.
fn restart(world: &mut World) {
    let saved = SavedRoutes::decode(&world.tracker.to_save("here").encode()).expect("its own bytes");
    let rules = ShrinkRules { percent: 30, hold: Some(HOLD) };
    world.tracker = Tracker::new(timing(), Some(rules), 7, world.now).resuming(&saved);
    (world.load, world.requests, world.events) = (None, Vec::new(), Vec::new());
}

#[test]
fn routes_from_before_the_start_are_served_and_what_happened_since_is_pushed() {
    let mut world = guarded();
    world.database.away = true;
    restart(&mut world);
    assert!(world.tracker.has_routes() && !world.tracker.has_loaded());
    assert_eq!(world.hosts_served(), 20);
    world.run(FULL);
    assert_eq!(world.hosts_served(), 20);
    (0..9).for_each(|cmdid| world.database.edit(module(cmdid), Vec::new()));
    world.database.away = false;
    world.run(RETRY_PAUSE_MAX);
    assert_eq!(world.published(), (0..9).map(module).collect::<Vec<_>>());
    assert!(world.tracker.has_loaded());
    world.assert_up_to_date();
}

#[test]
fn what_vanished_while_it_was_down_or_held_is_held() {
    let mut world = guarded();
    restart(&mut world);
    world.truncate();
    world.run(FULL);
    assert_eq!(world.hosts_served(), 20);
    restart(&mut world);
    world.run(FULL * 3);
    assert_eq!((world.hosts_served(), world.published()), (20, vec![]));
    // Accepted while it is down.
    let saved_at = world.now;
    restart(&mut world);
    world.accept();
    world.run(POLL);
    assert!(world.now > saved_at);
    assert!(matches!(world.ends()[..], [HoldEnd::Accepted(_)]), "{:?}", world.ends());
    assert_eq!(world.hosts_served(), 0);
}

#[test]
fn a_first_load_that_changes_nothing_is_told_all_the_same() {
    let mut world = guarded();
    restart(&mut world);
    world.run(POLL);
    assert!(matches!(&world.events[..], [Event::Publish { changed, .. }] if changed.is_empty()));
}

#[test]
fn rows_that_were_dealt_with_name_nothing_again() {
    let mut world = guarded();
    (0..10).for_each(|cmdid| world.database.edit(module(cmdid), hosts(&[1, 2, 3])));
    world.run(POLL);
    world.truncate();
    world.run(FULL + POLL);
    assert_eq!(world.hosts_served(), 30);
    // Nor do those of a log that was emptied, or is another.
    world.database.changes.clear();
    world.database.version = 0;
    world.run(FULL * 2);
    assert_eq!(world.hosts_served(), 30);
}

#[derive(Clone, Debug)]
enum Deed {
    /// Rows, change and version in one transaction.
    Edit(i32, Vec<u8>),
    /// Takes an id now and commits after so many further deeds.
    SlowEdit(i32, Vec<u8>, usize),
    /// Rows only.
    Silent(i32, Vec<u8>),
    /// Rows and version.
    NoChangeRow(i32, Vec<u8>),
    /// Rows and change, with the version that there is.
    SameVersion(i32, Vec<u8>),
    DeleteChanges,
    Truncate,
    /// Loads that begin from now on take so many milliseconds, and look at the table after so many of these.
    LoadTime(u64, u64),
    /// Loads that look at the table from now on reach a server that is so many deeds behind.
    LoadLag(usize),
    Away,
    Back,
    /// One step of the tracker, in the middle of whatever it does.
    Step,
    Pause(u64),
}

impl Deed {
    /// The same, with hosts that no other deed sets.
    fn numbered(self, n: u8) -> Self {
        match self {
            Self::Edit(cmdid, _) => Self::Edit(cmdid, vec![n]),
            Self::SlowEdit(cmdid, _, commits_in) => Self::SlowEdit(cmdid, vec![n], commits_in),
            Self::Silent(cmdid, _) => Self::Silent(cmdid, vec![n]),
            Self::NoChangeRow(cmdid, _) => Self::NoChangeRow(cmdid, vec![n]),
            Self::SameVersion(cmdid, _) => Self::SameVersion(cmdid, vec![n]),
            Self::DeleteChanges
            | Self::Truncate
            | Self::LoadTime(..)
            | Self::LoadLag(_)
            | Self::Away
            | Self::Back
            | Self::Step
            | Self::Pause(_) => self,
        }
    }
}

fn any_numbers() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..4, 0..4)
}

/// What editors do that keep the rules.
fn good_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::Edit(cmdid, numbers)),
        2 => (0i32..4, any_numbers(), 1usize..6).prop_map(|(c, numbers, n)| Deed::SlowEdit(c, numbers, n)),
        2 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::SameVersion(cmdid, numbers)),
        6 => Just(Deed::Step),
        2 => (0u64..1_500).prop_map(Deed::Pause),
    ]
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        10 => good_deed(),
        2 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::Silent(cmdid, numbers)),
        2 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::NoChangeRow(cmdid, numbers)),
        1 => Just(Deed::DeleteChanges),
        1 => Just(Deed::Truncate),
        1 => (0u64..4_000, 0u64..4_000).prop_map(|(time, delay)| Deed::LoadTime(time, delay)),
        1 => Just(Deed::Away),
        1 => Just(Deed::Back),
        1 => (0u64..15_000).prop_map(Deed::Pause),
    ]
}

/// Editors that keep the rules, in a database of several servers.
fn deed_of_many_servers() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::Edit(cmdid, numbers)),
        2 => (0i32..4, any_numbers()).prop_map(|(cmdid, numbers)| Deed::SameVersion(cmdid, numbers)),
        1 => Just(Deed::DeleteChanges),
        2 => (0usize..6).prop_map(Deed::LoadLag),
        1 => (0u64..4_000, 0u64..4_000).prop_map(|(time, delay)| Deed::LoadTime(time, delay)),
        4 => Just(Deed::Step),
        6 => (0u64..1_500).prop_map(Deed::Pause),
    ]
}

/// A transaction that has its id and is not committed.
struct Open {
    id: u64,
    module: ModuleId,
    hosts: Vec<HostAddr>,
    version: u64,
    commits_in: usize,
}

#[derive(Default)]
struct Editors {
    open: Vec<Open>,
}

impl Editors {
    fn perform(&mut self, deed: Deed, world: &mut World) {
        let database = &mut world.database;
        match deed {
            Deed::Edit(cmdid, numbers) => database.edit(module(cmdid), hosts(&numbers)),
            Deed::SlowEdit(cmdid, numbers, commits_in) => {
                let (id, version) = (database.reserve_id(), database.version + 1);
                let (module, hosts) = (module(cmdid), hosts(&numbers));
                self.open.push(Open { id, module, hosts, version, commits_in });
            }
            Deed::Silent(cmdid, numbers) => drop(database.routes.insert(module(cmdid), hosts(&numbers))),
            Deed::NoChangeRow(cmdid, numbers) => {
                database.routes.insert(module(cmdid), hosts(&numbers));
                database.version += 1;
            }
            Deed::SameVersion(cmdid, numbers) => {
                let (id, version) = (database.reserve_id(), database.version);
                database.commit(id, module(cmdid), hosts(&numbers), version);
            }
            Deed::DeleteChanges => database.changes.clear(),
            Deed::Truncate => {
                database.changes.clear();
                database.next_id = 0;
            }
            Deed::LoadTime(time, delay) => {
                (world.load_time, world.load_delay) =
                    (Duration::from_millis(time), Duration::from_millis(delay));
            }
            Deed::LoadLag(lag) => world.load_lag = lag,
            Deed::Away => database.away = true,
            Deed::Back => database.away = false,
            Deed::Step => {
                let _ = world.one_step();
            }
            Deed::Pause(millis) => world.run(Duration::from_millis(millis)),
        }
        self.commit(&mut world.database, 1);
        world.past.push((world.database.snapshot(), world.database.position()));
    }

    fn commit(&mut self, database: &mut Database, steps: usize) {
        self.open.iter_mut().for_each(|open| open.commits_in = open.commits_in.saturating_sub(steps));
        for open in self.open.extract_if(.., |open| open.commits_in == 0) {
            database.commit(open.id, open.module, open.hosts, open.version);
        }
    }
}

fn play(world: &mut World, deeds: Vec<Deed>) {
    let mut editors = Editors::default();
    deeds.into_iter().for_each(|deed| editors.perform(deed, world));
    editors.commit(&mut world.database, usize::MAX);
}

/// The states of each module that somebody can have read, in their order.
type History = BTreeMap<ModuleId, Vec<Vec<HostAddr>>>;

fn record(history: &mut History, database: &Database) {
    for (module, hosts) in &database.routes {
        let states = history.entry(*module).or_default();
        if states.last() != Some(hosts) {
            states.push(hosts.clone());
        }
    }
}

#[track_caller]
fn assert_nothing_went_back(world: &World, history: &History) {
    let mut newest = BTreeMap::new();
    for event in &world.events {
        let Event::Publish { snapshot, changed } = event else { continue };
        for module in changed {
            let states = history.get(module).map_or(&[][..], Vec::as_slice);
            let place = states.iter().position(|hosts| hosts == snapshot.hosts(*module));
            assert!(newest.insert(*module, place) < Some(place), "{module} went back");
        }
    }
}

fn subscriber_knows(world: &World) -> Vec<(ModuleId, Vec<HostAddr>)> {
    let known = world.subscriber.iter().filter(|(_, hosts)| !hosts.is_empty());
    known.map(|(module, hosts)| (*module, hosts.clone())).collect()
}

fn truth(world: &World) -> Vec<(ModuleId, Vec<HostAddr>)> {
    world.database.snapshot().iter().map(|(module, hosts)| (module, hosts.to_vec())).collect()
}

proptest! {
    #[test]
    fn whatever_happens_a_quiet_while_later_everything_is_known(
        deeds in prop::collection::vec(any_deed(), 0..80),
    ) {
        let mut world = World::started(timing());
        play(&mut world, deeds);
        world.database.away = false;
        world.load_time = Duration::ZERO;
        world.run(FULL * 2 + RETRY_PAUSE_MAX + POLL);
        prop_assert_eq!(subscriber_knows(&world), truth(&world));
        world.assert_up_to_date();
        let away = world.events.iter().filter(|event| **event == Event::StoreAway).count();
        let back = world.events.iter().filter(|event| matches!(event, Event::StoreBack { .. })).count();
        prop_assert_eq!(away, back);
    }

    /// A guard delays what nobody named, and nothing for ever.
    #[test]
    fn with_a_guard_everything_is_known_when_the_hold_time_is_over(
        deeds in prop::collection::vec(any_deed(), 0..80),
    ) {
        let mut world = guarded();
        play(&mut world, deeds);
        world.database.away = false;
        world.load_time = Duration::ZERO;
        world.run(HOLD + FULL * 2 + RETRY_PAUSE_MAX + POLL);
        world.assert_up_to_date();
        prop_assert_eq!(world.tracker.shrink_hold(), None);
    }

    /// Editors that keep the rules never meet it.
    #[test]
    fn a_guard_holds_nothing_of_who_keeps_the_rules(deeds in prop::collection::vec(good_deed(), 0..80)) {
        let mut world = guarded();
        play(&mut world, deeds);
        world.run(FULL + POLL * 2);
        world.assert_up_to_date();
    }

    /// Loads may reach any server, also one that is behind: a route never goes back.
    #[test]
    fn a_load_from_a_server_that_is_behind_undoes_nothing(
        deeds in prop::collection::vec(deed_of_many_servers(), 0..80),
    ) {
        let mut world = World::started(timing());
        let (mut editors, mut history) = (Editors::default(), History::new());
        for (n, deed) in deeds.into_iter().enumerate() {
            editors.perform(deed.numbered(n as u8), &mut world);
            record(&mut history, &world.database);
        }
        assert_nothing_went_back(&world, &history);
        (world.load_lag, world.load_time) = (0, Duration::ZERO);
        world.run(FULL * 2 + RETRY_PAUSE_MAX + POLL);
        prop_assert_eq!(subscriber_knows(&world), truth(&world));
    }

    /// Also while it happens, whenever a load looks at the table.
    #[test]
    fn nothing_older_is_published_after_what_is_newer(deeds in prop::collection::vec(any_deed(), 0..80)) {
        let mut world = World::started(timing());
        let (mut editors, mut history) = (Editors::default(), History::new());
        for (n, deed) in deeds.into_iter().enumerate() {
            editors.perform(deed.numbered(n as u8), &mut world);
            record(&mut history, &world.database);
        }
        assert_nothing_went_back(&world, &history);
    }

    #[test]
    fn editors_that_keep_the_rules_never_cause_a_full_reload_and_are_heard_in_two_polls(
        deeds in prop::collection::vec(good_deed(), 0..80),
    ) {
        let mut world = World::started(without_periodic_reload());
        play(&mut world, deeds);
        world.run(POLL * 2);
        prop_assert_eq!(world.loads(), 0);
        prop_assert_eq!(subscriber_knows(&world), truth(&world));
        world.assert_up_to_date();
    }
}
