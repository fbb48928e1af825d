//! On glommio's own `TcpStream`.

use std::{error::Error, net::SocketAddr, time::Duration};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::{
    LocalExecutorBuilder, Placement,
    net::{TcpListener, TcpStream},
};

use super::{Echo, READ_LEN, announce};

/// With glommio's default of 100 ms, an executor that lost its processor at the wrong moment can sleep for ever.
const PREEMPT_TIMER: Duration = Duration::from_secs(1);

pub(super) fn echo(listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).preempt_timer(PREEMPT_TIMER).make()?;
    executor.run(async {
        let listener = TcpListener::bind(listen)?;
        announce(listener.local_addr()?)?;
        loop {
            let stream = listener.accept().await?;
            stream.set_nodelay(true)?;
            glommio::spawn_local(serve(stream)).detach();
        }
    })
}

/// Until the peer hangs up or fails.
async fn serve(mut stream: TcpStream) {
    let (mut echo, mut buffer) = (Echo::default(), vec![0; READ_LEN]);
    while let Ok(len @ 1..) = stream.read(&mut buffer).await
        && let Ok(reply) = echo.reply(&buffer[..len])
        && stream.write_all(reply).await.is_ok()
    {}
}
