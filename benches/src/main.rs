//! `lars-bench`: the load generator and what Lars is compared with.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Parser};
use lars_benches::{
    cli::{Cli, Command, LoadCommand, ServeCommand, SummaryArgs, Timed},
    load::{self, BenchArgs, LoadError, Measurement, Plan},
    scale,
    serve::{mariadb, tcp, udp},
    summary::Summary,
};
use lars_store::OpenMode;

fn main() -> ExitCode {
    // Before there are threads.
    lars_runtime::preflight::quiet_membarrier();
    let result = match Cli::parse().command {
        Command::Load(command) => run_load(&command),
        Command::Serve(command) => serve(&command),
        Command::Scale(command) => scale::args::run(&command),
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

fn run_load(command: &LoadCommand) -> Result<(), Box<dyn Error>> {
    match command {
        LoadCommand::UdpGetHost(args) => timed(args, |load, plan| load.run(plan)),
        LoadCommand::UdpGetRoute(args) => timed(args, |load, plan| load.run(plan)),
        LoadCommand::TcpEcho(args) => timed(args, |load, plan| load.run(plan)),
        LoadCommand::DnsQuery(args) => timed(args, |load, plan| load.run(plan)),
        LoadCommand::ReporterIngest(args) => timed(args, |load, plan| match &load.store {
            None => load.run(plan),
            Some(url) => load.run_until_stored(&mut *lars_store::open(url, OpenMode::Create)?, plan),
        }),
        LoadCommand::SqlUpserts(args) => timed(args, |load, plan| {
            load::sql_upserts::run(&mut *lars_store::open(&load.store, OpenMode::Create)?, plan)
        }),
        LoadCommand::DnsSubscribe(load) => {
            measure(&load.bench, || load.run(&mut *lars_store::open(&load.store, OpenMode::Create)?))
        }
    }
}

fn timed<L: Args>(
    Timed { load, plan }: &Timed<L>,
    run: impl FnOnce(&L, &Plan) -> Result<Measurement, LoadError>,
) -> Result<(), Box<dyn Error>> {
    measure(&plan.bench, || run(load, plan))
}

fn measure(
    bench: &BenchArgs,
    load: impl FnOnce() -> Result<Measurement, LoadError>,
) -> Result<(), Box<dyn Error>> {
    bench.pin.map_or(Ok(()), load::pin)?;
    print(Measurement { label: bench.label.clone(), ..load()? }, bench.json)
}

fn print(measurement: Measurement, as_json: bool) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    if as_json {
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
    writeln!(io::stdout(), "{}", Summary::of(&measurements, &args.bases))?;
    Ok(())
}
