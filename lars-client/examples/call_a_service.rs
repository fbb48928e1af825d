//! Calls a module once, as business code does: ask for a host, connect to it, report how that went.
//!
//! `cargo run -p lars-client --example call_a_service -- 1 1`, beside a running agent.

#![allow(clippy::print_stdout)]

use std::{env, error::Error, net::TcpStream, time::Duration};

use lars_client::{Client, ModuleId, Outcome};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let module = module_from_args()?;
    let client = Client::new()?;
    client.register(module)?;

    let host = client.get_host(module)?;
    let called = TcpStream::connect_timeout(&host.addr.socket_addr(), CONNECT_TIMEOUT);
    client.report(&host, Outcome::from(&called));

    called?;
    println!("connected to {} for module {module}", host.addr);
    Ok(())
}

fn module_from_args() -> Result<ModuleId, Box<dyn Error>> {
    let mut ids = env::args().skip(1);
    match (ids.next(), ids.next()) {
        (Some(modid), Some(cmdid)) => Ok(ModuleId::new(modid.parse()?, cmdid.parse()?)),
        _ => Err("usage: call_a_service MODID CMDID".into()),
    }
}
