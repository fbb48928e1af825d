//! How programs under test are started.

use std::{env, ffi::OsStr, process::Command};

/// The program at `path`, with nothing of the environment that would be part of its configuration.
#[must_use]
pub fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    let is_setting = |name: &OsStr| name == "RUST_LOG" || name.as_encoded_bytes().starts_with(b"LARS_");
    for (name, _) in env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command
}
