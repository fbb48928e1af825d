//! What happens in the demo: one act after the other, each until what it shows was seen.

use std::time::{Duration, Instant};

use lars_service::Shutdown;
use lars_store::{RouteEdit, Store};

use super::{
    CALLERS, PROBE_NUM,
    callers::{Callers, Facts, Span},
    expectations::{self, Marks},
    hosts::{FLAKY_FAILED_PERCENT, Hosts, MODULE, Role},
    view::View,
};
use crate::{exit::Failure, out::Out};

/// An act in which nothing happens for so long has failed, and with it the rest.
const ACT_TIME_MAX: Duration = Duration::from_secs(30);
/// Fewer calls say nothing about shares.
const WATCHED_CALLS_MIN: usize = 300;
/// Calls by which the new host is known to have arrived.
const ARRIVED_CALLS: usize = 5;
const STEP: Duration = Duration::from_millis(20);
/// Between two looks at the stored rows.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What there is to see, in lines of at most 80 columns as all that the demo tells. The letters are those of
/// [`super::hosts::ROLES`].
pub(crate) fn welcome() -> String {
    format!(
        "Lars tells programs which host to call.\n\n\
         Here is all of it in one process, over an SQLite file in a temporary folder:\n\
         lars-dns serves routes, lars-agent picks hosts, lars-reporter stores how calls\n\
         went. {CALLERS} callers ask the agent for a host, call it over TCP, and report.\n\n\
         1. Five hosts serve module {MODULE}. A, B and C are healthy, D fails {} calls of 10,\n   \
         E is dead and refuses connections. At first all of them get calls.",
        FLAKY_FAILED_PERCENT / 10,
    )
}

/// Everything that moves while the demo plays.
pub(crate) struct Stage<'a, 'o> {
    pub(crate) hosts: &'a Hosts,
    pub(crate) store: Box<dyn Store>,
    pub(crate) callers: Callers,
    /// When the callers began.
    pub(crate) start: Instant,
    /// How long to watch where nothing happens.
    pub(crate) watch: Duration,
    pub(crate) facts: Facts,
    pub(crate) view: &'a mut View,
    pub(crate) shutdown: &'a Shutdown,
    pub(crate) out: &'a mut Out<'o>,
}

impl Stage<'_, '_> {
    /// Plays to the end, and says when what happened. What did not happen in time ends it, and leaves its mark out.
    pub(crate) fn play(mut self) -> Result<(Facts, Marks), Failure> {
        let mut marks = Marks::default();
        self.acts(&mut marks)?;
        self.view.erase(self.out)?;
        self.callers.stop();
        self.callers.events().for_each(|event| self.facts.add(event));
        Ok((self.facts, marks))
    }

    fn acts(&mut self, marks: &mut Marks) -> Result<(), Failure> {
        let is_out = |facts: &Facts, role| facts.stored_overload(facts.cast.host(role)) == Some(true);
        let ejected = |_, facts: &Facts| is_out(facts, Role::Flaky) && is_out(facts, Role::Dead);
        let Some(act) = self.until(ACT_TIME_MAX, ejected)? else { return Ok(()) };
        marks.ejected = Some(act.to);
        self.say(&format!(
            "\n2. D and E failed so often that the agent ejected them. They are overloaded and\n   \
             get only probes, one lookup in {}, to see whether they recover.",
            PROBE_NUM + 1
        ))?;

        marks.ejected_watch = self.watch_until(|_| true)?;
        let Some(watched) = marks.ejected_watch else { return Ok(()) };
        marks.repaired = Some(watched.to);
        self.hosts.repair();
        self.say("\n3. D is repaired. Its probes succeed from now on, and the agent takes it back.")?;

        let recovered = |_, facts: &Facts| facts.stored_overload(facts.cast.host(Role::Flaky)) == Some(false);
        let Some(act) = self.until(ACT_TIME_MAX, recovered)? else { return Ok(()) };
        (marks.recovered, marks.edited) = (Some(act.to), Some(act.to));
        let host = |role| self.hosts.cast.host(role);
        let edits =
            [RouteEdit::Remove(MODULE, host(Role::Leaving)), RouteEdit::Add(MODULE, host(Role::Joining))];
        self.store.edit(&edits)?;
        self.say(
            "\n4. D is back. Now the route is edited in SQL: C leaves, F joins. lars-dns looks\n   \
             for changes every second and pushes this one to the agent.",
        )?;

        let arrived =
            |act, facts: &Facts| facts.count_in(act, facts.cast.host(Role::Joining)) >= ARRIVED_CALLS;
        let Some(act) = self.until(ACT_TIME_MAX, arrived)? else { return Ok(()) };
        marks.arrived = Some(act.to);
        let took = expectations::arrival(&self.facts).map_or(act.len(), |call| call.picked - act.from);
        self.say(&format!(
            "\n5. Callers got F {} ms after the edit began, and C no more.\n   \
             A, B, D and F share the calls, E is still probed.",
            took.as_millis()
        ))?;

        marks.final_watch = self.watch_until(only_the_dead_host_is_out)?;
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.view.say(text, self.out)?)
    }

    /// Watches for as long as there is to watch, and until `settled`.
    fn watch_until(&mut self, settled: impl Fn(&Facts) -> bool) -> Result<Option<Span>, Failure> {
        let watch = self.watch;
        self.until(watch + ACT_TIME_MAX, |act, facts| {
            act.len() >= watch && facts.calls_in(act).count() >= WATCHED_CALLS_MIN && settled(facts)
        })
    }

    /// Gathers what is to be seen and shows it until `done`; the act that began now. `None` after `time_max`.
    fn until(
        &mut self,
        time_max: Duration,
        done: impl Fn(Span, &Facts) -> bool,
    ) -> Result<Option<Span>, Failure> {
        let from = self.start.elapsed();
        let mut looked_at = Duration::ZERO;
        while !self.shutdown.wait_timeout(STEP) {
            let now = self.start.elapsed();
            self.callers.events().for_each(|event| self.facts.add(event));
            if now.saturating_sub(looked_at) >= LOOK_INTERVAL {
                looked_at = now;
                self.facts.rows = self.store.call_status(Some(MODULE))?;
            }
            let act = Span { from, to: now };
            if done(act, &self.facts) {
                return Ok(Some(act));
            }
            if act.len() > time_max {
                return Ok(None);
            }
            self.view.show(&self.facts, now, self.out)?;
        }
        self.view.erase(self.out)?;
        Err(Failure::Interrupted)
    }
}

fn only_the_dead_host_is_out(facts: &Facts) -> bool {
    let is_right = |role, overload| overload == (role == Role::Dead);
    let mut members = facts.cast.0.iter();
    members.all(|member| {
        facts.stored_overload(member.host).is_some_and(|overload| is_right(member.role, overload))
    })
}
