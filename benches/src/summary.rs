//! What a series of measurements says: per label the median and the spread of its rounds, and how it compares with
//! another label in the same rounds.

use std::iter;

use crate::{
    load::{Measurement, Pushes},
    spread::Spread,
};

/// What was measured under one label, in the order of the rounds.
struct Server<'a> {
    label: &'a str,
    rounds: Vec<&'a Measurement>,
}

/// What stands under one title, a cell for each server.
struct Column {
    title: String,
    cells: Vec<String>,
}

/// A table in Markdown of measurements in the order in which they were made: the n-th of a label belongs to the n-th
/// round. It has a line for each label, in the order in which they first appear; each is compared with the `bases`.
pub fn table(measurements: &[Measurement], bases: &[String]) -> String {
    let servers = servers(measurements);
    let columns = columns(&servers, bases);
    let line = |cells: Vec<&str>| format!("| {} |", cells.join(" | "));
    let header = line(columns.iter().map(|column| column.title.as_str()).collect());
    let rule = format!("|{}", "---|".repeat(columns.len()));
    let rows =
        (0..servers.len()).map(|n| line(columns.iter().map(|column| column.cells[n].as_str()).collect()));
    [header, rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

fn servers(measurements: &[Measurement]) -> Vec<Server<'_>> {
    let mut servers: Vec<Server<'_>> = Vec::new();
    for measurement in measurements {
        match servers.iter_mut().find(|server| server.label == measurement.label) {
            Some(server) => server.rounds.push(measurement),
            None => servers.push(Server { label: &measurement.label, rounds: vec![measurement] }),
        }
    }
    servers
}

fn columns(servers: &[Server<'_>], bases: &[String]) -> Vec<Column> {
    let column = |title: &str, cell: &dyn Fn(&Server<'_>) -> String| Column {
        title: title.to_owned(),
        cells: servers.iter().map(cell).collect(),
    };
    let spread = |digits: usize, figure: fn(&Measurement) -> Option<f64>| {
        move |server: &Server<'_>| server.spread(figure).map_or_else(String::new, |s| format!("{s:.digits$}"))
    };
    let median = |digits: usize, figure: fn(&Measurement) -> Option<f64>| {
        move |server: &Server<'_>| server.median(figure).map_or_else(String::new, |m| format!("{m:.digits$}"))
    };
    let pushes = |figure: fn(&Pushes) -> Spread| {
        move |server: &Server<'_>| {
            let pushes = server.rounds.iter().filter_map(|m| m.pushes.as_ref());
            Spread::of(pushes.map(|pushes| figure(pushes).median))
                .map_or_else(String::new, |ms| format!("{ms:.1}"))
        }
    };
    let measured = [
        column("server", &|server| server.label.to_owned()),
        column("rounds", &|server| server.rounds.len().to_string()),
        column("k/s median (min–max)", &spread(1, |m| Some(m.per_second / 1e3))),
        column("p50 µs", &median(1, |m| Some(m.latency.p50_us))),
        column("p99 µs", &median(1, |m| Some(m.latency.p99_us))),
    ];
    let of_some_loads = [
        column("ms to the first push", &pushes(|pushes| pushes.to_first_ms)),
        column("ms from first to last", &pushes(|pushes| pushes.first_to_last_ms)),
        column("k/s in SQL", &spread(1, |m| m.stored.as_ref().map(|stored| stored.per_second / 1e3))),
    ];
    let processors = [
        column("server's CPU µs", &median(2, |m| m.server_us)),
        column("load's CPU µs", &|server| server.load()),
    ];
    let compared = bases.iter().flat_map(|label| {
        let base = servers.iter().find(|server| server.label == label);
        let ratios = |ratio: fn(&Measurement, &Measurement) -> Option<f64>| {
            move |server: &Server<'_>| base.map_or_else(String::new, |base| server.versus(base, ratio))
        };
        // What disturbs a round disturbs both.
        [
            column(&format!("÷ {label}"), &ratios(|own, base| Some(effective(own) / effective(base)))),
            column("in CPU", &ratios(|own, base| Some(base.server_us? / own.server_us?))),
        ]
    });
    let has_cells = |column: &Column| column.cells.iter().any(|cell| !cell.is_empty());
    let of_some_loads = of_some_loads.into_iter().filter(has_cells);
    measured.into_iter().chain(of_some_loads).chain(processors).chain(compared).collect()
}

impl Server<'_> {
    fn spread(&self, figure: fn(&Measurement) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|m| figure(m)))
    }

    fn median(&self, figure: fn(&Measurement) -> Option<f64>) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }

    /// What the load generator took of its processor.
    fn load(&self) -> String {
        let has_warnings = self.rounds.iter().any(|m| !m.warnings().is_empty());
        let mark = if has_warnings { " !" } else { "" };
        let us = self.median(|m| Some(m.load_us())).unwrap_or_default();
        let share = self.median(|m| Some(m.cpu_share)).unwrap_or_default();
        format!("{us:.2} ({:.0} %{mark})", share * 100.0)
    }

    /// Ratios round by round. A round in which nothing was answered compares with nothing.
    fn versus(&self, base: &Self, ratio: fn(&Measurement, &Measurement) -> Option<f64>) -> String {
        let ratios = iter::zip(&self.rounds, &base.rounds).filter_map(|(own, base)| ratio(own, base));
        Spread::of(ratios.filter(|ratio| ratio.is_normal()))
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    }
}

/// Operations per second that had their effect.
fn effective(measurement: &Measurement) -> f64 {
    measurement.stored.as_ref().map_or(measurement.per_second, |stored| stored.per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Stored;

    fn measured(label: &str, per_second: f64) -> Measurement {
        Measurement { label: label.into(), per_second, ..Measurement::default() }
    }

    /// The lines below the header must be these.
    #[track_caller]
    fn check(measurements: &[Measurement], bases: &[&str], expected: &[&str]) {
        let table = table(measurements, &bases.iter().copied().map(str::to_owned).collect::<Vec<_>>());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[2..], *expected);
        let columns = |line: &str| line.matches('|').count();
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{table}");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // In the second round the machine was half as fast, for both.
        let series = [("lars", 12e3), ("bare", 10e3), ("bare", 5e3), ("lars", 6e3)]
            .map(|(label, rate)| measured(label, rate));
        check(
            &series,
            &["bare", "absent"],
            &[
                "| lars | 2 | 9.0 (6.0–12.0) | 0.0 | 0.0 |  | 0.00 (0 %) | 1.20 (1.20–1.20) |  |  |  |",
                "| bare | 2 | 7.5 (5.0–10.0) | 0.0 | 0.0 |  | 0.00 (0 %) | 1.00 (1.00–1.00) |  |  |  |",
            ],
        );
    }

    #[test]
    fn less_processor_time_is_a_higher_ratio() {
        let took = |label, us| Measurement { server_us: Some(us), ..measured(label, 1e3) };
        check(
            &[took("lars", 2.0), took("bare", 3.0)],
            &["bare"],
            &[
                "| lars | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 | 2.00 | 0.00 (0 %) | 1.00 (1.00–1.00) | 1.50 (1.50–1.50) |",
                "| bare | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 | 3.00 | 0.00 (0 %) | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) |",
            ],
        );
    }

    #[test]
    fn pushes_and_stored_rows_have_columns_of_their_own() {
        let ms = Spread::exactly;
        let pushes = Pushes { to_first_ms: ms(500.0), first_to_last_ms: ms(40.0), ..Pushes::default() };
        let pushed = Measurement { pushes: Some(pushes), ..measured("dns", 1e3) };
        let stored = Stored { rows: 1, per_second: 5_000.0 };
        let stored = Measurement { stored: Some(stored), ..measured("reporter", 1e3) };
        check(
            &[pushed, stored],
            &[],
            &[
                "| dns | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 | 500.0 (500.0–500.0) | 40.0 (40.0–40.0) |  |  | 0.00 (0 %) |",
                "| reporter | 1 | 1.0 (1.0–1.0) | 0.0 | 0.0 |  |  | 5.0 (5.0–5.0) |  | 0.00 (0 %) |",
            ],
        );
    }
}
