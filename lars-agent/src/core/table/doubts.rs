//! Empty routes that may be a mistake.
//!
//! A module that has hosts and is said to have none is *in doubt*, unless lars-dns says that this is meant: somebody may
//! have emptied a table, or a deployed lars-dns may have lost its database. The module keeps its hosts meanwhile, and
//! lars-dns is asked again and again. Hosts end the doubt, and so does an empty route that comes when it has lasted for
//! `empty_hold`. While nobody answers, nothing changes.

use std::{collections::HashMap, time::Duration};

use ahash::RandomState;
use lars_proto::{Endpoint, ModuleId};

use super::{ASK_AGAIN_INTERVAL, Table};
use crate::core::time::Moment;

/// The modules in doubt; all of them have hosts.
pub(super) struct Doubts {
    empty_hold: Duration,
    since: HashMap<ModuleId, Moment, RandomState>,
    /// One that people should be told of.
    news: Option<ModuleId>,
}

impl Doubts {
    pub(super) fn new(empty_hold: Duration) -> Self {
        Self { empty_hold, since: HashMap::default(), news: None }
    }

    pub(super) fn has(&self, module: ModuleId) -> bool {
        !self.since.is_empty() && self.since.contains_key(&module)
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    /// An empty route of a module with hosts came that is not said to be meant. Whether it is put into force all the same.
    fn is_believed(&self, module: ModuleId, now: Moment) -> bool {
        let since = self.since.get(&module).copied();
        self.empty_hold.is_zero()
            || since.is_some_and(|since| now.is_due(since + self.empty_hold, self.empty_hold))
    }

    /// Whether `module` was not in doubt before.
    fn begin(&mut self, module: ModuleId, now: Moment) -> bool {
        let is_new = !self.since.contains_key(&module);
        if is_new {
            self.since.insert(module, now);
            self.news = Some(module);
        }
        is_new
    }
}

impl Table {
    /// lars-dns says that `route` is the route of `module` now and, with `confirmed`, that this is meant if it is empty.
    /// It is put into force, but for an empty one that is in doubt.
    pub fn hear_route(&mut self, module: ModuleId, route: &[Endpoint], confirmed: bool, now: Moment) {
        let key = self.by_id.get(&module).copied();
        let with_hosts = key.filter(|&key| self.modules[key].balancer.is_some());
        if let Some(key) = with_hosts
            && route.is_empty()
            && !confirmed
            && !self.doubts.is_believed(module, now)
        {
            self.stats.doubts += u64::from(self.doubts.begin(module, now));
            self.modules[key].ask_at = now + ASK_AGAIN_INTERVAL;
            self.check_invariants();
            return;
        }
        if self.doubts.since.remove(&module).is_some() {
            self.stats.doubts_dispelled += u64::from(!route.is_empty());
        }
        self.route_update(module, route, now);
    }

    /// A module that has come into doubt since this was asked last.
    pub fn poll_doubt(&mut self) -> Option<ModuleId> {
        self.doubts.news.take()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::HostAddr;

    use super::*;
    use crate::core::table::{Answer, Interest, SWEEP_INTERVAL, TableConfig};

    const T0: Moment = Moment::ORIGIN;
    const MODULE: ModuleId = ModuleId::new(1, 1);
    const HOLD: Duration = Duration::from_secs(30);

    fn host(port: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::LOCALHOST, port)
    }

    fn hear(table: &mut Table, ports: &[u16], confirmed: bool, now: Moment) {
        let route: Vec<Endpoint> = ports.iter().map(|&port| host(port).into()).collect();
        table.hear_route(MODULE, &route, confirmed, now);
    }

    /// A table that knows of one host.
    fn table(empty_hold: Duration) -> Table {
        let mut table = Table::new(TableConfig { empty_hold, ..TableConfig::default() });
        table.get_host(MODULE, T0);
        hear(&mut table, &[1], false, T0);
        while table.poll_interest().is_some() {}
        table
    }

    #[track_caller]
    fn check_hosts(table: &Table, expected: &[u16]) {
        let mut ports = Vec::new();
        table.each_host(MODULE, &mut |status| ports.push(status.host.port()));
        assert_eq!(ports, expected);
    }

    /// How often lars-dns is asked from `now` on until `end`, though nobody looks anything up.
    fn asked(table: &mut Table, mut now: Moment, end: Moment) -> usize {
        let mut asked = 0;
        while now < end {
            now = now + SWEEP_INTERVAL;
            table.handle_timeout(now);
            while let Some(interest) = table.poll_interest() {
                assert_eq!(interest, Interest::Want(MODULE));
                asked += 1;
            }
        }
        asked
    }

    #[test]
    fn an_empty_route_that_nobody_confirms_is_kept_back_and_asked_for_again() {
        let mut table = table(HOLD);
        hear(&mut table, &[], false, T0);
        check_hosts(&table, &[1]);
        assert_eq!(table.get_host(MODULE, T0), Answer::Host(host(1)));
        assert_eq!((table.poll_doubt(), table.poll_doubt()), (Some(MODULE), None));
        let asked = asked(&mut table, T0, T0 + Duration::from_secs(25));
        assert!((8..=13).contains(&asked), "asked {asked} times in 25 seconds");
        hear(&mut table, &[], false, T0 + Duration::from_secs(25));
        assert_eq!((table.stats().doubts, table.stats().in_doubt, table.poll_doubt()), (1, 1, None));
        check_hosts(&table, &[1]);
        hear(&mut table, &[], false, T0 + HOLD);
        check_hosts(&table, &[]);
        assert_eq!((table.stats().in_doubt, table.stats().doubts_dispelled), (0, 0));
        assert_eq!(table.get_host(MODULE, T0 + HOLD), Answer::NotFound);
    }

    #[test]
    fn hosts_end_the_doubt() {
        let mut table = table(HOLD);
        hear(&mut table, &[], false, T0);
        hear(&mut table, &[2], false, T0 + HOLD);
        check_hosts(&table, &[2]);
        assert_eq!((table.stats().in_doubt, table.stats().doubts_dispelled), (0, 1));
        let later = T0 + HOLD + Duration::from_secs(1);
        assert_eq!(asked(&mut table, T0 + HOLD, later), 0);
        hear(&mut table, &[], false, later);
        check_hosts(&table, &[2]);
    }

    #[test]
    fn while_nobody_answers_nothing_changes() {
        let mut table = table(HOLD);
        hear(&mut table, &[], false, T0);
        let later = T0 + Duration::from_secs(300);
        assert!(asked(&mut table, T0, later) > 0);
        check_hosts(&table, &[1]);
    }

    #[test]
    fn what_is_meant_is_in_force_at_once() {
        let mut meant = table(HOLD);
        hear(&mut meant, &[], true, T0);
        check_hosts(&meant, &[]);
        let mut doubted = table(HOLD);
        hear(&mut doubted, &[], false, T0);
        hear(&mut doubted, &[], true, T0);
        check_hosts(&doubted, &[]);
        let mut trusting = table(Duration::ZERO);
        hear(&mut trusting, &[], false, T0);
        check_hosts(&trusting, &[]);
        for table in [meant, doubted, trusting] {
            assert_eq!(table.stats().in_doubt, 0);
        }
    }

    #[test]
    fn a_module_without_hosts_is_in_no_doubt() {
        let mut table = table(HOLD);
        hear(&mut table, &[], true, T0);
        hear(&mut table, &[], false, T0);
        assert_eq!((table.stats().doubts, table.is_learned(MODULE)), (0, true));
    }
}
