//! `lars completions`: a script that makes a shell complete the words of this command.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, exit::Failure, out::Out};

pub(crate) fn run(shell: Shell, out: &mut Out<'_>) -> Result<(), Failure> {
    // By way of a buffer: the generator panics where writing fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lars", &mut script);
    Ok(out.data().write_all(&script)?)
}
