//! Whether a full load may take routes away.
//!
//! A mistake in a database (`TRUNCATE`, a `DELETE` without its `WHERE`, an empty restore) looks like any other change,
//! and would empty a fleet. What somebody means leaves a trace: rows of `RouteChange` that name the modules. So hosts
//! that are gone without such a row are *lost*, and a load that lost more than a share of all hosts, or all of them,
//! is held: the modules that lost hosts keep them until
//!
//! * the rows come back: loads lose little again, and two in a row the same, because a restore takes a while;
//! * somebody [accepts](RouteAcceptance) the table as it is. An acceptance counts once, for a load with about as many
//!   hosts as it says, so that it lets no later disaster pass;
//! * the hold time is over, which begins again when as much is lost once more.
//!
//! Losses of several loads within the hold time count together: a table that is deleted in pieces is deleted.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lars_store::RouteAcceptance;

/// For how long losses count together if holds end only by hand.
const LOSSES_KEPT: Duration = Duration::from_secs(600);

/// Losses that are remembered. Beyond that the two oldest are taken together.
const LOSSES_MAX: usize = 256;

/// What is too much, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShrinkRules {
    /// A load that lost more than so many percent of all hosts is held, 1 to 100; one that lost all always.
    pub percent: u8,
    /// When it takes effect nevertheless; `None`: never by itself.
    pub hold: Option<Duration>,
}

/// What a load would do to the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Hosts of all modules that are served.
    pub hosts_served: usize,
    /// Hosts of all modules in the load.
    pub hosts_loaded: usize,
    /// Hosts by which modules shrink that no row of `RouteChange` names.
    pub lost: usize,
    /// Hosts by which modules grow that no such row names.
    pub gained: usize,
    /// The newest acceptance that the load has seen.
    pub accepted: Option<RouteAcceptance>,
}

/// A load, or several in a row, that is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Since when, or since when it is as bad as it is.
    pub since: Instant,
    /// When it takes effect, if nothing happens; `None`: never.
    pub until: Option<Instant>,
    /// Hosts that are served and not in the table.
    pub hosts_lost: usize,
    /// Hosts that are served.
    pub hosts_served: usize,
}

/// Why a hold is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// The rows are back.
    RowsBack,
    /// Somebody said that it is meant so.
    Accepted(RouteAcceptance),
    /// The hold time is over.
    TimeOver,
}

/// What to do with a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes effect; if there was a hold, that is why it is over.
    Use(Option<HoldEnd>),
    /// Modules that lose hosts without being named stay as they are.
    Hold(Hold),
}

/// What is known of earlier loads.
#[derive(Debug)]
pub struct ShrinkGuard {
    rules: Option<ShrinkRules>,
    held: Option<Held>,
    /// What loads lost that took effect, and when, less what others gained. Oldest first.
    losses: VecDeque<(Instant, usize)>,
    /// The newest acceptance that has counted, or was there when nothing was held.
    spent_id: u64,
}

#[derive(Debug)]
struct Held {
    hold: Hold,
    /// What was lost when the time began, of how many.
    lost_at_first: usize,
    /// The load before, so that a table that still moves is told from one that does not.
    last: (usize, usize),
}

impl ShrinkGuard {
    /// Lets everything pass if there are no rules.
    #[must_use]
    pub fn new(rules: Option<ShrinkRules>) -> Self {
        Self { rules, held: None, losses: VecDeque::new(), spent_id: 0 }
    }

    /// What is held, if anything is.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        self.held.as_ref().map(|held| held.hold)
    }

    /// Nothing was served before the first load, so nothing is lost. `accepted` is about what was before it.
    pub fn note_first(&mut self, accepted: Option<RouteAcceptance>) {
        self.spent_id = accepted.map_or(0, |accepted| accepted.id);
    }

    /// The newest acceptance that does not count any more.
    #[must_use]
    pub fn spent_id(&self) -> u64 {
        self.spent_id
    }

    /// What is served is from before the start, when acceptances up to this one had counted.
    pub fn resume(&mut self, spent_id: u64) {
        self.spent_id = spent_id;
    }

    /// Whether the load takes effect. The caller does what the verdict says.
    pub fn judge(&mut self, load: &Comparison, now: Instant) -> Verdict {
        // A table that was made anew begins with small ids again.
        let newest_id = load.accepted.map_or(0, |accepted| accepted.id);
        self.spent_id = self.spent_id.min(newest_id);
        self.forget_old_losses(now);
        let verdict = self.verdict(load, now);
        if let Verdict::Use(end) = verdict {
            self.held = None;
            self.spent_id = newest_id;
            if matches!(end, Some(HoldEnd::Accepted(_) | HoldEnd::TimeOver)) {
                self.losses.clear();
            } else {
                self.note_loss(load, now);
            }
        }
        debug_assert!(self.losses.len() <= LOSSES_MAX);
        verdict
    }

    fn verdict(&mut self, load: &Comparison, now: Instant) -> Verdict {
        let Some(rules) = self.rules else { return Verdict::Use(None) };
        let is_too_much = self.is_too_much(load);
        if !is_too_much && self.held.is_none() {
            return Verdict::Use(None);
        }
        let is_accepted = |accepted: &RouteAcceptance| {
            accepted.id > self.spent_id && is_meant(rules, accepted.hosts, load.hosts_loaded)
        };
        if let Some(accepted) = load.accepted.filter(is_accepted) {
            return Verdict::Use(Some(HoldEnd::Accepted(accepted)));
        }
        let Some(held) = &mut self.held else { return self.begin(load, rules, now) };
        let this = (load.hosts_loaded, load.lost);
        let is_settled = std::mem::replace(&mut held.last, this) == this;
        if load.lost == 0 || (!is_too_much && is_settled) {
            return Verdict::Use(Some(HoldEnd::RowsBack));
        }
        if worse(rules, held.lost_at_first, load) {
            return self.begin(load, rules, now);
        }
        if held.hold.until.is_some_and(|until| now >= until) {
            return Verdict::Use(Some(HoldEnd::TimeOver));
        }
        held.hold = Hold { hosts_lost: load.lost, hosts_served: load.hosts_served, ..held.hold };
        Verdict::Hold(held.hold)
    }

    fn begin(&mut self, load: &Comparison, rules: ShrinkRules, now: Instant) -> Verdict {
        let hold = Hold {
            since: now,
            until: rules.hold.map(|hold| now + hold),
            hosts_lost: load.lost,
            hosts_served: load.hosts_served,
        };
        let last = (load.hosts_loaded, load.lost);
        self.held = Some(Held { hold, lost_at_first: load.lost, last });
        Verdict::Hold(hold)
    }

    fn is_too_much(&self, load: &Comparison) -> bool {
        let Some(rules) = self.rules else { return false };
        let lately: usize = self.losses.iter().map(|(_, lost)| lost).sum();
        let all = load.lost > 0 && load.hosts_loaded == 0;
        let is_over = |lost, of| exceeds(rules, lost, of);
        // What was lost lately is no reason to hold a load that loses nothing.
        let with_earlier = load.lost > 0 && is_over(load.lost + lately, load.hosts_served + lately);
        all || is_over(load.lost, load.hosts_served) || with_earlier
    }

    fn note_loss(&mut self, load: &Comparison, now: Instant) {
        let mut returned = load.gained;
        for (_, lost) in self.losses.iter_mut().rev() {
            let back = returned.min(*lost);
            *lost -= back;
            returned -= back;
        }
        self.losses.retain(|&(_, lost)| lost > 0);
        if load.lost == 0 {
            return;
        }
        if self.losses.len() == LOSSES_MAX
            && let Some((_, oldest)) = self.losses.pop_front()
            && let Some((_, next)) = self.losses.front_mut()
        {
            *next += oldest;
        }
        self.losses.push_back((now, load.lost));
    }

    fn forget_old_losses(&mut self, now: Instant) {
        let kept = self.rules.and_then(|rules| rules.hold).unwrap_or(LOSSES_KEPT);
        self.losses.retain(|&(at, _)| now.saturating_duration_since(at) < kept);
    }
}

fn exceeds(rules: ShrinkRules, lost: usize, of: usize) -> bool {
    lost as u128 * 100 > of as u128 * u128::from(rules.percent)
}

/// Whether a load has about as many hosts as somebody accepted.
fn is_meant(rules: ShrinkRules, accepted: u64, loaded: usize) -> bool {
    let accepted = usize::try_from(accepted).unwrap_or(usize::MAX);
    let is_empty_only_now = loaded == 0 && accepted > 0;
    !is_empty_only_now && !exceeds(rules, accepted.saturating_sub(loaded), accepted)
}

/// Whether since the hold began as much was lost again as begins one.
fn worse(rules: ShrinkRules, lost_at_first: usize, load: &Comparison) -> bool {
    let more = load.lost.saturating_sub(lost_at_first);
    let left_then = load.hosts_served.saturating_sub(lost_at_first);
    more > 0 && (exceeds(rules, more, left_then) || load.hosts_loaded == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: Duration = Duration::from_secs(600);
    const LOAD: Duration = Duration::from_secs(10);

    struct World {
        guard: ShrinkGuard,
        now: Instant,
        served: usize,
        accepted: Option<RouteAcceptance>,
    }

    impl World {
        fn with(rules: Option<ShrinkRules>) -> Self {
            Self { guard: ShrinkGuard::new(rules), now: Instant::now(), served: 100, accepted: None }
        }

        fn new() -> Self {
            Self::with(Some(ShrinkRules { percent: 30, hold: Some(HOLD) }))
        }

        /// A load in which so many hosts are left of what is served.
        fn load(&mut self, left: usize) -> Verdict {
            self.now += LOAD;
            let load = Comparison {
                hosts_served: self.served,
                hosts_loaded: left,
                lost: self.served.saturating_sub(left),
                gained: left.saturating_sub(self.served),
                accepted: self.accepted,
            };
            let verdict = self.guard.judge(&load, self.now);
            if matches!(verdict, Verdict::Use(_)) {
                self.served = left;
            }
            verdict
        }

        fn accept(&mut self, hosts: u64) {
            let id = self.accepted.map_or(1, |accepted| accepted.id + 1);
            self.accepted = Some(RouteAcceptance { id, version: id, hosts });
        }

        #[track_caller]
        fn is_held(&mut self, left: usize) {
            assert!(matches!(self.load(left), Verdict::Hold(_)), "{left} of {}", self.served);
        }

        #[track_caller]
        fn ends(&mut self, left: usize, end: HoldEnd) {
            assert_eq!(self.load(left), Verdict::Use(Some(end)));
            assert_eq!(self.guard.hold(), None);
        }

        #[track_caller]
        fn passes(&mut self, left: usize) {
            assert_eq!(self.load(left), Verdict::Use(None));
        }
    }

    #[test]
    fn more_than_the_share_is_held_and_the_share_itself_is_not() {
        World::new().passes(70);
        World::new().is_held(69);
        World::new().is_held(0);
        World::with(None).passes(0);
        let mut lenient = World::with(Some(ShrinkRules { percent: 100, hold: None }));
        lenient.passes(1);
        lenient.is_held(0);
    }

    #[test]
    fn a_table_that_was_empty_has_nothing_to_lose() {
        let mut world = World::new();
        world.served = 0;
        world.passes(0);
        world.passes(10);
    }

    #[test]
    fn rows_that_come_back_in_pieces_are_waited_for() {
        let mut world = World::new();
        world.is_held(0);
        for left in [20, 71, 80, 99] {
            world.is_held(left);
        }
        world.ends(100, HoldEnd::RowsBack);
        world.is_held(0);
        world.is_held(90);
        world.ends(90, HoldEnd::RowsBack);
    }

    #[test]
    fn the_time_is_over_once_and_begins_again_when_it_gets_much_worse() {
        let mut world = World::new();
        world.is_held(60);
        let until = world.now + HOLD;
        while world.now + LOAD < until {
            world.is_held(60);
        }
        world.is_held(0);
        assert_eq!(world.guard.hold().and_then(|hold| hold.until), Some(world.now + HOLD));
        while world.guard.hold().and_then(|hold| hold.until).is_some_and(|until| world.now + LOAD < until) {
            world.is_held(0);
        }
        world.ends(0, HoldEnd::TimeOver);
    }

    #[test]
    fn without_a_hold_time_only_hands_end_it() {
        let mut world = World::with(Some(ShrinkRules { percent: 30, hold: None }));
        for _ in 0..1_000 {
            world.is_held(0);
        }
        world.accept(0);
        let accepted = world.accepted.expect("just accepted");
        world.ends(0, HoldEnd::Accepted(accepted));
    }

    #[test]
    fn an_acceptance_counts_once_and_for_what_it_was_said_of() {
        let mut world = World::new();
        world.accept(0);
        world.guard.note_first(world.accepted);
        world.is_held(0);
        world.accept(50);
        world.is_held(0);
        world.is_held(34);
        let accepted = world.accepted.expect("just accepted");
        world.ends(40, HoldEnd::Accepted(accepted));
        world.passes(100);
        world.is_held(40);
    }

    #[test]
    fn what_was_accepted_while_nothing_was_held_is_spent() {
        let mut world = World::new();
        world.accept(0);
        world.passes(100);
        world.is_held(0);
    }

    #[test]
    fn ids_of_acceptances_may_start_anew() {
        let mut world = World::new();
        world.accepted = Some(RouteAcceptance { id: 9, version: 1, hosts: 100 });
        world.passes(100);
        world.accepted = None;
        world.is_held(0);
        world.accept(0);
        let accepted = world.accepted.expect("just accepted");
        assert_eq!(accepted.id, 1);
        world.ends(0, HoldEnd::Accepted(accepted));
    }

    #[test]
    fn a_table_that_is_deleted_in_pieces_is_held() {
        let mut world = World::new();
        world.passes(90);
        world.passes(80);
        world.passes(70);
        world.is_held(60);
        world.ends(70, HoldEnd::RowsBack);
        world.passes(100);
        world.passes(80);
        world.now += HOLD;
        world.passes(60);
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Load(usize),
        Accept(u64),
        Pause(u64),
    }

    fn any_deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            6 => prop_oneof![Just(0), 0usize..200].prop_map(Deed::Load),
            1 => prop_oneof![Just(0), 0u64..200].prop_map(Deed::Accept),
            1 => (0u64..400).prop_map(Deed::Pause),
        ]
    }

    proptest! {
        /// Whatever happened before: too much goes only with a reason, and every hold ends.
        #[test]
        fn nothing_large_vanishes_without_a_reason_and_nothing_is_held_for_ever(
            deeds in prop::collection::vec(any_deed(), 0..100),
        ) {
            let mut world = World::new();
            let mut held_since = None;
            for deed in deeds {
                match deed {
                    Deed::Accept(hosts) => world.accept(hosts),
                    Deed::Pause(seconds) => world.now += Duration::from_secs(seconds),
                    Deed::Load(left) => {
                        let served = world.served;
                        let lost = served.saturating_sub(left);
                        let too_much = lost * 100 > served * 30 || (left == 0 && served > 0);
                        match world.load(left) {
                            Verdict::Use(None | Some(HoldEnd::RowsBack)) => prop_assert!(!too_much),
                            Verdict::Use(Some(HoldEnd::Accepted(accepted))) => {
                                prop_assert!(left as u64 * 100 >= accepted.hosts * 70);
                            }
                            Verdict::Use(Some(HoldEnd::TimeOver)) => {
                                prop_assert!(held_since.is_some_and(|since| world.now >= since + HOLD));
                            }
                            Verdict::Hold(hold) => prop_assert!(lost > 0 && hold.hosts_lost == lost),
                        }
                        held_since = world.guard.hold().map(|_| held_since.unwrap_or(world.now));
                    }
                }
            }
            world.accept(0);
            prop_assert!(matches!(world.load(0), Verdict::Use(_)));
            world.passes(0);
        }

        /// An acceptance that has counted lets nothing pass again.
        #[test]
        fn an_acceptance_is_good_for_one_hold(left in 0usize..70, after in 0usize..70) {
            let mut world = World::new();
            world.is_held(left);
            world.accept(left as u64);
            let accepted = world.accepted.expect("just accepted");
            world.ends(left, HoldEnd::Accepted(accepted));
            world.passes(100);
            world.is_held(after);
            world.is_held(after);
        }
    }
}
