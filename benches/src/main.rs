//! `lars-bench`: the load generator and what Lars is compared with.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use lars_benches::cli::Cli;

fn main() -> ExitCode {
    // Before there are threads.
    lars_runtime::preflight::quiet_membarrier();
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lars-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
