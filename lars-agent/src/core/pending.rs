//! Requests that wait for the route of a module that is not learned yet.
//!
//! Each is given out once: when the route has come, when its deadline has, or when the agent stops. A client that asks
//! again, because it has heard nothing, moves the deadline of its question, which then goes to the end of the queue,
//! instead of waiting twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lars_proto::ModuleId;

use super::{
    api::{Client, Request},
    time::Moment,
};

/// Requests that may wait for one module. Beyond, they are answered as those of clients that do not wait.
pub const WAITING_PER_MODULE_MAX: usize = 1_024;
/// Requests of one shard that may wait. Beyond, likewise.
pub const WAITING_MAX: usize = 16_384;
/// Longer waits end after so long.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// In the order of arrival.
type Ticket = u64;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    client: Client,
    deadline: Moment,
}

/// What became of a request that was to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    New,
    /// It waits already, and goes on doing so until the new deadline.
    Already,
    /// Its wait is over already.
    TooLate,
    /// As many wait as may, or the agent is about to stop.
    Refused,
}

/// The requests of one shard that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: BTreeMap<(ModuleId, Ticket), Waiting>,
    deadlines: BTreeSet<(Moment, ModuleId, Ticket)>,
    next_ticket: Ticket,
    is_closed: bool,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Has `request` wait for `wait` from `asked_at` on.
    pub(super) fn hold(
        &mut self,
        request: Request,
        client: Client,
        (asked_at, wait): (Moment, Duration),
        now: Moment,
    ) -> Held {
        let module = request.module();
        // Another shard's clock may be a little ahead.
        let deadline = asked_at.min(now) + wait.min(WAIT_MAX);
        if self.is_closed {
            return Held::Refused;
        }
        if now.is_due(deadline, WAIT_MAX) {
            return Held::TooLate;
        }
        let held = if self.withdraw(&request, client) { Held::Already } else { Held::New };
        let is_full = self.waiting.len() >= WAITING_MAX || self.of(module).count() >= WAITING_PER_MODULE_MAX;
        if is_full {
            return Held::Refused;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert((module, ticket), Waiting { request, client, deadline });
        self.deadlines.insert((deadline, module, ticket));
        self.check_invariants();
        held
    }

    /// `request` is answered: if its client asked it before, and that waits, it waits no more. Whether it did.
    pub(super) fn withdraw(&mut self, request: &Request, client: Client) -> bool {
        let module = request.module();
        let is_it = |waiting: &Waiting| waiting.client == client && request.repeats(&waiting.request);
        let ticket = self.of(module).find_map(|(ticket, waiting)| is_it(waiting).then_some(ticket));
        ticket.is_some_and(|ticket| self.remove(module, ticket).is_some())
    }

    /// The next request that waits for `module`, the oldest first: it waits no more.
    pub(super) fn take(&mut self, module: ModuleId) -> Option<(Request, Client)> {
        let (&(_, ticket), _) = self.waiting.range((module, Ticket::MIN)..=(module, Ticket::MAX)).next()?;
        self.remove(module, ticket)
    }

    /// The next request whose deadline has come: it waits no more.
    pub(super) fn take_due(&mut self, now: Moment) -> Option<(Request, Client)> {
        // The last one may have been left behind by a clock that stepped back.
        let ends = [self.deadlines.first(), self.deadlines.last()];
        let (_, module, ticket) = *ends.into_iter().flatten().find(|(at, ..)| now.is_due(*at, WAIT_MAX))?;
        self.remove(module, ticket)
    }

    /// When [`Pending::take_due`] has something to give, if nothing else happens before.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.deadlines.first().map(|&(at, ..)| at)
    }

    /// From now on no request waits. The next one that did.
    pub(super) fn close(&mut self) -> Option<(Request, Client)> {
        self.is_closed = true;
        let (&(module, ticket), _) = self.waiting.first_key_value()?;
        self.remove(module, ticket)
    }

    /// What waits for `module`, the oldest first.
    fn of(&self, module: ModuleId) -> impl Iterator<Item = (Ticket, &Waiting)> {
        let waiting = self.waiting.range((module, Ticket::MIN)..=(module, Ticket::MAX));
        waiting.map(|(&(_, ticket), waiting)| (ticket, waiting))
    }

    fn remove(&mut self, module: ModuleId, ticket: Ticket) -> Option<(Request, Client)> {
        let waiting = self.waiting.remove(&(module, ticket))?;
        self.deadlines.remove(&(waiting.deadline, module, ticket));
        self.check_invariants();
        Some((waiting.request, waiting.client))
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.waiting.len(), self.deadlines.len(), "each waits until a deadline");
        debug_assert!(self.waiting.len() <= WAITING_MAX, "requests that wait are bounded");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    const T0: Moment = Moment::ORIGIN;
    const A: ModuleId = ModuleId::new(1, 1);
    const B: ModuleId = ModuleId::new(1, 2);

    fn client(port: u16) -> Client {
        Client { socket: 0, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    fn get_host(seq: u32, module: ModuleId, wait_ms: u32) -> Request {
        Request::GetHost { seq, module, wait_ms }
    }

    fn hold(pending: &mut Pending, request: Request, port: u16, now: Moment) -> Held {
        pending.hold(request, client(port), (now, request.wait()), now)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_question_that_is_repeated_waits_once_and_until_the_newer_deadline() {
        let mut pending = Pending::default();
        let first = get_host(7, A, 100);
        assert_eq!(hold(&mut pending, first, 1, T0), Held::New);
        let again = get_host(7, A, 90);
        assert_eq!(hold(&mut pending, again, 1, T0 + ms(50)), Held::Already);
        assert_eq!((pending.len(), pending.take_due(T0 + ms(139))), (1, None));
        // What differs in client, number, module or kind is a question of its own.
        let route = Request::GetRoute { module: A, wait_ms: 100 };
        for (request, port) in [(again, 2), (get_host(8, A, 90), 1), (get_host(7, B, 90), 1), (route, 1)] {
            assert_eq!(hold(&mut pending, request, port, T0 + ms(50)), Held::New, "{request:?}");
        }
        assert_eq!(hold(&mut pending, route, 1, T0 + ms(60)), Held::Already);
        assert_eq!(pending.take_due(T0 + ms(140)), Some((again, client(1))));
        assert_eq!(pending.len(), 4);
    }

    #[test]
    fn a_route_that_came_ends_the_wait_of_its_module_in_the_order_of_arrival() {
        let mut pending = Pending::default();
        for (seq, module, wait_ms) in [(1, A, 500), (2, B, 100), (3, A, 10)] {
            assert_eq!(hold(&mut pending, get_host(seq, module, wait_ms), 1, T0), Held::New);
        }
        let taken: Vec<_> = std::iter::from_fn(|| pending.take(A)).map(|(request, _)| request).collect();
        assert_eq!(taken, [get_host(1, A, 500), get_host(3, A, 10)]);
        assert_eq!(pending.poll_timeout(), Some(T0 + ms(100)));
    }

    #[test]
    fn both_bounds_hold() {
        let mut pending = Pending::default();
        let per_module = WAITING_PER_MODULE_MAX as u32;
        let per_shard = WAITING_MAX as u32;
        for seq in 0..per_module {
            assert_eq!(hold(&mut pending, get_host(seq, A, 1_000), 1, T0), Held::New);
        }
        assert_eq!(hold(&mut pending, get_host(per_module, A, 1_000), 1, T0), Held::Refused);
        assert_eq!(hold(&mut pending, get_host(0, A, 1_000), 1, T0), Held::Already, "that is no further one");
        for seq in per_module..per_shard {
            let module = ModuleId::new(2, (seq / per_module) as i32);
            assert_eq!(hold(&mut pending, get_host(seq, module, 1_000), 1, T0), Held::New);
        }
        assert_eq!(hold(&mut pending, get_host(0, B, 1_000), 1, T0), Held::Refused);
        pending.take(A).expect("one waits");
        assert_eq!(hold(&mut pending, get_host(0, B, 1_000), 1, T0), Held::New);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut pending = Pending::default();
        assert_eq!(hold(&mut pending, get_host(1, A, u32::MAX), 1, T0), Held::New);
        assert_eq!(pending.take_due(T0 + (WAIT_MAX - ms(1))), None);
        assert!(pending.take_due(T0 + WAIT_MAX).is_some());
        // A clock that steps back puts a deadline out of reach.
        let late = T0 + Duration::from_secs(1_000);
        assert_eq!(hold(&mut pending, get_host(1, A, 1_000), 1, late), Held::New);
        assert_eq!(hold(&mut pending, get_host(1, B, 1_000), 1, T0), Held::New);
        assert!(pending.take_due(T0).is_some_and(|(request, _)| request.module() == A));
        assert_eq!(pending.take_due(T0), None);
    }

    #[test]
    fn a_request_that_was_long_on_its_way_waits_for_what_is_left() {
        let mut pending = Pending::default();
        let request = get_host(1, A, 100);
        assert_eq!(pending.hold(request, client(1), (T0, ms(100)), T0 + ms(100)), Held::TooLate);
        assert_eq!(pending.hold(request, client(1), (T0, ms(100)), T0 + ms(99)), Held::New);
        assert_eq!(pending.poll_timeout(), Some(T0 + ms(100)));
    }

    #[test]
    fn a_request_from_a_shard_whose_clock_is_ahead_waits_the_longest_time_there_is() {
        let mut pending = Pending::default();
        let request = get_host(1, A, u32::MAX);
        assert_eq!(pending.hold(request, client(1), (T0 + ms(1), request.wait()), T0), Held::New);
        assert_eq!(pending.poll_timeout(), Some(T0 + WAIT_MAX));
    }

    #[test]
    fn after_the_close_nobody_waits() {
        let mut pending = Pending::default();
        assert_eq!(hold(&mut pending, get_host(1, A, 1_000), 1, T0), Held::New);
        assert!(pending.close().is_some() && pending.close().is_none());
        assert_eq!(hold(&mut pending, get_host(2, A, 1_000), 1, T0), Held::Refused);
    }

    /// What happens to requests that wait.
    #[derive(Clone, Debug)]
    enum Step {
        Hold { port: u16, seq: u32, module: i32, wait_ms: u32 },
        Route { module: i32 },
        Pass { ms: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u16, 0..4_u32, 0..3_i32, 1..200_u32)
                .prop_map(|(port, seq, module, wait_ms)| Step::Hold { port, seq, module, wait_ms }),
            1 => (0..3_i32).prop_map(|module| Step::Route { module }),
            2 => (0..100_u64).prop_map(|ms| Step::Pass { ms }),
        ]
    }

    proptest! {
        /// A model that is a list.
        #[test]
        fn each_question_is_given_out_once_and_in_time(steps in prop::collection::vec(step(), 1..200)) {
            let (mut pending, mut now) = (Pending::default(), T0);
            let mut model: Vec<(Request, Client, Moment)> = Vec::new();
            for step in steps {
                match step {
                    Step::Hold { port, seq, module, wait_ms } => {
                        let request = get_host(seq, ModuleId::new(0, module), wait_ms);
                        let known = model
                            .extract_if(.., |(other, from, _)| *from == client(port) && request.repeats(other))
                            .count();
                        let expected = if known > 0 { Held::Already } else { Held::New };
                        model.push((request, client(port), now + ms(wait_ms.into())));
                        prop_assert_eq!(hold(&mut pending, request, port, now), expected);
                    }
                    Step::Route { module } => {
                        let module = ModuleId::new(0, module);
                        let taken: Vec<_> = std::iter::from_fn(|| pending.take(module)).collect();
                        let expected: Vec<_> = model
                            .extract_if(.., |(request, ..)| request.module() == module)
                            .map(|(request, from, _)| (request, from))
                            .collect();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::Pass { ms: passed } => {
                        now = now + ms(passed);
                        let due = std::iter::from_fn(|| pending.take_due(now)).count();
                        prop_assert_eq!(due, model.extract_if(.., |(.., at)| *at <= now).count());
                    }
                }
                prop_assert_eq!(pending.len(), model.len());
                prop_assert_eq!(pending.poll_timeout(), model.iter().map(|(.., at)| *at).min());
            }
        }
    }
}
