//! What a series of measurements says: per label the median and the spread of its rounds, and how it compares with
//! another label in the same rounds.

use std::{collections::BTreeMap, fmt};

use crate::{
    load::{Measurement, Pushes},
    spread::Spread,
};

/// A table with a line for each label, in the order in which they first appear.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    lines: Vec<Line>,
    bases: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Line {
    label: String,
    rounds: usize,
    /// Operations per second.
    rate: Spread,
    /// Microseconds.
    p50_us: f64,
    p99_us: f64,
    /// Processor time per operation, in microseconds.
    server_us: Option<f64>,
    load_us: f64,
    /// Of the load generator's processor.
    load_share: f64,
    /// Milliseconds, the medians and spreads of the rounds' medians: to the first push, and from there to the last.
    pushes_ms: Option<(Spread, Spread)>,
    /// Rows in SQL per second.
    stored: Option<Spread>,
    versus: Vec<Versus>,
    warnings: usize,
}

/// A comparison with a base, round by round: what disturbs a round disturbs both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Versus {
    /// The own rate divided by the base's; of what is stored, where that is known.
    rate: Option<Spread>,
    /// The base's processor time per operation divided by the own.
    cpu: Option<Spread>,
}

impl Summary {
    /// Of measurements in the order in which they were made: the n-th of a label belongs to the n-th round. Each label
    /// is compared with the `bases`.
    pub fn of(measurements: &[Measurement], bases: &[String]) -> Self {
        let mut labels: Vec<&str> = Vec::new();
        let mut rounds: BTreeMap<&str, Vec<&Measurement>> = BTreeMap::new();
        for measurement in measurements {
            let label = measurement.label.as_str();
            rounds
                .entry(label)
                .or_insert_with(|| {
                    labels.push(label);
                    Vec::new()
                })
                .push(measurement);
        }
        let lines = labels.iter().filter_map(|label| {
            let own = &rounds[label];
            let versus = |base: &String| rounds.get(base.as_str()).map(|base| Versus::of(own, base));
            Line::of(label, own, bases.iter().map(|base| versus(base).unwrap_or_default()).collect())
        });
        Self { lines: lines.collect(), bases: bases.to_vec() }
    }

    fn header(&self) -> Vec<String> {
        let mut cells: Vec<String> =
            ["server", "rounds", "k/s median (min–max)", "p50 µs", "p99 µs"].map(str::to_owned).into();
        if self.any(|line| line.pushes_ms.is_some()) {
            cells.extend(["ms to the first push", "ms from first to last"].map(str::to_owned));
        }
        if self.any(|line| line.stored.is_some()) {
            cells.push("k/s in SQL".into());
        }
        cells.extend(["server's CPU µs", "load's CPU µs"].map(str::to_owned));
        cells.extend(self.bases.iter().flat_map(|base| [format!("÷ {base}"), "in CPU".into()]));
        cells
    }

    fn any(&self, is: impl Fn(&Line) -> bool) -> bool {
        self.lines.iter().any(is)
    }

    fn cells(&self, line: &Line) -> Vec<String> {
        let or_empty =
            |spread: Option<Spread>| spread.map(|spread| format!("{spread:.2}")).unwrap_or_default();
        let mut cells =
            vec![line.label.clone(), line.rounds.to_string(), format!("{:.1}", line.rate.per(1e3))];
        cells.extend([line.p50_us, line.p99_us].map(|us| format!("{us:.1}")));
        if self.any(|line| line.pushes_ms.is_some()) {
            let (first, last) = line.pushes_ms.unzip();
            cells.extend([first, last].map(|ms| ms.map(|ms| format!("{ms:.1}")).unwrap_or_default()));
        }
        if self.any(|line| line.stored.is_some()) {
            cells.push(line.stored.map(|rate| format!("{:.1}", rate.per(1e3))).unwrap_or_default());
        }
        cells.push(line.server_us.map(|us| format!("{us:.2}")).unwrap_or_default());
        let mark = if line.warnings > 0 { " !" } else { "" };
        cells.push(format!("{:.2} ({:.0} %{mark})", line.load_us, line.load_share * 100.0));
        cells.extend(line.versus.iter().flat_map(|versus| [or_empty(versus.rate), or_empty(versus.cpu)]));
        cells
    }
}

impl Line {
    fn of(label: &str, rounds: &[&Measurement], versus: Vec<Versus>) -> Option<Self> {
        let spread =
            |figure: fn(&Measurement) -> Option<f64>| Spread::of(rounds.iter().filter_map(|m| figure(m)));
        let median = |figure: fn(&Measurement) -> Option<f64>| spread(figure).map(|spread| spread.median);
        let pushes = |figure: fn(&Pushes) -> Spread| {
            Spread::of(rounds.iter().filter_map(|m| m.pushes.as_ref()).map(|pushes| figure(pushes).median))
        };
        Some(Self {
            label: label.to_owned(),
            rounds: rounds.len(),
            rate: spread(|m| Some(m.per_second))?,
            p50_us: median(|m| Some(m.latency.p50_us))?,
            p99_us: median(|m| Some(m.latency.p99_us))?,
            server_us: median(|m| m.server_us),
            load_us: median(|m| Some(m.load_us()))?,
            load_share: median(|m| Some(m.cpu_share))?,
            pushes_ms: pushes(|pushes| pushes.to_first_ms).zip(pushes(|pushes| pushes.first_to_last_ms)),
            stored: spread(|m| m.stored.as_ref().map(|stored| stored.per_second)),
            versus,
            warnings: rounds.iter().filter(|m| !m.warnings().is_empty()).count(),
        })
    }
}

impl Versus {
    fn of(own: &[&Measurement], base: &[&Measurement]) -> Self {
        let rounds = || own.iter().zip(base);
        // A round in which nothing was answered compares with nothing.
        let spread =
            |ratios: &mut dyn Iterator<Item = f64>| Spread::of(ratios.filter(|ratio| ratio.is_normal()));
        Self {
            rate: spread(&mut rounds().map(|(own, base)| effective(own) / effective(base))),
            cpu: spread(&mut rounds().filter_map(|(own, base)| Some(base.server_us? / own.server_us?))),
        }
    }
}

/// Operations per second that had their effect.
fn effective(measurement: &Measurement) -> f64 {
    measurement.stored.as_ref().map_or(measurement.per_second, |stored| stored.per_second)
}

impl fmt::Display for Summary {
    /// As a table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        writeln!(f, "| {} |", header.join(" | "))?;
        write!(f, "|{}", "---|".repeat(header.len()))?;
        self.lines.iter().try_for_each(|line| write!(f, "\n| {} |", self.cells(line).join(" | ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Stored;

    fn measured(label: &str, per_second: f64) -> Measurement {
        Measurement { label: label.into(), per_second, ..Measurement::default() }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // In the second round the machine was half as fast, for both.
        let series = [
            measured("lars", 120.0),
            measured("bare", 100.0),
            measured("bare", 50.0),
            measured("lars", 60.0),
        ];
        let summary = Summary::of(&series, &["bare".into(), "absent".into()]);
        let rate = |line: usize, base: usize| summary.lines[line].versus[base].rate;
        let always = |ratio| Some(Spread::exactly(ratio));
        assert_eq!([rate(0, 0), rate(0, 1)], [always(1.2), None]);
        assert_eq!([rate(1, 0), rate(1, 1)], [always(1.0), None]);
        assert_eq!(summary.lines[0].rate, Spread { lowest: 60.0, median: 90.0, highest: 120.0 });
    }

    #[test]
    fn a_table_has_a_line_per_label() {
        let table = Summary::of(&[measured("b", 2_000.0), measured("a", 1_000.0)], &["b".into()]).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2], "| b | 1 | 2.0 (2.0–2.0) | 0.0 | 0.0 |  | 0.00 (0 %) | 1.00 (1.00–1.00) |  |");
        assert_eq!(lines[3], "| a | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 |  | 0.00 (0 %) | 0.50 (0.50–0.50) |  |");
        let columns = |line: &str| line.matches('|').count();
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{table}");
    }

    #[test]
    fn less_processor_time_is_a_higher_ratio() {
        let took = |label, us| Measurement { server_us: Some(us), ..measured(label, 1.0) };
        let summary = Summary::of(&[took("lars", 2.0), took("bare", 3.0)], &["bare".into()]);
        assert_eq!(summary.lines[0].versus[0].cpu.map(|cpu| cpu.median), Some(1.5));
    }

    #[test]
    fn pushes_and_stored_rows_have_columns_of_their_own() {
        let ms = Spread::exactly;
        let pushes = Pushes { to_first_ms: ms(500.0), first_to_last_ms: ms(40.0), ..Pushes::default() };
        let pushed = Measurement { pushes: Some(pushes), ..measured("dns", 1.0) };
        let stored = Stored { rows: 1, per_second: 5_000.0 };
        let stored = Measurement { stored: Some(stored), ..measured("reporter", 1.0) };
        let table = Summary::of(&[pushed, stored], &[]).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[2].contains("| 500.0 (500.0–500.0) | 40.0 (40.0–40.0) |  |"), "{table}");
        assert!(lines[3].contains("|  |  | 5.0 (5.0–5.0) |"), "{table}");
    }
}
