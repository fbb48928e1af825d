//! What a table passes on to the agent that starts after this one.

use std::{ops::ControlFlow, sync::Arc};

use lars_proto::{HostAddr, ModuleId};

use super::{Balancer, Effects, Table};
use crate::core::{balancer::Ejection, saved::SavedModule, time::Moment};

/// A visit ends with the module that makes it so many hosts.
const HOSTS_PER_VISIT: usize = 4_096;

impl Table {
    /// Grows whenever [`Table::visit_saved`] would say something else, but for the passing of time.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Visits up to `count` places for modules, from place `from` on, and shows each module with hosts and its overloaded
    /// hosts; fewer places where those have so many hosts that it would take long. Returns the place at which to go on;
    /// `None` at the end. Over several visits a module that comes or goes meanwhile is shown or is not, one that goes and
    /// comes back perhaps twice, and every other one once.
    pub fn visit_saved(
        &self,
        from: usize,
        count: usize,
        mut visit: impl FnMut(ModuleId, &[HostAddr], &[Ejection]),
    ) -> Option<usize> {
        let (end, mut next, mut shown) = (self.keys_end.min(from.saturating_add(count)), from, 0);
        while next < end && shown < HOSTS_PER_VISIT {
            let module = self.modules.get(next);
            if let Some((module, balancer)) =
                module.and_then(|module| Some((module, module.balancer.as_ref()?)))
            {
                let hosts: Vec<_> = balancer.hosts().map(|status| status.host).collect();
                let ejections: Vec<_> = balancer.ejections().collect();
                visit(module.id, &hosts, &ejections);
                shown += hosts.len();
            }
            next += 1;
        }
        (next < self.keys_end).then_some(next)
    }

    /// Takes over what the agent before knew of modules, unless this one knows better: it is answered at once, and counts
    /// as unconfirmed until lars-dns has said something. [`ControlFlow::Break`] if there are as many modules as may be.
    pub fn restore(&mut self, saved: &SavedModule, now: Moment) -> ControlFlow<()> {
        if self.modules.len() >= self.config.modules_max {
            return ControlFlow::Break(());
        }
        if saved.route.is_empty() || self.by_id.contains_key(&saved.module) {
            return ControlFlow::Continue(());
        }
        let Some(key) = self.insert_module(saved.module, now) else { return ControlFlow::Break(()) };
        self.misses.remove(&mut self.modules, key as u32);
        let mut effects = Effects::default();
        let mut balancer = Box::new(Balancer::new(Arc::clone(&self.config.balancer)));
        balancer.update(&saved.route, now, &mut effects);
        let ejections = self.ejections_left(saved, now);
        balancer.restore(&ejections, now, &mut effects);
        let census = balancer.census();
        let module = &mut self.modules[key];
        module.balancer = Some(balancer);
        module.is_learned = true;
        module.ask(&mut self.interests, &self.config, now);
        self.stats.unconfirmed += 1;
        self.stats.hosts_idle += census.idle as u64;
        self.stats.hosts_overloaded += census.overloaded as u64;
        self.version += 1;
        self.note(key, effects, now);
        self.check_invariants();
        ControlFlow::Continue(())
    }

    /// The hosts that are still to be overloaded, those ejected first before the others.
    fn ejections_left(&self, saved: &SavedModule, now: Moment) -> Vec<Ejection> {
        let timeout = self.config.balancer.health.overload_timeout;
        let left = saved.ejections.iter().filter(|ejection| ejection.age < timeout);
        let since = |age| now.saturating_sub(age);
        let mut left: Vec<_> =
            left.map(|left| Ejection { host: left.host, rule: left.rule, since: since(left.age) }).collect();
        left.sort_by_key(|ejection| ejection.since);
        left
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use lars_proto::Endpoint;
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        balancer::Outcome,
        saved::{SavedEjection, decode, encode_frame, encode_records},
        table::{Answer, Interest, TableConfig},
    };

    /// Late enough for windows to have begun before.
    const T0: Moment = Moment::ORIGIN;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn start() -> Moment {
        T0 + HOUR
    }

    fn module(n: i32) -> ModuleId {
        ModuleId::new(n, -n)
    }

    fn host(port: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, port)
    }

    fn table() -> Table {
        Table::new(TableConfig::default())
    }

    fn learn(table: &mut Table, id: ModuleId, ports: std::ops::Range<u16>, now: Moment) {
        table.get_host(id, now);
        let route: Vec<Endpoint> = ports.map(|port| host(port).into()).collect();
        table.route_update(id, &route, now);
        while table.poll_interest().is_some() {}
    }

    /// What the next agent reads, `later` after this one wrote it.
    fn pass_on(table: &Table, now: Moment, later: Duration) -> Vec<SavedModule> {
        let (mut frames, mut records, mut from) = (Vec::new(), Vec::new(), Some(0));
        while let Some(place) = from {
            from = table.visit_saved(place, 3, |id, hosts, ejections| {
                encode_frame(id, hosts, &mut frames);
                encode_records(id, ejections, now, &mut records);
            });
        }
        decode(&crate::core::saved::join(&[(frames, records)]), later).expect("what was written")
    }

    fn statuses(table: &Table, id: ModuleId) -> (Vec<HostAddr>, Vec<HostAddr>) {
        let (mut idle, mut overloaded) = (Vec::new(), Vec::new());
        table.each_host(id, &mut |status| {
            if status.overloaded { overloaded.push(status.host) } else { idle.push(status.host) }
        });
        (idle, overloaded)
    }

    /// Visits all modules.
    fn sweep(table: &mut Table, now: Moment) {
        (0..10).for_each(|n| table.handle_timeout(now + Duration::from_millis(100 * n)));
    }

    #[test]
    fn what_one_table_knew_the_next_one_answers_at_once() {
        let mut before = table();
        learn(&mut before, module(1), 1..4, start());
        learn(&mut before, module(2), 9..10, start());
        before.get_host(module(3), start());
        for _ in 0..15 {
            before.report(module(1), host(2), Outcome::Failure, start());
        }
        let mut after = table();
        for saved in pass_on(&before, start() + Duration::from_secs(4), Duration::from_secs(1)) {
            assert!(after.restore(&saved, start()).is_continue());
        }
        assert_eq!(after.stats().unconfirmed, 2);
        let interests: Vec<_> = std::iter::from_fn(|| after.poll_interest()).collect();
        assert_eq!(interests, [Interest::Want(module(1)), Interest::Want(module(2))], "lars-dns is asked");
        assert_eq!(after.get_host(module(2), start()), Answer::Host(host(9)));
        assert_eq!(statuses(&after, module(1)), (vec![host(1), host(3)], vec![host(2)]));

        // It was overloaded for 5 s of 15.
        sweep(&mut after, start() + Duration::from_secs(9));
        assert_eq!(after.stats().hosts_overloaded, 1);
        sweep(&mut after, start() + Duration::from_secs(10));
        assert_eq!(after.stats().hosts_overloaded, 0);

        learn(&mut after, module(1), 1..3, start());
        assert_eq!(after.stats().unconfirmed, 1, "lars-dns has said something");
        let route = vec![host(7).into()];
        let saved = SavedModule { module: module(1), route, ejections: Vec::new() };
        assert!(after.restore(&saved, start()).is_continue());
        assert_eq!(statuses(&after, module(1)).0.len(), 2, "what lars-dns said stands");
    }

    #[test]
    fn an_unconfirmed_module_is_asked_for_until_there_is_an_answer() {
        let mut table = table();
        table.set_has_digests(true);
        let route = vec![host(1).into()];
        let saved = SavedModule { module: module(1), route, ejections: Vec::new() };
        assert!(table.restore(&saved, start()).is_continue());
        assert_eq!(table.poll_interest(), Some(Interest::Want(module(1))));
        let (mut now, mut asked) = (start(), 0);
        for _ in 0..100 {
            now = now + Duration::from_millis(100);
            table.handle_timeout(now);
            asked += std::iter::from_fn(|| table.poll_interest()).count();
        }
        assert!((3..=6).contains(&asked), "every 2 s for 10 s: {asked}");
        table.hear_route(module(1), &[], false, now);
        assert_eq!(table.get_host(module(1), now), Answer::Host(host(1)), "an empty route is in doubt");
    }

    #[test]
    fn there_are_no_more_modules_than_may_be() {
        let mut table = Table::new(TableConfig { modules_max: 2, ..TableConfig::default() });
        let saved = |n| SavedModule { module: module(n), route: vec![host(1).into()], ejections: Vec::new() };
        assert!(table.restore(&saved(1), start()).is_continue());
        assert!(table.restore(&saved(2), start()).is_continue());
        assert!(table.restore(&saved(3), start()).is_break());
        assert_eq!(table.stats().modules, 2);
    }

    proptest! {
        /// Whatever happened to the table before.
        #[test]
        fn the_next_table_has_the_same_hosts_in_the_same_states(
            events in prop::collection::vec((0..5_i32, 1..6_u16, 0..4_u8, 0..2_000_u64), 0..300),
        ) {
            let (mut before, mut now) = (table(), start());
            for (id, port, what, ms) in events {
                now = now + Duration::from_millis(ms);
                match what {
                    0 => learn(&mut before, module(id), port..port + 3, now),
                    1 => { before.get_host(module(id), now); }
                    _ => (0..8).for_each(|_| before.report(module(id), host(port), Outcome::Failure, now)),
                }
            }
            // A lookup sees to it that whose time is over by now is idle.
            (0..5).for_each(|id| { before.get_host(module(id), now); });
            let mut after = table();
            for saved in pass_on(&before, now, Duration::ZERO) {
                prop_assert!(after.restore(&saved, now).is_continue());
            }
            for id in (0..5).map(module) {
                let [before, after] = [&before, &after].map(|table| {
                    let (mut idle, mut overloaded) = statuses(table, id);
                    idle.sort_unstable();
                    overloaded.sort_unstable();
                    (idle, overloaded)
                });
                prop_assert_eq!(before, after, "hosts of {}", id);
            }
        }
    }

    #[test]
    fn what_is_saved_of_an_ejection() {
        let ejection = SavedEjection {
            host: host(1),
            rule: crate::core::balancer::EjectionRule::ErrorRate,
            age: Duration::from_secs(20),
        };
        let saved = SavedModule { module: module(1), route: vec![host(1).into()], ejections: vec![ejection] };
        let mut table = table();
        assert!(table.restore(&saved, start()).is_continue());
        assert_eq!(table.stats().hosts_overloaded, 0, "its time is over");
    }

    #[test]
    fn a_visit_ends_early_where_modules_have_very_many_hosts() {
        let mut table = table();
        let ids = [1, 2, 3].map(module);
        ids.iter().for_each(|&id| learn(&mut table, id, 1..3_000, start()));
        let (mut visits, mut seen, mut from) = (0, Vec::new(), Some(0));
        while let Some(place) = from {
            from = table.visit_saved(place, usize::MAX, |id, _, _| seen.push(id));
            visits += 1;
        }
        assert_eq!((visits, &seen[..]), (2, &ids[..]));
    }
}
