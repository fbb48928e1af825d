//! What the tests of several rooms share. Nothing here is part of the product.
//!
//! * [`eventually`]: waiting for conditions instead of sleeping for luck.
//! * [`Proxy`]: a TCP forwarder that refuses, swallows or cuts on command.
//! * [`MariaDb`]: a private server that speaks MySQL's protocol.
//! * [`reserved_ports`]: ports that stay free while nobody listens on them.
//! * [`run_seeds`]: seeded simulations, and the replay of one.
//! * [`holds_in_a_child`]: what a forked process sees.
//! * [`program`] and [`connections_possible`]: what a test must not take from the machine that it runs on.

mod descriptors;
mod fork;
mod mariadb;
mod ports;
mod program;
mod proxy;
mod seeds;
mod wait;

use std::env;

pub use descriptors::connections_possible;
pub use fork::holds_in_a_child;
pub use mariadb::MariaDb;
pub use ports::{reserved_addr, reserved_ports};
pub use program::program;
pub use proxy::{Fault, Proxy};
pub use seeds::run_seeds;
pub use wait::{eventually, eventually_some};

/// What moves the bytes of TCP connections in the services under test: `auto`, `ring` or `stream`. `ci/test` runs
/// their tests once with each that differs, by setting `LARS_TEST_TCP_DRIVER`.
#[must_use]
pub fn tcp_driver() -> String {
    env::var("LARS_TEST_TCP_DRIVER").unwrap_or_else(|_| "auto".into())
}
