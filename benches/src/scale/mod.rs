//! `lars-bench scale`: how cost and memory grow, from small to larger than anybody's fleet, and what a fleet takes.
//!
//! - [`cores`]: time of an operation in process; [`services`]: whole services over loopback sockets; [`heap`]: memory
//!   to the byte.
//! - [`curve`]: what comes out; [`report`]: where it is kept; [`plot`]: how it looks.
//! - [`plan`]: what a fleet takes, computed from the figures.
//!
//! What was measured for `docs/SCALING.md` is in `benches/curves`.

pub mod cores;
pub mod curve;
pub mod effort;
pub mod fleet;
pub mod heap;
pub mod plan;
pub mod plot;
pub mod report;
mod service;
pub mod services;

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueEnum};
use lars_store::StoreError;

pub use self::effort::Effort;
use self::{curve::Unit, plan::Fleet, report::Report};
use crate::load::LoadError;

/// What there is to do about growth.
#[derive(Debug, Subcommand)]
pub enum ScaleCommand {
    /// Measure how cost and memory grow: tables, plots, JSON
    Measure(Measure),
    /// Draw again what was measured
    Plot {
        /// What `measure --out` wrote
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Compute what a fleet takes: lars-dns servers, memory, load on MySQL (docs/SCALING.md)
    Plan {
        /// What `measure --out` wrote
        #[arg(long, value_name = "DIR", default_value = "benches/curves")]
        figures: PathBuf,
        #[command(flatten)]
        fleet: Fleet,
    },
}

/// What is measured, and how.
#[derive(Debug, Args)]
pub struct Measure {
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

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Cost of an operation against the number of modules
    Modules,
    /// Cost of an operation against the hosts of its module
    Hosts,
    /// Cost of a change against the number of its subscribers
    Subscribers,
    /// Cost of a route query against the number of connections, and of digests
    Queries,
    /// Memory of cores and of whole services, and lookups over UDP
    Memory,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// A program that is measured is not where this one is.
    #[error("{0} is not beside this program: build it in the same profile")]
    NotBuilt(&'static str),
    /// A program ended instead of running.
    #[error("{name} has ended: {said}")]
    Ended {
        /// Which.
        name: &'static str,
        /// Its last words.
        said: String,
    },
    /// Something did not come, however long it was waited for.
    #[error("{0} did not come")]
    Silent(&'static str),
    /// A file is not what this program writes.
    #[error("not what lars-bench scale writes: {0}")]
    Json(#[from] serde_json::Error),
    /// A plan needs a figure that there is none of.
    #[error("the figure {0} has not been measured")]
    NotMeasured(&'static str),
    /// A curve cannot be drawn.
    #[error("cannot draw {0}")]
    Plot(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Does it.
///
/// # Errors
/// If a program that is measured is not built or fails, or files cannot be read or written.
pub fn run(command: &ScaleCommand) -> Result<(), Box<dyn Error>> {
    match command {
        ScaleCommand::Measure(measure) => measure.run(),
        ScaleCommand::Plot { folder } => Ok(Report::read(folder)?.write_plots(folder)?),
        ScaleCommand::Plan { figures, fleet } => {
            let needs = plan::needs(fleet, &Report::read(figures)?)?;
            let mut out = io::stdout().lock();
            let mut say =
                |(what, unit, value): (_, Unit, _)| writeln!(out, "{what:<50} {:>9}", unit.show(value));
            Ok(needs.into_iter().try_for_each(&mut say)?)
        }
    }
}

impl Measure {
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let effort =
            if self.quick { Effort::quick() } else { Effort::thorough(usize::from(self.repetitions)) };
        let all = Subject::value_variants();
        let subjects = if self.subjects.is_empty() { all } else { &self.subjects };
        let mut measured = Report::default();
        for subject in subjects {
            measured.update(subject.measure(&effort)?);
        }
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

impl Subject {
    fn measure(self, effort: &Effort) -> Result<Report, ScaleError> {
        Ok(match self {
            Self::Modules => cores::by_modules(effort)?,
            Self::Hosts => cores::by_hosts(effort)?.into(),
            Self::Subscribers => {
                services::fan_out(effort)?.and(cores::publish_by_subscribers(effort)?.into())
            }
            Self::Queries => services::queries(effort)?.and(services::digests(effort)?),
            Self::Memory => heap::measure()?.and(services::by_size(effort)?),
        })
    }
}
