//! The command line of `lars-bench scale`.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Effort, Subject, measure,
    plan::{self, Fleet},
    report::Report,
};

/// What there is to do about growth.
#[derive(Debug, Subcommand)]
pub enum ScaleCommand {
    /// Measure how cost and memory grow: tables, plots, JSON
    Measure(MeasureArgs),
    /// Draw again what was measured
    Plot(PlotArgs),
    /// Compute what a fleet takes: lars-dns servers, memory, load on MySQL (docs/SCALING.md)
    Plan(PlanArgs),
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
    /// Repetitions of each point; the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Small sizes and short repetitions, to see that it works
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which plots.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// What `measure --out` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// The fleet.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What `measure --out` wrote
    #[arg(long, value_name = "DIR", default_value = "benches/curves")]
    figures: PathBuf,
    #[command(flatten)]
    fleet: Fleet,
}

/// Does it.
///
/// # Errors
/// If a program that is measured is not built or fails, or files cannot be written.
pub fn run(command: &ScaleCommand) -> Result<(), Box<dyn Error>> {
    match command {
        ScaleCommand::Measure(args) => args.run(),
        ScaleCommand::Plot(PlotArgs { folder }) => Ok(Report::read(folder)?.write_plots(folder)?),
        ScaleCommand::Plan(args) => args.run(),
    }
}

impl PlanArgs {
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let needs = plan::needs(&self.fleet, &Report::read(&self.figures)?)?;
        let mut out = io::stdout().lock();
        needs.iter().try_for_each(|need| writeln!(out, "{need}"))?;
        Ok(())
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
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&measured)?)?;
        } else {
            writeln!(out, "{measured}")?;
        }
        if let Some(folder) = &self.out {
            let mut kept = Report::read(folder)?;
            kept.update(measured);
            kept.write(folder)?;
        }
        Ok(())
    }
}
