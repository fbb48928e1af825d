//! What the demo promises, checked against what was seen.

use std::time::Duration;

use lars_proto::HostAddr;

use super::{
    CALLERS, CONTIN_ERR_LIMIT, OVERLOAD_TIMEOUT, PROBE_NUM,
    acts::Act,
    callers::{Facts, Span, length},
    hosts::{MODULE, Member, Role},
};
use crate::table::percent;

/// One promise, and whether it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) promise: &'static str,
    pub(crate) kept: bool,
    /// What was seen.
    pub(crate) seen: String,
}

/// Whether a promise was kept, and what was seen; `None` if it did not happen in time.
type Found = Option<(bool, String)>;

/// Checks everything.
pub(crate) fn check(facts: &Facts) -> Vec<Verdict> {
    let found: [(&'static str, Found); 10] = [
        ("every lookup finds a host", lookups(facts)),
        ("the dead and the flaky host are ejected", ejection(facts)),
        ("while ejected, the dead host gets only probes", probes(facts)),
        ("the flaky host, repaired, recovers", recovery(facts)),
        ("healthy hosts share evenly while others fail", even_before(facts)),
        ("an edit of the route reaches the callers", edit(facts)),
        ("in the end all good hosts share evenly", even_after(facts)),
        ("the store has a row for each host called, and no other", rows(facts)),
        ("the stored states are right: only the dead host is overloaded", states(facts)),
        ("the stored counts agree with the calls", counts(facts)),
    ];
    let verdict = |(promise, found): (_, Found)| {
        let (kept, seen) = found.unwrap_or_else(|| (false, "it did not happen in time".to_owned()));
        Verdict { promise, kept, seen }
    };
    found.map(verdict).into()
}

fn lookups(facts: &Facts) -> Found {
    Some(match facts.lookup_failures.first() {
        None => (!facts.calls.is_empty(), format!("{} did", facts.calls.len())),
        Some(first) => (false, format!("{} did not: {first}", facts.lookup_failures.len())),
    })
}

fn ejection(facts: &Facts) -> Found {
    let before = Duration::ZERO..facts.act(Act::Ejection)?.end;
    let failed = facts.calls_in(&before).filter(|call| !call.ok).count();
    let all = facts.calls_in(&before).count();
    Some((true, format!("stored after {}, {failed} of {all} calls had failed", seconds(before.end))))
}

fn probes(facts: &Facts) -> Found {
    let span = facts.act(Act::Out)?;
    let all = facts.calls_in(&span).count();
    let dead = facts.count_in(&span, facts.cast.host(Role::Dead));
    let share = percent(dead as u64, all as u64);
    let seen = format!("{dead} of {all} calls ({share}%), where an even share is 20%");
    Some(((1..=probes_max(all, &span)).contains(&dead), seen))
}

/// How many of `all` lookups may go to an overloaded host: the probes, and what it takes to eject it again
/// each time that it gets a fresh chance.
fn probes_max(all: usize, span: &Span) -> usize {
    let probes = all / (PROBE_NUM + 1) + 1;
    let chances = (length(span).as_millis() / OVERLOAD_TIMEOUT.as_millis()) as usize + 1;
    probes + chances * (CONTIN_ERR_LIMIT + CALLERS)
}

fn recovery(facts: &Facts) -> Found {
    Some((true, format!("stored {} later", seconds(length(&facts.act(Act::Recovery)?)))))
}

fn even_before(facts: &Facts) -> Found {
    let span = Duration::ZERO..facts.act(Act::Recovery)?.end;
    Some(even(facts, &span, &[Role::Healthy, Role::Leaving]))
}

fn even_after(facts: &Facts) -> Found {
    Some(even(facts, &facts.act(Act::End)?, &[Role::Healthy, Role::Flaky, Role::Joining]))
}

/// A tenth apart, and some calls for the beginning and the end of the span.
fn even(facts: &Facts, span: &Span, roles: &[Role]) -> (bool, String) {
    let counts: Vec<usize> = facts.cast.hosts(roles).map(|host| facts.count_in(span, host)).collect();
    let most = counts.iter().copied().max().unwrap_or(0);
    let least = counts.iter().copied().min().unwrap_or(0);
    let all_well =
        facts.cast.hosts(roles).all(|host| facts.calls_in(span).all(|call| call.host != host || call.ok));
    let shown: Vec<String> = counts.iter().map(usize::to_string).collect();
    let failures = if all_well { "none failed" } else { "some failed" };
    let kept = least > 0 && most <= least + least / 10 + 5 && all_well;
    (kept, format!("{} calls, {failures}", shown.join(", ")))
}

fn edit(facts: &Facts) -> Found {
    facts.act(Act::Edit)?;
    let (took, first_picked) = arrival(facts)?;
    let leaving = facts.cast.host(Role::Leaving);
    // A lookup that began when another had found the new host knows the new route.
    let stale = facts.calls.iter().filter(|call| call.host == leaving && call.asked > first_picked).count();
    let seen = format!("{} ms after it began; {stale} calls to the old host after that", took.as_millis());
    Some((stale == 0, seen))
}

/// How long after the beginning of the edit a caller got the host that joins, and when that was.
pub(crate) fn arrival(facts: &Facts) -> Option<(Duration, Duration)> {
    let joining = facts.cast.host(Role::Joining);
    let first = facts.calls.iter().filter(|call| call.host == joining).map(|call| call.picked).min()?;
    Some((first.saturating_sub(facts.act(Act::Recovery)?.end), first))
}

fn rows(facts: &Facts) -> Found {
    let hosts: Vec<HostAddr> = facts.cast.0.iter().map(|member| member.host).collect();
    let is_missing = |host: &&HostAddr| facts.tally(**host).calls > 0 && facts.row(**host).is_none();
    let missing = hosts.iter().filter(is_missing).count();
    // One agent reports, by whichever of the machine's addresses.
    let caller = facts.rows.first().map(|row| row.key.caller);
    let strange = facts.rows.iter().filter(|row| {
        !hosts.contains(&row.key.host) || Some(row.key.caller) != caller || row.key.module != MODULE
    });
    let strange = strange.count();
    let seen = format!("{} rows, {missing} missing, {strange} unexpected", facts.rows.len());
    Some((missing == 0 && strange == 0 && !facts.rows.is_empty(), seen))
}

fn states(facts: &Facts) -> Found {
    let is_out = |member: &&Member| facts.stored_overload(member.host) == Some(true);
    let out: Vec<&Member> = facts.cast.0.iter().filter(is_out).collect();
    let letters: Vec<String> = out.iter().map(|member| member.letter.to_string()).collect();
    let shown = if out.is_empty() { "none is".to_owned() } else { format!("{} is", letters.join(", ")) };
    Some((matches!(out[..], [member] if member.role == Role::Dead), shown))
}

/// A row holds the calls of its host's current window: never more than were made.
fn counts(facts: &Facts) -> Found {
    let wrong = facts.cast.0.iter().find_map(|member| Some((member, wrong_count(facts, member)?)));
    Some(match wrong {
        Some((member, problem)) => (false, format!("{}: {problem}", member.letter)),
        None => {
            let stored: u64 = facts.rows.iter().map(|row| u64::from(row.succ) + u64::from(row.err)).sum();
            (stored > 0, format!("{stored} of {} calls are in current windows", facts.calls.len()))
        }
    })
}

fn wrong_count(facts: &Facts, member: &Member) -> Option<String> {
    let (row, made) = (facts.row(member.host)?, facts.tally(member.host));
    let beyond = |stored: u32, made: u64, what: &str| {
        (u64::from(stored) > made).then(|| format!("{stored} {what} stored, {made} made"))
    };
    beyond(row.succ, made.calls - made.failed, "successes")
        .or_else(|| beyond(row.err, made.failed, "failures"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_store::{CallStatus, CallStatusKey};

    use super::{
        super::{callers::Call, hosts::Cast},
        *,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A demo as it should be: a call each millisecond, every 22nd to each of the failing hosts.
    fn good() -> Facts {
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
        facts.acts = [(0, 1_000), (1_000, 3_000), (3_000, 3_500), (3_500, 4_010), (4_010, 6_000)]
            .map(|(from, to)| ms(from)..ms(to))
            .into();
        facts
    }

    fn row(host: HostAddr, succ: u32, err: u32) -> CallStatus {
        let key = CallStatusKey { module: MODULE, host, caller: Ipv4Addr::LOCALHOST };
        CallStatus { key, succ, err, ts: 1, overload: err > 0 }
    }

    /// Which promises are broken once `spoil` has spoilt a good demo.
    #[track_caller]
    fn check_broken(spoil: impl FnOnce(&mut Facts), expect: &[&str]) {
        let mut facts = good();
        spoil(&mut facts);
        let broken: Vec<_> = check(&facts).into_iter().filter(|verdict| !verdict.kept).collect();
        let matches = broken.len() == expect.len()
            && broken.iter().zip(expect).all(|(verdict, words)| verdict.promise.contains(words));
        assert!(matches, "expected {expect:?}, got {broken:#?}");
    }

    /// Gives those calls between two times that are `given` to another host.
    fn give(facts: &mut Facts, (from, to): (u64, u64), is_given: impl Fn(&Call) -> bool, to_whom: Role) {
        let (span, host) = (ms(from)..ms(to), facts.cast.host(to_whom));
        for call in facts.calls.iter_mut().filter(|call| span.contains(&call.picked) && is_given(call)) {
            (call.host, call.ok) = (host, to_whom != Role::Dead);
        }
    }

    #[test]
    fn each_promise_can_be_broken() {
        check_broken(|_| (), &[]);
        check_broken(|facts| facts.lookup_failures.push("timeout".into()), &["every lookup"]);
        let in_order = [
            "are ejected",
            "only probes",
            "recovers",
            "while others fail",
            "reaches the callers",
            "in the end",
        ];
        for (acts, broken) in [(0, 0), (1, 1), (2, 2), (3, 4), (4, 5)] {
            check_broken(|facts| facts.acts.truncate(acts), &in_order[broken..]);
        }
        let stranger = Ipv4Addr::new(10, 0, 0, 1);
        check_broken(|facts| facts.rows[1].key.caller = stranger, &["the store has a row"]);
        check_broken(|facts| facts.rows.truncate(5), &["the store has a row"]);
        check_broken(|facts| facts.rows[0].overload = true, &["stored states"]);
        check_broken(|facts| facts.rows[4].overload = false, &["stored states"]);
        check_broken(|facts| facts.rows[0].succ = 100_000, &["stored counts"]);
        check_broken(|facts| facts.rows[0].err = 1, &["stored counts"]);
    }

    #[test]
    fn a_dead_host_that_gets_its_share_is_not_ejected() {
        let to_dead = |facts: &mut Facts, every: u128| {
            give(facts, (1_001, 3_000), |call| call.picked.as_millis() % every == 1, Role::Dead);
        };
        check_broken(|facts| to_dead(facts, 5), &["only probes"]);
        check_broken(|facts| to_dead(facts, 100), &[]);
    }

    #[test]
    fn uneven_shares_and_failures_of_healthy_hosts_are_seen() {
        let a = good().cast.host(Role::Healthy);
        let favour = |facts: &mut Facts, span, whom| give(facts, span, |call| call.host == a, whom);
        check_broken(|facts| favour(facts, (0, 1_000), Role::Leaving), &["while others fail"]);
        check_broken(|facts| favour(facts, (4_500, 5_500), Role::Joining), &["in the end"]);
        let fail = |facts: &mut Facts| facts.calls.iter_mut().find(|call| call.host == a).unwrap().ok = false;
        check_broken(fail, &["while others fail"]);
    }

    #[test]
    fn a_caller_that_still_gets_the_old_host_is_seen() {
        let late = |facts: &mut Facts| {
            let host = facts.cast.host(Role::Leaving);
            facts.calls.push(Call { asked: ms(5_000), picked: ms(5_000), host, ok: true });
        };
        check_broken(late, &["reaches the callers"]);
    }
}
