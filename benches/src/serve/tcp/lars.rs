//! On lars-runtime, with one shard.

use std::{error::Error, net::SocketAddr};

use lars_proto::frame::{self, HEADER_LEN};
use lars_runtime::{
    ConnId, Flow, Handlers, ShardContext, Shards, ShardsConfig, TcpDriver, TcpServer, TcpServerConfig,
};
use lars_service::Shutdown;

use super::announce;
use crate::frames::ECHO_ID;

pub(super) fn echo(tcp_driver: TcpDriver, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::on_signals()?;
    let config = ShardsConfig { name: "echo".into(), shards: 1, tcp_driver, ..ShardsConfig::default() };
    let shards = Shards::start(config, |_| ())?;
    let handlers = Handlers::new(frame::next).on(ECHO_ID, reply);
    let server = TcpServer::start(&shards, TcpServerConfig::new(listen), handlers)?;
    announce(server.local_addr())?;
    shutdown.wait();
    Ok(())
}

fn reply(_: &mut (), net: &mut ShardContext<()>, conn: ConnId, body: &[u8]) -> Flow {
    let header: [[u8; HEADER_LEN / 2]; 2] = [ECHO_ID.to_le_bytes(), (body.len() as i32).to_le_bytes()];
    match net.send_vectored(conn, &[header.as_flattened(), body]) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Close("the reply does not fit"),
    }
}
