//! [`Spread`]: what is said of a figure that was measured more than once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Figures of several rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

impl fmt::Display for Spread {
    /// As `median (lowest–highest)`, with the precision that is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = self;
        let digits = f.precision().unwrap_or(2);
        write!(f, "{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |figures: &[f64], expect| assert_eq!(Spread::of(figures.iter().copied()), expect);
        check(&[], None);
        check(&[3.0], Some(Spread { min: 3.0, median: 3.0, max: 3.0 }));
        check(&[9.0, 1.0, 5.0], Some(Spread { min: 1.0, median: 5.0, max: 9.0 }));
        check(&[4.0, 1.0, 2.0, 9.0], Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
    }

    #[test]
    fn it_reads_as_a_median_in_its_range() {
        let spread = Spread::of([3.0, 1.0, 2.5]).expect("figures");
        assert_eq!(format!("{spread:.1}"), "2.5 (1.0–3.0)");
    }
}
