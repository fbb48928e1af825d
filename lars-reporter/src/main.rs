//! The program `lars-reporter`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lars_service::main::<lars_reporter::ReporterDaemon>()
}
