//! What the tests of several rooms share. Nothing here is part of the product.
//!
//! * [`eventually`]: waiting for conditions instead of sleeping for luck.
//! * [`Proxy`]: a TCP forwarder that refuses, swallows or cuts on command.
//! * [`MariaDb`]: a private server that speaks MySQL's protocol.
//! * [`reserved_ports`]: ports that stay free while nobody listens on them.
//! * [`program`] and [`connections_possible`]: what a test must not take from the machine that it runs on.

mod descriptors;
mod mariadb;
mod ports;
mod program;
mod proxy;
mod wait;

pub use descriptors::connections_possible;
pub use mariadb::MariaDb;
pub use ports::{reserved_addr, reserved_ports};
pub use program::program;
pub use proxy::{Fault, Proxy};
pub use wait::{eventually, eventually_some};
