//! What the tests of several rooms share. Nothing here is part of the product.
//!
//! * [`eventually`]: waiting for conditions instead of sleeping for luck.
//! * [`Proxy`]: a TCP forwarder that refuses, swallows or cuts on command.
//! * [`MariaDb`]: a private server that speaks MySQL's protocol.

mod mariadb;
mod proxy;
mod wait;

pub use mariadb::MariaDb;
pub use proxy::{Fault, Proxy};
pub use wait::{eventually, eventually_some};
