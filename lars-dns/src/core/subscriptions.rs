//! Who wants to hear about which module: the subscriptions of one shard.
//!
//! A connection is a key of the caller's choice. A push that its output does not take is *pending*: only the
//! module is remembered, the hosts are looked up when the output takes bytes again, so that however slow a
//! subscriber is, a newer state replaces the older one and it never costs more than its subscriptions.
//! The caller sends what [`Subscriptions::publish`] and [`Subscriptions::take_pending`] say, and tells with
//! [`Subscriptions::defer`] what was not taken.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hash,
};

use ahash::AHashMap;
use lars_proto::ModuleId;

/// Modules one connection may be subscribed to. Beyond it, the oldest subscription to a module without hosts makes
/// room. Where there is none, queries are answered all the same, and an agent that really has more modules learns of
/// changes by asking again.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 65_536;

/// In a debug build, every mutation checks a table up to this size in full.
const CHECKED_SUBSCRIPTIONS_MAX: usize = 256;

/// What became of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// From now on the connection hears about the module.
    New,
    /// So it does, in place of the oldest subscription to a module without hosts: there were as many as there may be.
    InPlaceOfAnother,
    /// It does already.
    Already,
    /// There are as many subscriptions as there may be, all of modules with hosts; nothing changed.
    Refused,
}

/// Who is subscribed to a module.
#[derive(Debug)]
struct Subscribers<C> {
    /// In the order in which they came: tickets only grow.
    by_ticket: BTreeMap<u64, C>,
    without_hosts: bool,
}

impl<C> Default for Subscribers<C> {
    fn default() -> Self {
        Self { by_ticket: BTreeMap::new(), without_hosts: false }
    }
}

/// The subscriptions of the connections `C`.
#[derive(Debug)]
pub struct Subscriptions<C> {
    modules: AHashMap<ModuleId, Subscribers<C>>,
    connections: AHashMap<C, Connection>,
    /// The subscriptions to modules without hosts, oldest first.
    without_hosts: BTreeMap<u64, (C, ModuleId)>,
    /// What an unknown connection is subscribed to.
    nothing: AHashMap<ModuleId, Subscription>,
    per_connection_max: usize,
    total_max: usize,
    next_ticket: u64,
    total: usize,
    pending_total: usize,
}

#[derive(Debug, Default)]
struct Connection {
    modules: AHashMap<ModuleId, Subscription>,
    /// The modules whose subscription is pending, oldest first. Not empty means that the output was full
    /// when it was last tried.
    pending: VecDeque<ModuleId>,
    /// Its subscriptions to modules without hosts, oldest first.
    without_hosts: BTreeMap<u64, ModuleId>,
}

#[derive(Debug)]
struct Subscription {
    ticket: u64,
    pending: bool,
}

impl<C> Default for Subscriptions<C> {
    fn default() -> Self {
        Self {
            modules: AHashMap::new(),
            connections: AHashMap::new(),
            without_hosts: BTreeMap::new(),
            nothing: AHashMap::new(),
            per_connection_max: SUBSCRIPTIONS_PER_CONNECTION_MAX,
            total_max: usize::MAX,
            next_ticket: 0,
            total: 0,
            pending_total: 0,
        }
    }
}

impl<C: Copy + Eq + Hash> Subscriptions<C> {
    /// At most so many subscriptions of all connections together.
    #[must_use]
    pub fn at_most(total_max: usize) -> Self {
        Self { total_max, ..Self::default() }
    }

    /// Subscriptions of all connections together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether nobody is subscribed to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Pushes that wait for their connection to take bytes again.
    #[must_use]
    pub fn pending_len(&self) -> usize {
        self.pending_total
    }

    /// What `connection` is subscribed to, in no order.
    pub fn of(&self, connection: C) -> impl ExactSizeIterator<Item = ModuleId> {
        let own = self.connections.get(&connection).map(|own| &own.modules);
        own.unwrap_or(&self.nothing).keys().copied()
    }

    /// From now on `connection` hears about `module`, whether or not such a module exists.
    pub fn subscribe(&mut self, connection: C, module: ModuleId) -> Subscribed {
        if self.connections.get(&connection).is_some_and(|own| own.modules.contains_key(&module)) {
            return Subscribed::Already;
        }
        let subscribed = self.make_room(connection);
        if subscribed != Subscribed::Refused {
            self.insert(connection, module);
        }
        self.debug_check();
        subscribed
    }

    /// `module` has hosts, or has none: such subscriptions make room for others. To be told when somebody
    /// subscribes, and with each change.
    pub fn note_hosts(&mut self, module: ModuleId, has_hosts: bool) {
        let Some(subscribers) = self.modules.get_mut(&module) else { return };
        if subscribers.without_hosts != has_hosts {
            return;
        }
        subscribers.without_hosts = !has_hosts;
        for (&ticket, &subscriber) in &subscribers.by_ticket {
            let Some(connection) = self.connections.get_mut(&subscriber) else { continue };
            if has_hosts {
                connection.without_hosts.remove(&ticket);
                self.without_hosts.remove(&ticket);
            } else {
                connection.without_hosts.insert(ticket, module);
                self.without_hosts.insert(ticket, (subscriber, module));
            }
        }
        self.debug_check();
    }

    /// From now on `connection` does not hear about `module` any more. Whether it did.
    pub fn forget(&mut self, connection: C, module: ModuleId) -> bool {
        let Some(own) = self.connections.get_mut(&connection) else { return false };
        let Some(Subscription { ticket, pending }) = own.modules.remove(&module) else { return false };
        own.without_hosts.remove(&ticket);
        if pending {
            own.pending.retain(|waits| *waits != module);
            self.pending_total -= 1;
        }
        if own.modules.is_empty() {
            self.connections.remove(&connection);
        }
        self.unlist(module, ticket);
        self.total -= 1;
        self.debug_check();
        true
    }

    /// Whether there is room for one more subscription of `connection`, and how that came about.
    fn make_room(&mut self, connection: C) -> Subscribed {
        let own = self.connections.get(&connection);
        let oldest = match own {
            Some(own) if own.modules.len() >= self.per_connection_max => {
                own.without_hosts.first_key_value().map(|(_, &module)| (connection, module))
            }
            _ if self.total >= self.total_max => {
                self.without_hosts.first_key_value().map(|(_, &oldest)| oldest)
            }
            _ => return Subscribed::New,
        };
        match oldest {
            Some((subscriber, module)) => {
                self.forget(subscriber, module);
                Subscribed::InPlaceOfAnother
            }
            None => Subscribed::Refused,
        }
    }

    fn insert(&mut self, connection: C, module: ModuleId) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let own = self.connections.entry(connection).or_default();
        own.modules.insert(module, Subscription { ticket, pending: false });
        let subscribers = self.modules.entry(module).or_default();
        subscribers.by_ticket.insert(ticket, connection);
        if subscribers.without_hosts {
            own.without_hosts.insert(ticket, module);
            self.without_hosts.insert(ticket, (connection, module));
        }
        self.total += 1;
    }

    /// Forgets the connection, in time proportional to its subscriptions. Returns how many it had.
    pub fn close(&mut self, connection: C) -> usize {
        let Some(closed) = self.connections.remove(&connection) else {
            return 0;
        };
        for (module, subscription) in &closed.modules {
            self.unlist(*module, subscription.ticket);
        }
        self.total -= closed.modules.len();
        self.pending_total -= closed.pending.len();
        self.debug_check();
        closed.modules.len()
    }

    /// `module` has changed: appends to `ready` the subscribers to send it to, in the order in which they
    /// subscribed. For those whose output is full it is pending from now on; returns how many those are.
    pub fn publish(&mut self, module: ModuleId, ready: &mut Vec<C>) -> usize {
        let Some(subscribers) = self.modules.get(&module) else {
            return 0;
        };
        let mut deferred = 0;
        for &subscriber in subscribers.by_ticket.values() {
            match self.connections.get_mut(&subscriber) {
                Some(connection) if !connection.pending.is_empty() => {
                    self.pending_total += usize::from(connection.mark_pending(module));
                    deferred += 1;
                }
                _ => ready.push(subscriber),
            }
        }
        self.debug_check();
        deferred
    }

    /// The connection's output did not take the newest state of `module`: that is pending from now on, and
    /// so is every later change until [`Subscriptions::take_pending`] has returned all of it. Does nothing
    /// if the connection is not subscribed.
    pub fn defer(&mut self, connection: C, module: ModuleId) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            self.pending_total += usize::from(connection.mark_pending(module));
        }
        self.debug_check();
    }

    /// The connection takes bytes again: the next module whose state to send, the one that waits longest
    /// first. `None` once nothing is pending.
    pub fn take_pending(&mut self, connection: C) -> Option<ModuleId> {
        let connection = self.connections.get_mut(&connection)?;
        let module = connection.pending.pop_front()?;
        if let Some(subscription) = connection.modules.get_mut(&module) {
            subscription.pending = false;
        }
        self.pending_total -= 1;
        self.debug_check();
        Some(module)
    }

    fn unlist(&mut self, module: ModuleId, ticket: u64) {
        self.without_hosts.remove(&ticket);
        if let Some(subscribers) = self.modules.get_mut(&module) {
            subscribers.by_ticket.remove(&ticket);
            if subscribers.by_ticket.is_empty() {
                self.modules.remove(&module);
            }
        }
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.total <= CHECKED_SUBSCRIPTIONS_MAX {
            self.check_invariants();
        }
    }

    /// Both directions say the same, pending queues and marks say the same, the totals are right, and
    /// nothing is left of what is gone.
    ///
    /// # Panics
    /// If that is not so, which is a bug in this file.
    fn check_invariants(&self) {
        let mut total = 0;
        for (module, subscribers) in &self.modules {
            assert!(!subscribers.by_ticket.is_empty(), "{module} is listed without subscribers");
            for (ticket, subscriber) in &subscribers.by_ticket {
                let connection = self.connections.get(subscriber).expect("a subscriber is a connection");
                let listed = subscribers.without_hosts.then_some(*module);
                assert_eq!(connection.without_hosts.get(ticket).copied(), listed);
                assert_eq!(self.without_hosts.get(ticket).map(|(_, module)| *module), listed);
                assert_eq!(connection.modules.get(module).map(|s| s.ticket), Some(*ticket));
                total += 1;
            }
        }
        assert_eq!(total, self.total);
        assert!(total <= self.total_max);
        let listed = self.connections.values().map(|c| c.without_hosts.len()).sum::<usize>();
        assert_eq!(listed, self.without_hosts.len());
        assert_eq!(self.connections.values().map(|c| c.modules.len()).sum::<usize>(), self.total);
        assert_eq!(self.connections.values().map(|c| c.pending.len()).sum::<usize>(), self.pending_total);
        for connection in self.connections.values() {
            assert!(connection.modules.len() <= self.per_connection_max);
            assert!(connection.pending.iter().all(|module| connection.modules[module].pending));
            let marked = connection.modules.values().filter(|subscription| subscription.pending);
            assert_eq!(marked.count(), connection.pending.len());
        }
    }
}

impl Connection {
    /// Whether that is news.
    fn mark_pending(&mut self, module: ModuleId) -> bool {
        match self.modules.get_mut(&module) {
            Some(subscription) if !subscription.pending => {
                subscription.pending = true;
                self.pending.push_back(module);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn module(cmdid: i32) -> ModuleId {
        ModuleId::new(1, cmdid)
    }

    fn published(subscriptions: &mut Subscriptions<u8>, module: ModuleId) -> (Vec<u8>, usize) {
        let mut ready = Vec::new();
        let deferred = subscriptions.publish(module, &mut ready);
        (ready, deferred)
    }

    #[test]
    fn subscribers_hear_in_the_order_in_which_they_came() {
        let mut subscriptions = Subscriptions::default();
        for connection in [7u8, 3, 9, 1] {
            assert_eq!(subscriptions.subscribe(connection, module(1)), Subscribed::New);
        }
        assert_eq!(subscriptions.subscribe(7, module(1)), Subscribed::Already);
        assert_eq!(subscriptions.close(3), 1);
        assert_eq!(subscriptions.close(3), 0);
        assert_eq!(published(&mut subscriptions, module(1)), (vec![7, 9, 1], 0));
        assert_eq!(published(&mut subscriptions, module(2)), (vec![], 0));
    }

    #[test]
    fn a_full_connection_is_left_alone_until_it_is_writable() {
        let mut subscriptions = Subscriptions::default();
        for connection in [1u8, 2] {
            for cmdid in 1..=3 {
                subscriptions.subscribe(connection, module(cmdid));
            }
        }
        assert_eq!(published(&mut subscriptions, module(1)), (vec![1, 2], 0));
        subscriptions.defer(1, module(1));
        assert_eq!(published(&mut subscriptions, module(2)), (vec![2], 1));
        assert_eq!(published(&mut subscriptions, module(2)), (vec![2], 1));
        assert_eq!(subscriptions.pending_len(), 2);

        assert_eq!(subscriptions.take_pending(1), Some(module(1)));
        assert_eq!(subscriptions.take_pending(1), Some(module(2)));
        subscriptions.defer(1, module(2));
        assert_eq!(subscriptions.take_pending(1), Some(module(2)));
        assert_eq!(subscriptions.take_pending(1), None);
        assert_eq!(published(&mut subscriptions, module(3)), (vec![1, 2], 0));
    }

    #[test]
    fn what_a_closed_connection_had_pending_is_gone() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.subscribe(1u8, module(1));
        subscriptions.defer(1, module(1));
        subscriptions.defer(1, module(2));
        assert_eq!(subscriptions.pending_len(), 1);
        assert_eq!(subscriptions.close(1), 1);
        assert_eq!((subscriptions.len(), subscriptions.pending_len()), (0, 0));
        assert!(subscriptions.is_empty());
        subscriptions.defer(1, module(1));
        assert_eq!(subscriptions.take_pending(1), None);
        assert!(subscriptions.modules.is_empty() && subscriptions.connections.is_empty());
    }

    #[test]
    fn a_connection_has_a_bound() {
        let mut subscriptions = Subscriptions { per_connection_max: 2, ..Subscriptions::default() };
        assert_eq!(subscriptions.subscribe(1u8, module(1)), Subscribed::New);
        assert_eq!(subscriptions.subscribe(1, module(2)), Subscribed::New);
        assert_eq!(subscriptions.subscribe(1, module(3)), Subscribed::Refused);
        assert_eq!(subscriptions.subscribe(1, module(2)), Subscribed::Already);
        assert_eq!(subscriptions.subscribe(2, module(3)), Subscribed::New);
        assert_eq!(published(&mut subscriptions, module(3)), (vec![2], 0));
    }

    #[test]
    fn the_oldest_subscription_to_a_module_without_hosts_makes_room() {
        let mut subscriptions = Subscriptions { per_connection_max: 3, ..Subscriptions::default() };
        for cmdid in 1..=3 {
            subscriptions.subscribe(1u8, module(cmdid));
            subscriptions.note_hosts(module(cmdid), cmdid == 2);
        }
        subscriptions.defer(1, module(1));
        assert_eq!(subscriptions.subscribe(1, module(4)), Subscribed::InPlaceOfAnother);
        assert_eq!((published(&mut subscriptions, module(1)), subscriptions.pending_len()), ((vec![], 0), 0));
        // What has hosts meanwhile stays, and what has none any more goes.
        subscriptions.note_hosts(module(3), true);
        subscriptions.note_hosts(module(4), true);
        assert_eq!(subscriptions.subscribe(1, module(5)), Subscribed::Refused);
        subscriptions.note_hosts(module(2), false);
        assert_eq!(subscriptions.subscribe(1, module(5)), Subscribed::InPlaceOfAnother);
        assert_eq!(published(&mut subscriptions, module(2)), (vec![], 0));
        assert_eq!(published(&mut subscriptions, module(4)), (vec![1], 0));
    }

    #[test]
    fn all_connections_together_have_a_bound() {
        let mut subscriptions = Subscriptions::at_most(3);
        subscriptions.subscribe(1u8, module(1));
        subscriptions.note_hosts(module(1), true);
        for cmdid in 2..=3 {
            subscriptions.subscribe(2, module(cmdid));
            subscriptions.note_hosts(module(cmdid), false);
        }
        assert_eq!(subscriptions.subscribe(3, module(1)), Subscribed::InPlaceOfAnother);
        assert_eq!(subscriptions.subscribe(3, module(3)), Subscribed::InPlaceOfAnother);
        subscriptions.note_hosts(module(3), true);
        assert_eq!(subscriptions.subscribe(4, module(1)), Subscribed::Refused);
        assert_eq!((subscriptions.len(), subscriptions.close(4)), (3, 0));
        assert_eq!(published(&mut subscriptions, module(1)), (vec![1, 3], 0));
    }

    #[test]
    fn who_forgets_hears_no_more() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.subscribe(1u8, module(1));
        subscriptions.subscribe(2, module(1));
        subscriptions.defer(1, module(1));
        assert!(subscriptions.forget(1, module(1)));
        assert!(!subscriptions.forget(1, module(1)));
        assert!(!subscriptions.forget(3, module(1)));
        assert_eq!(published(&mut subscriptions, module(1)), (vec![2], 0));
        assert_eq!((subscriptions.len(), subscriptions.pending_len(), subscriptions.close(1)), (1, 0, 0));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Subscribe(u8, i32),
        Forget(u8, i32),
        HasHosts(i32, bool),
        Close(u8),
        Change(i32),
        /// The peer reads so many messages.
        Read(u8, usize),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0u8..4, 0i32..6).prop_map(|(connection, cmdid)| Event::Subscribe(connection, cmdid)),
            1 => (0u8..4, 0i32..6).prop_map(|(connection, cmdid)| Event::Forget(connection, cmdid)),
            1 => (0i32..6, any::<bool>()).prop_map(|(cmdid, has_hosts)| Event::HasHosts(cmdid, has_hosts)),
            1 => (0u8..4).prop_map(Event::Close),
            6 => (0i32..6).prop_map(Event::Change),
            3 => (0u8..4, 1usize..4).prop_map(|(connection, count)| Event::Read(connection, count)),
        ]
    }

    /// Messages an output holds.
    const OUTPUT_MAX: usize = 2;

    /// The other end of a connection: an output that fills up and what has come through it.
    #[derive(Default)]
    struct Peer {
        output: VecDeque<(ModuleId, u32)>,
        /// A send was refused since the connection was last called writable.
        refused: bool,
        known: BTreeMap<ModuleId, u32>,
    }

    impl Peer {
        fn send(&mut self, module: ModuleId, state: u32) -> bool {
            if self.output.len() >= OUTPUT_MAX {
                self.refused = true;
                return false;
            }
            self.output.push_back((module, state));
            true
        }

        fn read(&mut self) {
            if let Some((module, state)) = self.output.pop_front() {
                let before = self.known.insert(module, state);
                assert!(before <= Some(state), "an older state came after a newer one");
            }
        }
    }

    /// A shard with its peers: what the shell does, without sockets.
    #[derive(Default)]
    struct Shard {
        subscriptions: Subscriptions<u8>,
        peers: BTreeMap<u8, Peer>,
        states: BTreeMap<ModuleId, u32>,
    }

    impl Shard {
        fn state(&self, module: ModuleId) -> u32 {
            self.states.get(&module).copied().unwrap_or_default()
        }

        fn handle(&mut self, event: &Event) {
            match *event {
                Event::Subscribe(connection, cmdid) => self.query(connection, module(cmdid)),
                Event::Forget(connection, cmdid) => {
                    let _ = self.subscriptions.forget(connection, module(cmdid));
                }
                Event::HasHosts(cmdid, has_hosts) => self.subscriptions.note_hosts(module(cmdid), has_hosts),
                Event::Close(connection) => {
                    self.peers.remove(&connection);
                    self.subscriptions.close(connection);
                }
                Event::Change(cmdid) => self.change(module(cmdid)),
                Event::Read(connection, count) => (0..count).for_each(|_| self.read(connection)),
            }
        }

        /// A reply that does not fit is not given, and then there is no subscription either.
        fn query(&mut self, connection: u8, module: ModuleId) {
            let state = self.state(module);
            if self.peers.entry(connection).or_default().send(module, state) {
                self.subscriptions.subscribe(connection, module);
            }
        }

        fn change(&mut self, module: ModuleId) {
            *self.states.entry(module).or_default() += 1;
            let state = self.state(module);
            let mut ready = Vec::new();
            self.subscriptions.publish(module, &mut ready);
            for connection in ready {
                let peer = self.peers.get_mut(&connection).expect("only live ones are told");
                if !peer.send(module, state) {
                    self.subscriptions.defer(connection, module);
                }
            }
        }

        fn read(&mut self, connection: u8) {
            let Some(peer) = self.peers.get_mut(&connection) else { return };
            peer.read();
            if std::mem::take(&mut peer.refused) {
                self.writable(connection);
            }
        }

        fn writable(&mut self, connection: u8) {
            while let Some(module) = self.subscriptions.take_pending(connection) {
                let state = self.state(module);
                if !self.peers.get_mut(&connection).expect("live").send(module, state) {
                    self.subscriptions.defer(connection, module);
                    return;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn who_reads_ends_with_the_newest_state(events in prop::collection::vec(any_event(), 0..200)) {
            let subscriptions =
                Subscriptions { per_connection_max: 4, ..Subscriptions::at_most(10) };
            let mut shard = Shard { subscriptions, ..Shard::default() };
            for event in &events {
                shard.handle(event);
                shard.subscriptions.check_invariants();
                prop_assert!(shard.subscriptions.connections.keys().all(|c| shard.peers.contains_key(c)));
            }
            let connections: Vec<u8> = shard.peers.keys().copied().collect();
            for &connection in &connections {
                (0..100).for_each(|_| shard.read(connection));
            }
            prop_assert_eq!(shard.subscriptions.pending_len(), 0);
            for (connection, subscribed) in &shard.subscriptions.connections {
                for module in subscribed.modules.keys() {
                    prop_assert_eq!(shard.peers[connection].known.get(module), Some(&shard.state(*module)));
                }
            }
            connections.iter().for_each(|&connection| { shard.subscriptions.close(connection); });
            prop_assert!(shard.subscriptions.is_empty());
            prop_assert!(shard.subscriptions.modules.is_empty());
            prop_assert!(shard.subscriptions.connections.is_empty());
            prop_assert!(shard.subscriptions.without_hosts.is_empty());
        }
    }
}
