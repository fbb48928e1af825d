//! `lars simulate`: looks hosts up, draws how the calls would have gone, reports that, and shows what the
//! agent made of it. Nothing is called, so the hosts need not exist.

use std::{
    io, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use indicatif::ProgressBar;
use lars_client::{Client, GetHostError, HostAddr, ModuleId};
use lars_service::Shutdown;
use lars_store::{CallStatus, Store, StoreError};

use super::{client_call, status};
use crate::{
    cli::SimulateArgs,
    exit::Failure,
    out::Out,
    simulation::{Dice, HostTally, StateChange, StateWatch, Tally},
    store_location::StoreLocation,
    table::{self, Cell, left, percent, right},
};

/// Between two looks at the stored rows.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the rows of the last calls may take: an agent's report interval and a reporter's flush, and room.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(3);

pub(crate) fn run(args: &SimulateArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let module = args.module.id();
    let client = client_call::client(&args.agent)?;
    let hosts = client_call::route(module, &args.agent)?;
    out.note(format_args!(
        "warning: this changes live state: the agent takes these calls of module {module} for real ones, may eject \
         hosts for them, and has them stored"
    ))?;
    for strange in args.fail.iter().filter(|fail| !hosts.contains(&fail.host)) {
        out.note(format_args!("warning: {} is not a host of module {module}", strange.host))?;
    }
    let shutdown = Shutdown::on_signals().map_err(Failure::Signals)?;
    let since = unix_seconds();
    let mut rows = StoredRows::open(args, module, out)?;
    let (tally, last_error) = make_calls(args, &client, &hosts, &mut rows, &shutdown, out);
    if let (0, Some(error)) = (tally.calls(), last_error) {
        return Err(error.into());
    }
    rows.settle(&tally, since);
    Ok(write_result(&tally, &rows, since, out)?)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn make_calls(
    args: &SimulateArgs,
    client: &Client,
    hosts: &[HostAddr],
    rows: &mut StoredRows,
    shutdown: &Shutdown,
    out: &Out<'_>,
) -> (Tally, Option<GetHostError>) {
    let error_rates = args.fail.iter().map(|fail| (fail.host, fail.error_rate)).collect();
    let mut dice = Dice::new(args.seed, args.error_rate, error_rates);
    let mut tally = Tally::of(hosts);
    let mut last_error = None;
    let bar = if out.is_watched() { ProgressBar::new(args.calls) } else { ProgressBar::hidden() };
    let start = Instant::now();
    for n in 0..args.calls {
        if shutdown.wait_timeout(time_to_turn(start, n, args.rate)) {
            break;
        }
        match client.call(args.module.id(), |host| dice.roll(host.addr)) {
            Ok((host, result)) => tally.count_call(host.addr, result.is_err()),
            Err(error) => {
                tally.count_failure(&error);
                last_error = Some(error);
            }
        }
        rows.look_if_due(n + 1);
        bar.inc(1);
    }
    bar.finish_and_clear();
    (tally, last_error)
}

/// How long it is until the `n`-th call is due, counted from 0.
fn time_to_turn(start: Instant, n: u64, per_second: u32) -> Duration {
    if per_second == 0 {
        return Duration::ZERO;
    }
    let due = start + Duration::from_secs_f64(n as f64 / f64::from(per_second));
    due.saturating_duration_since(Instant::now())
}

/// The rows of the module that the agents' statistics lead to, if the database is at hand.
struct StoredRows {
    module: ModuleId,
    /// As it is shown.
    name: String,
    store: Option<Box<dyn Store>>,
    watch: StateWatch,
    lookups: u64,
    looked_at: Instant,
}

impl StoredRows {
    fn open(args: &SimulateArgs, module: ModuleId, out: &mut Out<'_>) -> Result<Self, Failure> {
        let location = StoreLocation::find(&args.store)?;
        let name = location.url().to_string();
        let store = match location.open_existing() {
            Ok(store) => Some(store),
            Err(error) => {
                out.note(format_args!("warning: cannot see who becomes ejected and recovers: {error}"))?;
                None
            }
        };
        let watch = StateWatch::default();
        let mut rows = Self { module, name, store, watch, lookups: 0, looked_at: Instant::now() };
        if let Some(stored) = rows.read() {
            rows.watch = StateWatch::new(&stored?);
        }
        Ok(rows)
    }

    fn read(&mut self) -> Option<Result<Vec<CallStatus>, StoreError>> {
        Some(self.store.as_mut()?.call_status(Some(self.module)))
    }

    fn look_if_due(&mut self, lookups: u64) {
        self.lookups = lookups;
        if self.looked_at.elapsed() >= LOOK_INTERVAL {
            self.look();
        }
    }

    /// A look that fails is made up for by the next one.
    fn look(&mut self) {
        self.looked_at = Instant::now();
        if let Some(Ok(rows)) = self.read() {
            self.watch.look(self.lookups, &rows);
        }
    }

    /// Waits for the rows of the last calls.
    fn settle(&mut self, tally: &Tally, since: u64) {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        while self.store.is_some() && Instant::now() < deadline && !self.has_all(tally, since) {
            thread::sleep(LOOK_INTERVAL);
            self.look();
        }
    }

    /// Whether each host that was called has a row since then.
    fn has_all(&self, tally: &Tally, since: u64) -> bool {
        let mut called = tally.hosts.iter().filter(|(_, tally)| tally.calls > 0);
        called.all(|(host, _)| self.watch.state(*host, since).is_some())
    }
}

fn write_result(tally: &Tally, rows: &StoredRows, since: u64, out: &mut Out<'_>) -> io::Result<()> {
    write_spread(tally, rows, since, out)?;
    if !rows.watch.changes().is_empty() {
        writeln!(out.data())?;
        write_changes(rows.watch.changes(), out)?;
    }
    out.note(format_args!(
        "{} lookups: {} found a host, {} overloaded, {} not found, {} timed out, {} failed otherwise",
        tally.lookups(),
        tally.calls(),
        tally.overloaded,
        tally.not_found,
        tally.timed_out,
        tally.other_failures
    ))?;
    if rows.store.is_none() {
        return Ok(());
    }
    if tally.hosts.keys().all(|host| rows.watch.state(*host, since).is_none()) {
        return out.note(format_args!(
            "warning: {} has no word on these calls; does the agent report to a lars-reporter on it?",
            rows.name
        ));
    }
    out.note(format_args!(
        "states are what {} says, looked at every {} ms: what is shorter is not seen",
        rows.name,
        LOOK_INTERVAL.as_millis()
    ))
}

fn write_spread(tally: &Tally, rows: &StoredRows, since: u64, out: &mut Out<'_>) -> io::Result<()> {
    let calls = tally.calls();
    let paint = out.paint();
    let columns =
        [left("HOST"), right("CALLS"), right("SHARE%"), right("FAILED"), right("FAILED%"), left("STATE")];
    table::write(out.data(), paint, columns, || {
        tally.hosts.iter().map(|(host, HostTally { calls: called, failed })| {
            let state = rows.watch.state(*host, since).map_or(Cell::from("unknown"), status::state);
            [
                host.into(),
                called.into(),
                percent(*called, calls).into(),
                failed.into(),
                percent(*failed, *called).into(),
                state,
            ]
        })
    })
}

fn write_changes(changes: &[StateChange], out: &mut Out<'_>) -> io::Result<()> {
    let paint = out.paint();
    let columns = [right("LOOKUPS"), left("HOST"), left("BECAME"), left("FOR")];
    table::write(out.data(), paint, columns, || {
        changes.iter().map(|change| {
            let StateChange { lookups, host, caller, overload } = change;
            [lookups.into(), host.into(), status::state(*overload), caller.into()]
        })
    })
}
