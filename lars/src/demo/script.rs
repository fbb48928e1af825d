//! What happens in the demo, and when: one act after the other, each until what it shows was seen. It is
//! told the time and the facts, and answers with the next thing to do.

use std::time::Duration;

use super::{
    cast::Role,
    facts::{Facts, Span},
};

/// An act in which nothing happens for so long has failed, and with it the rest.
pub(crate) const ACT_TIME_MAX: Duration = Duration::from_secs(30);
/// Fewer calls say nothing about shares.
pub(crate) const WATCHED_CALLS_MIN: usize = 300;
/// Calls by which the new host is known to have arrived.
const ARRIVED_CALLS: usize = 5;

/// What the director does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cue {
    /// The two failing hosts are out; watch who gets calls now.
    Ejected,
    /// Repair the flaky host.
    Repair,
    /// It is back. Take one host out of the route, put another in.
    EditRoute,
    /// The callers have seen it; watch the shares.
    Arrived,
    /// It is over: everything was seen, or something did not happen in time.
    End,
}

/// When things happened; `None` if they did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The store showed both failing hosts as overloaded.
    pub(crate) ejected: Option<Duration>,
    /// Nothing changed while both were.
    pub(crate) ejected_watch: Option<Span>,
    pub(crate) repaired: Option<Duration>,
    /// The store showed the flaky host as idle after its repair.
    pub(crate) recovered: Option<Duration>,
    /// The edit began.
    pub(crate) edited: Option<Duration>,
    /// The new host had got calls.
    pub(crate) arrived: Option<Duration>,
    /// Nothing changed after that.
    pub(crate) final_watch: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Ejection,
    Probes,
    Recovery,
    Edit,
    FinalWatch,
    Over,
}

/// The course of the demo.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    act: Act,
    /// When the act began.
    since: Duration,
    /// How long to watch where nothing happens.
    watch: Duration,
    marks: Marks,
}

impl Script {
    /// Begins at time 0 and watches twice for `watch`.
    pub(crate) fn new(watch: Duration) -> Self {
        Self { act: Act::Ejection, since: Duration::ZERO, watch, marks: Marks::default() }
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What to do at `now`, if anything.
    pub(crate) fn advance(&mut self, now: Duration, facts: &Facts) -> Option<Cue> {
        let act = Span { from: self.since, to: now };
        let cue = match self.act {
            Act::Ejection => self.ejection(act, facts),
            Act::Probes => self.probes(act, facts),
            Act::Recovery => self.recovery(act, facts),
            Act::Edit => self.edit(act, facts),
            Act::FinalWatch => self.final_watch(act, facts),
            Act::Over => return None,
        };
        let time_max = if self.is_watching() { self.watch + ACT_TIME_MAX } else { ACT_TIME_MAX };
        let cue = cue.or_else(|| (act.len() > time_max).then_some(Cue::End))?;
        self.since = now;
        self.act = match cue {
            Cue::Ejected => Act::Probes,
            Cue::Repair => Act::Recovery,
            Cue::EditRoute => Act::Edit,
            Cue::Arrived => Act::FinalWatch,
            Cue::End => Act::Over,
        };
        Some(cue)
    }

    fn is_watching(&self) -> bool {
        matches!(self.act, Act::Probes | Act::FinalWatch)
    }

    fn ejection(&mut self, act: Span, facts: &Facts) -> Option<Cue> {
        let out = |role| facts.stored_overload(facts.cast.host(role)) == Some(true);
        (out(Role::Flaky) && out(Role::Dead)).then(|| {
            self.marks.ejected = Some(act.to);
            Cue::Ejected
        })
    }

    fn probes(&mut self, act: Span, facts: &Facts) -> Option<Cue> {
        self.has_watched(act, facts).then(|| {
            self.marks.ejected_watch = Some(act);
            self.marks.repaired = Some(act.to);
            Cue::Repair
        })
    }

    fn recovery(&mut self, act: Span, facts: &Facts) -> Option<Cue> {
        let flaky = facts.cast.host(Role::Flaky);
        (facts.stored_overload(flaky) == Some(false)).then(|| {
            self.marks.recovered = Some(act.to);
            self.marks.edited = Some(act.to);
            Cue::EditRoute
        })
    }

    fn edit(&mut self, act: Span, facts: &Facts) -> Option<Cue> {
        let joining = facts.cast.host(Role::Joining);
        (facts.count_in(act, joining) >= ARRIVED_CALLS).then(|| {
            self.marks.arrived = Some(act.to);
            Cue::Arrived
        })
    }

    fn final_watch(&mut self, act: Span, facts: &Facts) -> Option<Cue> {
        let dead = facts.cast.host(Role::Dead);
        let settled = facts.cast.members().iter().all(|member| {
            facts.stored_overload(member.host).is_some_and(|overload| overload == (member.host == dead))
        });
        (settled && self.has_watched(act, facts)).then(|| {
            self.marks.final_watch = Some(act);
            Cue::End
        })
    }

    fn has_watched(&self, act: Span, facts: &Facts) -> bool {
        act.len() >= self.watch && facts.calls_in(act).count() >= WATCHED_CALLS_MIN
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::HostAddr;
    use lars_store::{CallStatus, CallStatusKey};

    use super::{
        super::{
            cast::{Cast, MODULE, ROLES},
            facts::Call,
        },
        *,
    };

    const WATCH: Duration = Duration::from_secs(2);

    fn facts() -> Facts {
        let hosts = std::array::from_fn(|n| HostAddr::v4(Ipv4Addr::LOCALHOST, 9_001 + n as u16));
        Facts::new(Cast::new(hosts))
    }

    /// The store shows these hosts as overloaded and the others of `rows` as idle.
    fn store(facts: &mut Facts, rows: &[Role], overloaded: &[Role]) {
        let out: Vec<HostAddr> = facts.cast.hosts(overloaded).collect();
        let hosts = facts.cast.hosts(rows).collect::<Vec<_>>().into_iter();
        let row = |host| CallStatus {
            key: CallStatusKey { module: MODULE, host, caller: Ipv4Addr::LOCALHOST },
            succ: 0,
            err: 0,
            ts: 1,
            overload: out.contains(&host),
        };
        facts.rows = hosts.map(row).collect();
    }

    fn call(facts: &mut Facts, role: Role, at: Duration, times: usize) {
        let host = facts.cast.host(role);
        facts.calls.extend((0..times).map(|_| Call { asked: at, picked: at, host, ok: true }));
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_act_follows_the_other() {
        let (mut facts, mut script) = (facts(), Script::new(WATCH));
        assert_eq!(script.advance(s(1), &facts), None);
        store(&mut facts, &ROLES[..5], &[Role::Dead]);
        assert_eq!(script.advance(s(2), &facts), None);
        store(&mut facts, &ROLES[..5], &[Role::Dead, Role::Flaky]);
        assert_eq!(script.advance(s(3), &facts), Some(Cue::Ejected));

        call(&mut facts, Role::Healthy, s(4), WATCHED_CALLS_MIN);
        assert_eq!(script.advance(s(4), &facts), None);
        assert_eq!(script.advance(s(5), &facts), Some(Cue::Repair));
        assert_eq!(script.advance(s(6), &facts), None);
        store(&mut facts, &ROLES[..5], &[Role::Dead]);
        assert_eq!(script.advance(s(7), &facts), Some(Cue::EditRoute));

        call(&mut facts, Role::Joining, s(7), ARRIVED_CALLS);
        assert_eq!(script.advance(s(8), &facts), Some(Cue::Arrived));
        call(&mut facts, Role::Healthy, s(9), WATCHED_CALLS_MIN);
        assert_eq!(script.advance(s(11), &facts), None, "the new host has no row yet");
        store(&mut facts, &ROLES, &[Role::Dead]);
        assert_eq!(script.advance(s(12), &facts), Some(Cue::End));
        assert_eq!(script.advance(s(13), &facts), None);

        let expect = Marks {
            ejected: Some(s(3)),
            ejected_watch: Some(Span { from: s(3), to: s(5) }),
            repaired: Some(s(5)),
            recovered: Some(s(7)),
            edited: Some(s(7)),
            arrived: Some(s(8)),
            final_watch: Some(Span { from: s(8), to: s(12) }),
        };
        assert_eq!(script.marks(), &expect);
    }

    #[test]
    fn what_does_not_happen_ends_the_demo() {
        let mut script = Script::new(WATCH);
        assert_eq!(script.advance(ACT_TIME_MAX, &facts()), None);
        let late = ACT_TIME_MAX + Duration::from_millis(1);
        assert_eq!(script.advance(late, &facts()), Some(Cue::End));
        assert_eq!(script.marks(), &Marks::default());
    }

    #[test]
    fn a_watch_without_calls_is_no_watch() {
        let (mut facts, mut script) = (facts(), Script::new(WATCH));
        store(&mut facts, &ROLES[..5], &[Role::Dead, Role::Flaky]);
        assert_eq!(script.advance(s(0), &facts), Some(Cue::Ejected));
        assert_eq!(script.advance(WATCH + ACT_TIME_MAX, &facts), None);
        assert_eq!(script.advance(WATCH + ACT_TIME_MAX + s(1), &facts), Some(Cue::End));
        assert_eq!(script.marks().ejected_watch, None);
    }
}
