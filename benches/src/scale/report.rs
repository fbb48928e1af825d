//! [`Report`]: everything that was measured, and the folder it is kept in.

use std::{fmt, fs, io::ErrorKind, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    ScaleError,
    curve::{Curve, Figure},
    plot,
};

/// The file that holds a report; beside it lie a table and a plot of each curve.
const FILE: &str = "scale.json";

/// Curves and figures, each name once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub curves: Vec<Curve>,
    pub figures: Vec<Figure>,
}

impl Report {
    /// What lies in `folder`; an empty one if nothing does.
    ///
    /// # Errors
    /// If what lies there is something else.
    pub fn read(folder: &Path) -> Result<Self, ScaleError> {
        match fs::read(folder.join(FILE)) {
            Ok(json) => Ok(serde_json::from_slice(&json)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over what `newer` has, in place of what has the same name.
    pub fn update(&mut self, newer: Self) {
        self.curves.retain(|old| newer.curves.iter().all(|curve| curve.name != old.name));
        self.curves.extend(newer.curves);
        self.figures.retain(|old| newer.figures.iter().all(|figure| figure.name != old.name));
        self.figures.extend(newer.figures);
    }

    /// The two together.
    pub fn and(mut self, more: Self) -> Self {
        self.update(more);
        self
    }

    /// The value of a figure.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Writes the report, and a table and a plot of each curve.
    ///
    /// # Errors
    /// If the folder cannot be written, or a curve not be drawn.
    pub fn write(&self, folder: &Path) -> Result<(), ScaleError> {
        fs::create_dir_all(folder)?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(folder.join(FILE), json)?;
        for curve in &self.curves {
            fs::write(folder.join(format!("{}.csv", curve.name)), curve.csv())?;
        }
        self.write_plots(folder)
    }

    /// Draws each curve.
    ///
    /// # Errors
    /// If the folder cannot be written, or a curve not be drawn.
    pub fn write_plots(&self, folder: &Path) -> Result<(), ScaleError> {
        for curve in &self.curves {
            let svg = plot::svg(curve).map_err(ScaleError::Plot)?;
            fs::write(folder.join(format!("{}.svg", curve.name)), svg)?;
        }
        Ok(())
    }
}

impl From<Curve> for Report {
    fn from(curve: Curve) -> Self {
        Self { curves: vec![curve], figures: Vec::new() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.curves.iter().try_for_each(|curve| writeln!(f, "{curve}"))?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{figure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::curve::Unit, *};

    #[test]
    fn newer_figures_take_the_place_of_older_ones() {
        let report = |names: &[&str], value| Report {
            curves: Vec::new(),
            figures: names.iter().map(|name| Figure::new(name, Unit::Bytes, value, "weighed")).collect(),
        };
        let report = report(&["a", "b"], 1.0).and(report(&["b", "c"], 2.0));
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| report.figure(name)),
            [Some(1.0), Some(2.0), Some(2.0), None]
        );
        assert_eq!(report.figures.len(), 3);
    }
}
