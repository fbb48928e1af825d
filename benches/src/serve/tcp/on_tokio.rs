//! On tokio.

use std::{io, net::TcpListener};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime, task,
};

use super::{Echo, READ_LEN};

pub(super) fn echo(listener: TcpListener) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let local = task::LocalSet::new();
    local.block_on(&runtime, async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            task::spawn_local(serve(stream));
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
