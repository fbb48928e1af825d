//! `lars-bench`: the load generator and what Lars is compared with.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use lars_benches::{
    cli::{Cli, Command, LoadArgs, ServeCommand, SummaryArgs},
    load::{self, Measurement},
    scale,
    serve::{mariadb, tcp, udp},
    summary,
};

fn main() -> ExitCode {
    // Before there are threads.
    lars_runtime::preflight::quiet_membarrier();
    let result = match Cli::parse().command {
        Command::Load(args) => run_load(args),
        Command::Serve(command) => serve(&command),
        Command::Scale(command) => scale::run(&command),
        Command::Summary(args) => summarize(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lars-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(LoadArgs { load, plan, pin, json, label }: LoadArgs) -> Result<(), Box<dyn Error>> {
    pin.map_or(Ok(()), load::pin)?;
    let measurement = Measurement { label, ..load.as_load().run(&plan)? };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&measurement)?)?;
    } else {
        writeln!(out, "{measurement}")?;
    }
    out.flush()?;
    let label = if measurement.label.is_empty() { "" } else { &format!("{}: ", measurement.label) };
    for warning in measurement.warnings() {
        writeln!(io::stderr(), "warning: {label}{warning}")?;
    }
    Ok(())
}

fn serve(command: &ServeCommand) -> Result<(), Box<dyn Error>> {
    match *command {
        ServeCommand::UdpEcho { kind, listen } => Ok(udp::echo(kind, listen)?),
        ServeCommand::TcpEcho { kind, listen } => tcp::echo(kind, listen),
        ServeCommand::Mariadb => mariadb::serve(),
    }
}

fn summarize(args: &SummaryArgs) -> Result<(), Box<dyn Error>> {
    let file = &args.file;
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let measurements: Vec<Measurement> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| {
            format!("{}: not what lars-bench load --json writes: {error}", file.display())
        })?;
    writeln!(io::stdout(), "{}", summary::table(&measurements, &args.bases))?;
    Ok(())
}
