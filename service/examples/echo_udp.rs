//! A UDP echo server, one socket per shard on consecutive ports.
//!
//! `cargo run --release -p lars-service --example echo_udp -- --shards 2 --listen 127.0.0.1:7000`; Ctrl-C drains.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use lars_runtime::{
    Datagram, Linger, ShardContext, Shards, ShardsConfig, UdpConfig, UdpServer, UdpSockets, preflight,
};
use lars_service::Shutdown;

#[derive(Parser)]
struct Options {
    /// How many shards and sockets; 0 is one per CPU
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Where the first socket is bound
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// How long an idle shard polls its socket before it sleeps, in microseconds
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
}

fn echo(_: &mut (), _: &mut ShardContext<()>, request: Datagram<'_>, reply: &mut Vec<u8>) {
    reply.extend(request.bytes);
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::on_signals()?;
    let config = ShardsConfig { name: "echo".into(), shards: options.shards, ..ShardsConfig::default() };
    let shards = Shards::start(config, |_| ())?;
    let addr = |index| SocketAddr::new(options.listen.ip(), options.listen.port() + index);
    let sockets = UdpSockets::bind(&(0..shards.len() as u16).map(addr).collect::<Vec<_>>())?;
    tracing::info!(addrs = ?sockets.local_addrs(), "listening");
    let config = UdpConfig {
        spin: Duration::from_micros(options.spin_us),
        // The shards do nothing but echo.
        linger: Some(Linger::default()),
        ..UdpConfig::default()
    };
    let server = UdpServer::start(&shards, sockets, config, echo);
    shutdown.wait();
    tracing::info!(report = ?shards.drain(Duration::from_secs(5)), stats = ?server.stats(), "drained");
    Ok(())
}

fn main() -> ExitCode {
    preflight::quiet_membarrier();
    tracing_subscriber::fmt().init();
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}
