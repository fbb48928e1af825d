//! A framed TCP echo server: 8 bytes of header (two little-endian `i32`s: id and body length), then the body.
//!
//! `cargo run --release -p lars-service --example echo_tcp -- --shards 2 --listen 127.0.0.1:7000`; Ctrl-C drains.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use lars_runtime::{
    ConnId, Flow, Frame, Handlers, ShardContext, Shards, ShardsConfig, TcpServer, TcpServerConfig, preflight,
};
use lars_service::Shutdown;

const ECHO: i32 = 1;

#[derive(Parser)]
struct Options {
    /// How many shards; 0 is one per CPU
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
}

fn framing(input: &[u8]) -> Result<Frame, std::num::TryFromIntError> {
    let Some(header) = input.first_chunk::<8>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h] = *header;
    let len = usize::try_from(i32::from_le_bytes([e, f, g, h]))?;
    Ok((input.len() >= 8 + len).then_some((i32::from_le_bytes([a, b, c, d]), 8..8 + len)))
}

/// Header and body are put together here, once per shard, and copied into the connection's output.
#[derive(Default)]
struct Reply(Vec<u8>);

fn echo(reply: &mut Reply, net: &mut ShardContext<Reply>, conn: ConnId, body: &[u8]) -> Flow {
    reply.0.clear();
    reply.0.extend(ECHO.to_le_bytes());
    reply.0.extend((body.len() as i32).to_le_bytes());
    reply.0.extend(body);
    match net.send(conn, &reply.0) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Close("the reply does not fit"),
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::on_signals()?;
    let config = ShardsConfig { name: "echo".into(), shards: options.shards, ..ShardsConfig::default() };
    let shards = Shards::start(config, |_| Reply::default())?;
    let handlers = Handlers::new(framing).on(ECHO, echo);
    let server = TcpServer::start(&shards, TcpServerConfig::new(options.listen), handlers)?;
    tracing::info!(addr = %server.local_addr(), "listening");
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
