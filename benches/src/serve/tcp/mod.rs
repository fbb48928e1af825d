//! Framed echo over TCP, by one thread, in the ways it is usually written. All of them look at each frame, copy it into
//! the reply, and write the replies to one read at once; they differ in how they wait.

mod epoll;
mod lars;
mod on_glommio;
mod on_monoio;
mod on_tokio;
mod on_uring;

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
};

use lars_proto::frame::FrameError;
use lars_runtime::TcpDriver;

use super::announce;
use crate::frames::Frames;

/// Bytes taken from a connection at once.
const READ_LEN: usize = 64 << 10;

/// What the server is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TcpKind {
    /// epoll, read, write
    Epoll,
    /// A task per connection on tokio's current-thread runtime
    Tokio,
    /// A task per connection on glommio, with its `TcpStream`
    Glommio,
    /// A task per connection on monoio, over its io_uring
    Monoio,
    /// A private io_uring: multishot accept and receive, provided buffers
    Uring,
    /// lars-runtime, as the servers of Lars
    Lars,
    /// lars-runtime on glommio's streams, as on kernels before 6.1
    LarsStream,
}

/// Echoes until the process is ended.
///
/// # Errors
/// If it cannot listen, or what it is built on does not start.
pub fn echo(kind: TcpKind, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    match kind {
        TcpKind::Epoll => epoll::echo(bind(listen)?)?,
        TcpKind::Tokio => on_tokio::echo(bind(listen)?)?,
        TcpKind::Glommio => on_glommio::echo(listen)?,
        TcpKind::Monoio => on_monoio::echo(TcpListener::bind(listen)?)?,
        TcpKind::Uring => on_uring::echo(bind(listen)?)?,
        TcpKind::Lars => lars::echo(TcpDriver::Auto, listen)?,
        TcpKind::LarsStream => lars::echo(TcpDriver::Stream, listen)?,
    }
    Ok(())
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    announce(listener.local_addr()?)?;
    Ok(listener)
}

/// The echo of one connection, whatever it runs on.
#[derive(Default)]
struct Echo {
    input: Frames,
    output: Vec<u8>,
}

impl Echo {
    /// The replies to what came; they are to be written before the next call.
    fn reply(&mut self, bytes: &[u8]) -> Result<&[u8], FrameError> {
        self.output.clear();
        self.input.take(bytes, |frame| self.output.extend_from_slice(frame))?;
        Ok(&self.output)
    }
}
