//! Which routes are asked of lars-dns, and when.
//!
//! Remembers every module that a lookup wanted, because an answer to a query is also a subscription and both
//! end with the connection: each time the link comes up, all of them are asked for again. Those queries are
//! paced, so that a restart of lars-dns does not meet all agents' modules in one burst; queries for lookups
//! go ahead of them and at once. While the link is down nothing is lost: what is wanted is asked for when it
//! is back.
//!
//! Memory follows the number of modules wanted, which the tables bound.

use std::{collections::HashMap, collections::VecDeque, time::Duration};

use ahash::RandomState;
use lars_proto::ModuleId;

use super::time::Moment;

/// Known modules are asked for again in bursts of this size …
pub const RESUBSCRIBE_BURST: usize = 100;
/// … at this interval: 1,000 per second.
pub const RESUBSCRIBE_INTERVAL: Duration = Duration::from_millis(100);
/// A query without an answer for so long may be repeated, if a lookup still wants the module.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// With more modules than this the invariants are not checked after each call, even in debug builds.
const CHECKED_MODULES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    /// Answered on this connection; changes are pushed.
    Subscribed,
    /// A lookup waits for it: to be asked for at once, in `fresh` while the link is up.
    Fresh,
    /// To be asked for again when its burst comes, in `backlog`.
    Backlog,
    /// Asked on this connection.
    Sent(Moment),
}

/// The link to lars-dns, without the link.
#[derive(Debug)]
pub struct DnsLink {
    /// A server that owes an answer for so long is given up.
    answer_timeout: Duration,
    is_up: bool,
    modules: HashMap<ModuleId, Query, RandomState>,
    /// Both queues are for this connection and empty while there is none. They may hold modules that are in
    /// another state by now; those are skipped.
    fresh: VecDeque<ModuleId>,
    backlog: VecDeque<ModuleId>,
    next_burst: Moment,
    left_in_burst: usize,
    /// The first query since the last route came.
    silent_since: Option<Moment>,
}

impl DnsLink {
    /// A link that is down. A server that owes an answer for `answer_timeout`, and sends nothing else either,
    /// is given up, whatever TCP thinks of the connection.
    #[must_use]
    pub fn new(answer_timeout: Duration) -> Self {
        Self {
            answer_timeout,
            is_up: false,
            modules: HashMap::default(),
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
            next_burst: Moment::ORIGIN,
            left_in_burst: 0,
            silent_since: None,
        }
    }

    /// The link came up: everything is asked for again, what lookups wait for first.
    pub fn connected(&mut self, now: Moment) {
        self.is_up = true;
        let (waiting, others): (Vec<_>, Vec<_>) =
            self.modules.iter().partition(|&(_, &query)| query == Query::Fresh);
        self.backlog = waiting.into_iter().chain(others).map(|(&module, _)| module).collect();
        self.fresh.clear();
        self.modules.values_mut().for_each(|query| *query = Query::Backlog);
        self.next_burst = now;
        self.left_in_burst = 0;
        self.silent_since = None;
        self.check_invariants();
    }

    pub fn disconnected(&mut self) {
        self.is_up = false;
        self.fresh = VecDeque::new();
        self.backlog = VecDeque::new();
        self.silent_since = None;
    }

    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.is_up
    }

    /// Whether the server owes an answer for so long that the link should be given up for another one.
    #[must_use]
    pub fn is_silent(&self, now: Moment) -> bool {
        self.silent_since.is_some_and(|since| now.is_due(since + self.answer_timeout, self.answer_timeout))
    }

    /// How many modules are wanted.
    #[must_use]
    pub fn modules_len(&self) -> usize {
        self.modules.len()
    }

    /// A lookup wants the route of `module`. A query that is under way already is not repeated.
    pub fn want(&mut self, module: ModuleId, now: Moment) {
        let ask = match self.modules.get(&module) {
            None | Some(Query::Subscribed | Query::Backlog) => true,
            Some(Query::Fresh) => false,
            Some(&Query::Sent(at)) => now.is_due(at + QUERY_TIMEOUT, QUERY_TIMEOUT),
        };
        if ask {
            self.modules.insert(module, Query::Fresh);
            if self.is_up {
                self.fresh.push_back(module);
            }
        }
        self.check_invariants();
    }

    /// No lookup wants `module` any more.
    pub fn forget(&mut self, module: ModuleId) {
        self.modules.remove(&module);
        self.check_invariants();
    }

    /// A route came, as an answer or a push. False if nobody wants it.
    pub fn answered(&mut self, module: ModuleId) -> bool {
        self.silent_since = None;
        match self.modules.get_mut(&module) {
            None => false,
            Some(query) => {
                if matches!(query, Query::Sent(_)) {
                    *query = Query::Subscribed;
                }
                true
            }
        }
    }

    /// The next query to send now. It counts as sent.
    pub fn poll_query(&mut self, now: Moment) -> Option<ModuleId> {
        let module = self.next_fresh().or_else(|| self.next_of_burst(now))?;
        self.modules.insert(module, Query::Sent(now));
        self.silent_since.get_or_insert(now);
        self.check_invariants();
        Some(module)
    }

    /// The query given last could not be sent: it is the first one next time.
    pub fn unsent(&mut self, module: ModuleId) {
        self.modules.insert(module, Query::Fresh);
        self.fresh.push_front(module);
        self.check_invariants();
    }

    /// When [`DnsLink::poll_query`] has something to give, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.fresh.is_empty() && self.backlog.is_empty() {
            return None;
        }
        Some(if self.fresh.is_empty() && self.left_in_burst == 0 { self.next_burst } else { Moment::ORIGIN })
    }

    fn next_fresh(&mut self) -> Option<ModuleId> {
        std::iter::from_fn(|| self.fresh.pop_front())
            .find(|module| self.modules.get(module) == Some(&Query::Fresh))
    }

    fn next_of_burst(&mut self, now: Moment) -> Option<ModuleId> {
        if self.left_in_burst == 0 && now.is_due(self.next_burst, RESUBSCRIBE_INTERVAL) {
            self.left_in_burst = RESUBSCRIBE_BURST;
            self.next_burst = now + RESUBSCRIBE_INTERVAL;
        }
        if self.left_in_burst == 0 {
            return None;
        }
        let next = std::iter::from_fn(|| self.backlog.pop_front())
            .find(|module| self.modules.get(module) == Some(&Query::Backlog));
        self.left_in_burst -= usize::from(next.is_some());
        next
    }

    /// While the link is up, every module that is to be asked for is in the queue for it. In debug builds
    /// only, and not with so many modules that it would take long.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || !self.is_up || self.modules.len() > CHECKED_MODULES_MAX {
            return;
        }
        for (module, query) in &self.modules {
            match query {
                Query::Fresh => assert!(self.fresh.contains(module), "{module} is in the queue"),
                Query::Backlog => assert!(self.backlog.contains(module), "{module} is in the backlog"),
                Query::Subscribed | Query::Sent(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const T0: Moment = Moment::ORIGIN;
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

    fn module(n: i32) -> ModuleId {
        ModuleId::new(n, 0)
    }

    fn sent_at(link: &mut DnsLink, now: Moment) -> Vec<ModuleId> {
        std::iter::from_fn(|| link.poll_query(now)).collect()
    }

    fn up() -> DnsLink {
        let mut link = DnsLink::new(ANSWER_TIMEOUT);
        link.connected(T0);
        link
    }

    /// A link that is up and subscribed to modules `0..count`.
    fn subscribed(count: i32) -> DnsLink {
        let mut link = up();
        (0..count).for_each(|n| link.want(module(n), T0));
        for module in sent_at(&mut link, T0) {
            assert!(link.answered(module));
        }
        link
    }

    #[test]
    fn a_lookup_is_asked_for_at_once_and_once() {
        let mut link = up();
        link.want(module(1), T0);
        link.want(module(1), T0);
        assert_eq!(sent_at(&mut link, T0), [module(1)]);
        link.want(module(1), T0);
        assert_eq!(sent_at(&mut link, T0), []);
    }

    #[test]
    fn an_answered_module_may_be_asked_for_again() {
        let mut link = subscribed(1);
        link.want(module(0), T0);
        assert_eq!(sent_at(&mut link, T0), [module(0)]);
    }

    #[test]
    fn a_query_without_an_answer_is_repeated_after_its_timeout() {
        let mut link = up();
        link.want(module(1), T0);
        sent_at(&mut link, T0);
        link.want(module(1), T0 + QUERY_TIMEOUT.mul_f32(0.9));
        assert_eq!(sent_at(&mut link, T0), []);
        link.want(module(1), T0 + QUERY_TIMEOUT);
        assert_eq!(sent_at(&mut link, T0 + QUERY_TIMEOUT), [module(1)]);
    }

    #[test]
    fn what_is_wanted_while_the_link_is_down_is_asked_for_when_it_is_up() {
        let mut link = DnsLink::new(ANSWER_TIMEOUT);
        link.want(module(1), T0);
        assert_eq!((sent_at(&mut link, T0), link.poll_timeout()), (vec![], None));
        link.connected(T0);
        assert_eq!(sent_at(&mut link, T0), [module(1)]);
    }

    #[test]
    fn a_reconnect_asks_for_everything_again_in_bursts() {
        let mut link = subscribed(220);
        link.disconnected();
        link.connected(T0);
        let second = T0 + RESUBSCRIBE_INTERVAL;
        let third = second + RESUBSCRIBE_INTERVAL;
        let bursts = [T0, T0, second, third].map(|now| sent_at(&mut link, now));
        assert_eq!(bursts.each_ref().map(Vec::len), [100, 0, 100, 20]);
        let all: BTreeSet<ModuleId> = bursts.concat().into_iter().collect();
        assert_eq!(all, (0..220).map(module).collect());
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn lookups_go_ahead_of_the_backlog() {
        let mut link = subscribed(200);
        link.disconnected();
        link.want(module(1_000), T0);
        link.connected(T0);
        assert_eq!(link.poll_query(T0), Some(module(1_000)), "wanted while the link was down");
        assert_eq!(sent_at(&mut link, T0).len(), RESUBSCRIBE_BURST - 1);
        link.want(module(1_001), T0);
        assert_eq!(sent_at(&mut link, T0), [module(1_001)], "wanted now");
    }

    #[test]
    fn a_lookup_lifts_its_module_out_of_the_backlog() {
        let mut link = subscribed(200);
        link.disconnected();
        link.connected(T0);
        sent_at(&mut link, T0);
        let waiting = *link.backlog.back().expect("100 are left");
        link.want(waiting, T0);
        assert_eq!(sent_at(&mut link, T0), [waiting]);
        let later = T0 + RESUBSCRIBE_INTERVAL;
        let rest = [later, later + RESUBSCRIBE_INTERVAL].map(|now| sent_at(&mut link, now));
        assert_eq!(rest.concat().len(), 99, "not asked for twice");
    }

    #[test]
    fn a_forgotten_module_is_not_asked_for_and_its_push_not_wanted() {
        let mut link = subscribed(2);
        link.forget(module(1));
        assert!(!link.answered(module(1)));
        link.disconnected();
        link.connected(T0);
        assert_eq!(sent_at(&mut link, T0), [module(0)]);
    }

    #[test]
    fn a_query_that_could_not_be_sent_is_the_next_one() {
        let mut link = up();
        link.want(module(1), T0);
        link.want(module(2), T0);
        let refused = link.poll_query(T0).expect("a query");
        link.unsent(refused);
        assert_eq!(sent_at(&mut link, T0), [module(1), module(2)]);
    }

    #[test]
    fn a_server_that_owes_an_answer_for_long_is_silent() {
        let mut link = subscribed(1);
        let later = T0 + 100 * ANSWER_TIMEOUT;
        assert!(!link.is_silent(later), "nothing is owed");
        link.want(module(0), later);
        sent_at(&mut link, later);
        assert!(!link.is_silent(later + ANSWER_TIMEOUT.mul_f32(0.9)));
        assert!(link.is_silent(later + ANSWER_TIMEOUT));
        link.answered(module(7));
        assert!(!link.is_silent(later + ANSWER_TIMEOUT), "any route is a sign of life");
        link.want(module(1), later);
        sent_at(&mut link, later);
        link.disconnected();
        link.connected(later);
        assert!(!link.is_silent(later + ANSWER_TIMEOUT), "the next server owes nothing yet");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want(i32),
        Forget(i32),
        Answer(i32),
        Poll,
        Refused,
        Connect,
        Disconnect,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..60).prop_map(Step::Want),
            2 => (0..60).prop_map(Step::Forget),
            8 => (0..60).prop_map(Step::Answer),
            8 => Just(Step::Poll),
            1 => Just(Step::Refused),
            1 => Just(Step::Connect),
            1 => Just(Step::Disconnect),
            2 => (0u64..3_000).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whatever happens, once the link stays up every wanted module gets asked for on this connection.
        #[test]
        fn every_wanted_module_is_subscribed_in_the_end(steps in prop::collection::vec(step(), 0..300)) {
            let (mut link, mut now) = (DnsLink::new(ANSWER_TIMEOUT), T0);
            let mut wanted = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Want(n) => { link.want(module(n), now); wanted.insert(module(n)); }
                    Step::Forget(n) => { link.forget(module(n)); wanted.remove(&module(n)); }
                    Step::Answer(n) => prop_assert_eq!(link.answered(module(n)), wanted.contains(&module(n))),
                    Step::Poll => { link.poll_query(now); }
                    Step::Refused => if let Some(module) = link.poll_query(now) { link.unsent(module) },
                    Step::Connect if !link.is_up() => link.connected(now),
                    Step::Disconnect => link.disconnected(),
                    Step::Pass(ms) => now = now + Duration::from_millis(ms),
                    Step::Connect => {}
                }
                prop_assert_eq!(link.modules_len(), wanted.len());
            }
            link.disconnected();
            link.connected(now);
            let mut asked = BTreeSet::new();
            while let Some(next) = link.poll_timeout() {
                now = now.max(next);
                for module in sent_at(&mut link, now) {
                    prop_assert!(asked.insert(module), "asked for twice on one connection");
                }
            }
            prop_assert_eq!(asked, wanted);
        }
    }
}
