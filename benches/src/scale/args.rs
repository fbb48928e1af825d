//! The command line of `lars-bench scale`.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueEnum};

use super::{Effort, Subject, measure, report::Report};

/// What there is to do about growth.
#[derive(Debug, Subcommand)]
pub enum ScaleCommand {
    /// Measure how cost and memory grow: tables, plots, JSON
    Measure(MeasureArgs),
    /// Draw again what was measured
    Plot(PlotArgs),
}

/// What is measured, and how.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// What to measure [default: everything]
    #[arg(value_enum, value_name = "SUBJECT")]
    subjects: Vec<Subject>,
    /// Where to keep tables (CSV), plots (SVG) and everything together (JSON); what is there and is not measured
    /// stays
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw plots here too
    #[arg(long, value_name = "DIR")]
    svg_dir: Option<PathBuf>,
    /// Repetitions of each point; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Small sizes and short repetitions, to see that it works
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print tables
    #[arg(long)]
    csv: bool,
}

/// Which plots.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// What `measure --out` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Does it.
///
/// # Errors
/// If a program that is measured is not built or fails, or files cannot be written.
pub fn run(command: &ScaleCommand) -> Result<(), Box<dyn Error>> {
    match command {
        ScaleCommand::Measure(args) => args.run(),
        ScaleCommand::Plot(PlotArgs { folder }) => Ok(Report::read(folder)?.write_plots(folder)?),
    }
}

impl MeasureArgs {
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let effort =
            if self.quick { Effort::quick() } else { Effort::thorough(usize::from(self.repetitions)) };
        let all = Subject::value_variants();
        let subjects = if self.subjects.is_empty() { all } else { &self.subjects };
        let mut measured = Report::default();
        for &subject in subjects {
            measured.update(measure(subject, &effort)?);
        }
        drop(effort);
        self.print(&measured)?;
        if let Some(folder) = &self.svg_dir {
            std::fs::create_dir_all(folder)?;
            measured.write_plots(folder)?;
        }
        if let Some(folder) = &self.out {
            let mut kept = Report::read(folder)?;
            kept.update(measured);
            kept.write(folder)?;
        }
        Ok(())
    }

    fn print(&self, measured: &Report) -> Result<(), Box<dyn Error>> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(measured)?)?;
        } else if self.csv {
            measured
                .curves
                .iter()
                .try_for_each(|curve| writeln!(out, "# {}\n{}", curve.title, curve.csv()))?;
        } else {
            writeln!(out, "{measured}")?;
        }
        Ok(())
    }
}
