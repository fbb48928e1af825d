//! [`Agent`]: the agent, put together.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use lars_runtime::{
    Linger, ListenError, Mailboxes, ShardHandle, Shards, ShardsConfig, StartError as ShardsError, TcpClient,
    TcpClientConfig, UdpConfig, UdpServer, UdpSockets,
};
use lars_service::{Shutdown, StatePace, StateWriter};

use super::{shard::AgentShard, state, uplinks};
use crate::{
    config::{AgentConfig, ApiConfig},
    core::agent::{AgentCore, CoreConfig, FlushState, Message, UPLINKS_SHARD},
    stats::{AgentStats, CoreStats},
};

/// Messages that may wait for a shard. What does not fit stays with its sender.
const MESSAGES_MAX: usize = 1_024;

/// How long lars-reporter may take to accept the last statistics, at the end, and how often they are offered.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// How long the connections may take to send what is queued, at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How often free consecutive ports are looked for.
const PORT_TRIES: usize = 100;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel does not let this process have what it needs.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There are no free ports in a row.
    #[error("no {shards} consecutive ports of {ip} are free")]
    NoPorts { ip: Ipv4Addr, shards: usize },
    /// The system refuses a thread.
    #[error("cannot start the thread that writes the state: {0}")]
    Thread(io::Error),
    /// Not even one port can be had.
    #[error("cannot bind a socket to {ip}: {source}")]
    Bind { ip: Ipv4Addr, source: io::Error },
}

/// A running agent. Dropping it stops it at once; see [`Agent::stop`].
pub struct Agent {
    addrs: Vec<SocketAddr>,
    udp: UdpServer,
    dns: TcpClient,
    reporter: TcpClient,
    /// If there is a folder for its state.
    state: Option<StateWriter>,
    shards: Shards<AgentShard>,
}

impl Agent {
    /// Takes the ports and answers from then on. Neither lars-dns nor lars-reporter needs to be there; the
    /// agent connects when they are.
    ///
    /// # Errors
    /// If a port is taken, or the machine cannot run the shards.
    pub fn start(config: AgentConfig) -> Result<Self, StartError> {
        warn_if_open(&config);
        let sockets = bind(&config.api)?;
        let addrs = sockets.local_addrs();
        let shards = start_shards(&config, &sockets)?;
        let file = config.state_dir.as_deref().map(state::file);
        if let Some(file) = &file {
            state::restore(file, &shards);
        }
        let udp_config =
            UdpConfig { spin: config.api.spin, linger: Some(Linger::default()), ..UdpConfig::default() };
        let udp = UdpServer::start(&shards, sockets, udp_config, AgentShard::on_datagram);
        let uplinks_shard = shards.shard(UPLINKS_SHARD);
        let dns = TcpClient::start(uplinks_shard, TcpClientConfig::new(config.dns_servers), uplinks::dns());
        let reporter = TcpClient::start(
            uplinks_shard,
            TcpClientConfig::new(config.reporter_servers),
            uplinks::reporter(),
        );
        let write = |file| StateWriter::start(file, StatePace::default(), state::Source::new(&shards));
        let state = file.map(write).transpose().map_err(StartError::Thread)?;
        Ok(Self { addrs, udp, dns, reporter, state, shards })
    }

    /// Where it listens, one address per shard.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    /// What was counted so far, and what there is now. Asks every shard: not for a shard's own thread.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        let ask =
            |shard: &ShardHandle<AgentShard>| shard.call(|shard, net| (shard.stats(), net.pool().stats()));
        let shards: Vec<_> = self.shards.handles().iter().filter_map(|shard| ask(shard).ok()).collect();
        let core = shards.iter().fold(CoreStats::default(), |sum, (core, _)| sum + *core);
        let CoreStats { api, table, dns, reporter } = core;
        AgentStats {
            api,
            table,
            dns,
            reporter,
            udp: self.udp.stats(),
            dns_tcp: self.dns.stats(),
            reporter_tcp: self.reporter.stats(),
            state: self.state.as_ref().map(StateWriter::stats).unwrap_or_default(),
            pool: shards.into_iter().map(|(_, pool)| pool).sum(),
        }
    }

    /// Ends it: statistics that wait for their interval are sent now, for some seconds at most.
    pub fn stop(self) {
        let deadline = Instant::now() + FLUSH_DEADLINE;
        while !self.flush() && Instant::now() < deadline {
            thread::sleep(FLUSH_PAUSE);
        }
        if let Some(state) = self.state {
            state.stop(state::STOP_TIMEOUT);
        }
        let report = self.shards.drain(DRAIN_DEADLINE);
        tracing::info!(
            flushed = report.connections_flushed,
            cut = report.connections_cut,
            "connections ended"
        );
    }

    /// One round over the shards; true if no statistics are left that lars-reporter would take.
    fn flush(&self) -> bool {
        // Every one is asked, whatever the others say; one that has stopped has nothing left.
        let states =
            self.shards.handles().iter().map(|shard| shard.call(AgentShard::flush).unwrap_or_default());
        let sum = states.fold(FlushState::default(), |sum, one| sum + one);
        sum.behind == 0 && sum.passed_on == sum.arrived
    }
}

/// Runs the agent until `shutdown` is triggered, then drains it.
///
/// # Errors
/// If it cannot start.
pub fn run(config: AgentConfig, shutdown: &Shutdown) -> Result<(), StartError> {
    let agent = Agent::start(config)?;
    tracing::info!(addr = ?agent.local_addrs(), "listening");
    shutdown.wait();
    agent.stop();
    Ok(())
}

fn start_shards(config: &AgentConfig, sockets: &UdpSockets) -> Result<Shards<AgentShard>, ShardsError> {
    // Hosts that were overloaded before this agent started were so for less than this.
    let before = config.core.table.balancer.health.overload_timeout;
    let started = Instant::now().checked_sub(before).unwrap_or_else(Instant::now);
    let (count, senders) = (config.api.shards, sockets.senders());
    let mailboxes = Mailboxes::<Message>::new(count, MESSAGES_MAX);
    let core_config = CoreConfig { digest_spread: fastrand::u32(..), ..config.core.clone() };
    let (caller_ip, boxes) = (config.caller_ip, mailboxes.clone());
    let shards_config = ShardsConfig {
        name: "lars-agent".into(),
        shards: count,
        tcp_driver: config.tcp_driver,
        ..ShardsConfig::default()
    };
    let shards = Shards::start(shards_config, move |i| {
        let core = AgentCore::new(i, count, core_config.clone());
        AgentShard::new(started, core, boxes.clone(), senders.clone(), caller_ip)
    })?;
    shards.install_mailboxes(&mailboxes, AgentShard::receive);
    shards.install_timer(AgentShard::poll_timeout, AgentShard::handle_timeout);
    Ok(shards)
}

/// The API has no passwords: says what a listener for other machines opens up.
fn warn_if_open(config: &AgentConfig) {
    let ip = config.api.listen_ip;
    if ip.is_loopback() {
        return;
    }
    tracing::warn!(
        %ip,
        "the API listens for other machines (api.listen_ip): whoever reaches it can have hosts ejected by reporting \
         failures, and fill the agent's memory of modules"
    );
    if config.core.routes_to_anyone {
        tracing::warn!(
            "whole routes are told to any machine (api.routes_to_anyone): 65 KB for 12 bytes, to whatever address a \
             datagram claims to be from"
        );
    }
}

fn bind(api: &ApiConfig) -> Result<UdpSockets, StartError> {
    if api.base_port != 0 {
        return Ok(UdpSockets::bind(&addrs(api, api.base_port))?);
    }
    for _ in 0..PORT_TRIES {
        let base_port =
            free_port(api.listen_ip).map_err(|source| StartError::Bind { ip: api.listen_ip, source })?;
        if usize::from(base_port) + api.shards > usize::from(u16::MAX) {
            continue;
        }
        // The ports behind it, and since a moment ago it too, may be somebody else's.
        if let Ok(sockets) = UdpSockets::bind(&addrs(api, base_port)) {
            return Ok(sockets);
        }
    }
    Err(StartError::NoPorts { ip: api.listen_ip, shards: api.shards })
}

fn free_port(ip: Ipv4Addr) -> io::Result<u16> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?.port())
}

/// One address per shard. The configuration has seen to it that the ports exist.
fn addrs(api: &ApiConfig, base_port: u16) -> Vec<SocketAddr> {
    (base_port..).take(api.shards).map(|port| SocketAddr::from((api.listen_ip, port))).collect()
}
