//! What every program of Lars has around its service: command line, configuration layers, log lines, signals,
//! exit status.
//!
//! A service implements [`Daemon`]; its `main` is [`main`]. Every configuration key is a TOML key, an
//! environment variable and a flag at once, all three made from the service's default configuration, so
//! that none can be forgotten: `[server] listen` is `--server-listen` and `LARS_DNS_SERVER_LISTEN`. A flag
//! wins over the environment, the environment over the file, the file over the default.
//!
//! What a service wants to know again after its next start is a [`StateFile`], kept by a [`StateWriter`].
//!
//! Names no message of Lars and no glommio.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod daemon;

mod command;

mod layers;

mod secret;

mod error;

mod server_section;

mod state_section;

mod state_file;

mod state_writer;

mod logging;

mod log_queue;

mod shutdown;

pub use self::{
    daemon::{Alias, BoxError, Daemon, EXIT_CONFIG, is_of_machine, main, main_from, with_causes},
    error::{ConfigError, LoadError, Place},
    layers::parse,
    log_queue::{LogGuard, dropped_log_lines},
    logging::{LogFormat, init_logging},
    secret::{Secret, read_secret},
    server_section::ServerSection,
    shutdown::Shutdown,
    state_file::{
        BAD_FILES_MAX, STATE_AHEAD_MAX, STATE_LEN_MAX, SavedState, StateError, StateFile, StateProblem,
    },
    state_section::StateSection,
    state_writer::{StatePace, StateSource, StateStats, StateWriter},
};
