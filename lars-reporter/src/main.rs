//! The program `lars-reporter`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lars_runtime::daemon::main::<lars_reporter::ReporterDaemon>()
}
