//! [`AsyncClient`]: the same on tokio.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    time::{sleep, sleep_until, timeout, timeout_at},
};

use super::agent::{Agent, Port, connected_socket};
use crate::{
    ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, RegisterError,
    core::{HostQuestion, Next, Question, Registration, RouteQuestion, Step},
    error::NoAnswer,
};

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
    agent: Arc<Agent<Lane>>,
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
        Ok(Self { agent: Arc::new(Agent::new(&config)?) })
    }

    /// As [`Client::get_host`](crate::Client::get_host).
    ///
    /// # Errors
    /// See [`GetHostError`].
    pub async fn get_host(&self, module: ModuleId) -> Result<Host, GetHostError> {
        let port = self.agent.port(module);
        let mut lane = match port.idle.take() {
            Some(lane) => lane,
            None => self.open_lane::<HostQuestion>(port)?,
        };
        let answer = self.ask(port, &mut lane, self.agent.host_question(module)).await?;
        port.idle.put(lane);
        answer
    }

    /// As [`Client::report`](crate::Client::report); there is nothing to await.
    pub fn report(&self, host: &Host, outcome: Outcome) {
        self.agent.report(host, outcome);
    }

    /// As [`Client::get_route`](crate::Client::get_route).
    ///
    /// # Errors
    /// [`ClientError::Timeout`] or [`ClientError::AgentUnreachable`].
    pub async fn get_route(&self, module: ModuleId) -> Result<Vec<HostAddr>, ClientError> {
        let port = self.agent.port(module);
        let mut lane = self.open_lane::<RouteQuestion>(port)?;
        Ok(self.ask(port, &mut lane, RouteQuestion { module }).await?)
    }

    /// As [`Client::register`](crate::Client::register).
    ///
    /// # Errors
    /// What the last try came to: [`RegisterError::NotFound`] if it found no hosts.
    pub async fn register(&self, module: ModuleId) -> Result<Vec<HostAddr>, RegisterError> {
        let mut registration = Registration::new(module);
        loop {
            match registration.handle_route(self.get_route(module).await) {
                Next::Done(result) => return result,
                Next::AskAgainAfter(pause) => sleep(pause).await,
            }
        }
    }

    /// As [`Client::reports_dropped`](crate::Client::reports_dropped).
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        self.agent.reports_dropped()
    }

    fn open_lane<Q: Question>(&self, port: &Port<Lane>) -> Result<Lane, NoAnswer> {
        let patience = self.agent.patience();
        Lane::open(port.addr(), Q::ANSWER_LEN_MAX, patience.per_try).map_err(|error| port.unreachable(error))
    }

    async fn ask<Q: Question>(
        &self,
        port: &Port<Lane>,
        lane: &mut Lane,
        question: Q,
    ) -> Result<Q::Answer, NoAnswer> {
        let mut now = tokio_now();
        let mut lookup = self.agent.lookup(port, question, now);
        let mut problem = None;
        loop {
            let done = match lookup.poll(now) {
                Step::Send(datagram) => lane.send(datagram).await.map(|()| None),
                Step::ReceiveUntil(until) => lane.receive(until).await,
                Step::PauseUntil(until) => {
                    sleep_until(until.into()).await;
                    Ok(None)
                }
                Step::GiveUp(why) => return Err(self.agent.gave_up(port, why, problem)),
            };
            now = tokio_now();
            match done {
                Ok(received) => {
                    if let Some(answer) = received.and_then(|datagram| lookup.handle_datagram(datagram)) {
                        port.answered();
                        return Ok(answer);
                    }
                }
                Err(error) => {
                    lookup.handle_unreachable(now);
                    problem = Some(error);
                }
            }
        }
    }
}

/// Tokio's clock, which tests of the embedding program may have stopped.
fn tokio_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A socket to one port of the agent, for one call at a time.
#[derive(Debug)]
struct Lane {
    socket: UdpSocket,
    send_timeout: Duration,
    received: Box<[u8]>,
}

impl Lane {
    fn open(agent: SocketAddr, answer_len_max: usize, send_timeout: Duration) -> io::Result<Self> {
        let socket = connected_socket(agent)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, send_timeout, received: vec![0; answer_len_max].into() })
    }

    /// A datagram that finds no room in time is lost, as it can be anywhere on its way.
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match timeout(self.send_timeout, self.socket.send(datagram)).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// The next datagram; `None` when time is up.
    async fn receive(&mut self, until: Instant) -> io::Result<Option<&[u8]>> {
        match timeout_at(until.into(), self.socket.recv(&mut self.received)).await {
            Ok(Ok(len)) => Ok(Some(&self.received[..len])),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}
