//! What the demo shows: headlines, and between them who gets how many calls. On a terminal that is a table
//! drawn in place, elsewhere a line a second.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{callers::Facts, expectations::Verdict, hosts::Member};
use crate::{
    commands::status,
    out::{Ink, Out, Paint},
    simulation::HostTally,
    table::{self, Cell, left, right},
};

const DRAW_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The time over which calls are counted.
const RECENT: Duration = Duration::from_secs(1);
/// The longest bar of the table, with which it fits 80 columns.
const BAR_LEN_MAX: usize = 10;
/// Escape sequences: a line that is too long for the terminal is cut, or wrapped as usual. A table that
/// wrapped would have more lines than were counted.
const CUT_LINES: &str = "\x1b[?7l";
const WRAP_LINES: &str = "\x1b[?7h";

/// Draws for one demo.
pub(crate) struct View {
    /// Lines of the table that is on the terminal now.
    drawn: usize,
    next: Duration,
}

impl View {
    pub(crate) fn new() -> Self {
        Self { drawn: 0, next: DRAW_INTERVAL }
    }

    /// A paragraph on what happens and why.
    pub(crate) fn say(&mut self, text: &str, out: &mut Out<'_>) -> io::Result<()> {
        self.erase(out)?;
        let paint = out.paint();
        writeln!(out.data(), "{}", paint.ink(Ink::Bold, text))?;
        if out.is_live() {
            self.next = Duration::ZERO;
        }
        out.flush()
    }

    /// Shows the state of affairs, if it is time.
    pub(crate) fn show(&mut self, facts: &Facts, now: Duration, out: &mut Out<'_>) -> io::Result<()> {
        if now < self.next {
            return Ok(());
        }
        if out.is_live() {
            self.next = now + DRAW_INTERVAL;
            let mut table = Vec::new();
            write_table(facts, now, out.paint(), &mut table)?;
            self.erase(out)?;
            self.drawn = table.iter().filter(|byte| **byte == b'\n').count();
            let data = out.data();
            [CUT_LINES.as_bytes(), &table, WRAP_LINES.as_bytes()]
                .iter()
                .try_for_each(|part| data.write_all(part))?;
        } else {
            self.next = now + LINE_INTERVAL;
            writeln!(out.data(), "{}", line(facts, now))?;
        }
        out.flush()
    }

    /// Takes the table off the terminal.
    pub(crate) fn erase(&mut self, out: &mut Out<'_>) -> io::Result<()> {
        if self.drawn > 0 {
            // Cursor up, and clear from there to the end.
            write!(out.data(), "\x1b[{}A\x1b[0J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }
}

fn recent(facts: &Facts, now: Duration, member: &Member) -> usize {
    facts.count_in(&(now.saturating_sub(RECENT)..now), member.host)
}

/// `  3.0 s  calls in the last second: A 152  B 151  D 12 (overloaded)`
fn line(facts: &Facts, now: Duration) -> String {
    let hosts = facts.cast.0.iter().filter_map(|member| {
        let overloaded = facts.stored_overload(member.host) == Some(true);
        let calls = recent(facts, now, member);
        let shown = format!("{} {calls}{}", member.letter, if overloaded { " (overloaded)" } else { "" });
        (calls > 0 || overloaded).then_some(shown)
    });
    let hosts: Vec<String> = hosts.collect();
    let hosts = if hosts.is_empty() { "none".to_owned() } else { hosts.join("  ") };
    format!("  {:4.1} s  calls in the last second: {hosts}", now.as_secs_f64())
}

/// Every host's calls, and what is stored about it: its state, and the calls of its current window, successes + failures.
pub(crate) fn write_table(facts: &Facts, now: Duration, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let columns = [
        left(""),
        left("HOST"),
        left("PART"),
        right("CALLS"),
        right("FAILED"),
        right("STORED"),
        left("STATE"),
        left("LAST SECOND"),
    ];
    let most = facts.cast.0.iter().map(|member| recent(facts, now, member)).max().unwrap_or(0).max(1);
    table::write(out, paint, columns, || {
        facts.cast.0.iter().map(|member| {
            let HostTally { calls, failed } = facts.tally(member.host);
            let recent = recent(facts, now, member);
            let bar = format!("{} {recent}", "█".repeat(recent * BAR_LEN_MAX / most));
            let row = facts.row(member.host);
            [
                member.letter.into(),
                member.host.into(),
                member.role.name().into(),
                calls.into(),
                failed.into(),
                row.map_or_else(|| "-".into(), |row| format!("{}+{}", row.succ, row.err).into()),
                row.map_or_else(|| Cell::inked(Ink::Dim, "-"), |row| status::state(row.overload)),
                Cell::inked(Ink::Green, bar),
            ]
        })
    })
}

/// What was promised, and whether it was kept.
pub(crate) fn write_verdicts(verdicts: &[Verdict], out: &mut Out<'_>) -> io::Result<()> {
    let paint = out.paint();
    for Verdict { promise, kept, seen } in verdicts {
        let mark = if *kept { paint.ink(Ink::Green, "ok    ") } else { paint.ink(Ink::Red, "FAILED") };
        writeln!(out.data(), "  {mark}  {promise}: {seen}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::HostAddr;

    use super::{
        super::{callers::Call, hosts::Cast},
        *,
    };
    use crate::out::Terminal;

    fn facts() -> Facts {
        let hosts = std::array::from_fn(|n| HostAddr::v4(Ipv4Addr::LOCALHOST, 9_001 + n as u16));
        let mut facts = Facts::new(Cast::new(hosts));
        for (second, host, ok) in [(1, 0, true), (2, 0, true), (2, 4, false)] {
            let at = Duration::from_secs(second);
            facts.calls.push(Call { asked: at, picked: at, host: hosts[host], ok });
        }
        facts
    }

    fn shown(terminal: Terminal, show: impl FnOnce(&mut View, &mut Out<'_>)) -> String {
        let (mut data, mut notes) = (Vec::new(), Vec::new());
        show(&mut View::new(), &mut Out::new(&mut data, &mut notes, terminal));
        String::from_utf8(data).unwrap()
    }

    #[test]
    fn a_line_a_second_where_nobody_watches() {
        let text = shown(Terminal::default(), |view, out| {
            for ms in [2_500, 2_600, 3_400, 3_500] {
                view.show(&facts(), Duration::from_millis(ms), out).unwrap();
            }
        });
        let expect =
            "   2.5 s  calls in the last second: A 1  E 1\n   3.5 s  calls in the last second: none\n";
        assert_eq!(text, expect);
    }

    #[test]
    fn a_table_in_place_on_a_terminal() {
        let terminal = Terminal { data: true, notes: true, ..Terminal::default() };
        let text = shown(terminal, |view, out| {
            view.show(&facts(), Duration::from_millis(2_500), out).unwrap();
            view.show(&facts(), Duration::from_millis(2_700), out).unwrap();
            view.say("a headline", out).unwrap();
        });
        assert_eq!(text.matches("127.0.0.1:9001").count(), 2);
        assert_eq!(text.matches("\x1b[7A\x1b[0J").count(), 2, "{text:?}");
        assert!(text.ends_with("\x1b[1ma headline\x1b[0m\n"), "{text:?}");
    }
}
