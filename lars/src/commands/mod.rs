//! What the subcommands do. A tool takes its arguments and an [`Out`], and prints nowhere else.

mod client_call;
mod completions;
mod route;
pub(crate) mod service;
mod simulate;
pub(crate) mod status;
mod up;

use crate::{cli::ToolCommand, demo, exit::Failure, out::Out};

/// Runs a tool to its end.
pub(crate) fn run(command: ToolCommand, out: &mut Out<'_>) -> Result<(), Failure> {
    match command {
        ToolCommand::Demo(args) => demo::run(&args, out),
        ToolCommand::Up(args) => up::run(&args, out),
        ToolCommand::Route(command) => route::run(command, out),
        ToolCommand::Status(args) => status::run(&args, out),
        ToolCommand::GetHost(args) => client_call::get_host(&args, out),
        ToolCommand::GetRoute(args) => client_call::get_route(&args, out),
        ToolCommand::Report(args) => client_call::report(&args, out),
        ToolCommand::Simulate(args) => simulate::run(&args, out),
        ToolCommand::Completions { shell } => completions::run(shell, out),
    }
}
