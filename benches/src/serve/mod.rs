//! What Lars is compared with: the plainest servers that answer the same load on the same machine. And a database.

pub mod mariadb;
pub mod tcp;
pub mod udp;

use std::{
    io::{self, Write},
    net::SocketAddr,
};

/// Tells whoever started this process where it listens.
fn announce(addr: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {addr}")?;
    out.flush()
}
