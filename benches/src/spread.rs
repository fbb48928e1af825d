//! [`Spread`]: what is said of a figure that was measured more than once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The median of several figures, and how far they were apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub lowest: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    pub highest: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let middle = &sorted[(sorted.len() - 1) / 2..=sorted.len() / 2];
        Some(Self { lowest, median: middle.iter().sum::<f64>() / middle.len() as f64, highest })
    }

    /// Of a single figure.
    pub fn exactly(figure: f64) -> Self {
        Self { lowest: figure, median: figure, highest: figure }
    }

    /// Each of the three divided by `count`.
    pub fn per(self, count: f64) -> Self {
        Self { lowest: self.lowest / count, median: self.median / count, highest: self.highest / count }
    }
}

impl fmt::Display for Spread {
    /// As `median (lowest–highest)`, with the precision that is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lowest, median, highest } = self;
        let digits = f.precision().unwrap_or(2);
        write!(f, "{median:.digits$} ({lowest:.digits$}–{highest:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |figures: &[f64], [lowest, median, highest]: [f64; 3]| {
            assert_eq!(Spread::of(figures.iter().copied()), Some(Spread { lowest, median, highest }));
        };
        assert_eq!(Spread::of([]), None);
        check(&[3.0], [3.0; 3]);
        check(&[9.0, 1.0, 5.0], [1.0, 5.0, 9.0]);
        check(&[4.0, 1.0, 2.0, 9.0], [1.0, 3.0, 9.0]);
        assert_eq!(format!("{:.1}", Spread { lowest: 1.0, median: 2.5, highest: 3.0 }), "2.5 (1.0–3.0)");
    }
}
