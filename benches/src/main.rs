//! `lars-bench`: the load generator and what Lars is compared with.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
    sync::{atomic::AtomicU64, mpsc},
    thread,
};

use clap::Parser;
use lars_benches::{
    cli::{
        BenchArgs, Cli, Command, DnsSubscribeArgs, LoadCommand, ReporterIngestArgs, RunArgs, ServeCommand,
        SqlUpsertsArgs, SummaryArgs,
    },
    load::{self, LoadError, Measurement, Plan},
    progress::{self, Extent},
    scale,
    serve::{mariadb, tcp, udp},
    summary::Summary,
};

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
        LoadCommand::UdpGetHost(args) => timed(&args.run, |plan, done| args.load().run(plan, done)),
        LoadCommand::UdpGetRoute(args) => timed(&args.run, |plan, done| args.load().run(plan, done)),
        LoadCommand::TcpEcho(args) => timed(&args.run, |plan, done| args.load().run(plan, done)),
        LoadCommand::DnsQuery(args) => timed(&args.run, |plan, done| args.load().run(plan, done)),
        LoadCommand::DnsSubscribe(args) => subscribe(args),
        LoadCommand::ReporterIngest(args) => ingest(args),
        LoadCommand::SqlUpserts(SqlUpsertsArgs { store, run }) => timed(run, |plan, done| {
            load::sql_upserts::run(&mut *lars_store::open(store, lars_store::OpenMode::Create)?, plan, done)
        }),
    }
}

fn subscribe(args: &DnsSubscribeArgs) -> Result<(), Box<dyn Error>> {
    let load = args.load();
    measure(&args.bench, Extent::Operations(load.operations()), |done| {
        load.run(&mut *lars_store::open(&args.store, lars_store::OpenMode::Create)?, done)
    })
}

fn ingest(args: &ReporterIngestArgs) -> Result<(), Box<dyn Error>> {
    let load = args.load();
    let Some(store) = &args.store else {
        return timed(&args.run, |plan, done| load.run(plan, done));
    };
    let plan = args.run.plan();
    measure(&args.run.bench, Extent::Operations(load.rows()), |done| {
        load.run_until_stored(&mut *lars_store::open(store, lars_store::OpenMode::Create)?, &plan, done)
    })
}

/// A load that ends by its plan.
fn timed(
    args: &RunArgs,
    load: impl FnOnce(&Plan, &AtomicU64) -> Result<Measurement, LoadError> + Send,
) -> Result<(), Box<dyn Error>> {
    let plan = args.plan();
    measure(&args.bench, Extent::Time(plan.warmup + plan.measured), |done| load(&plan, done))
}

/// The load has a thread for itself, the only one that is pinned; this one shows how it goes.
fn measure(
    args: &BenchArgs,
    extent: Extent,
    load: impl FnOnce(&AtomicU64) -> Result<Measurement, LoadError> + Send,
) -> Result<(), Box<dyn Error>> {
    let done = AtomicU64::new(0);
    let (running, ended) = mpsc::channel();
    let measurement = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let _running = running;
            args.pin.map_or(Ok(()), load::pin)?;
            load(&done)
        });
        progress::show(extent, &done, &ended);
        load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    print(Measurement { label: args.label.clone(), ..measurement }, args.json)
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
        ServeCommand::UdpEcho { kind, listen, pin } => {
            pin.map_or(Ok(()), load::pin)?;
            Ok(udp::echo(kind, listen)?)
        }
        ServeCommand::TcpEcho { kind, listen, pin } => {
            pin.map_or(Ok(()), load::pin)?;
            tcp::echo(kind, listen)
        }
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
