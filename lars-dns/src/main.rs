//! The program `lars-dns`; see [`lars_dns`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lars_service::main::<lars_dns::DnsDaemon>()
}
