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

/// The fleet.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What `measure --out` wrote
    #[arg(long, value_name = "DIR", default_value = "benches/curves")]
    figures: PathBuf,
    /// Machines that call services
    #[arg(long, default_value_t = Fleet::default().agents, value_parser = above_0)]
    agents: f64,
    /// Modules that each of them knows
    #[arg(long, default_value_t = Fleet::default().modules_per_agent, value_parser = above_0)]
    modules_per_agent: f64,
    /// All modules
    #[arg(long, default_value_t = Fleet::default().modules, value_parser = above_0)]
    modules: f64,
    #[arg(long, default_value_t = Fleet::default().hosts_per_module, value_parser = above_0)]
    hosts_per_module: f64,
    /// Lookups per second on each machine
    #[arg(long, default_value_t = Fleet::default().lookups, value_parser = above_0)]
    lookups: f64,
    /// Changes of a module per second
    #[arg(long, default_value_t = Fleet::default().changes, value_parser = above_0)]
    changes: f64,
    /// Hosts whose counts change within a report interval, on each machine
    #[arg(long, default_value_t = Fleet::default().hosts_called, value_parser = above_0)]
    hosts_called: f64,
    /// Agent: seconds between two reports on a module
    #[arg(long, default_value_t = Fleet::default().report_interval, value_parser = above_0)]
    report_interval: f64,
    /// Agent: seconds that a route counts as current
    #[arg(long, default_value_t = Fleet::default().update_timeout, value_parser = above_0)]
    update_timeout: f64,
    /// lars-dns: seconds between two comparisons with everything
    #[arg(long, default_value_t = Fleet::default().full_reload_interval, value_parser = above_0)]
    full_reload_interval: f64,
    /// Rows of statistics that the database takes per second
    #[arg(long, default_value_t = Fleet::default().rows_per_second, value_parser = above_0)]
    rows_per_second: f64,
    /// Share of a processor that a service may take all the time
    #[arg(long, default_value_t = Fleet::default().load, value_parser = above_0)]
    load: f64,
    /// Seconds in which the last agent shall have heard of a change that concerns everybody
    #[arg(long, default_value_t = Fleet::default().push_within, value_parser = above_0)]
    push_within: f64,
}

fn above_0(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number")?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("is not above 0".into()) }
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
        let needs = plan::needs(&self.fleet(), &Report::read(&self.figures)?)?;
        let mut out = io::stdout().lock();
        needs.iter().try_for_each(|need| writeln!(out, "{need}"))?;
        Ok(())
    }

    fn fleet(&self) -> Fleet {
        Fleet {
            agents: self.agents,
            modules_per_agent: self.modules_per_agent,
            modules: self.modules,
            hosts_per_module: self.hosts_per_module,
            lookups: self.lookups,
            changes: self.changes,
            hosts_called: self.hosts_called,
            report_interval: self.report_interval,
            update_timeout: self.update_timeout,
            full_reload_interval: self.full_reload_interval,
            rows_per_second: self.rows_per_second,
            load: self.load,
            push_within: self.push_within,
        }
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
