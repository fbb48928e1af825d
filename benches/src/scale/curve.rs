//! What is measured: curves and single figures, and how they are written down.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

pub use crate::spread::Spread;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    Count,
    /// Nanoseconds.
    Nanoseconds,
    Bytes,
}

impl Unit {
    /// The number in the largest unit in which it is not below 1, with up to three digits.
    pub fn show(self, value: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Self::Count => &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")],
            Self::Nanoseconds => &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")],
            Self::Bytes => &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")],
        };
        // Rounding to three digits must not leave 1,000 of the smaller unit.
        let (size, name) =
            steps.iter().find(|(size, _)| value >= size * 0.9995).unwrap_or(&steps[steps.len() - 1]);
        format!("{}{name}", three_digits(value / size))
    }
}

fn three_digits(value: f64) -> String {
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// One axis of a plot. Equal distances on it are equal factors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    pub label: String,
    pub unit: Unit,
}

impl From<(&str, Unit)> for Axis {
    fn from((label, unit): (&str, Unit)) -> Self {
        Self { label: label.to_owned(), unit }
    }
}

/// What was measured at one place of the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub x: f64,
    pub y: Spread,
}

/// One line of a plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub label: String,
    /// By ascending `x`.
    pub points: Vec<Point>,
}

impl Series {
    pub fn new(label: &str) -> Self {
        Self { label: label.to_owned(), points: Vec::new() }
    }

    /// The last point.
    ///
    /// # Panics
    /// If there is none.
    pub fn last(&self) -> Point {
        *self.points.last().expect("something was measured")
    }

    pub fn add(&mut self, x: usize, y: Spread) {
        self.points.push(Point { x: x as f64, y });
    }
}

/// One plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// File name without extension.
    pub name: String,
    pub title: String,
    /// What exactly is measured, in a line.
    pub subtitle: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

impl Curve {
    /// With axes of a label and a unit each.
    pub fn new(
        name: &str,
        title: &str,
        subtitle: &str,
        x: (&str, Unit),
        y: (&str, Unit),
        series: impl Into<Vec<Series>>,
    ) -> Self {
        let [name, title, subtitle] = [name, title, subtitle].map(str::to_owned);
        Self { name, title, subtitle, x: x.into(), y: y.into(), series: series.into() }
    }

    /// One row per point, in the units of [`Unit`].
    pub fn csv(&self) -> String {
        let mut csv = format!("series,{},lowest,median,highest\n", quoted(&self.x.label));
        for series in &self.series {
            for Point { x, y: Spread { lowest, median, highest } } in &series.points {
                let _ = writeln!(csv, "{},{x},{lowest:.3},{median:.3},{highest:.3}", quoted(&series.label));
            }
        }
        csv
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n  {}", self.title, self.subtitle)?;
        for series in &self.series {
            writeln!(f, "  {}", series.label)?;
            for Point { x, y } in &series.points {
                let [lowest, median, highest] =
                    [y.lowest, y.median, y.highest].map(|value| self.y.unit.show(value));
                writeln!(f, "    {:>9}  {median:>9}  ({lowest} – {highest})", self.x.unit.show(*x))?;
            }
        }
        Ok(())
    }
}

/// One number that others are computed from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    pub value: f64,
    /// How it was measured.
    pub how: String,
}

impl Figure {
    pub fn new(name: &str, unit: Unit, value: f64, how: &str) -> Self {
        Self { name: name.to_owned(), unit, value, how: how.to_owned() }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<34} {:>9}  {}", self.name, self.unit.show(self.value), self.how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_their_unit() {
        assert_eq!(Unit::Nanoseconds.show(6.42), "6.42 ns");
        assert_eq!(Unit::Nanoseconds.show(999.96), "1 µs");
        assert_eq!(Unit::Nanoseconds.show(37_210_000.0), "37.2 ms");
        assert_eq!(Unit::Count.show(1_000_000.0), "1 M");
        assert_eq!(Unit::Count.show(4_000.0), "4 k");
        assert_eq!(Unit::Bytes.show(1_536.0), "1.54 kB");
        assert_eq!(Unit::Bytes.show(0.0), "0 B");
    }

    #[test]
    fn a_curve_as_a_table() {
        let mut series = Series::new("a, b");
        series.add(10, Spread { lowest: 1.0, median: 2.0, highest: 3.5 });
        let curve =
            Curve::new("name", "Title", "", ("modules", Unit::Count), ("time", Unit::Nanoseconds), [series]);
        assert_eq!(curve.csv(), "series,modules,lowest,median,highest\n\"a, b\",10,1.000,2.000,3.500\n");
        assert!(curve.to_string().contains("2 ns  (1 ns – 3.5 ns)"), "{curve}");
    }
}
