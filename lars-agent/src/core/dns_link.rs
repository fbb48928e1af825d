//! Which routes are asked of lars-dns, and when.
//!
//! Remembers every module that a lookup wanted, because an answer to a query is also a subscription and both
//! end with the connection: each time the link comes up, all of them are asked for again. While the link is down
//! nothing is lost: what is wanted is asked for when it is back.
//!
//! Queries are paced, because when a server ends, all its agents come to the next one at once with everything they
//! know: each asks a few at a time, and for no more while many are not answered yet. So a busy server sets the pace, and
//! what is judged is whether answers come, not how long one of them takes. What a lookup waits for goes ahead of that.
//!
//! What is subscribed is summed up on the way, for the [digests](super::digest) by which a server that knows them is
//! asked whether it is what should be: what a digest finds is asked for again, or forgotten.
//!
//! Memory follows the number of modules wanted, which the tables bound.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    num::NonZeroU64,
    time::Duration,
};

use ahash::RandomState;
use lars_proto::{
    ModuleId,
    digest::{BUCKETS, Digest, Held, bucket},
    messages::SubscriptionDigestAnswer,
};

use super::{
    digest::{Digests, Question},
    time::{Moment, Pause},
};

/// Known modules are asked for again in bursts of this size …
pub const RESUBSCRIBE_BURST: usize = 10;
/// … at this interval: 1,000 per second.
pub const RESUBSCRIBE_INTERVAL: Duration = Duration::from_millis(10);
/// No known module is asked for again while so many queries are not answered yet …
pub const RESUBSCRIBE_UNANSWERED_MAX: usize = 100;
/// … and nothing at all while so many are not.
pub const UNANSWERED_MAX: usize = 1_000;
/// A query that was passed over, because one asked later is answered, may be repeated after so long if a lookup
/// still wants the module.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Modules that lars-dns has not been told yet to push no more. Beyond, it is told when it pushes them.
pub const FORGETS_MAX: usize = 16_384;
/// The extensions of the wire that this agent knows, see `peer_version` in `lars.proto`.
pub const PEER_VERSION: u32 = 1;

/// With more modules than this the invariants are not checked after each call, even in debug builds.
const CHECKED_MODULES_MAX: usize = 64;

/// A message to lars-dns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsMessage {
    /// Asks for a route. `peer_version` is 0 but in the first query of a connection.
    Query { module: ModuleId, peer_version: u32 },
    /// Ends a subscription.
    Forget(ModuleId),
    /// Asks whether what is subscribed is what should be.
    Digest(Question),
}

/// What a digest has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Modules that are asked for again.
    pub differing: usize,
    /// Subscriptions that nobody wants, and that the server is told to end.
    pub unwanted: usize,
}

/// A module that lookups want.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    query: Query,
    /// Of the newest route that came on this connection, if its server knows digests.
    hash: Option<NonZeroU64>,
}

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
    /// A server that owes answers and sends none for so long is given up.
    answer_timeout: Duration,
    is_up: bool,
    modules: HashMap<ModuleId, Wanted, RandomState>,
    digests: Digests,
    /// These queues are for this connection and empty while there is none. They may hold modules that are in
    /// another state by now; those are skipped.
    fresh: VecDeque<ModuleId>,
    backlog: VecDeque<ModuleId>,
    /// What is pushed and not wanted.
    forgets: VecDeque<ModuleId>,
    next_burst: Moment,
    left_in_burst: usize,
    /// Modules that are `Sent`.
    unanswered: usize,
    /// When the newest query that is answered was sent.
    answered_up_to: Moment,
    /// While answers are owed: since when none has come.
    silent_since: Option<Moment>,
    /// The connection is to be closed; it may take a moment.
    is_given_up: bool,
    /// The next query announces this agent.
    announces: bool,
    /// Whether this server has sent a route.
    has_answered: bool,
    /// Whether it knows the extensions.
    knows_extensions: bool,
    /// Whether the last server that has answered does.
    has_digests: bool,
    /// Since the connection refused a message.
    pause: Pause,
}

impl DnsLink {
    /// A link that is down. A server that owes answers and has sent none, and nothing else either, for
    /// `answer_timeout` is given up, whatever TCP thinks of the connection. Digests go as `digests` say.
    #[must_use]
    pub fn new(answer_timeout: Duration, digests: Digests) -> Self {
        Self {
            answer_timeout,
            is_up: false,
            modules: HashMap::default(),
            digests,
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
            forgets: VecDeque::new(),
            next_burst: Moment::ORIGIN,
            left_in_burst: 0,
            unanswered: 0,
            answered_up_to: Moment::ORIGIN,
            silent_since: None,
            is_given_up: false,
            announces: false,
            has_answered: false,
            knows_extensions: false,
            has_digests: false,
            pause: Pause::default(),
        }
    }

    /// The link came up: everything is asked for again, what lookups wait for first.
    pub fn connected(&mut self, now: Moment) {
        self.reset();
        self.is_up = true;
        let (waiting, others): (Vec<_>, Vec<_>) =
            self.modules.iter().partition(|(_, wanted)| wanted.query == Query::Fresh);
        self.backlog = waiting.into_iter().chain(others).map(|(&module, _)| module).collect();
        self.modules.values_mut().for_each(|wanted| wanted.query = Query::Backlog);
        self.next_burst = now;
        self.announces = true;
        self.check_invariants();
    }

    pub fn disconnected(&mut self) {
        self.reset();
        self.is_up = false;
    }

    /// Forgets what belongs to a connection.
    fn reset(&mut self) {
        for wanted in self.modules.values_mut() {
            wanted.hash = None;
            if matches!(wanted.query, Query::Sent(_)) {
                wanted.query = Query::Backlog;
            }
        }
        self.digests.reset();
        (self.fresh, self.backlog, self.forgets) = Default::default();
        (self.left_in_burst, self.unanswered, self.answered_up_to) = (0, 0, Moment::ORIGIN);
        (self.silent_since, self.pause) = (None, Pause::default());
        (self.is_given_up, self.announces) = (false, false);
        (self.has_answered, self.knows_extensions) = (false, false);
    }

    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.is_up
    }

    /// How many modules are wanted.
    #[must_use]
    pub fn modules_len(&self) -> usize {
        self.modules.len()
    }

    /// Whether the server knows digests, so that modules need not be asked for again one by one. Of a connection on which
    /// nothing has come yet it is not known: then what the last one said stands.
    #[must_use]
    pub const fn has_digests(&self) -> bool {
        self.has_digests
    }

    /// A lookup wants the route of `module`. A query that is under way already is not repeated: answers come in the
    /// order of the queries, so only one that was passed over got lost.
    pub fn want(&mut self, module: ModuleId, now: Moment) {
        let ask = match self.query(module) {
            None | Some(Query::Subscribed | Query::Backlog) => true,
            Some(Query::Fresh) => false,
            Some(Query::Sent(at)) => {
                now.is_due(at + QUERY_TIMEOUT, QUERY_TIMEOUT) && self.answered_up_to > at
            }
        };
        if ask {
            self.set(module, Query::Fresh, now);
            if self.is_up {
                self.fresh.push_back(module);
                self.drop_outdated();
            }
        }
        self.check_invariants();
    }

    /// No lookup wants `module` any more.
    pub fn forget(&mut self, module: ModuleId, now: Moment) {
        let Some(Wanted { query, hash }) = self.modules.remove(&module) else { return };
        if let Some(hash) = hash {
            self.digests.remove(module, hash);
        }
        if matches!(query, Query::Sent(_)) {
            self.answer_is_not_owed(now);
        }
        if hash.is_some() || matches!(query, Query::Sent(_) | Query::Subscribed) {
            self.unsubscribe(module);
        }
        self.check_invariants();
    }

    /// A route came, as an answer or a push, from a server that knows the extensions of `peer_version`, which is 0
    /// where it does not say. False if nobody wants the route.
    pub fn answered(&mut self, module: ModuleId, peer_version: u32, now: Moment) -> bool {
        self.learn_version(peer_version, now);
        self.silent_since = self.owes().then_some(now);
        let is_wanted = match self.query(module) {
            None => {
                self.unsubscribe(module);
                false
            }
            Some(Query::Sent(at)) => {
                self.answered_up_to = self.answered_up_to.max(at);
                self.set(module, Query::Subscribed, now);
                true
            }
            Some(Query::Subscribed | Query::Fresh | Query::Backlog) => true,
        };
        self.check_invariants();
        is_wanted
    }

    /// The route that came for `module` has this hash.
    pub fn holds(&mut self, module: ModuleId, hash: NonZeroU64) {
        let Some(wanted) = self.modules.get_mut(&module).filter(|_| self.knows_extensions) else { return };
        if let Some(before) = wanted.hash.replace(hash) {
            self.digests.remove(module, before);
        }
        self.digests.add(module, hash);
        self.check_invariants();
    }

    /// What the server makes of a digest. Whether that differs from what there is now.
    pub fn digest_answered(&mut self, answer: SubscriptionDigestAnswer, now: Moment) -> bool {
        let Some(asked_at) = self.digests.unanswered_since() else { return false };
        // Answers come in the order of the questions.
        self.answered_up_to = self.answered_up_to.max(asked_at);
        let differs = self.digests.answered(answer);
        self.silent_since = self.owes().then_some(now);
        self.check_invariants();
        differs
    }

    /// What the server has in the buckets that differ: modules that are not the same here are asked for again, and those
    /// that nobody wants are forgotten.
    pub fn buckets_answered(&mut self, held: Held, now: Moment) -> Found {
        let Some(asked_at) = self.digests.buckets_answered(held.end) else { return Found::default() };
        self.silent_since = self.owes().then_some(now);
        let mut differs = [false; BUCKETS];
        held.buckets.iter().for_each(|&bucket| differs[usize::from(bucket)] = true);
        let mut theirs: HashMap<ModuleId, u64, RandomState> = held.modules.into_iter().collect();
        let ours = self.modules.iter().filter(|(module, _)| differs[bucket(**module)]);
        let again: Vec<ModuleId> = ours
            .filter(|&(module, wanted)| {
                let theirs = theirs.remove(module);
                match wanted.query {
                    Query::Subscribed => theirs.is_none() || theirs != wanted.hash.map(NonZeroU64::get),
                    // Its answer would have come before this one.
                    Query::Sent(at) => at < asked_at,
                    Query::Fresh | Query::Backlog => false,
                }
            })
            .map(|(&module, _)| module)
            .collect();
        for &module in &again {
            self.set(module, Query::Backlog, now);
            self.backlog.push_back(module);
        }
        theirs.keys().for_each(|&module| self.unsubscribe(module));
        self.check_invariants();
        Found { differing: again.len(), unwanted: theirs.len() }
    }

    /// The next message to send now. It counts as sent.
    pub fn poll_message(&mut self, now: Moment) -> Option<DnsMessage> {
        if self.is_given_up || !self.pause.is_over(now) {
            return None;
        }
        // First, because a query that follows may be for the same module.
        if let Some(module) = self.forgets.pop_front() {
            return Some(DnsMessage::Forget(module));
        }
        let Some(module) = self.next_fresh().or_else(|| self.next_of_burst(now)) else {
            return self.next_digest(now);
        };
        self.set(module, Query::Sent(now), now);
        let peer_version = if mem::take(&mut self.announces) { PEER_VERSION } else { 0 };
        self.check_invariants();
        Some(DnsMessage::Query { module, peer_version })
    }

    /// The message given last could not be sent: it is the first one next time.
    pub fn unsent(&mut self, message: DnsMessage, now: Moment) {
        match message {
            DnsMessage::Query { module, peer_version } => {
                self.announces |= peer_version > 0;
                self.set(module, Query::Fresh, now);
                self.fresh.push_front(module);
            }
            DnsMessage::Forget(module) => self.forgets.push_front(module),
            DnsMessage::Digest(_) => {
                self.digests.unsent();
                self.silent_since = self.silent_since.filter(|_| self.owes());
            }
        }
        self.pause.begin(now);
        self.check_invariants();
    }

    /// The connection takes more.
    pub fn writable(&mut self) {
        self.pause.end();
    }

    /// Whether the server owes answers and has been silent for so long that the connection is to be closed: another
    /// may do better. True once.
    pub fn poll_close(&mut self, now: Moment) -> bool {
        let is_silent = self
            .silent_since
            .is_some_and(|since| now.is_due(since + self.answer_timeout, self.answer_timeout));
        if is_silent {
            self.silent_since = None;
            self.is_given_up = true;
        }
        is_silent
    }

    /// When [`DnsLink::poll_message`] or [`DnsLink::poll_close`] has something to give, if nothing else happens
    /// before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        if !self.is_up || self.is_given_up {
            return None;
        }
        let silent = self.silent_since.map(|since| since + self.answer_timeout);
        let message = self.message_at().map(|at| at.max(self.pause.deadline()));
        [silent, message].into_iter().flatten().min()
    }

    /// When there is something to send, if the connection takes it.
    fn message_at(&self) -> Option<Moment> {
        if !self.forgets.is_empty() || !self.fresh.is_empty() && self.unanswered < UNANSWERED_MAX {
            return Some(Moment::ORIGIN);
        }
        if !self.may_resubscribe() {
            return self.digests.poll_timeout();
        }
        Some(if self.left_in_burst > 0 { Moment::ORIGIN } else { self.next_burst })
    }

    /// Whether modules are left to be asked for again, and may be.
    fn may_resubscribe(&self) -> bool {
        !self.backlog.is_empty() && self.unanswered < RESUBSCRIBE_UNANSWERED_MAX
    }

    /// A digest waits for what is being asked for again, because until then there is a difference.
    fn next_digest(&mut self, now: Moment) -> Option<DnsMessage> {
        if self.may_resubscribe() {
            return None;
        }
        let question = self.digests.poll(now)?;
        self.silent_since.get_or_insert(now);
        self.check_invariants();
        Some(DnsMessage::Digest(question))
    }

    fn learn_version(&mut self, peer_version: u32, now: Moment) {
        let is_first = !mem::replace(&mut self.has_answered, true);
        if peer_version > 0 {
            (self.knows_extensions, self.has_digests) = (true, true);
            self.digests.begin(now);
        } else if is_first {
            self.has_digests = false;
        }
    }

    fn query(&self, module: ModuleId) -> Option<Query> {
        self.modules.get(&module).map(|wanted| wanted.query)
    }

    /// Whether the server owes answers.
    const fn owes(&self) -> bool {
        self.unanswered > 0 || self.digests.is_owed()
    }

    /// Modules that were forgotten stay in the queue until their turn; while nothing can be sent that must not make
    /// it longer and longer.
    fn drop_outdated(&mut self) {
        if self.fresh.len() > 2 * self.modules.len() + UNANSWERED_MAX {
            let mut seen = HashSet::with_capacity(self.modules.len());
            self.fresh.retain(|module| is_in(&self.modules, *module, Query::Fresh) && seen.insert(*module));
        }
    }

    fn next_fresh(&mut self) -> Option<ModuleId> {
        if self.unanswered >= UNANSWERED_MAX {
            return None;
        }
        std::iter::from_fn(|| self.fresh.pop_front())
            .find(|module| is_in(&self.modules, *module, Query::Fresh))
    }

    fn next_of_burst(&mut self, now: Moment) -> Option<ModuleId> {
        if !self.may_resubscribe() {
            return None;
        }
        if self.left_in_burst == 0 && now.is_due(self.next_burst, RESUBSCRIBE_INTERVAL) {
            self.left_in_burst = RESUBSCRIBE_BURST;
            self.next_burst = now + RESUBSCRIBE_INTERVAL;
        }
        if self.left_in_burst == 0 {
            return None;
        }
        let next = std::iter::from_fn(|| self.backlog.pop_front())
            .find(|module| is_in(&self.modules, *module, Query::Backlog));
        self.left_in_burst -= usize::from(next.is_some());
        next
    }

    /// Puts `module` into a state, and counts what is owed.
    fn set(&mut self, module: ModuleId, query: Query, now: Moment) {
        let wanted = self.modules.entry(module).or_insert(Wanted { query: Query::Backlog, hash: None });
        let before = mem::replace(&mut wanted.query, query);
        if matches!(before, Query::Sent(_)) {
            self.answer_is_not_owed(now);
        }
        if matches!(query, Query::Sent(_)) {
            self.unanswered += 1;
            self.silent_since.get_or_insert(now);
        }
    }

    fn answer_is_not_owed(&mut self, now: Moment) {
        self.unanswered -= 1;
        self.silent_since = self.silent_since.filter(|_| self.owes()).map(|since| since.min(now));
    }

    /// Has the server push `module` no more, if it knows how.
    fn unsubscribe(&mut self, module: ModuleId) {
        if self.is_up && self.knows_extensions && self.forgets.len() < FORGETS_MAX {
            self.forgets.push_back(module);
        }
    }

    /// While the link is up, every module that is to be asked for is in the queue for it, and what is owed is
    /// counted. In debug builds only, and not with so many modules that it would take long.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.modules.len() > CHECKED_MODULES_MAX {
            return;
        }
        let sent = self.modules.values().filter(|wanted| matches!(wanted.query, Query::Sent(_))).count();
        assert_eq!(sent, self.unanswered, "what is owed is counted");
        assert!(self.silent_since.is_none() || self.owes(), "only who owes something can be silent");
        let mut whole = Digest::default();
        self.modules.values().filter_map(|wanted| wanted.hash).for_each(|hash| whole.add(hash));
        assert_eq!(self.digests.whole(), whole, "what is subscribed is summed up");
        if !self.is_up {
            return;
        }
        for (module, wanted) in &self.modules {
            match wanted.query {
                Query::Fresh => assert!(self.fresh.contains(module), "{module} is in the queue"),
                Query::Backlog => assert!(self.backlog.contains(module), "{module} is in the backlog"),
                Query::Subscribed | Query::Sent(_) => {}
            }
        }
    }
}

fn is_in(modules: &HashMap<ModuleId, Wanted, RandomState>, module: ModuleId, query: Query) -> bool {
    modules.get(&module).is_some_and(|wanted| wanted.query == query)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lars_proto::digest::route_hash;
    use proptest::prelude::*;

    use super::*;
    use crate::core::time::RETRY_INTERVAL;

    const T0: Moment = Moment::ORIGIN;
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

    /// Longer than most tests, so that digests are out of their way.
    const INTERVAL: Duration = Duration::from_secs(1_000);

    fn module(n: i32) -> ModuleId {
        ModuleId::new(n, 0)
    }

    fn poll_query(link: &mut DnsLink, now: Moment) -> Option<ModuleId> {
        match link.poll_message(now)? {
            DnsMessage::Query { module, .. } => Some(module),
            other @ (DnsMessage::Forget(_) | DnsMessage::Digest(_)) => panic!("{other:?}"),
        }
    }

    fn sent_at(link: &mut DnsLink, now: Moment) -> Vec<ModuleId> {
        std::iter::from_fn(|| poll_query(link, now)).collect()
    }

    /// What is sent from `now` on until nothing is left, each query being answered at once.
    fn sent_and_answered(link: &mut DnsLink, mut now: Moment) -> Vec<ModuleId> {
        let mut sent = vec![];
        while let Some(next) = link.poll_timeout().filter(|_| link.unanswered == 0) {
            now = now.max(next);
            while let Some(module) = poll_query(link, now) {
                assert!(link.answered(module, 0, now));
                sent.push(module);
            }
        }
        sent
    }

    fn link() -> DnsLink {
        DnsLink::new(ANSWER_TIMEOUT, Digests::new(INTERVAL, ANSWER_TIMEOUT, u32::MAX))
    }

    fn up() -> DnsLink {
        let mut link = link();
        link.connected(T0);
        link
    }

    /// A link that is up and subscribed to modules `0..count`.
    fn subscribed(count: i32) -> DnsLink {
        let mut link = up();
        (0..count).for_each(|n| link.want(module(n), T0));
        while let Some(module) = poll_query(&mut link, T0) {
            assert!(link.answered(module, 0, T0));
        }
        link
    }

    /// A link whose connection broke and came back.
    fn reconnected(mut link: DnsLink) -> DnsLink {
        link.disconnected();
        link.connected(T0);
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
    fn a_query_that_was_passed_over_is_repeated_after_its_timeout() {
        let mut link = up();
        link.want(module(1), T0);
        sent_at(&mut link, T0);
        link.want(module(2), T0 + QUERY_TIMEOUT / 2);
        sent_at(&mut link, T0 + QUERY_TIMEOUT / 2);
        link.want(module(1), T0 + QUERY_TIMEOUT);
        assert_eq!(sent_at(&mut link, T0 + QUERY_TIMEOUT), [], "a busy server is not asked twice");
        link.answered(module(2), 0, T0 + QUERY_TIMEOUT);
        link.want(module(1), T0 + QUERY_TIMEOUT);
        assert_eq!(sent_at(&mut link, T0 + QUERY_TIMEOUT), [module(1)]);
    }

    #[test]
    fn what_is_wanted_while_the_link_is_down_is_asked_for_when_it_is_up() {
        let mut link = link();
        link.want(module(1), T0);
        assert_eq!((sent_at(&mut link, T0), link.poll_timeout()), (vec![], None));
        link.connected(T0);
        assert_eq!(sent_at(&mut link, T0), [module(1)]);
    }

    #[test]
    fn a_reconnect_asks_for_everything_again_in_bursts() {
        let mut link = reconnected(subscribed(25));
        let second = T0 + RESUBSCRIBE_INTERVAL;
        let third = second + RESUBSCRIBE_INTERVAL;
        let bursts = [T0, T0, second, third].map(|now| sent_at(&mut link, now));
        assert_eq!(bursts.each_ref().map(Vec::len), [10, 0, 10, 5], "the first one is no larger");
        let all: BTreeSet<ModuleId> = bursts.concat().into_iter().collect();
        assert_eq!(all, (0..25).map(module).collect());
    }

    #[test]
    fn a_busy_server_sets_the_pace() {
        let mut link = reconnected(subscribed(200));
        let mut now = T0;
        let mut sent = vec![];
        while sent.len() < RESUBSCRIBE_UNANSWERED_MAX {
            sent.extend(sent_at(&mut link, now));
            now = now + RESUBSCRIBE_INTERVAL;
        }
        assert_eq!(
            link.poll_timeout(),
            Some(T0 + ANSWER_TIMEOUT),
            "all that comes is an answer, or a judgement"
        );
        assert_eq!(sent_at(&mut link, now), []);
        link.answered(sent[0], 0, now);
        assert_eq!(sent_at(&mut link, now).len(), 1);
    }

    #[test]
    fn lookups_go_ahead_of_the_backlog() {
        let mut link = subscribed(200);
        link.disconnected();
        link.want(module(1_000), T0);
        link.connected(T0);
        assert_eq!(poll_query(&mut link, T0), Some(module(1_000)), "wanted while the link was down");
        assert_eq!(sent_at(&mut link, T0).len(), RESUBSCRIBE_BURST - 1);
        link.want(module(1_001), T0);
        assert_eq!(sent_at(&mut link, T0), [module(1_001)], "wanted now");
    }

    #[test]
    fn lookups_wait_for_a_server_that_answers_nothing() {
        let mut link = up();
        (0..=UNANSWERED_MAX as i32).for_each(|n| link.want(module(n), T0));
        assert_eq!(sent_at(&mut link, T0).len(), UNANSWERED_MAX);
        link.answered(module(0), 0, T0);
        assert_eq!(sent_at(&mut link, T0), [module(UNANSWERED_MAX as i32)]);
    }

    #[test]
    fn a_lookup_lifts_its_module_out_of_the_backlog() {
        let mut link = reconnected(subscribed(50));
        sent_at(&mut link, T0);
        let waiting = *link.backlog.back().expect("40 are left");
        link.want(waiting, T0);
        assert_eq!(sent_at(&mut link, T0), [waiting]);
        let rest: Vec<_> = (1..10).flat_map(|n| sent_at(&mut link, T0 + n * RESUBSCRIBE_INTERVAL)).collect();
        assert_eq!(rest.len(), 39, "not asked for twice");
    }

    #[test]
    fn a_forgotten_module_is_not_asked_for_and_its_push_not_wanted() {
        let mut link = subscribed(2);
        link.forget(module(1), T0);
        assert!(!link.answered(module(1), 0, T0));
        assert_eq!(sent_and_answered(&mut reconnected(link), T0), [module(0)]);
    }

    #[test]
    fn the_first_query_of_each_connection_announces_the_agent() {
        let mut link = subscribed(3);
        link.disconnected();
        link.connected(T0);
        let first = link.poll_message(T0).expect("a query");
        assert!(matches!(first, DnsMessage::Query { peer_version: PEER_VERSION, .. }), "{first:?}");
        link.unsent(first.clone(), T0);
        assert_eq!(link.poll_message(T0), None, "the connection is full");
        link.writable();
        assert_eq!(link.poll_message(T0), Some(first), "not announced before it is sent");
        let second = link.poll_message(T0).expect("a query");
        assert!(matches!(second, DnsMessage::Query { peer_version: 0, .. }), "{second:?}");
    }

    #[test]
    fn only_a_server_that_announced_itself_is_told_what_was_forgotten() {
        let mut link = subscribed(4);
        link.forget(module(0), T0);
        assert_eq!(link.poll_message(T0), None, "deployed servers do not know the message");
        link.answered(module(1), 1, T0);
        link.forget(module(1), T0);
        assert_eq!(link.poll_message(T0), Some(DnsMessage::Forget(module(1))));
        link.answered(module(0), 0, T0);
        assert_eq!(link.poll_message(T0), Some(DnsMessage::Forget(module(0))), "a push that nobody wants");
        link.disconnected();
        link.connected(T0);
        sent_at(&mut link, T0);
        link.forget(module(2), T0);
        assert_eq!(link.poll_message(T0), None, "the next server may be another one");
    }

    #[test]
    fn a_module_that_is_wanted_again_is_asked_for_after_it_was_forgotten() {
        let mut link = subscribed(1);
        link.answered(module(0), 1, T0);
        link.forget(module(0), T0);
        link.want(module(0), T0);
        let forget = DnsMessage::Forget(module(0));
        assert_eq!(link.poll_message(T0), Some(forget.clone()));
        link.unsent(forget.clone(), T0);
        assert_eq!(link.poll_timeout(), Some(T0 + RETRY_INTERVAL));
        let later = T0 + RETRY_INTERVAL;
        assert_eq!(link.poll_message(later), Some(forget));
        assert_eq!(sent_at(&mut link, later), [module(0)]);
    }

    #[test]
    fn a_query_that_could_not_be_sent_is_the_next_one() {
        let mut link = up();
        link.want(module(1), T0);
        link.want(module(2), T0);
        let refused = link.poll_message(T0).expect("a query");
        link.unsent(refused, T0);
        link.writable();
        assert_eq!(sent_at(&mut link, T0), [module(1), module(2)]);
    }

    #[test]
    fn what_is_wanted_and_forgotten_while_nothing_can_be_sent_does_not_pile_up() {
        let mut link = up();
        (0..UNANSWERED_MAX as i32).for_each(|n| link.want(module(n), T0));
        sent_at(&mut link, T0);
        link.want(module(-1), T0);
        for n in 0..10 * UNANSWERED_MAX as i32 {
            link.want(module(1_000_000 + n % 7), T0);
            link.forget(module(1_000_000 + n % 7), T0);
        }
        assert!(link.fresh.len() <= 3 * UNANSWERED_MAX + 10, "{}", link.fresh.len());
        link.answered(module(0), 0, T0);
        assert_eq!(sent_at(&mut link, T0), [module(-1)]);
    }

    #[test]
    fn a_server_that_owes_answers_and_sends_none_is_given_up() {
        let mut link = subscribed(1);
        let later = T0 + 100 * ANSWER_TIMEOUT;
        assert!(!link.poll_close(later), "nothing is owed");
        link.want(module(0), later);
        sent_at(&mut link, later);
        assert_eq!(link.poll_timeout(), Some(later + ANSWER_TIMEOUT));
        assert!(!link.poll_close(later + ANSWER_TIMEOUT.mul_f32(0.9)));
        assert!(link.poll_close(later + ANSWER_TIMEOUT));
        assert!(!link.poll_close(later + ANSWER_TIMEOUT), "once");
        assert_eq!(link.poll_timeout(), None);
        link.disconnected();
        link.connected(later);
        assert!(!link.poll_close(later + ANSWER_TIMEOUT), "the next server owes nothing yet");
    }

    #[test]
    fn a_server_that_answers_slowly_is_not_given_up() {
        let mut link = up();
        (0..100).for_each(|n| link.want(module(n), T0));
        assert_eq!(sent_at(&mut link, T0).len(), 100);
        for n in 0..100 {
            let now = T0 + (n as u32 + 1) * ANSWER_TIMEOUT.mul_f32(0.9);
            assert!(!link.poll_close(now), "answer {n} came in time");
            link.answered(module(n), 0, now);
        }
        assert_eq!(link.poll_timeout(), None, "nothing is owed");
    }

    #[test]
    fn a_server_that_stops_in_the_middle_is_given_up() {
        let mut link = up();
        (0..2).for_each(|n| link.want(module(n), T0));
        sent_at(&mut link, T0);
        let later = T0 + ANSWER_TIMEOUT / 2;
        link.answered(module(0), 0, later);
        assert!(!link.poll_close(T0 + ANSWER_TIMEOUT));
        assert!(link.poll_close(later + ANSWER_TIMEOUT));
    }

    /// A digest is under way that differs, and so is the question about buckets.
    fn differing(count: i32) -> DnsLink {
        let mut link = subscribed(count);
        link.answered(module(0), 1, T0);
        (0..count).for_each(|n| link.holds(module(n), route_hash(module(n), [])));
        let later = T0 + INTERVAL;
        assert!(matches!(link.poll_message(later), Some(DnsMessage::Digest(Question::Digest(_)))));
        assert!(link.digest_answered(SubscriptionDigestAnswer { differs: true, count: 0, sum: 0 }, later));
        assert!(matches!(link.poll_message(later), Some(DnsMessage::Digest(Question::Buckets(_)))));
        link
    }

    /// What a server says that has these in all buckets, each with the hash of an empty route or another one.
    fn held(modules: &[(i32, bool)]) -> Held {
        let hash = |n, is_same| if is_same { route_hash(module(n), []).get() } else { 1 };
        let modules = modules.iter().map(|&(n, is_same)| (module(n), hash(n, is_same)));
        Held { end: BUCKETS, buckets: (0..=u8::MAX).collect(), modules: modules.collect() }
    }

    #[test]
    fn only_what_differs_is_asked_for_again_and_what_nobody_wants_is_forgotten() {
        let mut link = differing(5);
        let later = T0 + INTERVAL;
        // Wanted after the question, so the server cannot have it.
        link.want(module(10), later);
        assert_eq!(poll_query(&mut link, later), Some(module(10)));
        let found =
            link.buckets_answered(held(&[(0, true), (1, false), (3, true), (4, true), (9, true)]), later);
        assert_eq!(found, Found { differing: 2, unwanted: 1 });
        assert_eq!(link.poll_message(later), Some(DnsMessage::Forget(module(9))));
        let asked: BTreeSet<ModuleId> = sent_at(&mut link, later).into_iter().collect();
        assert_eq!(asked, [module(1), module(2)].into(), "one is another, one was lost");
        assert_eq!(link.buckets_answered(held(&[]), later), Found::default(), "nothing was asked");
    }

    #[test]
    fn a_query_whose_answer_would_have_come_by_now_is_repeated() {
        let mut link = subscribed(1);
        link.answered(module(0), 1, T0);
        link.want(module(1), T0);
        assert_eq!(sent_at(&mut link, T0), [module(1)]);
        let later = T0 + INTERVAL;
        link.poll_message(later);
        assert!(link.digest_answered(SubscriptionDigestAnswer { differs: true, count: 2, sum: 1 }, later));
        link.poll_message(later);
        assert_eq!(link.buckets_answered(held(&[(0, true), (1, true)]), later).differing, 2);
        let asked: BTreeSet<ModuleId> = sent_at(&mut link, later).into_iter().collect();
        assert_eq!(asked, [module(0), module(1)].into(), "of the other one no hash was noted");
    }

    #[test]
    fn a_server_that_answers_no_digest_is_given_up() {
        let mut link = subscribed(1);
        link.answered(module(0), 1, T0);
        let later = T0 + INTERVAL;
        assert!(link.poll_message(later).is_some() && !link.poll_close(later));
        assert_eq!(link.poll_timeout(), Some(later + ANSWER_TIMEOUT));
        assert!(link.poll_close(later + ANSWER_TIMEOUT));
    }

    #[test]
    fn whether_there_are_digests_is_known_from_the_first_answer_of_a_connection() {
        let mut link = subscribed(2);
        assert!(!link.has_digests());
        link.answered(module(0), 1, T0);
        assert!(link.has_digests());
        let mut link = reconnected(link);
        assert!(link.has_digests(), "the next server is not known yet");
        link.answered(module(0), 0, T0);
        assert!(!link.has_digests());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want(i32),
        Forget(i32),
        Answer(i32, u32),
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
            8 => (0..60, 0u32..2).prop_map(|(n, version)| Step::Answer(n, version)),
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
            let (mut link, mut now) = (link(), T0);
            let mut wanted = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Want(n) => { link.want(module(n), now); wanted.insert(module(n)); }
                    Step::Forget(n) => { link.forget(module(n), now); wanted.remove(&module(n)); }
                    Step::Answer(n, version) => {
                        prop_assert_eq!(link.answered(module(n), version, now), wanted.contains(&module(n)));
                    }
                    Step::Poll => { link.poll_message(now); }
                    Step::Refused => if let Some(message) = link.poll_message(now) { link.unsent(message, now) },
                    Step::Connect if !link.is_up() => link.connected(now),
                    Step::Disconnect => link.disconnected(),
                    Step::Pass(ms) => now = now + Duration::from_millis(ms),
                    Step::Connect => {}
                }
                prop_assert_eq!(link.modules_len(), wanted.len());
            }
            link.disconnected();
            link.connected(now);
            let asked = sent_and_answered(&mut link, now);
            let once: BTreeSet<ModuleId> = asked.iter().copied().collect();
            prop_assert_eq!(once.len(), asked.len(), "asked for twice on one connection");
            prop_assert_eq!(once, wanted);
        }
    }
}
