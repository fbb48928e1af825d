//! `lars dns`, `reporter` and `agent`: the services singly, with the flags of the programs of these names.
//! Their database, if none is named, is the one of `lars up`.

use std::{ffi::OsString, iter, process::ExitCode};

use lars_agent::AgentDaemon;
use lars_dns::DnsDaemon;
use lars_reporter::ReporterDaemon;
use lars_service::Daemon;
use lars_store::StoreUrl;
use toml::Table;

use crate::{
    cli::{ServiceArgs, ServiceCommand},
    store_location::StoreLocation,
};

/// Runs a service until it is told to stop. It has its own flags, logging and exit status.
pub(crate) fn run(command: ServiceCommand) -> ExitCode {
    match command {
        ServiceCommand::Dns(args) => run_on_store::<DnsDaemon>("lars dns", args, |config| &config.store),
        ServiceCommand::Reporter(args) => {
            run_on_store::<ReporterDaemon>("lars reporter", args, |config| &config.store)
        }
        ServiceCommand::Agent(args) => lars_service::main_from::<AgentDaemon>(
            "lars agent",
            Table::new(),
            with_name("lars agent", args),
            |_| Ok(()),
        ),
    }
}

fn run_on_store<D: Daemon>(name: &str, args: ServiceArgs, store: fn(&D::Config) -> &StoreUrl) -> ExitCode {
    let usual = StoreLocation::usual();
    let base = usual.as_ref().map(as_config).unwrap_or_default();
    lars_service::main_from::<D>(name, base, with_name(name, args), |config| match usual {
        Some(usual) if usual.url() == store(config) => Ok(usual.prepare()?),
        Some(_) | None => Ok(()),
    })
}

/// The location as the services' configuration has it. An SQLite URL shows all of itself.
fn as_config(location: &StoreLocation) -> Table {
    let store = Table::from_iter([("url".to_owned(), location.url().to_string().into())]);
    Table::from_iter([("store".to_owned(), store.into())])
}

fn with_name(name: &str, args: ServiceArgs) -> impl Iterator<Item = OsString> {
    iter::once(OsString::from(name)).chain(args.flags)
}
