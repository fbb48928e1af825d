//! What the demo promises, checked against what was seen.

use std::time::Duration;

use lars_proto::HostAddr;

use super::{
    callers::{Call, Facts, Span},
    hosts::{MODULE, Member, Role},
};

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

/// What the demo's agent was configured with, as far as expectations depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// One lookup in `probe_num + 1` goes to an overloaded host.
    pub(crate) probe_num: usize,
    /// So many failures in a row eject a host.
    pub(crate) contin_err_limit: usize,
    /// After so long an overloaded host gets a fresh chance.
    pub(crate) overload_timeout: Duration,
    /// Calls under way at the same time.
    pub(crate) callers: usize,
}

/// One promise, and whether it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) promise: &'static str,
    pub(crate) kept: bool,
    /// What was seen.
    pub(crate) seen: String,
}

/// Checks everything.
pub(crate) fn check(facts: &Facts, marks: &Marks, rules: &Rules) -> Vec<Verdict> {
    vec![
        lookups(facts),
        ejection(facts, marks),
        probes(facts, marks, rules),
        recovery(marks),
        even_before(facts, marks),
        edit(facts, marks),
        even_after(facts, marks),
        rows(facts),
        states(facts),
        counts(facts),
    ]
}

fn verdict(promise: &'static str, kept: bool, seen: impl Into<String>) -> Verdict {
    Verdict { promise, kept, seen: seen.into() }
}

/// A promise about something that did not happen in time.
fn never(promise: &'static str) -> Verdict {
    verdict(promise, false, "it did not happen in time")
}

fn lookups(facts: &Facts) -> Verdict {
    const PROMISE: &str = "every lookup finds a host";
    match facts.lookup_failures.first() {
        None => verdict(PROMISE, !facts.calls.is_empty(), format!("{} did", facts.calls.len())),
        Some(first) => verdict(PROMISE, false, format!("{} did not: {first}", facts.lookup_failures.len())),
    }
}

fn ejection(facts: &Facts, marks: &Marks) -> Verdict {
    const PROMISE: &str = "the dead and the flaky host are ejected";
    let Some(ejected) = marks.ejected else { return never(PROMISE) };
    let before = Span { from: Duration::ZERO, to: ejected };
    let failed = facts.calls_in(before).filter(|call| !call.ok).count();
    let all = facts.calls_in(before).count();
    verdict(PROMISE, true, format!("stored after {}, {failed} of {all} calls had failed", seconds(ejected)))
}

fn probes(facts: &Facts, marks: &Marks, rules: &Rules) -> Verdict {
    const PROMISE: &str = "while ejected, the dead host gets only probes";
    let Some(span) = marks.ejected_watch else { return never(PROMISE) };
    let all = facts.calls_in(span).count();
    let dead = facts.count_in(span, facts.cast.host(Role::Dead));
    let kept = (1..=probes_max(all, span, rules)).contains(&dead);
    verdict(
        PROMISE,
        kept,
        format!("{dead} of {all} calls ({}), where an even share is 20%", percent(dead, all)),
    )
}

/// How many of `all` lookups may go to an overloaded host: the probes, and what it takes to eject it again
/// each time that it gets a fresh chance.
fn probes_max(all: usize, span: Span, rules: &Rules) -> usize {
    let probes = all / (rules.probe_num + 1) + 1;
    let chances = (span.len().as_millis() / rules.overload_timeout.as_millis().max(1)) as usize + 1;
    probes + chances * (rules.contin_err_limit + rules.callers)
}

fn recovery(marks: &Marks) -> Verdict {
    const PROMISE: &str = "the flaky host, repaired, recovers";
    match (marks.repaired, marks.recovered) {
        (Some(repaired), Some(recovered)) => {
            verdict(PROMISE, true, format!("stored {} later", seconds(recovered.saturating_sub(repaired))))
        }
        _ => never(PROMISE),
    }
}

fn even_before(facts: &Facts, marks: &Marks) -> Verdict {
    const PROMISE: &str = "healthy hosts share evenly while others fail";
    let Some(edited) = marks.edited else { return never(PROMISE) };
    let span = Span { from: Duration::ZERO, to: edited };
    even(PROMISE, facts, span, &[Role::Healthy, Role::Leaving])
}

fn even_after(facts: &Facts, marks: &Marks) -> Verdict {
    const PROMISE: &str = "in the end all good hosts share evenly";
    let Some(span) = marks.final_watch else { return never(PROMISE) };
    even(PROMISE, facts, span, &[Role::Healthy, Role::Flaky, Role::Joining])
}

/// A tenth apart, and some calls for the beginning and the end of the span.
fn even(promise: &'static str, facts: &Facts, span: Span, roles: &[Role]) -> Verdict {
    let counts: Vec<usize> = facts.cast.hosts(roles).map(|host| facts.count_in(span, host)).collect();
    let most = counts.iter().copied().max().unwrap_or(0);
    let least = counts.iter().copied().min().unwrap_or(0);
    let all_well =
        facts.cast.hosts(roles).all(|host| facts.calls_in(span).all(|call| call.host != host || call.ok));
    let kept = least > 0 && most <= least + least / 10 + 5 && all_well;
    let shown: Vec<String> = counts.iter().map(usize::to_string).collect();
    let failures = if all_well { "none failed" } else { "some failed" };
    verdict(promise, kept, format!("{} calls, {failures}", shown.join(", ")))
}

fn edit(facts: &Facts, marks: &Marks) -> Verdict {
    const PROMISE: &str = "an edit of the route reaches the callers";
    let arrival = arrival(facts);
    let (Some(edited), Some(_), Some(first)) = (marks.edited, marks.arrived, arrival) else {
        return never(PROMISE);
    };
    let leaving = facts.cast.host(Role::Leaving);
    // A lookup that began when another had found the new host knows the new route.
    let stale = facts.calls.iter().filter(|call| call.host == leaving && call.asked > first.picked).count();
    let took = first.picked.saturating_sub(edited).as_millis();
    verdict(
        PROMISE,
        stale == 0,
        format!("{took} ms after it began; {stale} calls to the old host after that"),
    )
}

/// The first call of the host that joins.
pub(crate) fn arrival(facts: &Facts) -> Option<&Call> {
    let joining = facts.cast.host(Role::Joining);
    facts.calls.iter().filter(|call| call.host == joining).min_by_key(|call| call.picked)
}

fn rows(facts: &Facts) -> Verdict {
    const PROMISE: &str = "the store has a row for each host called, and no other";
    let missing = facts.cast.0.iter().filter(|member| {
        let called = facts.calls.iter().any(|call| call.host == member.host);
        called && facts.stored_overload(member.host).is_none()
    });
    let missing = missing.count();
    let hosts: Vec<HostAddr> = facts.cast.0.iter().map(|member| member.host).collect();
    // One agent reports, by whichever of the machine's addresses.
    let caller = facts.rows.first().map(|row| row.key.caller);
    let strange = facts.rows.iter().filter(|row| {
        !hosts.contains(&row.key.host) || Some(row.key.caller) != caller || row.key.module != MODULE
    });
    let strange = strange.count();
    let kept = missing == 0 && strange == 0 && !facts.rows.is_empty();
    verdict(PROMISE, kept, format!("{} rows, {missing} missing, {strange} unexpected", facts.rows.len()))
}

fn states(facts: &Facts) -> Verdict {
    const PROMISE: &str = "the stored states are right: only the dead host is overloaded";
    let overloaded: Vec<String> = facts
        .cast
        .0
        .iter()
        .filter(|member| facts.stored_overload(member.host) == Some(true))
        .map(|member| member.letter.to_string())
        .collect();
    let dead = facts.cast.0.iter().find(|member| member.role == Role::Dead);
    let kept = dead.is_some_and(|dead| overloaded == [dead.letter.to_string()]);
    let shown =
        if overloaded.is_empty() { "none is".to_owned() } else { format!("{} is", overloaded.join(", ")) };
    verdict(PROMISE, kept, shown)
}

/// A row holds the calls of its host's current window: never more than were made.
fn counts(facts: &Facts) -> Verdict {
    const PROMISE: &str = "the stored counts agree with the calls";
    let wrong = facts.cast.0.iter().find_map(|member| Some((member, wrong_count(facts, member)?)));
    match wrong {
        Some((member, problem)) => verdict(PROMISE, false, format!("{}: {problem}", member.letter)),
        None => {
            let stored: u64 = facts.rows.iter().map(|row| u64::from(row.succ) + u64::from(row.err)).sum();
            let seen = format!("{stored} of {} calls are in current windows", facts.calls.len());
            verdict(PROMISE, stored > 0, seen)
        }
    }
}

fn wrong_count(facts: &Facts, member: &Member) -> Option<String> {
    let row = facts.rows.iter().find(|row| row.key.host == member.host)?;
    let beyond = |stored: u32, ok: bool, what: &str| {
        let made = facts.count(member.host, ok);
        (stored as usize > made).then(|| format!("{stored} {what} stored, {made} made"))
    };
    beyond(row.succ, true, "successes").or_else(|| beyond(row.err, false, "failures"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1}%", if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_store::{CallStatus, CallStatusKey};

    use super::{super::hosts::Cast, *};

    const RULES: Rules =
        Rules { probe_num: 10, contin_err_limit: 15, overload_timeout: Duration::from_secs(6), callers: 4 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn span(from: u64, to: u64) -> Span {
        Span { from: ms(from), to: ms(to) }
    }

    /// A demo as it should be: a call each millisecond, every 22nd to each of the failing hosts.
    fn good() -> (Facts, Marks) {
        let hosts = std::array::from_fn(|n| HostAddr::v4(Ipv4Addr::LOCALHOST, 9_001 + n as u16));
        let mut facts = Facts::new(Cast::new(hosts));
        let [a, b, leaving, flaky, dead, joining] = hosts;
        for at in 0..6_000 {
            let route: &[HostAddr] = if at < 4_000 { &[a, b, leaving] } else { &[a, b, flaky, joining] };
            let host = match at % 22 {
                0 => dead,
                11 if at < 3_000 => flaky,
                _ => route[at as usize % route.len()],
            };
            let ok = host != dead && (host != flaky || at >= 3_000);
            facts.calls.push(Call { asked: ms(at), picked: ms(at), host, ok });
        }
        facts.rows =
            hosts.map(|host| row(host, 10 * u32::from(host != dead), 10 * u32::from(host == dead))).to_vec();
        let marks = Marks {
            ejected: Some(ms(1_000)),
            ejected_watch: Some(span(1_000, 3_000)),
            repaired: Some(ms(3_000)),
            recovered: Some(ms(3_500)),
            edited: Some(ms(3_500)),
            arrived: Some(ms(4_010)),
            final_watch: Some(span(4_010, 6_000)),
        };
        (facts, marks)
    }

    fn row(host: HostAddr, succ: u32, err: u32) -> CallStatus {
        let key = CallStatusKey { module: MODULE, host, caller: Ipv4Addr::LOCALHOST };
        CallStatus { key, succ, err, ts: 1, overload: err > 0 }
    }

    /// Which promises are broken once `spoil` has spoilt a good demo.
    #[track_caller]
    fn check_broken(spoil: impl FnOnce(&mut Facts, &mut Marks), expect: &[&str]) {
        let (mut facts, mut marks) = good();
        spoil(&mut facts, &mut marks);
        let broken: Vec<_> =
            check(&facts, &marks, &RULES).into_iter().filter(|verdict| !verdict.kept).collect();
        let matches = broken.len() == expect.len()
            && broken.iter().zip(expect).all(|(verdict, words)| verdict.promise.contains(words));
        assert!(matches, "expected {expect:?}, got {broken:#?}");
    }

    #[test]
    fn a_good_demo_keeps_every_promise() {
        check_broken(|_, _| (), &[]);
    }

    #[test]
    fn each_promise_can_be_broken() {
        check_broken(|facts, _| facts.lookup_failures.push("timeout".into()), &["every lookup"]);
        check_broken(|_, marks| marks.ejected = None, &["are ejected"]);
        check_broken(|_, marks| marks.recovered = None, &["recovers"]);
        check_broken(|_, marks| marks.arrived = None, &["reaches the callers"]);
        check_broken(
            |facts, _| facts.rows[1].key.caller = Ipv4Addr::new(10, 0, 0, 1),
            &["the store has a row"],
        );
        check_broken(|facts, _| facts.rows.truncate(5), &["the store has a row"]);
        check_broken(|facts, _| facts.rows[0].overload = true, &["stored states"]);
        check_broken(|facts, _| facts.rows[4].overload = false, &["stored states"]);
        check_broken(|facts, _| facts.rows[0].succ = 100_000, &["stored counts"]);
        check_broken(|facts, _| facts.rows[0].err = 1, &["stored counts"]);
    }

    #[test]
    fn a_dead_host_that_gets_its_share_is_not_ejected() {
        let to_dead = |facts: &mut Facts, every: usize| {
            let dead = facts.cast.host(Role::Dead);
            for call in
                facts.calls.iter_mut().filter(|call| call.picked > ms(1_000) && call.picked < ms(3_000))
            {
                if call.picked.as_millis() as usize % every == 1 {
                    (call.host, call.ok) = (dead, false);
                }
            }
        };
        check_broken(|facts, _| to_dead(facts, 5), &["only probes"]);
        check_broken(|facts, _| to_dead(facts, 100), &[]);
    }

    #[test]
    fn uneven_shares_and_failures_of_healthy_hosts_are_seen() {
        let (a, b) = {
            let (facts, _) = good();
            let mut healthy = facts.cast.hosts(&[Role::Healthy]);
            (healthy.next().unwrap(), healthy.next().unwrap())
        };
        let favour = |facts: &mut Facts, from: u64, to: u64| {
            for call in
                facts.calls.iter_mut().filter(|call| call.host == a && span(from, to).has(call.picked))
            {
                call.host = b;
            }
        };
        check_broken(|facts, _| favour(facts, 0, 1_000), &["while others fail"]);
        check_broken(|facts, _| favour(facts, 4_500, 5_500), &["in the end"]);
        let fail = |facts: &mut Facts| {
            facts.calls.iter_mut().find(|call| call.host == a).unwrap().ok = false;
        };
        check_broken(|facts, _| fail(facts), &["while others fail"]);
    }

    #[test]
    fn a_caller_that_still_gets_the_old_host_is_seen() {
        let late = |facts: &mut Facts| {
            let host = facts.cast.host(Role::Leaving);
            facts.calls.push(Call { asked: ms(5_000), picked: ms(5_000), host, ok: true });
        };
        check_broken(|facts, _| late(facts), &["reaches the callers"]);
    }
}
