//! `lars route …`: edits and shows the stored routes. Each edit is one transaction.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    iter,
    path::Path,
    time::Duration,
};

use indicatif::ProgressBar;
use lars_proto::{HostAddr, ModuleId};
use lars_store::{EditOutcome, RouteEdit, RouteStore, StoreError};

use crate::{
    cli::{HostsOrAllArgs, ModuleFilterArgs, RouteCommand},
    exit::Failure,
    out::Out,
    route_file::{self, Format, Mode, RouteFileError, Routes},
    store_location::{StoreArgs, StoreLocation},
    table::{self, Cell, left, right},
};

/// The file that is standard input.
const STDIN: &str = "-";

pub(crate) fn run(command: RouteCommand, out: &mut Out<'_>) -> Result<(), Failure> {
    match command {
        RouteCommand::Add { module, hosts, store } => add(module.id(), hosts, &store, out),
        RouteCommand::Rm { module, which, last, store } => remove(module.id(), which, last, &store, out),
        RouteCommand::List { module, json, store } => list(module, json, &store, out),
        RouteCommand::Import { file, format, replace, store } => {
            let mode = if replace { Mode::Replace } else { Mode::Merge };
            import(&file, format, mode, &store, out)
        }
        RouteCommand::Accept { store } => accept(&store, out),
        RouteCommand::Export { format, store } => export(format, &store, out),
    }
}

fn add(module: ModuleId, hosts: Vec<HostAddr>, store: &StoreArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let location = StoreLocation::find(store)?;
    let outcome = location.open_or_create()?.edit(&each(module, hosts, RouteEdit::Add))?;
    say_outcome(&outcome, &location, out)
}

/// Removes what `which` says. That nobody serves the module then has to be said in words: by `--all`, `last`,
/// or a person at the terminal. It is a question and no guarantee: somebody else may remove the others
/// meanwhile.
fn remove(
    module: ModuleId,
    which: HostsOrAllArgs,
    last: bool,
    store: &StoreArgs,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let location = StoreLocation::find(store)?;
    let mut store = location.open_to_change()?;
    let edits = if which.all {
        vec![RouteEdit::RemoveModule(module)]
    } else {
        if !last && are_all(&store.hosts(module)?, &which.hosts) {
            let question = format!("module {module} would have no hosts left; remove them?");
            if !out.confirm(&question, &mut io::stdin().lock())? {
                return Err(Failure::LastHosts(module));
            }
        }
        each(module, which.hosts, RouteEdit::Remove)
    };
    let outcome = store.edit(&edits)?;
    say_outcome(&outcome, &location, out)
}

/// Whether `hosts` are all there are, and there are any.
fn are_all(stored: &[HostAddr], hosts: &[HostAddr]) -> bool {
    !stored.is_empty() && stored.iter().all(|host| hosts.contains(host))
}

fn each(module: ModuleId, hosts: Vec<HostAddr>, edit: fn(ModuleId, HostAddr) -> RouteEdit) -> Vec<RouteEdit> {
    hosts.into_iter().map(|host| edit(module, host)).collect()
}

fn accept(store: &StoreArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let location = StoreLocation::find(store)?;
    // Looks first whether it is there at all, then makes the table for it where that is missing.
    drop(location.open_to_change()?);
    let accepted = location.open_or_create()?.accept()?;
    let hosts = counted(usize::try_from(accepted.hosts).unwrap_or(usize::MAX), "host");
    Ok(out.note(format_args!("{hosts} accepted; version {} of {}", accepted.version, location.url()))?)
}

fn say_outcome(outcome: &EditOutcome, location: &StoreLocation, out: &mut Out<'_>) -> Result<(), Failure> {
    let url = location.url();
    match outcome.version {
        None => out.note(format_args!("nothing changed; it is so in {url} already"))?,
        Some(version) => out.note(format_args!(
            "{} added, {} removed, in {}; version {version} of {url}",
            counted(outcome.added, "host"),
            outcome.removed,
            counted(outcome.modules_changed, "module"),
        ))?,
    }
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn list(module: ModuleFilterArgs, json: bool, store: &StoreArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let location = StoreLocation::find(store)?;
    let routes = match module.id() {
        Some(module) => one_route(location.open_existing()?.as_mut(), module)?,
        None => all_routes(&location, out)?,
    };
    if let (true, Some(module)) = (routes.is_empty(), module.id()) {
        return Err(Failure::NoHosts { module, store: location.url().clone() });
    }
    if json {
        return Ok(route_file::write_json(&routes, out.data())?);
    }
    if routes.is_empty() {
        let note = format_args!("no routes in {}; `lars route add` adds some", location.url());
        return Ok(out.note(note)?);
    }
    Ok(write_table(&routes, out)?)
}

fn one_route(store: &mut dyn RouteStore, module: ModuleId) -> Result<Routes, StoreError> {
    let hosts: BTreeSet<HostAddr> = store.hosts(module)?.into_iter().collect();
    let known = !hosts.is_empty();
    Ok(known.then_some((module, hosts)).into_iter().collect())
}

fn all_routes(location: &StoreLocation, out: &mut Out<'_>) -> Result<Routes, Failure> {
    let mut routes = Routes::new();
    let report = location.open_existing()?.load(&mut |module, host| {
        routes.entry(module).or_default().insert(host);
    })?;
    if report.skipped > 0 {
        out.note(format_args!(
            "warning: {} in {} have an id, address or port that cannot be; left out",
            counted(usize::try_from(report.skipped).unwrap_or(usize::MAX), "row"),
            location.url()
        ))?;
    }
    Ok(routes)
}

fn write_table(routes: &Routes, out: &mut Out<'_>) -> io::Result<()> {
    let paint = out.paint();
    let rows = || {
        let hosts = routes.iter().flat_map(|(module, hosts)| iter::repeat(module).zip(hosts));
        hosts.map(|(module, host)| [module.modid.into(), module.cmdid.into(), Cell::from(host)])
    };
    table::write(out.data(), paint, [right("MODID"), right("CMDID"), left("HOST")], rows)
}

fn import(
    file: &Path,
    format: Option<Format>,
    mode: Mode,
    store: &StoreArgs,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let routes = read(file, format)?;
    let edits = route_file::edits(routes, mode);
    let location = StoreLocation::find(store)?;
    let mut store = location.open_or_create()?;
    let spinner = spinner(out, format!("writing {}", location.url()));
    let outcome = store.edit(&edits);
    spinner.finish_and_clear();
    say_outcome(&outcome?, &location, out)
}

fn read(file: &Path, format: Option<Format>) -> Result<Routes, RouteFileError> {
    let is_stdin = file == Path::new(STDIN);
    let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let Some(format) = format.or_else(|| Format::of(file)) else {
        return Err(RouteFileError::UnknownFormat { file: name });
    };
    let input: Box<dyn Read> = if is_stdin {
        Box::new(io::stdin().lock())
    } else {
        match File::open(file) {
            Ok(file) => Box::new(file),
            Err(source) => return Err(RouteFileError::Read { file: name, source }),
        }
    };
    format.read(&name, input)
}

/// Shows that something is going on where somebody looks.
fn spinner(out: &Out<'_>, message: String) -> ProgressBar {
    if !out.is_watched() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn export(format: Format, store: &StoreArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let location = StoreLocation::find(store)?;
    let routes = all_routes(&location, out)?;
    Ok(format.write(&routes, out.data())?)
}
