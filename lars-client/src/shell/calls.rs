//! [`Calls`]: what both clients do, written once.

use std::{future::Future, io, net::UdpSocket, time::Instant};

use super::{
    agent::{Agent, Port, connected_socket},
    process::PerProcess,
};
use crate::{
    ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome, RegisterError,
    core::{Action, HostQuestion, Next, Question, Registration, Route, RouteQuestion, Timeouts},
    error::NoAnswer,
};

/// Sockets and a clock: those of std, where every future is ready at once, or those of an async runtime.
pub(super) trait Transport {
    /// A socket connected to a port of the agent and used by one call at a time, so that no call ever reads the
    /// answer to another one that runs beside it.
    type Socket;

    fn now() -> Instant;

    /// A socket for answers of up to `answer_len_max` bytes. `send_timeout` bounds a send that finds no room.
    fn open(
        connected: UdpSocket,
        answer_len_max: usize,
        send_timeout: std::time::Duration,
    ) -> io::Result<Self::Socket>;

    /// A datagram that finds no room in time is lost, as it can be anywhere on its way.
    fn send(socket: &mut Self::Socket, datagram: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// The next datagram; `None` at `until`, or earlier.
    fn receive(
        socket: &mut Self::Socket,
        now: Instant,
        until: Instant,
    ) -> impl Future<Output = io::Result<Option<&[u8]>>>;

    fn pause(now: Instant, until: Instant) -> impl Future<Output = ()>;
}

/// The calls of a client on transport `T`, shared by all its clones.
#[derive(Debug)]
pub(super) struct Calls<T: Transport> {
    config: ClientConfig,
    agent: PerProcess<Agent<T::Socket>>,
}

impl<T: Transport> Calls<T> {
    pub(super) fn new(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { config, agent: PerProcess::new(Agent::new(&config)?) })
    }

    pub(super) async fn get_host(&self, module: ModuleId) -> Result<Host, GetHostError> {
        let agent = self.agent()?;
        let port = agent.port(module);
        let mut socket = match port.pooled.take() {
            Some(socket) => socket,
            None => open::<T, HostQuestion>(agent, port)?,
        };
        let question = agent.host_question(module);
        let answer = ask::<T, _>(port, &mut socket, question, agent.timeouts()).await?;
        // Only after an answer: nothing but late answers to host questions can arrive on it then.
        port.pooled.put(socket);
        answer
    }

    pub(super) async fn get_route(&self, module: ModuleId) -> Result<Vec<HostAddr>, ClientError> {
        let timeouts = self.agent()?.timeouts();
        Ok(self.ask_route(module, timeouts).await?.hosts)
    }

    pub(super) async fn register(&self, module: ModuleId) -> Result<Vec<HostAddr>, RegisterError> {
        let mut timeouts = self.agent().map_err(ClientError::from)?.timeouts();
        let deadline = T::now() + timeouts.total;
        let mut registration = Registration::new(module, deadline);
        loop {
            let route = self.ask_route(module, timeouts).await;
            match registration.handle_route(route, T::now()) {
                Next::Done(result) => return result,
                Next::AskAgainAfter(pause) => {
                    let now = T::now();
                    T::pause(now, now + pause).await;
                    timeouts.total = deadline.saturating_duration_since(T::now());
                }
            }
        }
    }

    async fn ask_route(&self, module: ModuleId, timeouts: Timeouts) -> Result<Route, ClientError> {
        let agent = self.agent()?;
        let port = agent.port(module);
        let mut socket = open::<T, RouteQuestion>(agent, port)?;
        Ok(ask::<T, _>(port, &mut socket, RouteQuestion { module }, timeouts).await?)
    }

    /// One send, and no waiting for anything.
    pub(super) fn report(&self, host: &Host, outcome: Outcome) {
        // A child that cannot have sockets of its own has nowhere to count, either.
        if let Ok(agent) = self.agent() {
            agent.report(host, outcome);
        }
    }

    pub(super) fn reports_dropped(&self) -> u64 {
        self.agent().map_or(0, Agent::reports_dropped)
    }

    fn agent(&self) -> Result<&Agent<T::Socket>, NoAnswer> {
        self.agent.get_or_make(|| Agent::new(&self.config)).map_err(|error| match error {
            ClientError::Socket { agent, source } | ClientError::AgentUnreachable { agent, source } => {
                NoAnswer::Unreachable { agent, source }
            }
            ClientError::Timeout { agent, waited } => NoAnswer::Timeout { agent, waited },
            ClientError::Config { .. } => unreachable!("the parent was made with the same configuration"),
        })
    }
}

fn open<T: Transport, Q: Question>(
    agent: &Agent<T::Socket>,
    port: &Port<T::Socket>,
) -> Result<T::Socket, NoAnswer> {
    let opened = connected_socket(port.addr(), &agent.port_numbers())
        .and_then(|socket| T::open(socket, Q::ANSWER_LEN_MAX, agent.timeouts().per_try));
    opened.map_err(|error| port.unreachable(error))
}

async fn ask<T: Transport, Q: Question>(
    port: &Port<T::Socket>,
    socket: &mut T::Socket,
    question: Q,
    timeouts: Timeouts,
) -> Result<Q::Answer, NoAnswer> {
    let mut now = T::now();
    let mut lookup = port.lookup(question, timeouts, now);
    let mut problem = None;
    loop {
        let done = match lookup.poll(now) {
            Action::Send(datagram) => T::send(socket, datagram).await.map(|()| None),
            Action::ReceiveUntil(until) => T::receive(socket, now, until).await,
            Action::PauseUntil(until) => {
                T::pause(now, until).await;
                Ok(None)
            }
            Action::GiveUp(why) => return Err(port.gave_up(why, problem, timeouts.total)),
        };
        now = T::now();
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
