//! `lars`: the one command for people. It runs Lars, edits its routes, asks it, and shows it at work.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod demo;
mod exit;
mod out;
mod route_file;
mod simulation;
mod stack;
mod store_location;
mod table;
mod values;

use std::{
    env,
    io::{self, BufWriter},
    process::ExitCode,
};

use clap::Parser;

use self::{
    cli::{Cli, Command},
    commands::service,
    out::{Out, Terminal},
};

fn main() -> ExitCode {
    // Before there are threads.
    lars_runtime::preflight::quiet_membarrier();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::refuse(&error, env::args_os()),
    };
    match cli.command {
        Command::Service(command) => service::run(command),
        Command::Tool(command) => {
            let (mut data, mut notes) = (BufWriter::new(io::stdout()), io::stderr());
            let out = Out::new(&mut data, &mut notes, Terminal::detect());
            let mut out = out.with_note_form(command.note_form());
            let result = commands::run(command, &mut out);
            exit::finish(result, &mut out).into()
        }
    }
}
