//! What a series of measurements says: per label the median and the spread of its rounds, and how it compares with
//! another label in the same rounds.

use std::{collections::BTreeMap, fmt};

use crate::load::Measurement;

/// The lines of a table, in the order in which the labels first appear.
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
    load_cpu_share: f64,
    /// Processor time of the server per operation, in microseconds.
    server_us: Option<Spread>,
    /// For each base, the ratio of the rates within a round.
    ratios: Vec<Option<Spread>>,
    warnings: usize,
}

/// Figures of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The lowest.
    pub min: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = &sorted[(sorted.len() - 1) / 2..=sorted.len() / 2];
        Some(Self { min, median: middle.iter().sum::<f64>() / middle.len() as f64, max })
    }
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
            let ratios = bases.iter().map(|base| ratio(own, rounds.get(base.as_str())?)).collect();
            Line::of(label, own, ratios)
        });
        Self { lines: lines.collect(), bases: bases.to_vec() }
    }
}

impl Line {
    fn of(label: &str, rounds: &[&Measurement], ratios: Vec<Option<Spread>>) -> Option<Self> {
        let median = |figure: fn(&Measurement) -> f64| Spread::of(rounds.iter().map(|m| figure(m)));
        Some(Self {
            label: label.to_owned(),
            rounds: rounds.len(),
            rate: median(|m| m.per_second)?,
            p50_us: median(|m| m.latency.p50_us)?.median,
            p99_us: median(|m| m.latency.p99_us)?.median,
            load_cpu_share: median(|m| m.cpu_share)?.median,
            server_us: Spread::of(rounds.iter().filter_map(|m| m.server_us)),
            ratios,
            warnings: rounds.iter().filter(|m| !m.warnings().is_empty()).count(),
        })
    }
}

/// Of the rates, round by round: what disturbs a round disturbs both.
fn ratio(own: &[&Measurement], base: &[&Measurement]) -> Option<Spread> {
    Spread::of(own.iter().zip(base).map(|(own, base)| own.per_second / base.per_second))
}

impl fmt::Display for Summary {
    /// As a table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| server | rounds | k/s median (min–max) | p50 µs | p99 µs | server's CPU µs | load's CPU |"
        )?;
        self.bases.iter().try_for_each(|base| write!(f, " ÷ {base} |"))?;
        writeln!(f)?;
        write!(f, "|---|---|---|---|---|---|---|")?;
        self.bases.iter().try_for_each(|_| write!(f, "---|"))?;
        self.lines.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { min, median, max } = self.rate;
        let mark = if self.warnings > 0 { " !" } else { "" };
        write!(f, "| {} | {} | ", self.label, self.rounds)?;
        write!(f, "{:.1} ({:.1}–{:.1}) | ", median / 1e3, min / 1e3, max / 1e3)?;
        let server_us = self.server_us.map_or(String::new(), |us| format!("{:.2}", us.median));
        write!(f, "{:.1} | {:.1} | {server_us} | ", self.p50_us, self.p99_us)?;
        write!(f, "{:.0} %{mark} |", self.load_cpu_share * 100.0)?;
        for ratio in &self.ratios {
            match ratio {
                Some(Spread { min, median, max }) => write!(f, " {median:.2} ({min:.2}–{max:.2}) |")?,
                None => write!(f, " |")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(label: &str, per_second: f64) -> Measurement {
        Measurement { label: label.into(), per_second, ..Measurement::default() }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |figures: &[f64], expect| assert_eq!(Spread::of(figures.iter().copied()), expect);
        check(&[], None);
        check(&[3.0], Some(Spread { min: 3.0, median: 3.0, max: 3.0 }));
        check(&[9.0, 1.0, 5.0], Some(Spread { min: 1.0, median: 5.0, max: 9.0 }));
        check(&[4.0, 1.0, 2.0, 9.0], Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
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
        let ratios: Vec<_> = summary.lines.iter().map(|line| line.ratios.clone()).collect();
        let always = |ratio| Some(Spread { min: ratio, median: ratio, max: ratio });
        assert_eq!(ratios, [[always(1.2), None], [always(1.0), None]]);
        assert_eq!(summary.lines[0].rate, Spread { min: 60.0, median: 90.0, max: 120.0 });
    }

    #[test]
    fn a_table_has_a_line_per_label() {
        let table = Summary::of(&[measured("b", 2_000.0), measured("a", 1_000.0)], &["b".into()]).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2], "| b | 1 | 2.0 (2.0–2.0) | 0.0 | 0.0 |  | 0 % | 1.00 (1.00–1.00) |");
        assert_eq!(lines[3], "| a | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 |  | 0 % | 0.50 (0.50–0.50) |");
    }
}
