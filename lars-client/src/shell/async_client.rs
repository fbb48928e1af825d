//! [`AsyncClient`]: the same on tokio.

use std::{
    io,
    net::UdpSocket as StdSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    time::{sleep_until, timeout, timeout_at},
};

use super::calls::{Calls, Transport};
use crate::{ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, RegisterError};

/// What [`Client`](crate::Client) is, for tokio: same answers, same errors, same deadlines.
///
/// A call that is dropped before it ends leaves nothing behind. Clones share their sockets, which belong to the
/// runtime that first used them: make one client per runtime.
///
/// ```no_run
/// use lars_client::{AsyncClient, ModuleId, Outcome};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = AsyncClient::new()?;
/// let host = client.get_host(ModuleId::new(1, 1)).await?;
/// let called = tokio::net::TcpStream::connect(host.addr.socket_addr()).await;
/// client.report(&host, Outcome::from(&called));
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// The `async` functions, when they run outside a tokio runtime or in one without IO or time.
#[derive(Clone, Debug)]
pub struct AsyncClient {
    calls: Arc<Calls<Tokio>>,
}

impl AsyncClient {
    /// As [`Client::new`](crate::Client::new).
    ///
    /// # Errors
    /// [`ClientError::Socket`] if the system is out of sockets.
    pub fn new() -> Result<Self, ClientError> {
        Self::with_config(ClientConfig::default())
    }

    /// As [`Client::with_config`](crate::Client::with_config).
    ///
    /// # Errors
    /// [`ClientError::Config`] naming the field, or [`ClientError::Socket`].
    pub fn with_config(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { calls: Arc::new(Calls::new(config)?) })
    }

    /// As [`Client::get_host`](crate::Client::get_host).
    ///
    /// # Errors
    /// See [`GetHostError`].
    pub async fn get_host(&self, module: ModuleId) -> Result<Host, GetHostError> {
        self.calls.get_host(module).await
    }

    /// As [`Client::report`](crate::Client::report); there is nothing to await.
    pub fn report(&self, host: &Host, outcome: Outcome) {
        self.calls.report(host, outcome);
    }

    /// As [`Client::get_route`](crate::Client::get_route).
    ///
    /// # Errors
    /// [`ClientError::Timeout`] or [`ClientError::AgentUnreachable`].
    pub async fn get_route(&self, module: ModuleId) -> Result<Vec<HostAddr>, ClientError> {
        self.calls.get_route(module).await
    }

    /// As [`Client::register`](crate::Client::register).
    ///
    /// # Errors
    /// [`RegisterError::NotFound`] if nobody serves the module, or the agent has not learned yet who does.
    pub async fn register(&self, module: ModuleId) -> Result<Vec<HostAddr>, RegisterError> {
        self.calls.register(module).await
    }

    /// As [`Client::reports_dropped`](crate::Client::reports_dropped).
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        self.calls.reports_dropped()
    }
}

/// Tokio's sockets, and its clock, which tests of the embedding program may have stopped.
#[derive(Debug)]
enum Tokio {}

/// A socket for one call at a time.
#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    send_timeout: Duration,
    received: Box<[u8]>,
}

impl Transport for Tokio {
    type Socket = Socket;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn open(socket: StdSocket, answer_len_max: usize, send_timeout: Duration) -> io::Result<Socket> {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Socket { socket, send_timeout, received: vec![0; answer_len_max].into() })
    }

    async fn send(socket: &mut Socket, datagram: &[u8]) -> io::Result<()> {
        match timeout(socket.send_timeout, socket.socket.send(datagram)).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn receive(socket: &mut Socket, _: Instant, until: Instant) -> io::Result<Option<&[u8]>> {
        match timeout_at(until.into(), socket.socket.recv(&mut socket.received)).await {
            Ok(Ok(len)) => Ok(Some(&socket.received[..len])),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    async fn pause(_: Instant, until: Instant) {
        sleep_until(until.into()).await;
    }
}
