//! On monoio, with its io_uring driver.

use std::{io, net::TcpListener};

use monoio::{
    IoUringDriver, RuntimeBuilder,
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::TcpStream,
};

use super::{READ_LEN, announce};
use crate::frames::Frames;

pub(super) fn echo(listener: TcpListener) -> io::Result<()> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().build()?;
    runtime.block_on(async {
        let addr = listener.local_addr()?;
        let listener = monoio::net::TcpListener::from_std(listener)?;
        announce(addr)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(serve(stream));
        }
    })
}

/// Until the peer hangs up or fails. What is read into and written from belongs to the runtime meanwhile.
async fn serve(mut stream: TcpStream) {
    let (mut frames, mut input, mut output) = (Frames::default(), vec![0; READ_LEN], Vec::new());
    loop {
        let (read, buffer) = stream.read(input).await;
        input = buffer;
        let Ok(1..) = read else { return };
        output.clear();
        if frames.take(&input, |frame| output.extend_from_slice(frame)).is_err() {
            return;
        }
        let (written, buffer) = stream.write_all(output).await;
        output = buffer;
        if written.is_err() {
            return;
        }
    }
}
