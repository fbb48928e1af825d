//! What happens in the demo: one act after the other, each until what it shows was seen.

use std::time::{Duration, Instant};

use lars_service::Shutdown;
use lars_store::{RouteEdit, Store};

use super::{
    CALLERS, PROBE_NUM,
    callers::{Callers, Facts, Span, length},
    expectations,
    hosts::{FLAKY_FAILED_OF_TEN, Hosts, MODULE, Role},
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
         1. Five hosts serve module {MODULE}. A, B and C are healthy, D fails {FLAKY_FAILED_OF_TEN} calls of 10,\n   \
         E is dead and refuses connections. At first all of them get calls."
    )
}

/// What is played, in this order. Each act ends when what it shows has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The agent ejects both failing hosts.
    Ejection,
    /// Nothing changes while they are out.
    Out,
    /// The flaky host is repaired, and comes back.
    Recovery,
    /// The route is edited, and the new host gets calls.
    Edit,
    /// Nothing changes after that.
    End,
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
    /// Plays to the end, and says what was seen. An act that does not end in time is the last.
    pub(crate) fn play(mut self) -> Result<Facts, Failure> {
        for act in [Act::Ejection, Act::Out, Act::Recovery, Act::Edit, Act::End] {
            self.begin(act)?;
            let (watch, joining) = (self.watch, self.hosts.cast.host(Role::Joining));
            // Where nothing happens, for as long as there is to watch.
            let is_watched = |span: &Span, facts: &Facts| {
                length(span) >= watch && facts.calls_in(span).count() >= WATCHED_CALLS_MIN
            };
            let is_over = |span: &Span, facts: &Facts| {
                let is_out = |role| facts.stored_overload(facts.cast.host(role));
                match act {
                    Act::Ejection => [Role::Flaky, Role::Dead].map(is_out) == [Some(true); 2],
                    Act::Out => is_watched(span, facts),
                    Act::Recovery => is_out(Role::Flaky) == Some(false),
                    Act::Edit => facts.count_in(span, joining) >= ARRIVED_CALLS,
                    Act::End => is_watched(span, facts) && only_the_dead_host_is_out(facts),
                }
            };
            let Some(span) = self.until(is_over)? else { break };
            self.facts.acts.push(span);
        }
        self.view.erase(self.out)?;
        self.callers.stop();
        self.callers.tell(&mut self.facts);
        Ok(self.facts)
    }

    /// Makes the act happen, and says so.
    fn begin(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::Ejection => Ok(()),
            Act::Out => self.say(&format!(
                "\n2. D and E failed so often that the agent ejected them. They are overloaded and\n   \
                 get only probes, one lookup in {}, to see whether they recover.",
                PROBE_NUM + 1
            )),
            Act::Recovery => {
                self.hosts.repair();
                self.say("\n3. D is repaired. Its probes succeed from now on, and the agent takes it back.")
            }
            Act::Edit => {
                let host = |role| self.hosts.cast.host(role);
                let leaves = RouteEdit::Remove(MODULE, host(Role::Leaving));
                self.store.edit(&[leaves, RouteEdit::Add(MODULE, host(Role::Joining))])?;
                self.say(
                    "\n4. D is back. Now the route is edited in SQL: C leaves, F joins. lars-dns looks\n   \
                     for changes every second and pushes this one to the agent.",
                )
            }
            Act::End => self.say(&format!(
                "\n5. Callers got F {} ms after the edit began, and C no more.\n   \
                 A, B, D and F share the calls, E is still probed.",
                expectations::arrival(&self.facts).map_or(0, |(took, _)| took.as_millis())
            )),
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.view.say(text, self.out)?)
    }

    /// Gathers what is to be seen and shows it until `is_over`; the act that began now. `None` if that takes too long.
    fn until(&mut self, is_over: impl Fn(&Span, &Facts) -> bool) -> Result<Option<Span>, Failure> {
        let from = self.start.elapsed();
        let mut looked_at = Duration::ZERO;
        while !self.shutdown.wait_timeout(STEP) {
            let now = self.start.elapsed();
            self.callers.tell(&mut self.facts);
            if now.saturating_sub(looked_at) >= LOOK_INTERVAL {
                looked_at = now;
                self.facts.rows = self.store.call_status(Some(MODULE))?;
            }
            let act = from..now;
            if is_over(&act, &self.facts) {
                return Ok(Some(act));
            }
            if length(&act) > self.watch + ACT_TIME_MAX {
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
