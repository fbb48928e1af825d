//! The program `lars-agent`; see [`lars_agent`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lars_service::main::<lars_agent::AgentDaemon>()
}
